"""The notifier's source: a userfaultfd that reports unmap, move and discard, and never a fault.

Ranges are registered for write-protection only and nothing is ever protected, so no access is slowed down after its first
touch; what arrives are the events. Facts this file depends on (measured; see ARCHITECTURE.md):

* The thread that calls munmap, mremap or madvise sleeps until its event has been *read*. Whoever owns this descriptor must
  read it without the GIL, or a munmap that holds the GIL never ends.
* REMOVE comes before the pages go and nothing marks its end; UNMAP comes after the mapping is gone.
* A forked child keeps the descriptor alive and with it the registrations: it must close it at once, or the parent's munmap
  waits for the child to end. Closing the last reference wakes everybody who waits.
* REMAP leaves the new place registered, and growing in place registers the tail.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of, stack_words
from unpinned.compiled.libc import EAGAIN, SYS_USERFAULTFD, sys_ioctl, sys_read
from unpinned.host import layout as L
from unpinned.host.layout import Words
from unpinned.host.ranges import RangeOwners
from unpinned.host.system import refusal
from unpinned.host.vmas import vmas

USER_MODE_ONLY = 1
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
UFFDIO_UNREGISTER = 0x8010AA01
UFFDIO_WRITEPROTECT = 0xC018AA06
USERFAULTFD_IOC_NEW = 0xAA00
REGISTER_MODE_WP = 2
API = 0xAA

FEATURE_EVENT_REMAP = 1 << 2
FEATURE_EVENT_REMOVE = 1 << 3
FEATURE_EVENT_UNMAP = 1 << 6
FEATURE_WP_ASYNC = 1 << 15
EVENTS_WANTED = FEATURE_EVENT_REMAP | FEATURE_EVENT_REMOVE | FEATURE_EVENT_UNMAP

_REASONS = {
    errno.EBUSY: "another userfaultfd of this process watches the range",
    errno.EPERM: "a shared mapping of a file opened read-only cannot be watched (or a seccomp profile refuses it)",
    errno.EINVAL: "this kind of mapping cannot be watched on this kernel",
    errno.ENOENT: "nothing is mapped there",
    errno.ENOMEM: "the kernel has no memory for it, or the process too many mappings (vm.max_map_count)",
}


def notify_scratch() -> Words:
    """Scratch for `read_events`: afterwards, record i is words [EVENT_WORDS * i, ...) by EVENT_*."""
    return np.zeros(L.NOTIFY_WORDS, np.int64)


@kernel
def read_events(fd: int, s: Words) -> int:
    """Read what is queued, at most EVENTS messages, into records of *s*; their number, 0 when none, or -errno.

    Reading lets the threads go that wait for these events: whatever must not happen after, do before.
    """
    got = sys_read(fd, address_of(s), 8 * L.NOTIFY_WORDS)
    if got < 0:
        return 0 if got == -EAGAIN else got
    count = got // (8 * L.EVENT_WORDS)
    for i in range(count):
        e = i * L.EVENT_WORDS
        s[e + L.EVENT_KIND] &= 0xFF
        # struct uffd_msg: remap {from, to, len}; remove and unmap {start, end}.
        if s[e + L.EVENT_KIND] == L.EVENT_REMAP:
            new, length = s[e + 2], s[e + 3]
            s[e + L.EVENT_END] = s[e + L.EVENT_START] + length
            s[e + L.EVENT_NEW] = new
        else:
            s[e + L.EVENT_NEW] = 0
    return count


@kernel
def pending(fd: int) -> bool:
    """Whether an event is raised and not yet read: a hint (0.5 us), not a barrier."""
    empty = stack_words(3)  # struct uffdio_writeprotect of zero length: EINVAL, but EAGAIN comes first
    return sys_ioctl(fd, UFFDIO_WRITEPROTECT, empty) == -EAGAIN


def _create() -> int:
    """A new descriptor: by the system call, with or without USER_MODE_ONLY, or by /dev/userfaultfd."""
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (os.O_CLOEXEC | os.O_NONBLOCK | USER_MODE_ONLY, os.O_CLOEXEC | os.O_NONBLOCK):
        fd: int = libc.syscall(ctypes.c_long(SYS_USERFAULTFD), ctypes.c_int(flags))
        if fd >= 0:
            return fd
    failure = ctypes.get_errno()
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise OSError(failure, refusal("userfaultfd", failure)) from None
    try:
        return fcntl.ioctl(device, USERFAULTFD_IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK | USER_MODE_ONLY)
    except OSError:
        raise OSError(failure, refusal("userfaultfd", failure)) from None
    finally:
        os.close(device)


def _api(fd: int, features: int) -> int | None:
    """Settle on *features*: what the kernel has in all, or None when it has not got these."""
    request = bytearray(struct.pack("=QQQ", API, features, 0))
    try:
        fcntl.ioctl(fd, UFFDIO_API, request)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise OSError(error.errno, refusal("UFFDIO_API", error.errno or 0)) from None
    return int(struct.unpack("=QQQ", request)[1])


@dataclass
class Userfaultfd:
    """An open descriptor, what it was granted, and the ranges it watches, by owner: regions may overlap."""

    fd: int
    files: bool
    """Granted WP_ASYNC (Linux 6.7): mappings of regular files can be watched too."""

    def __post_init__(self) -> None:
        self.watched = RangeOwners()

    @classmethod
    def open(cls) -> Userfaultfd:
        """OSError when the kernel, a seccomp profile or a setting refuses; the message says what was refused."""
        fd = _create()
        try:
            for files in (True, False):
                if _api(fd, EVENTS_WANTED | FEATURE_WP_ASYNC * files) is not None:
                    return cls(fd, files)
            raise OSError(errno.EINVAL, "userfaultfd without events for unmap, move and discard (Linux 4.11 has them)")
        except BaseException:
            os.close(fd)
            raise

    def register(self, start: int, end: int, owner: int = 0) -> str:
        """Watch [start, end), whole pages, for *owner*. "" when watched, else the reason why not: it then works unnotified."""
        if self.fd < 0:
            return "the notifier is closed"
        request = bytearray(struct.pack("=QQQQ", start, end - start, REGISTER_MODE_WP, 0))
        asked = start, end, owner
        self.watched.add(asked)  # first: who is interrupted in here undoes it
        try:
            fcntl.ioctl(self.fd, UFFDIO_REGISTER, request)
        except OSError as error:
            self.watched.discard(asked)
            code = error.errno or 0
            return f"UFFDIO_REGISTER: {errno.errorcode.get(code, code)}, {_REASONS.get(code, error.strerror)}"
        return ""

    def unregister(self, start: int, end: int, owner: int = 0) -> None:
        """Undo a `register` that was granted: watch no more what no other owner asks for. Holes are passed over. Idempotent."""
        if (start, end, owner) in self.watched:  # else somebody else may watch it
            for low, high in self.watched.only(start, end, owner):
                self.forget(low, high)
            self.watched.discard((start, end, owner))

    def forget(self, start: int, end: int) -> bool:
        """Stop watching [start, end), whoever asked for it (where a REMAP moved it, a tail that grew)."""
        if self._forget(start, end):
            return True
        # Nothing is mapped there any more, or what cannot be watched (a file, say) is among it: then all of it is refused.
        with contextlib.suppress(OSError):
            found = vmas(start, end) if self.fd >= 0 else []
            return sum(self._forget(max(start, vma.start), min(end, vma.end)) for vma in found) > 0  # all of them
        return False

    def _forget(self, start: int, end: int) -> bool:
        try:
            fcntl.ioctl(self.fd, UFFDIO_UNREGISTER, struct.pack("=QQ", start, end - start))
        except (OSError, ValueError):
            return False
        return True

    def changing(self) -> bool:
        """`pending`, for the control plane."""
        try:
            fcntl.ioctl(self.fd, UFFDIO_WRITEPROTECT, bytes(24))
        except (OSError, ValueError) as error:
            return isinstance(error, OSError) and error.errno == errno.EAGAIN
        return False

    def close(self) -> None:
        """Wake every waiting thread and stop watching everything; idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
