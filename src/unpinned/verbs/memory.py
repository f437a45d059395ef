"""Memory of the application: where a buffer lies, and reading and writing an address without a signal."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.host.system import copy_call
from unpinned.verbs.errors import ArgumentError

_AT_ONCE = 1 << 30  # the kernel stops short of 2 GiB


@dataclass(frozen=True)
class Buffer:
    """A contiguous buffer: `owner` keeps its memory alive and in place."""

    address: int
    length: int
    readonly: bool
    owner: Any


def buffer_of(source: Any) -> Buffer:
    """Where the memory of *source* lies: an array, or whatever has the buffer protocol.

    TypeError when it has no buffer, ArgumentError when it is not contiguous or holds Python objects.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    try:
        view = memoryview(source)
    except TypeError:
        kind = type(source).__name__
        raise TypeError(f"length: a length or a buffer is needed, not {kind}") from None
    if not view.c_contiguous and not view.f_contiguous:
        raise ArgumentError("length", "the buffer is not contiguous")
    if view.nbytes == 0:
        return Buffer(0, 0, view.readonly, view)
    flat = np.frombuffer(view.cast("B"), np.uint8) if view.c_contiguous else np.asarray(view)
    return Buffer(flat.ctypes.data, view.nbytes, view.readonly, view)


def _of_array(array: NDArray[Any]) -> Buffer:
    _refuse_objects("length", array)
    if not array.flags.c_contiguous and not array.flags.f_contiguous:
        raise ArgumentError("length", "the array is not contiguous (np.ascontiguousarray copies it)")
    return Buffer(array.ctypes.data, array.nbytes, not array.flags.writeable, array)


def _refuse_objects(name: str, array: NDArray[Any]) -> None:
    if array.dtype.hasobject:
        raise ArgumentError(name, f"an array of dtype {array.dtype} holds Python objects, which mean nothing to a peer")


def bytes_of(name: str, data: Any) -> memoryview:
    """The bytes of *data*, a C-contiguous buffer; TypeError or ArgumentError that begin with *name*."""
    if isinstance(data, np.ndarray) and data.flags.c_contiguous:
        _refuse_objects(name, data)
        data = data.reshape(-1).view(np.uint8)  # of dates, for one, NumPy gives no buffer
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"{name}: a buffer is needed, not {type(data).__name__}") from None
    if not view.c_contiguous:
        raise ArgumentError(name, "the buffer is not contiguous")
    return view.cast("B") if view.nbytes else memoryview(b"")


def _copy(call: str, address: int, local: int, length: int) -> None:
    done = 0
    while done < length:
        done += copy_call(call, address + done, local + done, min(length - done, _AT_ONCE))


def peek(address: int, length: int) -> bytes:
    """*length* bytes at *address*; OSError EFAULT, and no signal, where they are not mapped."""
    data = bytearray(length)
    if length:
        _copy("process_vm_readv", address, ctypes.addressof(ctypes.c_char.from_buffer(data)), length)
    return bytes(data)


def poke(address: int, data: Any) -> None:
    """Write *data* at *address*; OSError EFAULT, and no signal, where that cannot be."""
    source = buffer_of(data)
    if source.length:
        _copy("process_vm_writev", address, source.address, source.length)
