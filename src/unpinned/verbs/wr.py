"""Work requests: SGE, SendWR, RecvWR.

A request keeps itself packed, in the words of a send (or receive) queue's entry, so posting it is one copy.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unpinned.hca import layout as L
from unpinned.verbs import enums as e
from unpinned.verbs.errors import ArgumentError, integer, unsupported
from unpinned.verbs.memory import peek

U32 = 0xFFFFFFFF
U64 = 0xFFFFFFFFFFFFFFFF
ENTRY_WORDS = 64  # the longest entry: W_SGE + SGE_MAX * SGE_WORDS, rounded up

SEND_OPCODES = {
    e.IBV_WR_RDMA_WRITE: "rdma-write", e.IBV_WR_RDMA_WRITE_WITH_IMM: "rdma-write-with-imm", e.IBV_WR_SEND: "send",
    e.IBV_WR_SEND_WITH_IMM: "send-with-imm", e.IBV_WR_RDMA_READ: "rdma-read", e.IBV_WR_ATOMIC_CMP_AND_SWP: "cmp-and-swp",
    e.IBV_WR_ATOMIC_FETCH_AND_ADD: "fetch-and-add", e.IBV_WR_SEND_WITH_INV: "send-with-inv",
}  # fmt: skip
_WITH_IMM = (e.IBV_WR_RDMA_WRITE_WITH_IMM, e.IBV_WR_SEND_WITH_IMM)
_ATOMIC = (e.IBV_WR_ATOMIC_CMP_AND_SWP, e.IBV_WR_ATOMIC_FETCH_AND_ADD)
_SEND_FLAGS = e.IBV_SEND_FENCE | e.IBV_SEND_SIGNALED | e.IBV_SEND_SOLICITED | e.IBV_SEND_INLINE


def signed(value: int) -> int:
    """A 64-bit pattern as the signed number that the device's words hold.

    >>> signed(2**64 - 1)
    -1
    """
    return value - (1 << 64) if value >> 63 == 1 else value


def to_signed(name: str, value: Any) -> int:
    """An unsigned (or already signed) 64-bit argument as a word."""
    return signed(integer(name, value, -(1 << 63), U64) & U64)


class _Plain:
    """Plain data: `close` and ``with`` are there because pyverbs' requests have them, and have nothing to do."""

    __slots__ = ()

    def close(self) -> None:
        """Nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SGE(_Plain):
    """A piece of local memory: ``length`` bytes at ``addr``, in the region that ``lkey`` names."""

    __slots__ = ("addr", "length", "lkey")

    def __init__(self, addr: int, length: int, lkey: int) -> None:
        self.addr = integer("addr", addr, 0, U64)
        self.length = integer("length", length, 0, U32)
        self.lkey = integer("lkey", lkey, 0, U32)

    def read(self, length: int, offset: int = 0) -> bytes:
        """Bytes [offset, offset + length) of the piece. OSError EFAULT where nothing is mapped."""
        integer("offset", offset, 0, self.length)
        return peek(self.addr + offset, integer("length", length, 0, self.length - offset))

    def __repr__(self) -> str:
        return f"SGE({self.addr:#x}, {self.length}, {self.lkey:#x})"


def _pieces(sg: SGE | Sequence[SGE] | None, num_sge: int) -> list[SGE]:
    if type(sg) is SGE and num_sge in (0, 1):
        return [sg]
    try:
        pieces = [sg] if isinstance(sg, SGE) else list(sg or ())
    except TypeError:
        raise TypeError(f"sg: SGEs are needed, not {type(sg).__name__}") from None
    for i, piece in enumerate(pieces):
        if not isinstance(piece, SGE):
            raise TypeError(f"sg[{i}]: an SGE is needed, not {type(piece).__name__}")
    count = integer("num_sge", num_sge, 0, L.SGE_MAX) or len(pieces)
    if count > len(pieces):
        raise ArgumentError("num_sge", f"{count}, but sg has {len(pieces)}")
    if count > L.SGE_MAX:
        raise ArgumentError("sg", f"{count} pieces, the device takes {L.SGE_MAX}")
    return pieces[:count]


def _pack(words: NDArray[np.int64], at: int, pieces: list[SGE]) -> int:
    """Write the pieces' words; the sum of their lengths."""
    total = 0
    for piece in pieces:
        words[at : at + L.SGE_WORDS] = (signed(piece.addr), piece.length, piece.lkey)
        at += L.SGE_WORDS
        total += piece.length
    if total > L.LENGTH_MAX:
        raise ArgumentError("sg", f"{total} bytes, a message has at most {L.LENGTH_MAX}")
    return total


