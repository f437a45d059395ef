"""What an end tells the other about an array: its shape, its dtype, and where its bytes are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from unpinned.remote.errors import ProtocolError
from unpinned.remote.messages import Message, number, numbers, text

ARRAYS_MAX = 4096
NAME_LENGTH_MAX = 255
DIMENSIONS_MAX = 32
ITEM_BYTES_MAX = 1 << 16
"""Items are moved whole; nobody indexes bytes within one."""
BYTES_MAX = 1 << 56

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """An array that a server offers. It is contiguous, in C or in Fortran order."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    order: str = "C"
    writable: bool = False
    address: int = 0
    """Virtual address at the owner, as the device's key expects it."""
    rkey: int = 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def strides(self) -> Shape:
        """Bytes from one item to the next along each dimension."""
        lengths = self.shape if self.order == "C" else self.shape[::-1]
        steps = [self.dtype.itemsize * math.prod(lengths[i + 1 :]) for i in range(len(lengths))]
        return tuple(steps if self.order == "C" else steps[::-1])

    def to_message(self) -> Message:
        return {
            "name": self.name, "shape": list(self.shape), "dtype": np.lib.format.dtype_to_descr(self.dtype),
            "order": self.order, "writable": self.writable, "address": self.address, "rkey": self.rkey,
        }  # fmt: skip


def from_message(message: Message) -> Description:
    """The inverse of `Description.to_message`, nothing believed. ProtocolError names what is wrong."""
    found = Description(
        name=text(message, "name", NAME_LENGTH_MAX),
        shape=tuple(numbers(message, "shape", 0, BYTES_MAX, DIMENSIONS_MAX)),
        dtype=_to_dtype(message.get("dtype")),
        order="F" if message.get("order") == "F" else "C",
        writable=message.get("writable") is True,
        address=number(message, "address", 0, BYTES_MAX),
        rkey=number(message, "rkey", 0, 0xFFFFFFFF),
    )
    if math.prod(max(1, length) for length in found.shape) * found.dtype.itemsize > BYTES_MAX:
        raise ProtocolError(f"array {found.name!r} cannot have {found.shape} items")
    return found


def unshareable(dtype: np.dtype[Any]) -> str:
    """Why items of *dtype* cannot be served, as a sentence about it; "" when they can."""
    if dtype.kind == "T":
        return f"dtype {dtype} keeps its strings elsewhere in this process; convert it to a fixed length, astype('U..') or 'S..'"
    if dtype.hasobject:
        return f"dtype {dtype} holds Python objects, which mean nothing in another process"
    if not 0 < dtype.itemsize <= ITEM_BYTES_MAX:
        return f"dtype {dtype} has items of {dtype.itemsize} bytes; 1 to {ITEM_BYTES_MAX} can be served"
    try:
        same = _to_dtype(np.lib.format.dtype_to_descr(dtype)) == dtype
    except (ProtocolError, ValueError, TypeError):
        same = False
    return "" if same else f"dtype {dtype} is not one of NumPy's own; serve a view of it, .view('u{dtype.itemsize}') say"


def _to_dtype(description: Any) -> np.dtype[Any]:
    try:
        found = np.lib.format.descr_to_dtype(_as_tuples(description))
    except (ValueError, TypeError, SyntaxError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"not a dtype: {str(error)[:80]}") from None
    if found.hasobject or found.subdtype is not None or not 0 < found.itemsize <= ITEM_BYTES_MAX:
        raise ProtocolError(f"not a dtype that can be shared: {str(found)[:80]}")
    return found


def _as_tuples(description: Any) -> Any:
    """JSON has no tuples; NumPy's descriptions of structured dtypes need them."""
    if not isinstance(description, list):
        return description
    fields = []
    for field in description:
        name, kind, *shape = field
        name = tuple(name) if isinstance(name, list) else name
        fields.append((name, _as_tuples(kind), *(tuple(part) if isinstance(part, list) else part for part in shape)))
    return fields
