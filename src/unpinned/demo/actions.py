"""What a process can do to its memory, as a program in C or NumPy would: with the GIL held.

NumPy frees a large array with `munmap` and does not let go of the GIL for it; so do these. Whoever notifies the device must
not need the GIL, or each of them would hang. OSErrors say what was tried.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE = mmap.PAGESIZE
PROT_NONE, PROT_READ, PROT_READ_WRITE = 0, 1, 3
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE, _MAP_FIXED_NOREPLACE = 1, 2, 0x10, 0x20, 0x4000, 0x100000
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_MADV_DONTNEED, _MADV_REMOVE, _MADV_PAGEOUT = 4, 9, 21

_libc = ctypes.PyDLL(None, use_errno=True)
_word, _int = ctypes.c_size_t, ctypes.c_int
_FAILED = ctypes.c_size_t(-1).value


def _function(name: str, result: type, *arguments: type) -> Callable[..., int]:
    function = _libc[name]
    function.restype, function.argtypes = result, list(arguments)
    return function


_mmap = _function("mmap", _word, _word, _word, _int, _int, _int, ctypes.c_long)
_munmap = _function("munmap", _int, _word, _word)
_mremap = _function("mremap", _word, _word, _word, _word, _int, _word)
_mprotect = _function("mprotect", _int, _word, _word, _int)
_madvise = _function("madvise", _int, _word, _word, _int)
_page_out = ctypes.CDLL(None, use_errno=True).madvise
_page_out.restype, _page_out.argtypes = _int, [_word, _word, _int]


def _check(result: int, failed: int, what: str) -> int:
    if result == failed:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def map_private(length: int) -> int:
    """Private memory, zero, nothing of it populated nor reserved."""
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    return _check(_mmap(0, length, PROT_READ_WRITE, flags, -1, 0), _FAILED, f"mmap of {length} bytes")


def words_at(address: int, length: int) -> NDArray[np.int64]:
    """*length* bytes at *address* as words. The mapping must outlive the array."""
    return np.ctypeslib.as_array((ctypes.c_int64 * (length // 8)).from_address(address))


def map_file(fd: int, length: int) -> int:
    """A shared mapping of a file."""
    return _check(_mmap(0, length, PROT_READ_WRITE, _MAP_SHARED, fd, 0), _FAILED, f"mmap of {length} bytes")


def replace(address: int, length: int, fd: int) -> None:
    """Put a private mapping of the file *fd* at *address*, in place of whatever is there, in one call."""
    _map_at(address, length, fd, _MAP_FIXED)


def occupy(address: int, length: int, fd: int) -> None:
    """The same where nothing is mapped. OSError EEXIST when something is."""
    _map_at(address, length, fd, _MAP_FIXED_NOREPLACE)


def _map_at(address: int, length: int, fd: int, how: int) -> None:
    flags = _MAP_PRIVATE | how
    _check(_mmap(address, length, PROT_READ_WRITE, flags, fd, 0), _FAILED, f"mmap of {length} bytes at {address:#x}")


def unmap(address: int, length: int) -> None:
    _check(_munmap(address, length), -1, f"munmap of {length} bytes at {address:#x}")


def move(address: int, length: int, target: int) -> None:
    """Move a mapping to *target* (addresses that are ours), in place of what is there."""
    flags = _MREMAP_MAYMOVE | _MREMAP_FIXED
    _check(_mremap(address, length, length, flags, target), _FAILED, f"mremap of {length} bytes at {address:#x}")


def protect(address: int, length: int, rights: int) -> None:
    _check(_mprotect(address, length, rights), -1, f"mprotect of {length} bytes at {address:#x}")


def discard(address: int, length: int, shared: bool) -> None:
    """Throw the content away: private memory reads as zero from then on, of shared memory a hole is punched."""
    _check(_madvise(address, length, _MADV_REMOVE if shared else _MADV_DONTNEED), -1, f"madvise at {address:#x}")


def forget(address: int, length: int) -> None:
    """Drop the process's page table entries; of shared memory the content stays."""
    _check(_madvise(address, length, _MADV_DONTNEED), -1, f"madvise at {address:#x}")


def page_out(address: int, length: int) -> None:
    """Have the kernel reclaim the pages: to swap, or back to their file. Without the GIL: it takes up to a second for a GiB, and
    is no event that anybody is notified of."""
    _check(_page_out(address, length, _MADV_PAGEOUT), -1, f"madvise(PAGEOUT) at {address:#x}")


def swap_free_bytes() -> int:
    """What /proc/meminfo calls SwapFree."""
    return _field(Path("/proc/meminfo"), "SwapFree")


def locked_bytes() -> int:
    """VmLck + VmPin of this process."""
    status = Path("/proc/self/status")
    return _field(status, "VmLck") + _field(status, "VmPin")


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0
