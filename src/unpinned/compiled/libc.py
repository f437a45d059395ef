"""libc from kernels: every call takes int64 words (addresses are words) and returns a result >= 0 or ``-errno``.

A call may sleep only where its name says so (futex_wait, poll, epoll_wait, a blocking descriptor); it then
sleeps without the GIL. Nothing is retried here: -EINTR and -EAGAIN are the caller's to judge.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import Any

from numba.core import types

from unpinned.compiled import interpreted
from unpinned.compiled.decorator import INTERPRETED, kernel
from unpinned.compiled.intrinsics import load32, load64, stack_words, store32, store64

_X86 = platform.machine() == "x86_64"

# Linux system call numbers: x86-64 has its own, all newer machines share one list (asm-generic/unistd.h).
SYS_FUTEX = 202 if _X86 else 98
SYS_USERFAULTFD = 323 if _X86 else 282
SYS_EVENTFD2 = 290 if _X86 else 19
SYS_LSEEK = 8 if _X86 else 62
SYS_MADVISE = 28 if _X86 else 233
SYS_MREMAP = 25 if _X86 else 216
SYS_PPOLL = 271 if _X86 else 73
SYS_SCHED_SETATTR = 314 if _X86 else 274
SYS_SCHED_GETATTR = 315 if _X86 else 275

EINTR, ENXIO, EAGAIN, ENOMEM, EFAULT, EBUSY, EINVAL, ETIMEDOUT = 4, 6, 11, 12, 14, 16, 22, 110
POLLIN, POLLOUT, POLLERR, POLLHUP = 1, 4, 8, 16
EPOLLIN, EPOLLOUT = 1, 4
EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3
_EPOLL_EVENT_BYTES, _EPOLL_DATA = (12, 4) if _X86 else (16, 8)  # packed on x86-64 only
_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129
_CLOCK_MONOTONIC = 1
_NS = 1_000_000_000

assert sys.byteorder == "little", "raw words are little-endian throughout"


def _extern(name: str, arguments: int, narrow: bool = False) -> Any:
    """The libc function *name*. Arguments fill whole registers; *narrow*: it returns an int, else a long.

    Variadic functions (ioctl, syscall) take integers in the same registers as any other on x86-64 and aarch64 Linux.
    """
    if INTERPRETED:
        return interpreted.extern(name, ctypes.c_int if narrow else ctypes.c_long, arguments)
    result = types.int32 if narrow else types.int64
    return types.ExternalFunction(name, result(*[types.int64] * arguments))


_errno_location = _extern("__errno_location", 0)
_syscall = _extern("syscall", 7)
_read = _extern("read", 3)
_write = _extern("write", 3)
_pread = _extern("pread", 4)
_ioctl = _extern("ioctl", 3, narrow=True)
_poll = _extern("poll", 3, narrow=True)
_madvise = _extern("madvise", 3, narrow=True)
_mincore = _extern("mincore", 3, narrow=True)
_process_vm_readv = _extern("process_vm_readv", 6)
_process_vm_writev = _extern("process_vm_writev", 6)
_recvmsg = _extern("recvmsg", 3)
_sendmsg = _extern("sendmsg", 3)
_recvmmsg = _extern("recvmmsg", 5, narrow=True)
_sendmmsg = _extern("sendmmsg", 4, narrow=True)
_epoll_ctl = _extern("epoll_ctl", 4, narrow=True)
_epoll_wait = _extern("epoll_wait", 4, narrow=True)
_epoll_create1 = _extern("epoll_create1", 1, narrow=True)
_sched_yield = _extern("sched_yield", 0, narrow=True)
_clock_gettime = _extern("clock_gettime", 2, narrow=True)
_getpid = _extern("getpid", 0, narrow=True)


@kernel
def _errno() -> int:
    return load32(_errno_location())


errno = interpreted.errno if INTERPRETED else _errno
"""``errno()``: of the last libc call of this thread that failed; zero or stale otherwise."""


@kernel
def _result(value: int) -> int:
    return value if value >= 0 else -errno()


@kernel
def sys_call(number: int, a0: int, a1: int, a2: int, a3: int, a4: int, a5: int) -> int:
    """Any system call by number (``SYS_*``)."""
    return _result(_syscall(number, a0, a1, a2, a3, a4, a5))


@kernel
def sys_read(fd: int, address: int, length: int) -> int:
    """Bytes read."""
    return _result(_read(fd, address, length))


@kernel
def sys_write(fd: int, address: int, length: int) -> int:
    """Bytes written."""
    return _result(_write(fd, address, length))


@kernel
def sys_pread(fd: int, address: int, length: int, offset: int) -> int:
    """Bytes read at *offset* of the file."""
    return _result(_pread(fd, address, length, offset))


@kernel
def sys_ioctl(fd: int, request: int, address: int) -> int:
    """Whatever the request returns."""
    return _result(_ioctl(fd, request, address))


@kernel
def sys_madvise(address: int, length: int, advice: int) -> int:
    """0."""
    return _result(_madvise(address, length, advice))


@kernel
def sys_mincore(address: int, length: int, vector: int) -> int:
    """0; bit 0 of each byte at *vector* says whether that page is in memory."""
    return _result(_mincore(address, length, vector))


@kernel
def sys_process_vm_readv(pid: int, local: int, locals_: int, remote: int, remotes: int) -> int:
    """Bytes copied from the *remote* iovecs (process *pid*) to the *local* ones; may stop short at a bad page."""
    return _result(_process_vm_readv(pid, local, locals_, remote, remotes, 0))


@kernel
def sys_process_vm_writev(pid: int, local: int, locals_: int, remote: int, remotes: int) -> int:
    """Bytes copied from the *local* iovecs to the *remote* ones (process *pid*); may stop short at a bad page."""
    return _result(_process_vm_writev(pid, local, locals_, remote, remotes, 0))


@kernel
def sys_recvmsg(fd: int, message: int, flags: int) -> int:
    """Bytes received into the msghdr at *message*."""
    return _result(_recvmsg(fd, message, flags))


@kernel
def sys_sendmsg(fd: int, message: int, flags: int) -> int:
    """Bytes sent from the msghdr at *message*."""
    return _result(_sendmsg(fd, message, flags))


@kernel
def sys_recvmmsg(fd: int, messages: int, count: int, flags: int) -> int:
    """Messages received into the mmsghdrs at *messages*; no time limit of its own."""
    return _result(_recvmmsg(fd, messages, count, flags, 0))


@kernel
def sys_sendmmsg(fd: int, messages: int, count: int, flags: int) -> int:
    """Messages sent from the mmsghdrs at *messages*."""
    return _result(_sendmmsg(fd, messages, count, flags))


@kernel
def sys_poll(fds: int, count: int, timeout_ms: int) -> int:
    """Number of ready descriptors among the *count* struct pollfd at *fds*; -1 ms waits for ever."""
    return _result(_poll(fds, count, timeout_ms))


@kernel
def poll1(fd: int, timeout_ms: int) -> int:
    """The POLL* bits that *fd* shows when it becomes readable, or 0 after *timeout_ms* (-1: no limit)."""
    word = stack_words(1)  # struct pollfd {int fd; short events; short revents;}
    store64(word, (fd & 0xFFFFFFFF) | POLLIN << 32)
    ready = sys_poll(word, 1, timeout_ms)
    return load64(word) >> 48 & 0xFFFF if ready > 0 else ready


@kernel
def sys_epoll_create() -> int:
    """A new epoll descriptor, closed on exec."""
    return _result(_epoll_create1(0o2000000))


@kernel
def sys_epoll_ctl(epoll: int, operation: int, fd: int, events: int, data: int) -> int:
    """Add, modify or delete *fd*; *data* (63 bits) comes back from `sys_epoll_wait`."""
    event = stack_words(2)
    store32(event, events)
    store64(event + _EPOLL_DATA, data)
    return _result(_epoll_ctl(epoll, operation, fd, event))


@kernel
def sys_epoll_wait(epoll: int, timeout_ms: int) -> int:
    """The *data* of the one ready descriptor that is reported next; -EAGAIN after *timeout_ms* (-1: no limit)."""
    event = stack_words(2)
    ready = _result(_epoll_wait(epoll, event, 1, timeout_ms))
    if ready == 0:
        return -EAGAIN
    return load64(event + _EPOLL_DATA) if ready > 0 else ready


@kernel
def eventfd_write(fd: int, value: int) -> int:
    """Add *value* to an eventfd's counter and wake its readers; 8."""
    word = stack_words(1)
    store64(word, value)
    return sys_write(fd, word, 8)


