"""Memory calls of the C library for the control plane: addresses are ints, a failure is an OSError that says of what.

Each releases the GIL while it runs: an munmap or mremap of a watched range sleeps until its event is read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import mmap
import os
import resource
import select
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

PROT_NONE, PROT_READ, PROT_WRITE = 0, mmap.PROT_READ, mmap.PROT_WRITE
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000
MADV_RANDOM, MADV_DONTNEED, MADV_DONTFORK, MADV_HUGEPAGE, MADV_PAGEOUT = 1, 4, 10, 14, 21
MREMAP_MAYMOVE = 1
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4
PAGE = mmap.PAGESIZE
HUGE = 2 << 20
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What passes, and says nothing of what the kernel can do."""

_libc = ctypes.CDLL(None, use_errno=True)
_word, _int = ctypes.c_size_t, ctypes.c_int
_MAP_FAILED = ctypes.c_size_t(-1).value


Call = tuple[Callable[..., int], *tuple[int, ...]]
"""A function of the C library, and its arguments."""


def _function(name: str, result: type, *arguments: type) -> Callable[..., int]:
    function = _libc[name]
    function.restype, function.argtypes = result, list(arguments)
    return function


_mmap = _function("mmap", _word, _word, _word, _int, _int, _int, ctypes.c_long)
munmap = _function("munmap", _int, _word, _word)
"""`unmap` for `endings`: C all the way, so it says what failed by -1 only."""
_mremap = _function("mremap", _word, _word, _word, _word, _int)
_madvise = _function("madvise", _int, _word, _word, _int)
_mlock = _function("mlock", _int, _word, _word)
_munlock = _function("munlock", _int, _word, _word)
_Iovec = _word * 2
_COPIES = {name: _function(name, ctypes.c_ssize_t, _int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
           for name in ("process_vm_readv", "process_vm_writev")}  # fmt: skip


def readable(descriptor: int, seconds: float) -> bool:
    """Has *descriptor* something to read (or its end) within *seconds*? Any descriptor: `select.select` takes none beyond 1023."""
    poll = select.poll()  # one for each call: threads cannot share one
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(math.ceil(1000 * max(seconds, 0.0))))


def page_floor(address: int) -> int:
    """Start of the page that holds *address*."""
    return address & -PAGE


def page_ceil(address: int) -> int:
    """*address* rounded up to a page."""
    return -(-address & -PAGE)


def span(address: int, length: int) -> str:
    """How messages name a range."""
    return f"{length} bytes at {address:#x}"


def refusal(call: str, code: int) -> str:
    """How messages say that the kernel, or a container's seccomp profile, refuses a call to whomever makes it."""
    profile = " (a seccomp profile may refuse it)" if code in (errno.EPERM, errno.EACCES, errno.ENOSYS) else ""
    return f"{call}: {errno.errorcode.get(code, code)}, {os.strerror(code)}{profile}"


def copy_call(call: str, address: int, local: int, length: int) -> int:
    """process_vm_readv from, or process_vm_writev to, *address* of this process; bytes copied, fewer where a hole begins.

    OSError: EFAULT where the first page is not there, and no signal; EPERM or ENOSYS where the call is refused.
    """
    mine, theirs = _Iovec(local, length), _Iovec(address, length)
    done = _COPIES[call](os.getpid(), ctypes.addressof(mine), 1, ctypes.addressof(theirs), 1, 0)
    if done <= 0:
        code = ctypes.get_errno() if done else errno.EFAULT
        raise OSError(code, f"{os.strerror(code)}: {span(address, length)}" if code == errno.EFAULT else refusal(call, code))
    return done


def check_copies() -> None:
    """OSError, in a sentence, where process_vm is refused: a device cannot then reach memory whose end may move."""
    cell = (ctypes.c_int64 * 2)()
    here = ctypes.addressof(cell)
    for call in _COPIES:
        try:
            copy_call(call, here, here + 8, 8)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; without it only memory of unpinned.empty, or shared memory that is sealed, "
                                       "can be registered") from None  # fmt: skip


def memfd(name: str, flags: int) -> int:
    """A descriptor of memory; OSError names the call that was refused."""
    try:
        return os.memfd_create(name, flags)
    except OSError as error:
        raise OSError(error.errno, refusal("memfd_create", error.errno or 0)) from None


