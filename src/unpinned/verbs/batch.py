"""Work requests by the thousand: a queue's entries as NumPy records."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.hca import layout as L
from unpinned.host import posting
from unpinned.verbs.errors import ArgumentError, integer, unsupported

_SEND_FIELDS = {
    "wr_id": L.W_ID, "opcode": L.W_OPCODE, "flags": L.W_FLAGS, "length": L.W_LENGTH, "remote_addr": L.W_RVA, "rkey": L.W_RKEY,
    "imm": L.W_IMM, "compare_add": L.W_COMPARE, "swap": L.W_SWAP, "num_sge": L.W_NSGE,
}  # fmt: skip
_RECV_FIELDS = {"wr_id": L.R_ID, "length": L.R_LENGTH, "num_sge": L.R_NSGE}
_PIECE = np.dtype([("addr", "<i8"), ("length", "<i8"), ("lkey", "<i8")])


def send_dtype(pieces: int, stride: int) -> np.dtype[Any]:
    """An entry of a send queue whose requests have up to *pieces* pieces and lie *stride* words apart."""
    return _record(_SEND_FIELDS, L.W_SGE, pieces, stride)


def recv_dtype(pieces: int, stride: int) -> np.dtype[Any]:
    """The same of a receive queue."""
    return _record(_RECV_FIELDS, L.R_SGE, pieces, stride)


def _record(fields: dict[str, int], head: int, pieces: int, stride: int) -> np.dtype[Any]:
    layout: Any = {
        "names": [*fields, "sge"],
        "formats": ["<i8"] * len(fields) + [(_PIECE, (pieces,))],
        "offsets": [8 * word for word in fields.values()] + [8 * head],
        "itemsize": 8 * stride,
    }
    return np.dtype(layout)


def rows_of(wrs: NDArray[Any], count: int | None, stride: int) -> NDArray[np.int64]:
    """The first *count* (all) of the records, as rows of words that share their memory."""
    if not isinstance(wrs, np.ndarray):
        raise TypeError(f"wrs: an array is needed, not {type(wrs).__name__}")
    words = wrs.ndim == 2 and wrs.dtype == np.int64 and wrs.shape[1] == stride
    if wrs.dtype.itemsize != 8 * stride and not words:
        need = "records of the queue pair's send_dtype or recv_dtype are needed"
        raise ArgumentError("wrs", f"{need} ({8 * stride} bytes, not {wrs.dtype.itemsize})")
    if not wrs.flags.c_contiguous:
        raise ArgumentError("wrs", "the array is not contiguous")
    if not wrs.flags.writeable:
        raise ArgumentError("wrs", "the array is read-only, and the lengths are written to it")
    rows: NDArray[np.int64] = wrs.view(np.int64).reshape(-1, stride)
    return rows if count is None else rows[: integer("count", count, 0, len(rows))]


def check_sends(rows: NDArray[np.int64], most: int) -> None:
    """Refuse records that the device does not know; write each one's length, the sum of its pieces."""
    _judge(posting.check_sends(rows.reshape(-1), len(rows), rows.shape[1], most), most)


def check_receives(rows: NDArray[np.int64], most: int) -> None:
    """The same for receive requests."""
    _judge(posting.check_receives(rows.reshape(-1), len(rows), rows.shape[1], most), most)


def _judge(code: int, most: int) -> None:
    if code == posting.BAD_COUNT:
        raise ArgumentError("wrs", f"num_sge is not between 0 and {most} everywhere")
    if code == posting.BAD_LENGTH:
        raise ArgumentError("wrs", f"a length is not between 0 and {L.LENGTH_MAX}")
    if code == posting.BAD_ATOMIC:
        raise ArgumentError("wrs", "an atomic returns 8 bytes")
    if code == posting.BAD_OPCODE:
        raise unsupported("wrs: an opcode")
    if code == posting.BAD_FLAGS:
        raise unsupported("wrs: flags besides FENCE, SIGNALED and SOLICITED")
