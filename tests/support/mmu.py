"""The MMU-action matrix: what a region holds, what kinds of memory it lies on, what applications do to it.

A region is 2 MiB (a huge page, where there are some): a quarter for a *bystander*, which nothing is done to, and four *lanes*,
one for each operation under test; the middle half of every lane is what the action strikes. A lane is a row of 4 KiB blocks,
shifted against the pages so that each block touches two. Every word says which lane, block and place it belongs to, and in
which generation it was written, so a word that is lost, stale, misplaced or another mapping's is seen.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned import verbs as v
from unpinned.host import owned, system
from unpinned.host.vmas import vmas

from .verbs import ALL

Words = NDArray[np.int64]

PAGE = mmap.PAGESIZE
BLOCK = 4096
BLOCK_WORDS = BLOCK // 8
TAG = 0x5A << 56
GENERATION = 32  # its lowest bit; 24 bits
GENERATIONS = (1 << 24) - 1
OTHER = 0x6E6E6E6E6E6E6E6E
"""What fills the mapping that replaces a struck range."""
POISON = 0x7B7B7B7B7B7B7B7B
"""What fills landing memory before a READ."""

SIZE = 2 << 20
BYSTANDER_PAGES = SIZE // PAGE // 4
LANE_PAGES = (SIZE // PAGE - BYSTANDER_PAGES) // 4
LANES = ("bystander", "read", "write", "send", "atomic")
KINDS = ("private", "thp", "memfd", "sealed", "owned", "file", "path")


@dataclass(frozen=True)
class Lane:
    """Where an operation works, in bytes from the region's start."""

    index: int
    op: str
    start: int
    pages: int

    @property
    def shift(self) -> int:
        """Where its first block begins: atomics keep to the pages, the others straddle them."""
        return self.start + (0 if self.op == "atomic" else 2056)

    @property
    def blocks(self) -> int:
        return (self.start + self.pages * PAGE - self.shift) // BLOCK

    @property
    def struck(self) -> tuple[int, int]:
        """The bytes that the action strikes: its middle half."""
        quarter = self.pages // 4 * PAGE
        return self.start + quarter, self.start + 3 * quarter

    def within(self, low: int, high: int) -> NDArray[np.bool_]:
        """Which words of its blocks lie in bytes [low, high) of the region."""
        places = self.shift + 8 * np.arange(self.blocks * BLOCK_WORDS)
        return ((places >= low) & (places < high)).reshape(self.blocks, BLOCK_WORDS)


def lanes() -> list[Lane]:
    made = [Lane(0, "bystander", 0, BYSTANDER_PAGES)]
    for i, op in enumerate(LANES[1:]):
        made.append(Lane(i + 1, op, (BYSTANDER_PAGES + i * LANE_PAGES) * PAGE, LANE_PAGES))
    return made


def pattern(lane: int, blocks: int) -> Words:
    """The words of a lane's blocks in generation 0; a later one is added at GENERATION."""
    words = TAG | lane << 28 | np.arange(blocks, dtype=np.int64)[:, None] << 16 | np.arange(BLOCK_WORDS, dtype=np.int64)
    if LANES[lane] == "atomic":
        words[:, CELL] = 0
    return words


CELL = 32
"""The word of an atomic lane's block that is counted in; it begins at 0."""


def fill(target: Words) -> None:
    """Write generation 0 of every lane into a region's words."""
    target[:] = TAG
    for lane in lanes():
        at = lane.shift // 8
        target[at : at + lane.blocks * BLOCK_WORDS] = pattern(lane.index, lane.blocks).reshape(-1)


