"""How the device reaches a buffer: through which mapping, by which path, and how far that can be trusted.

Linux tells user space about an unmap after the fact, so a copy under way can land in whatever replaced the range. The
cure is not to use the application's mapping:

=======  =========================================  ==========================================  =========================
kind     memory                                     reached through                             a stray copy
=======  =========================================  ==========================================  =========================
OWNED    made by `owned.empty`                      our second mapping of the sealed memfd      never; direct
ALIAS    the application's shared mappings, where   an alias: mremap(address, 0, length)        never; direct if the end
         it may read every page                                                                 cannot move
FOREIGN  private memory: heap, plain NumPy; other   process_vm at its own address               possible when replaced
         shared mappings                                                                        under fire
FILE     a path                                     our own mapping of it                       never
=======  =========================================  ==========================================  =========================

An alias does not follow what the application does to its mapping (mprotect, munmap): rights and revocation are the page
table's. Memory whose end can move (a file may be truncated) is copied by process_vm, which answers EFAULT, not SIGBUS.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import functools
import itertools
import os
import stat
import threading
from dataclasses import dataclass, field

from unpinned.host import endings, owned, system
from unpinned.host.pagemap import populate
from unpinned.host.ranges import Range, RangeOwners
from unpinned.host.undisturbed import undisturbed
from unpinned.host.userfaultfd import Userfaultfd
from unpinned.host.vmas import Vma, covered, vmas
from unpinned.paging import layout as P


class Kind(enum.Enum):
    """Whose memory it is."""

    OWNED = "owned"
    ALIAS = "alias"
    FOREIGN = "foreign"
    FILE = "file"


_locked = RangeOwners()
_locked_guard = threading.RLock()  # a collection inside it may close another mapping


def _after_fork_in_child() -> None:
    """Locked memory is not inherited; and another thread may have been at it."""
    global _locked, _locked_guard
    _locked, _locked_guard = RangeOwners(), threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Place:
    """A mapping of our own: gone with `close`, or when nobody holds this any more. Forked children do not have it."""

    __slots__ = ("__weakref__", "_ending", "end", "start")

    def __init__(self, length: int, call: system.Call) -> None:
        """OSError: what *call* says, which maps *length* bytes."""
        made: list[int] = []
        # Mapped and noted by one call from C, and so is the end: no signal handler comes between.
        self._ending = endings.at_end(self, own=[(any, map(system.munmap, made, itertools.repeat(length)))])
        made.extend(itertools.starmap(call[0], (call[1:],)))
        self.start = system.mapped(made[0], f"a mapping of {length} bytes")
        self.end = self.start + length
        system.keep_from_children(self.start, length)

    def close(self) -> None:
        """Idempotent."""
        self._ending.carry_on()


@dataclass
class Mapping:
    """One registered range as the device sees it. Close it when no copy can be under way any more."""

    kind: Kind
    address: int
    """Where the application sees it; a FILE has only ours."""
    length: int
    table_base: int
    """Where the device touches it; `address` + x is reached at `table_base` + x."""
    path: int
    """PATH_DIRECT, PATH_PROCESS_VM or, at the application's own address, PATH_FOREIGN."""
    writable: bool
    notify: list[Range] = field(default_factory=list)
    """Page ranges of the application whose events concern it; none when only we can unmap it."""
    file: int = 0
    """The memory file of ours behind it (`holes`): where its first byte is at our mapping, plus its descriptor; 0: none."""
    file_may_be_asked: bool = False
    """It is ours, and mincore says truly which pages of its file are cached: it does to an owner, and to who may write."""
    anonymous: bool = False
    """At the application's own address: private memory with no file below it."""
    unnotified: str = ""
    """Why it is not watched though it should be: errors and our own life cycle must do."""
    owner: object = None
    """Keeps the memory alive."""
    _number: int = field(default_factory=itertools.count(1).__next__)
    """What it is known by where several mappings ask for the same pages."""
    _place: Place | None = None
    """Of an ALIAS or a FILE: where our own mapping is."""
    _locked: Range | None = None
    _watching: Userfaultfd | None = None
    _pid: int = field(default_factory=os.getpid)

    @property
    def pages(self) -> Range:
        """The page range that the device touches."""
        return system.page_floor(self.table_base), system.page_ceil(self.table_base + self.length)

    def watch(self, source: Userfaultfd) -> str:
        """Ask for the events of `notify`; "" or the reason why there will be none (also in `unnotified`)."""
        if self._place is not None:
            source.forget(self._place.start, self._place.end)  # an alias of a range that is watched already is born watched
        self._watching = source  # first: who is interrupted in here undoes it
        for start, end in self.notify:
            self.unnotified = source.register(start, end, self._number)
        return self.unnotified

    def unwatch(self) -> None:
        """Undo `watch`; idempotent, also where it was interrupted."""
        if self._watching is not None:
            for start, end in self.notify:
                self._watching.unregister(start, end, self._number)
            self._watching = None

    def lock(self) -> None:
        """Bring all of it in and keep it (mlock), for a pinned region. OSError names RLIMIT_MEMLOCK where that is why."""
        start, end = self.pages
        with _locked_guard:
            if self._locked is not None or not self.length:
                return
            self._locked = start, end  # first: who is interrupted in here, or refused when a part is locked, undoes it
            _locked.add((start, end, self._number))
            try:
                system.lock(start, end - start)
            except BaseException:
                self.unlock()
                raise

    def unlock(self) -> None:
        """Undo `lock`, except where another mapping's lock covers the same pages; idempotent, also where it was interrupted."""
        with _locked_guard:
            if self._locked is not None:
                for start, end in _locked.only(*self._locked, self._number):
                    system.unlock(start, end - start)
                _locked.discard((*self._locked, self._number))
                self._locked = None

    def drop(self) -> None:
        """Let our own mapping forget its pages (they stay in the file or the application's mapping), so that the kernel
        may reclaim them. No-op for FOREIGN memory, where it would discard the content."""
        if self.kind is not Kind.FOREIGN and self._locked is None:  # madvise refuses locked memory
            start, end = self.pages
            system.advise(start, end - start, system.MADV_DONTNEED)

    def close(self) -> None:
        """Unwatch, unlock and unmap what is ours; idempotent. A forked child only forgets: its copy was never made."""
        if self._pid == os.getpid():
            self.unwatch()
            self.unlock()
        if self._place is not None:
            self._place.close()
        self.owner = None


