"""What the kernel says about a range of our addresses: one `Vma` per mapping, ascending.

Asked with PROCMAP_QUERY (Linux 6.11: a few microseconds however many mappings there are), else read from /proc/self/maps.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PROCMAP_QUERY = 0xC0686611  # _IOWR('f', 17, struct procmap_query)
_COVERING_OR_NEXT = 0x10
READABLE, _WRITABLE, SHARED = 1, 2, 8
_QUERY = struct.Struct("=9Q4I2Q")
_NAME_BYTES = 4096
MAPS = "/proc/self/maps"


@dataclass(frozen=True)
class Vma:
    """A mapping, by the fields of /proc/self/maps."""

    start: int
    end: int
    readable: bool
    writable: bool
    shared: bool
    """MAP_SHARED, whether of a file opened for writing or not."""
    offset: int
    device: int
    inode: int
    name: str

    def continues(self, before: Vma) -> bool:
        """Is this the same file as *before*, contiguous in both the address space and the file?"""
        same = (self.shared, self.device, self.inode) == (before.shared, before.device, before.inode)
        return same and self.start == before.end and self.offset == before.offset + before.end - before.start


def vmas(start: int, end: int) -> list[Vma]:
    """The mappings that [start, end) touches. OSError where /proc is closed."""
    with open(MAPS, "rb", buffering=1 << 16) as maps:
        try:
            return list(_queried(maps.fileno(), start, end))
        except OSError:
            return list(_parsed(maps, start, end))


def covered(found: list[Vma], start: int, end: int) -> bool:
    """Do the mappings *found* leave no hole in [start, end)?"""
    for vma in found:
        if vma.start > start:
            return False
        start = max(start, vma.end)
    return start >= end


def procmap_query_works() -> bool:
    """Does this kernel answer PROCMAP_QUERY?"""
    with open(MAPS, "rb") as maps:
        try:
            return next(_queried(maps.fileno(), 0, 1 << 56), None) is not None
        except OSError:
            return False


def _queried(fd: int, start: int, end: int) -> Iterator[Vma]:
    name = ctypes.create_string_buffer(_NAME_BYTES)
    while start < end:
        words = [_QUERY.size, _COVERING_OR_NEXT, start, *[0] * 8, _NAME_BYTES, 0, ctypes.addressof(name), 0]
        request = bytearray(_QUERY.pack(*words))
        try:
            fcntl.ioctl(fd, PROCMAP_QUERY, request)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        _, _, _, low, high, flags, _, offset, inode, major, minor, size, *_ = _QUERY.unpack(request)
        if low >= end:
            return
        yield Vma(
            start=low,
            end=high,
            readable=bool(flags & READABLE),
            writable=bool(flags & _WRITABLE),
            shared=bool(flags & SHARED),
            offset=offset,
            device=os.makedev(major, minor),
            inode=inode,
            name=os.fsdecode(name.value) if size else "",
        )
        start = high


def _parsed(lines: Iterator[bytes], start: int, end: int) -> Iterator[Vma]:
    for line in lines:
        span, rights, offset, device, inode, *name = line.split(None, 5)
        low, high = (int(word, 16) for word in span.split(b"-"))
        if low >= end:
            return
        if high > start:
            major, minor = (int(word, 16) for word in device.split(b":"))
            yield Vma(
                start=low,
                end=high,
                readable=rights[:1] == b"r",
                writable=rights[1:2] == b"w",
                shared=rights[3:4] == b"s",
                offset=int(offset, 16),
                device=os.makedev(major, minor),
                inode=int(inode),
                name=os.fsdecode(name[0].rstrip(b"\n")) if name else "",
            )
