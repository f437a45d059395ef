"""Memory regions.

* ``IBV_ACCESS_ON_DEMAND``: pages come and go as the process's page tables say; nothing is pinned. This is what the device is
  for, and the default when no access flags are given.
* Without it the region is pinned (mlock), as in verbs: RLIMIT_MEMLOCK is then the limit, and is named when it is hit.
* ``implicit=True``: the whole address space, on demand. Its rkey opens all of the process's memory, so it is remotely
  accessible only with ``unsafe=True`` besides.
"""

from __future__ import annotations

import errno
import functools
import os
from typing import Any

from unpinned.host.device import Device
from unpinned.host.memory import Mapping, map_buffer, map_file
from unpinned.host.owned import empty
from unpinned.host.regions import Region
from unpinned.verbs import enums as e
from unpinned.verbs.context import Resource
from unpinned.verbs.errors import ArgumentError, coded, instance, integer, unsupported
from unpinned.verbs.memory import Buffer, buffer_of, bytes_of, peek, poke
from unpinned.verbs.pd import PD

REMOTE = e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_ATOMIC
WRITING = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_ATOMIC
_RIGHTS = WRITING | REMOTE | e.ACCESS_REMOTE_INVALIDATE
_HINTS = e.IBV_ACCESS_HUGETLB | e.IBV_ACCESS_MW_BIND
_DEFAULT = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_ON_DEMAND