@kernel
def eventfd_read(fd: int) -> int:
    """An eventfd's counter, which becomes 0; -EAGAIN if it was 0 and *fd* does not block."""
    word = stack_words(1)
    done = sys_read(fd, word, 8)
    return load64(word) if done == 8 else done


@kernel
def futex_wait(address: int, expected: int, timeout_ns: int) -> int:
    """Sleep while the 32 bits at *address* equal *expected*, at most *timeout_ns* (negative: no limit).

    0 when woken (perhaps for nothing), -EAGAIN when the value differed, -ETIMEDOUT, -EINTR. Threads of one
    process only. The low half of an int64 word is at the word's own address.
    """
    limit = stack_words(2)
    store64(limit, timeout_ns // _NS)
    store64(limit + 8, timeout_ns % _NS)
    return sys_call(SYS_FUTEX, address, _FUTEX_WAIT_PRIVATE, expected, limit if timeout_ns >= 0 else 0, 0, 0)


@kernel
def futex_wake(address: int, count: int) -> int:
    """Wake up to *count* threads that sleep on *address*; how many woke."""
    return sys_call(SYS_FUTEX, address, _FUTEX_WAKE_PRIVATE, count, 0, 0, 0)


@kernel
def sys_sched_yield() -> int:
    """Let another thread run; 0."""
    return _result(_sched_yield())


@kernel
def sys_getpid() -> int:
    """This process."""
    return _getpid()


@kernel
def monotonic_ns() -> int:
    """CLOCK_MONOTONIC, nanoseconds: the same clock as `time.monotonic_ns`."""
    now = stack_words(2)
    _clock_gettime(_CLOCK_MONOTONIC, now)
    return load64(now) * _NS + load64(now + 8)