def _check(result: int, failed: int, what: str) -> int:
    if result == failed:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def map_shared(fd: int, length: int, writable: bool, offset: int = 0, at: int = 0) -> int:
    """A shared mapping of the file *fd*; *at* (not 0): there, in place of what was there."""
    function, *arguments = sharing(fd, length, writable, offset, at)
    return mapped(function(*arguments), f"mmap of {length} bytes")


def sharing(fd: int, length: int, writable: bool, offset: int = 0, at: int = 0) -> Call:
    """What `map_shared` calls, and with what."""
    protection = PROT_READ | (PROT_WRITE if writable else 0)
    return _mmap, at, length, protection, MAP_SHARED | MAP_NORESERVE | (MAP_FIXED if at else 0), fd, offset


def mapped(address: int, what: str) -> int:
    """The address that mmap or mremap gave, or their OSError; *what* failed."""
    return _check(address, _MAP_FAILED, what)


def reserve(length: int, alignment: int = PAGE) -> int:
    """Addresses without memory, on a multiple of *alignment*."""
    whole = length + alignment - PAGE
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    base = mapped(_mmap(0, whole, PROT_NONE, flags, -1, 0), f"mmap of {whole} bytes")
    start = -(-base & -alignment)
    for low, high in ((base, start), (start + length, base + whole)):
        if low < high:
            unmap(low, high - low)
    return start


def map_anonymous(length: int) -> int:
    """Private memory, readable and writable."""
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    return mapped(_mmap(0, length, PROT_READ | PROT_WRITE, flags, -1, 0), f"mmap of {length} bytes")


def zeroed(length: int) -> NDArray[np.uint8]:
    """Private memory in huge pages, zero, that goes back to the kernel with the last reference to it.

    Not the C library's: from the second time on it takes blocks of up to 32 MiB from its heap, which gives nothing back from
    below what is still in use.
    """
    size = -(-length // HUGE) * HUGE + HUGE  # what is not aligned begins with small pages
    memory = mmap.mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
    with contextlib.suppress(OSError):
        memory.madvise(MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % HUGE
    return whole[start : start + length]


def map_private(fd: int, length: int) -> int:
    """A private, readable mapping of the start of the file *fd*."""
    return mapped(_mmap(0, length, PROT_READ, MAP_PRIVATE, fd, 0), f"mmap of {length} bytes")


def alias(address: int, length: int) -> int:
    """A second mapping of the shared memory at *address*, which must be one stretch of one file."""
    function, *arguments = aliasing(address, length)
    return mapped(function(*arguments), f"mremap of {span(address, length)} to a second place")


def aliasing(address: int, length: int) -> Call:
    """What `alias` calls, and with what."""
    return _mremap, address, 0, length, MREMAP_MAYMOVE


def unmap(address: int, length: int) -> None:
    _check(munmap(address, length), -1, f"munmap of {span(address, length)}")


def advise(address: int, length: int, advice: int) -> None:
    _check(_madvise(address, length, advice), -1, f"madvise({advice}) of {span(address, length)}")


def lock(address: int, length: int) -> None:
    """mlock; past RLIMIT_MEMLOCK the OSError (ENOMEM or EPERM) says what the limit is and who may raise it."""
    if _mlock(address, length) == 0:
        return
    code = ctypes.get_errno()
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    text = f"mlock of {span(address, length)}: {os.strerror(code)}"
    if code in (errno.ENOMEM, errno.EPERM, errno.EAGAIN) and limit != resource.RLIM_INFINITY:
        text += f"; RLIMIT_MEMLOCK allows {limit} bytes for the process (ulimit -l, LimitMEMLOCK=), a hole is refused too"
    raise OSError(code, text)


def unlock(address: int, length: int) -> None:
    """munlock; what is not mapped any more is not locked either."""
    _munlock(address, length)


def keep_from_children(address: int, length: int) -> None:
    """Leave the range out of forked children (MADV_DONTFORK), where that is possible."""
    with contextlib.suppress(OSError):
        advise(address, length, MADV_DONTFORK)