class MR(Resource):
    """A memory region of *creator*.

    Args:
        creator: the protection domain.
        length: bytes to allocate (memory that no stray copy can hit, see `unpinned.empty`), or a buffer: an
            array, memoryview, bytearray, mmap, ... It is kept alive until the region is closed. Or a
            `unpinned.host.memory.Mapping`, which the region then owns.
        access: IBV_ACCESS_*; None: LOCAL_WRITE (unless the buffer is read-only) and ON_DEMAND. With ACCESS_REMOTE_INVALIDATE the
            peer may end the key by SEND with invalidate, until `rereg` makes it valid again.
        address: register ``length`` bytes there instead of allocating; keeping them mapped is the caller's task.
        implicit: the whole address space. A *length* only says what ``buf``, `read` and `write` mean then: that much memory
            allocated beside it, or what is at *address*.
        unsafe: allow an implicit region to be remotely accessible.

    OSError: EINVAL, EACCES (write access to a read-only buffer), EFAULT (nothing is mapped there), ENOMEM or EPERM
    (RLIMIT_MEMLOCK), EPERM or ENOSYS (memfd_create or process_vm_readv is refused, by a seccomp profile: the text says which).
    """

    _what = "memory region"
    _beside: Buffer | None = None
    _span: tuple[int, int, bool] | None = None  # of a region over a buffer: address, length, read-only

    @coded
    def __init__(
        self,
        creator: PD,
        length: Any = 0,
        access: int | None = None,
        address: int | None = None,
        implicit: bool = False,
        *,
        unsafe: bool = False,
    ) -> None:
        instance("creator", creator, PD)
        if access is not None:
            integer("access", access, 0, 0xFFFFFFFF)
        if implicit:
            if _is_buffer(length):
                buffer_of(length)  # what is neither a length nor a buffer is told so
                raise ArgumentError("implicit", "the region is the whole address space: it has no buffer")
            flags = _check_access(_DEFAULT if access is None else access)
            if not flags & e.IBV_ACCESS_ON_DEMAND:
                raise ArgumentError("access", "an implicit region needs IBV_ACCESS_ON_DEMAND")
            if flags & REMOTE and not unsafe:
                raise ArgumentError("unsafe", "a remotely accessible implicit region opens all memory of the process to "
                                    "the peer: it needs unsafe=True")  # fmt: skip
            if length:
                self._beside = _buffer(length, address, bool(flags & e.IBV_ACCESS_HUGETLB))
            self._register(creator, flags, None)
            return
        if isinstance(length, Mapping):
            writable = length.writable
            flags = _check_access((_DEFAULT if writable else e.IBV_ACCESS_ON_DEMAND) if access is None else access)
            if flags & WRITING and not writable:
                raise PermissionError(errno.EACCES, "access: the mapping is read-only, so IBV_ACCESS_LOCAL_WRITE is refused")
            self._register(creator, flags, length)
            return
        buffer = _buffer(length, address, bool((access or 0) & e.IBV_ACCESS_HUGETLB))
        if access is None:
            access = e.IBV_ACCESS_ON_DEMAND if buffer.readonly else _DEFAULT
        flags = _check_access(access)
        self._register(creator, flags, _map(buffer, flags))
        self._span = buffer.address, buffer.length, buffer.readonly

    def _register(self, pd: PD, access: int, mapping: Mapping | None, key: int = 0) -> None:
        super().__init__()
        self.access = access
        self.on_demand = bool(access & e.IBV_ACCESS_ON_DEMAND)
        try:
            self._device = pd.device
        except OSError:
            if mapping is not None:
                mapping.close()
            raise
        held: list[Region] = []
        self._leave_by(functools.partial(_leave, self._device, held))  # first: who is interrupted in here undoes it
        rights, pinned = access & _RIGHTS, not self.on_demand
        try:
            if mapping is None:
                self.region = self._device.regions.register_implicit(held, pd=pd.handle, access=rights)
            else:
                self.region = self._device.regions.register(held, mapping, pd=pd.handle, access=rights, pinned=pinned, key=key)
        except BaseException:
            self._open = False
            if self._departure is not None:
                self._departure.begin(wait=False)
            raise
        self.pd = pd
        self._belong_to(pd)

    @coded
    def rereg(self, flags: int, pd: PD | None = None, addr: int = 0, length: int = 0, access: int = 0) -> None:
        """Change what *flags* name (IBV_REREG_MR_CHANGE_*): the domain *pd*, the rights *access*, or the memory: *length* bytes at
        *addr*, which the caller keeps mapped. The keys stay; requests under way in the region fail.

        OSError: as when registering, and the region is as it was; but if the device then refuses the new one (ENOMEM where
        RLIMIT_MEMLOCK is hit), it is closed. EOPNOTSUPP for a region over a file, a mapping or all memory.
        """
        integer("flags", flags, 1, e.IBV_REREG_MR_FLAGS_SUPPORTED)
        device, mapping = self.device, self.region.mapping
        if self._span is None or mapping is None:
            raise unsupported(f"rereg of a region of kind {self.kind}")
        home = self.pd
        if flags & e.IBV_REREG_MR_CHANGE_PD:
            instance("pd", pd, PD)
            assert pd is not None
            if pd.device is not device:
                raise ArgumentError("pd", "the protection domain is of another device")
            home = pd
        rights = _check_access(access) if flags & e.IBV_REREG_MR_CHANGE_ACCESS else self.access
        buffer = Buffer(*self._span, mapping.owner)
        if flags & e.IBV_REREG_MR_CHANGE_TRANSLATION:
            size = integer("length", length, 1, 1 << 47)
            buffer = Buffer(integer("addr", addr, 1, (1 << 47) - size), size, False, None)
        fresh, key = _map(buffer, rights), self.region.key
        self._open = False
        self.pd._children.discard(self)
        assert self._departure is not None
        self._departure.begin()
        self._register(home, rights, fresh, key)
        self._span = buffer.address, buffer.length, buffer.readonly

    @property
    def lkey(self) -> int:
        """The key for SGEs."""
        return self.region.key

    @property
    def rkey(self) -> int:
        """The key for the peer; random, and the same number as ``lkey``."""
        return self.region.key

    @property
    def buf(self) -> int:
        """The address of the region's first byte; of an implicit region, of the memory named with it, if any."""
        return self.region.start if self._beside is None else self._beside.address

    @property
    def length(self) -> int:
        return self.region.length

    @property
    def handle(self) -> int:
        return self.region.slot

    @property
    def unnotified(self) -> str:
        """Why the device does not hear of unmapping and the like in this region ("": it does, or need not). It then
        relies on errors at each copy, and on the region's own life cycle."""
        return self.region.unnotified

    @property
    def kind(self) -> str:
        """How its memory is reached: owned, alias, foreign or file (see `unpinned.host.memory`), or implicit."""
        return self.region.mapping.kind.value if self.region.mapping is not None else "implicit"

    @property
    def counters(self) -> dict[str, int]:
        """Page faults, pages brought in, invalidations by cause, ... since the region was opened."""
        self.device.check()
        return self.region.counters()

    @coded
    def resident_bytes(self) -> int:
        """Bytes of the region that are in memory now; of an implicit region those of the whole process."""
        self.device.check()
        return self.region.resident_bytes()

    def covers(self, addr: int, length: int) -> bool:
        """Does [addr, addr + length) lie in the region?"""
        start = self.region.start
        return start <= addr and length >= 0 and addr + length <= start + self.length

    @coded
    def read(self, length: int, offset: int = 0) -> bytes:
        """Bytes [offset, offset + length) of the region. EFAULT where its memory is gone."""
        self.device.check()
        integer("offset", offset, 0, self.length)
        return peek(self.buf + offset, integer("length", length, 0, self.length - offset))

    @coded
    def write(self, data: Any, length: int | None = None, offset: int = 0) -> None:
        """Write *data* (text: as UTF-8), or its first *length* bytes, at *offset*. EFAULT where the memory is gone."""
        self.device.check()
        view = bytes_of("data", data.encode() if isinstance(data, str) else data)
        size = integer("length", view.nbytes if length is None else length, 0, view.nbytes)
        integer("offset", offset, 0, self.length)
        if size > self.length - offset:
            raise ArgumentError("length", f"{size} bytes at {offset} do not fit the region's {self.length}")
        poke(self.buf + offset, view[:size])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.length} bytes at {self.buf:#x}, {self.kind}{', closed' if self.closed else ''}>"


class FileMR(MR):
    """A region over a file, through a mapping of the device's own: nothing is read, and nothing that the application does to
    its own mappings can disturb it (an extension; verbs' next of kin is DmaBufMR).

    Args:
        creator: the protection domain.
        path: a regular file.
        access: IBV_ACCESS_*; None: ON_DEMAND, for reading.
        offset, length: which bytes; to the file's present end by default.

    A file that shrinks later gives errors at the copies. ``read`` and ``write`` work on the file's bytes.
    """

    @coded
    def __init__(
        self, creator: PD, path: str | os.PathLike[str], access: int | None = None, offset: int = 0, length: int | None = None
    ) -> None:
        instance("creator", creator, PD)
        flags = _check_access(e.IBV_ACCESS_ON_DEMAND if access is None else access)
        self._register(creator, flags, map_file(path, bool(flags & WRITING), offset, length))


def _map(buffer: Buffer, access: int) -> Mapping:
    """How the device reaches it. EACCES for writing to a read-only one."""
    if buffer.readonly and access & WRITING:
        raise PermissionError(errno.EACCES, "access: the buffer is read-only, so IBV_ACCESS_LOCAL_WRITE is refused")
    return map_buffer(buffer.address, buffer.length, bool(access & WRITING), buffer.owner)


def _is_buffer(value: Any) -> bool:
    return not hasattr(value, "__index__") or hasattr(value, "__array_interface__")  # an array may have both


def _buffer(source: Any, address: int | None, huge: bool) -> Buffer:
    if _is_buffer(source):
        if address is not None:
            raise ArgumentError("address", "a buffer has its own address")
        return buffer_of(source)
    length = integer("length", source, 1, 1 << 47)
    if address is not None:
        return Buffer(integer("address", address, 1, (1 << 47) - length), length, False, None)
    array = empty(length, "u1", huge=huge)
    return Buffer(array.ctypes.data, length, False, array)


def _check_access(access: int) -> int:
    flags = integer("access", access, 0, 0xFFFFFFFF)
    if flags & (e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_ATOMIC) and not flags & e.IBV_ACCESS_LOCAL_WRITE:
        raise ArgumentError("access", "REMOTE_WRITE and REMOTE_ATOMIC need IBV_ACCESS_LOCAL_WRITE")
    unknown = flags & ~(_RIGHTS | _HINTS | e.IBV_ACCESS_OPTIONAL_RANGE | e.IBV_ACCESS_ON_DEMAND)
    if unknown:
        raise unsupported(f"access {unknown:#x}")
    return flags


def _leave(device: Device, regions: list[Region], wait: bool) -> bool:
    return all(device.regions.leave(region, wait) for region in regions)