def map_buffer(address: int, length: int, writable: bool, owner: object = None) -> Mapping:
    """How to reach the application's memory [address, address + length); nothing is read, populated or locked.

    *writable*: remote or local writes will be asked for. *owner* is kept alive until `Mapping.close`.
    OSError: EFAULT where nothing is mapped, EACCES where *writable* and a shared mapping is read-only.
    """
    if length < 0 or address < 0 or address + length > 1 << 56:
        raise OSError(errno.EINVAL, f"no such range: {system.span(address, length)}")
    start, end = system.page_floor(address), system.page_ceil(address + length)
    if length == 0:
        return Mapping(Kind.FOREIGN, address, 0, address, P.PATH_FOREIGN, writable, owner=owner)
    found = vmas(start, end)
    if not covered(found, start, end):
        raise OSError(errno.EFAULT, f"not all of {system.span(address, length)} is mapped")
    mapping = Mapping(Kind.FOREIGN, address, length, address, P.PATH_FOREIGN, writable, [(start, end)], owner=owner)
    mapping.anonymous = not any(vma.shared or vma.inode or vma.device for vma in found)
    if found[0].shared and all(after.continues(before) for before, after in zip(found, found[1:])):
        if writable and not all(vma.writable for vma in found):
            raise OSError(errno.EACCES, f"{system.span(address, length)} is mapped read-only")
        _reach_shared(mapping, found, start, end)
    return mapping