class RecvWR(_Plain):
    """A receive work request."""

    __slots__ = ("_sg", "_words", "next_wr")

    def __init__(
        self, wr_id: int = 0, num_sge: int = 0, sg: SGE | Sequence[SGE] | None = None, next_wr: RecvWR | None = None
    ) -> None:
        self._words = np.zeros(ENTRY_WORDS, np.int64)
        self._words[L.R_ID] = to_signed("wr_id", wr_id)
        self._take(_pieces(sg, num_sge))
        self.next_wr = next_wr

    def _take(self, pieces: list[SGE]) -> None:
        self._words[L.R_LENGTH] = _pack(self._words, L.R_SGE, pieces)
        self._words[L.R_NSGE] = len(pieces)
        self._sg = pieces

    @property
    def wr_id(self) -> int:
        return int(self._words[L.R_ID]) & U64

    @wr_id.setter
    def wr_id(self, value: int) -> None:
        self._words[L.R_ID] = to_signed("wr_id", value)

    @property
    def num_sge(self) -> int:
        return len(self._sg)

    @num_sge.setter
    def num_sge(self, value: int) -> None:
        """Keep the first so many pieces."""
        self._take(self._sg[: integer("num_sge", value, 0, len(self._sg))])

    @property
    def sg_list(self) -> list[SGE]:
        return list(self._sg)

    def become(self, other: RecvWR) -> None:
        """Be the same request as *other* (what ``bad_wr`` is for)."""
        self._words[:], self._sg, self.next_wr = other._words, other._sg, other.next_wr