def words_at(address: int, length: int) -> Words:
    """The words at an address; whoever looks at them after the mapping is gone is killed."""
    return np.ctypeslib.as_array((ctypes.c_int64 * (length // 8)).from_address(address))


# ---- system calls, made as C code that NumPy calls would: with the GIL held ----------------------------------------------

_libc = ctypes.PyDLL(None, use_errno=True)
_places = itertools.count(0x3000_0000_0000, 1 << 33)
MAP_FIXED, MAP_FIXED_NOREPLACE = 0x10, 0x100000
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
MADV_DONTNEED, MADV_REMOVE, MADV_MERGEABLE, MADV_UNMERGEABLE = 4, 9, 12, 13
MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_PAGEOUT, MADV_COLLAPSE = 14, 15, 21, 25
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


def _function(name: str, result: type, *arguments: type) -> Any:
    function = _libc[name]
    function.restype, function.argtypes = result, list(arguments)
    return function


_word, _int = ctypes.c_size_t, ctypes.c_int
_mmap = _function("mmap", _word, _word, _word, _int, _int, _int, ctypes.c_long)
_munmap = _function("munmap", _int, _word, _word)
_mremap = _function("mremap", _word, _word, _word, _word, _int, _word)
_mprotect = _function("mprotect", _int, _word, _word, _int)
_madvise = _function("madvise", _int, _word, _word, _int)
_fallocate = _function("fallocate", _int, _int, _int, ctypes.c_long, ctypes.c_long)


def _check(result: int, failed: int) -> int:
    if result == failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def map_at(address: int, length: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    return _check(_mmap(address, length, protection, flags, fd, offset), ctypes.c_size_t(-1).value)


def map_anew(length: int, flags: int, fd: int = -1) -> int:
    """Map at an address that nobody else is given, aligned to any huge page: a hole in it stays one."""
    return map_at(next(_places), length, flags | MAP_FIXED_NOREPLACE, fd)


def unmap(address: int, length: int) -> None:
    _check(_munmap(address, length), -1)


def remap(address: int, old: int, new: int, flags: int, target: int = 0) -> int:
    return _check(_mremap(address, old, new, flags, target), ctypes.c_size_t(-1).value)


def protect(address: int, length: int, protection: int) -> None:
    _check(_mprotect(address, length, protection), -1)


def advise(address: int, length: int, advice: int) -> None:
    _check(_madvise(address, length, advice), -1)


def punch_hole(fd: int, offset: int, length: int) -> None:
    _check(_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length), -1)


# ---- memory --------------------------------------------------------------------------------------------------------


@dataclass
class Memory:
    """2 MiB of some kind, filled, with a region over it. `base` is where the application sees it."""

    kind: str
    base: int
    mr: v.MR
    fd: int = -1
    device_base: int = 0
    """Where an owned array's device sees it."""
    elsewhere: dict[int, int] = field(default_factory=dict)
    """Offset -> address of what was moved away."""

    @property
    def private(self) -> bool:
        """Reached at the application's own address: a replacement may be hit."""
        return self.kind in ("private", "thp")

    def forget_moved(self) -> None:
        """Unmap what was moved away."""
        for address in self.elsewhere.values():
            unmap(address, SIZE)

    def read(self, offset: int, length: int) -> Words:
        """What the memory behind [offset, offset + length) holds now, wherever the application maps it."""
        if self.fd >= 0:
            return np.frombuffer(os.pread(self.fd, length, offset), np.int64)
        return words_at((self.device_base or self.base) + offset, length)


@contextmanager
def memory(kind: str, pd: v.PD, folder: Path) -> Iterator[Memory]:
    """Make, fill and register memory of *kind*; afterwards close the region and unmap what is left."""
    if kind == "owned":
        array = owned.empty(SIZE, np.uint8)
        holder = owned.holder_of(vmas(array.ctypes.data, array.ctypes.data + 1)[0])
        assert holder is not None
        fill(array.view(np.int64))
        with v.MR(pd, array, ALL) as mr:
            made = Memory(kind, array.ctypes.data, mr, device_base=holder.block.device_base)
            yield made
            made.forget_moved()
        return
    fd = _file(kind, folder)
    shared = mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = map_anew(SIZE, shared, fd)
    try:
        if kind in ("thp", "private"):
            advise(base, SIZE, MADV_HUGEPAGE if kind == "thp" else MADV_NOHUGEPAGE)
        fill(words_at(base, SIZE))
        mr = v.FileMR(pd, folder / "region", ALL) if kind == "path" else v.MR(pd, SIZE, ALL, address=base)
        with mr:
            made = Memory(kind, base, mr, fd)
            yield made
            made.forget_moved()
    finally:
        unmap(base, SIZE)
        if fd >= 0:
            os.close(fd)


def _file(kind: str, folder: Path) -> int:
    """The file below memory of *kind*, or -1."""
    if kind in ("memfd", "sealed"):
        fd = os.memfd_create("region", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    elif kind in ("file", "path"):
        fd = os.open(folder / "region", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    else:
        return -1
    os.ftruncate(fd, SIZE)
    if kind == "sealed":
        fcntl.fcntl(fd, system.F_ADD_SEALS, system.F_SEAL_SHRINK)
    return fd


def huge_bytes(address: int) -> int:
    """How much of the mapping that begins at *address*, or has it inside, is huge pages of private memory."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and rest and not first.endswith(":"):
            low, high = (int(end, 16) for end in first.split("-"))
            inside = low <= address < high
        elif inside and first == "AnonHugePages:":
            return 1024 * int(rest[0])
    return 0


class Filler:
    """The mapping that comes after: a private one of a file full of OTHER, so that it is full from its first moment on."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("other", os.MFD_CLOEXEC)
        os.write(self.fd, np.full(SIZE // 8, OTHER, np.int64).tobytes())
        self.placed: list[tuple[int, int]] = []

    def put(self, address: int, length: int, flags: int = MAP_FIXED_NOREPLACE) -> None:
        map_at(address, length, mmap.MAP_PRIVATE | flags, self.fd)
        self.placed.append((address, length))

    def strays(self) -> int:
        """Words of the replacements that are not as they were mapped."""
        return sum(int((words_at(address, length) != OTHER).sum()) for address, length in self.placed)

    def close(self) -> None:
        """Forget them; they go with the region's addresses."""
        os.close(self.fd)
