"""Memory for tests: mappings of every kind, given back at the end, and what applications do to them."""

import ctypes
import fcntl
import itertools
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from unpinned.host import system

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_size_t
_libc.mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mremap.restype = ctypes.c_size_t
_libc.mremap.argtypes = [ctypes.c_size_t] * 3 + [ctypes.c_int, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
MAP_FIXED_NOREPLACE = 0x100000
_places = itertools.count(0x2000_0000_0000, 1 << 33)
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
MADV_DONTNEED, MADV_REMOVE, MADV_PAGEOUT = 4, 9, 21


def view(address: int, length: int) -> NDArray[np.uint8]:
    """The bytes at an address; whoever looks at them after the mapping is gone is killed."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(address))


@contextmanager
def mapped(pages: int, *, shared: bool = False, fd: int = -1, writable: bool = True) -> Iterator[int]:
    """The address of *pages* of fresh memory, or of the file *fd*; unmapped at the end, whatever is left of it.

    Far below the system's own choices: a hole that a test makes in it is not handed out to anybody else.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | (mmap.MAP_ANONYMOUS if fd < 0 else 0)
    address = _libc.mmap(next(_places), pages * PAGE, protection, flags | MAP_FIXED_NOREPLACE, fd, 0)
    assert address != ctypes.c_size_t(-1).value, os.strerror(ctypes.get_errno())
    try:
        yield address
    finally:
        system.unmap(address, pages * PAGE)


@contextmanager
def memfd(pages: int, *, sealed: bool = False) -> Iterator[int]:
    """A memfd of *pages*; *sealed*: it cannot shrink."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, pages * PAGE)
        if sealed:
            fcntl.fcntl(fd, system.F_ADD_SEALS, system.F_SEAL_SHRINK)
        yield fd
    finally:
        os.close(fd)


def protect(address: int, length: int, protection: int) -> None:
    """mprotect."""
    assert _libc.mprotect(address, length, protection) == 0, os.strerror(ctypes.get_errno())


def move(address: int, old: int, new: int, flags: int = MREMAP_MAYMOVE, target: int = 0) -> int:
    """mremap; the new address."""
    result: int = _libc.mremap(address, old, new, flags, target)
    if result == ctypes.c_size_t(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@contextmanager
def behind(action: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run *action* in a thread of its own, because it sleeps until somebody reads its event; join it at the end."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    yield thread
    thread.join(10)
    assert not thread.is_alive(), "the action still sleeps: its event was not read"