class SendWR(_Plain):
    """A send work request. ``imm_data`` is in network byte order, as in verbs (`socket.htonl`)."""

    __slots__ = ("_flags", "_imm", "_opcode", "_sg", "_words", "next_wr")

    def __init__(
        self,
        wr_id: int = 0,
        opcode: int = e.IBV_WR_SEND,
        num_sge: int = 0,
        imm_data: int = 0,
        sg: SGE | Sequence[SGE] | None = None,
        send_flags: int = e.IBV_SEND_SIGNALED,
        next_wr: SendWR | None = None,
    ) -> None:
        self._words = np.zeros(ENTRY_WORDS, np.int64)
        self._imm = self._opcode = self._flags = 0
        self._words[L.W_ID] = to_signed("wr_id", wr_id)
        self.opcode = opcode
        self.send_flags = send_flags
        self.sg_list = _pieces(sg, num_sge)
        self.imm_data = imm_data
        self.next_wr = next_wr

    @property
    def wr_id(self) -> int:
        return int(self._words[L.W_ID]) & U64

    @wr_id.setter
    def wr_id(self, value: int) -> None:
        self._words[L.W_ID] = to_signed("wr_id", value)

    @property
    def opcode(self) -> int:
        return self._opcode

    @opcode.setter
    def opcode(self, value: int) -> None:
        number = integer("opcode", value, 0, U32)
        if number not in SEND_OPCODES:
            raise unsupported(f"opcode {number}")
        self._words[L.W_OPCODE] = self._opcode = number
        self._pack_imm()

    @property
    def send_flags(self) -> int:
        return self._flags

    @send_flags.setter
    def send_flags(self, value: int) -> None:
        number = integer("send_flags", value, 0, U32)
        if number & ~_SEND_FLAGS:
            raise unsupported(f"send_flags {number & ~_SEND_FLAGS:#x}")
        self._words[L.W_FLAGS] = self._flags = number

    @property
    def num_sge(self) -> int:
        return len(self._sg)

    @num_sge.setter
    def num_sge(self, value: int) -> None:
        """Keep the first so many pieces."""
        self.sg_list = self._sg[: integer("num_sge", value, 0, len(self._sg))]

    @property
    def sg_list(self) -> list[SGE]:
        return list(self._sg)

    @sg_list.setter
    def sg_list(self, value: SGE | Sequence[SGE]) -> None:
        self._sg = _pieces(value, 0)
        self._words[L.W_LENGTH] = _pack(self._words, L.W_SGE, self._sg)
        self._words[L.W_NSGE] = len(self._sg)

    @property
    def imm_data(self) -> int:
        return self._imm

    @imm_data.setter
    def imm_data(self, value: int) -> None:
        """Immediate data; with SEND_WITH_INV the key to invalidate (in our byte order, as in verbs)."""
        self._imm = integer("imm_data", value, 0, U32)
        self._pack_imm()

    def _pack_imm(self) -> None:
        """Which of the two it is, the opcode says, whichever was set first."""
        inverted = self._opcode == e.IBV_WR_SEND_WITH_INV
        self._words[L.W_IMM] = self._imm if inverted else socket.ntohl(self._imm)

    @property
    def invalidate_rkey(self) -> int:
        """The key that SEND_WITH_INV invalidates; shares its place with ``imm_data``, as in verbs."""
        return self._imm

    @invalidate_rkey.setter
    def invalidate_rkey(self, value: int) -> None:
        self._imm = integer("invalidate_rkey", value, 0, U32)
        self._pack_imm()

    def set_wr_rdma(self, rkey: int, addr: int) -> None:
        """Where at the peer an RDMA READ or WRITE reads or writes."""
        self._words[L.W_RKEY] = integer("rkey", rkey, 0, U32)
        self._words[L.W_RVA] = to_signed("addr", addr)

    def set_wr_atomic(self, rkey: int, addr: int, compare_add: int, swap: int = 0) -> None:
        """What an atomic works on: 8 bytes at ``addr``; ``compare_add`` is the addend of FETCH_AND_ADD."""
        if integer("addr", addr, 0, U64) % 8:
            raise ArgumentError("addr", f"{addr:#x} is no multiple of 8")
        self.set_wr_rdma(rkey, addr)
        self._words[L.W_COMPARE] = to_signed("compare_add", compare_add)
        self._words[L.W_SWAP] = to_signed("swap", swap)

    @property
    def rdma_remote_addr(self) -> int:
        return int(self._words[L.W_RVA]) & U64

    @property
    def rdma_rkey(self) -> int:
        return int(self._words[L.W_RKEY])

    def check(self) -> None:
        """What can only be judged once all parts are set."""
        if self._opcode in _ATOMIC and self._words[L.W_LENGTH] != 8:
            raise ArgumentError("sg", f"an atomic returns 8 bytes, not {int(self._words[L.W_LENGTH])}")

    def become(self, other: SendWR) -> None:
        """Be the same request as *other* (what ``bad_wr`` is for)."""
        self._words[:], self._imm, self._sg, self.next_wr = other._words, other._imm, other._sg, other.next_wr
        self._opcode, self._flags = other._opcode, other._flags


def refuse_circle(wr: SendWR | RecvWR) -> None:
    """ArgumentError for a chain of requests that leads back into itself: posting it would never end."""
    current: SendWR | RecvWR | None = getattr(wr, "next_wr", None)
    if current is None:
        return
    seen = {id(wr)}
    while current is not None:
        if id(current) in seen:
            raise ArgumentError("next_wr", "the chain of requests leads back into itself")
        seen.add(id(current))
        current = getattr(current, "next_wr", None)