def map_file(path: str | os.PathLike[str], writable: bool, offset: int = 0, length: int | None = None) -> Mapping:
    """A mapping of our own of a regular file: bytes [offset, offset + length), to its present end by default.

    A file that shrinks later gives EFAULT at the copies, one that is replaced goes on as it was.
    OSError: what open and mmap say; EINVAL when it is no regular file or the range is empty or past its end.
    """
    return undisturbed(lambda: _map_file(os.fspath(path), writable, offset, length))


def _map_file(name: str, writable: bool, offset: int, length: int | None) -> Mapping:
    fd = os.open(name, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        length = status.st_size - offset if length is None else length
        if offset < 0 or length <= 0 or offset + length > status.st_size:
            raise OSError(errno.EINVAL, f"has {status.st_size} bytes, not {length} at {offset}", name)
        first = system.page_floor(offset)
        size = system.page_ceil(offset + length) - first
        place = Place(size, system.sharing(fd, size, writable, first))
    finally:
        os.close(fd)
    base = place.start
    with contextlib.suppress(OSError):  # a hint, which a profile may refuse
        system.advise(base, size, system.MADV_RANDOM)  # a page is a page: the device reads ahead by what the wire asks for
    at = base + offset - first
    ours = writable or status.st_uid == os.geteuid() or os.access(name, os.W_OK)
    return Mapping(Kind.FILE, at, length, at, P.PATH_PROCESS_VM, writable, file_may_be_asked=ours, _place=place)


def _reach_shared(mapping: Mapping, found: list[Vma], start: int, end: int) -> None:
    """Reach *mapping* through another mapping of the same shared memory; it stays FOREIGN where there is none."""
    offset = found[0].offset + start - found[0].start
    holder = owned.holder_of(found[0])
    if holder is not None and offset + end - start <= holder.block.length:  # the application may have grown its own mapping
        mapping.kind, mapping.path = Kind.OWNED, P.PATH_DIRECT
        mapping.table_base = holder.block.device_base + offset + mapping.address - start
        mapping.owner = (mapping.owner, holder)
        if holder.block.fd >= 0:
            mapping.file = holder.block.device_base + holder.block.fd
        return
    if not all(vma.readable for vma in found):
        return  # an alias has one set of rights for all of it
    try:
        place = Place(end - start, system.aliasing(start, end - start))
    except OSError:
        return  # a device's memory, say
    base = place.start
    mapping.kind, mapping.path = Kind.ALIAS, P.PATH_PROCESS_VM
    mapping.file_may_be_asked = all(vma.writable for vma in found)
    mapping._place = place
    mapping.table_base = base + mapping.address - start
    mine = vmas(place.start, place.end)[0]  # what has been aliased, whatever the application has put there since it was looked at
    if _end_is_fixed(mine, mine.offset + place.end - mine.start, place.end):
        mapping.path = P.PATH_DIRECT


def _end_is_fixed(vma: Vma, file_end: int, alias_end: int) -> bool:
    """Can no access below *alias_end*, which maps the file up to *file_end*, ever lie behind the end of the file?"""
    if owned.sealed_length(vma) >= file_end:
        return True
    try:
        if vma.device != _anonymous_device():
            return False
    except OSError:
        return False  # memfd_create is refused here: nobody can say
    if vma.name == "/dev/zero (deleted)" or vma.name.startswith("/SYSV"):
        # Nobody can truncate it, but a mapping may have been grown past it.
        return populate(alias_end - system.PAGE, alias_end, 0) == 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            status = os.fstat(int(fd))
            if (status.st_dev, status.st_ino) == (vma.device, vma.inode):
                seals = fcntl.fcntl(int(fd), system.F_GET_SEALS)
                return bool(seals & system.F_SEAL_SHRINK) and status.st_size >= file_end
    return False


@functools.cache
def _anonymous_device() -> int:
    """The device number of memory without a file system: memfd, shared anonymous and System V memory."""
    fd = system.memfd("unpinned-device", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)
