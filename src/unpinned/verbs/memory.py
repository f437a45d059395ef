"""Memory of the application: where a buffer lies, and reading and writing an address without a signal."""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.host.system import span
from unpinned.verbs.errors import ArgumentError

_AT_ONCE = 1 << 30  # the kernel stops short of 2 GiB
_libc = ctypes.CDLL(None, use_errno=True)
for _name in ("process_vm_readv", "process_vm_writev"):
    getattr(_libc, _name).restype = ctypes.c_ssize_t


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))


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
    if array.dtype.hasobject:
        raise ArgumentError("length", f"dtype {array.dtype} holds Python objects")
    if not array.flags.c_contiguous and not array.flags.f_contiguous:
        raise ArgumentError("length", "the array is not contiguous (np.ascontiguousarray copies it)")
    return Buffer(array.ctypes.data, array.nbytes, not array.flags.writeable, array)


def _copy(call: str, address: int, local: int, length: int) -> None:
    done = 0
    while done < length:
        size = min(length - done, _AT_ONCE)
        mine, theirs = _Iovec(local + done, size), _Iovec(address + done, size)
        one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
        got = getattr(_libc, call)(os.getpid(), ctypes.byref(mine), one, ctypes.byref(theirs), one, none)
        if got <= 0:
            code = ctypes.get_errno() or errno.EFAULT
            raise OSError(code, f"{os.strerror(code)}: {span(address, length)}")
        done += got


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
