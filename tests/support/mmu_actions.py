"""What a process does to its memory while the wire is busy with it, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from . import ksm, mmu
from .mmu import GENERATION, PAGE, SIZE, Filler, Memory
from .verbs import PATIENCE


def wait_for(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Wait for it; never longer than `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what()}"
        time.sleep(0.0002)


class Outcome(Enum):
    """What becomes of the struck bytes."""

    KEPT = "as they were"
    ZEROED = "zeros, or what is written later"
    GONE = "out of reach: a Remote Access Error"
    FROZEN = "readable only"
    CUT = "out of reach from the first struck byte to the region's end"


@dataclass(frozen=True)
class Action:
    """`strike` does it to bytes [low, high) of the region; `outcome` and `events` are for memory whose mapping it concerns.

    `events`: invalidations by cause that a strike raises where the device listens.
    """

    name: str
    strike: Callable[[Memory, Filler, int, int], None]
    outcome: Outcome
    events: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("private", "memfd", "owned", "file")
    whole: bool = False
    """Once for all lanes, not once for each."""
    rewrites: bool = False
    """It ends with the owner's own writes to the lane of the READs."""


# ---- the actions ---------------------------------------------------------------------------------------------------


def munmap(memory: Memory, other: Filler, low: int, high: int) -> None:
    """munmap, and at once something else in its place."""
    mmu.unmap(memory.base + low, high - low)
    other.put(memory.base + low, high - low)


def map_fixed(memory: Memory, other: Filler, low: int, high: int) -> None:
    """Something else in its place, in one call."""
    other.put(memory.base + low, high - low, mmu.MAP_FIXED)


def move(memory: Memory, other: Filler, low: int, high: int) -> None:
    """mremap to another place, and at once something else in the old one."""
    _move(memory, other, low, high, high - low)


def grow_by_moving(memory: Memory, other: Filler, low: int, high: int) -> None:
    _move(memory, other, low, high, high - low + 16 * PAGE)


def _move(memory: Memory, other: Filler, low: int, high: int, length: int) -> None:
    target = mmu.map_anew(length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mmu.remap(memory.base + low, high - low, length, mmu.MREMAP_MAYMOVE | mmu.MREMAP_FIXED, target)
    other.put(memory.base + low, high - low)
    memory.elsewhere[low] = target


def shrink(memory: Memory, other: Filler, low: int, high: int) -> None:
    """mremap to less: what is struck is what it loses."""
    mmu.remap(memory.base + low - PAGE, high - low + PAGE, PAGE, 0)
    other.put(memory.base + low, high - low)


def grow(memory: Memory, other: Filler, low: int, high: int) -> None:
    """mremap to more, in place; then back. Where something lies in the way, the kernel refuses."""
    with contextlib.suppress(OSError):
        mmu.remap(memory.base + SIZE - PAGE, PAGE, 17 * PAGE, 0)
        mmu.remap(memory.base + SIZE, 16 * PAGE, PAGE, 0)
        mmu.unmap(memory.base + SIZE, PAGE)


def discard(memory: Memory, other: Filler, low: int, high: int) -> None:
    mmu.advise(memory.base + low, high - low, mmu.MADV_DONTNEED)


def remove(memory: Memory, other: Filler, low: int, high: int) -> None:
    """MADV_REMOVE: a hole in the file. Private memory has none."""
    _unless(errno.EINVAL, memory.private, lambda: mmu.advise(memory.base + low, high - low, mmu.MADV_REMOVE))


def _unless(refusal: int, refused: bool, action: Callable[[], object]) -> None:
    """Do it, or see it refused."""
    try:
        action()
    except OSError as error:
        assert refused and error.errno == refusal, error
    else:
        assert not refused


def page_out(memory: Memory, other: Filler, low: int, high: int) -> None:
    """What reclaim does. MADV_PAGEOUT leaves pages alone that are mapped twice, so the other mapping goes first."""
    places = [memory.base + low]
    if not memory.private:
        discard(memory, other, low, high)
        mapping = memory.mr.region.mapping
        assert mapping is not None
        places = [mapping.table_base + low]
    for place in places * 8:
        mmu.advise(place, high - low, mmu.MADV_PAGEOUT)


def protect_read(memory: Memory, other: Filler, low: int, high: int) -> None:
    mmu.protect(memory.base + low, high - low, mmap.PROT_READ)


def protect_none(memory: Memory, other: Filler, low: int, high: int) -> None:
    mmu.protect(memory.base + low, high - low, 0)


def collapse(memory: Memory, other: Filler, low: int, high: int) -> None:
    """Huge pages on, and a huge page made; then off again."""
    mmu.advise(memory.base, SIZE, mmu.MADV_HUGEPAGE)
    for _ in range(4):
        with contextlib.suppress(OSError):  # busy, or this file system has none
            mmu.advise(memory.base, SIZE, mmu.MADV_COLLAPSE)
    mmu.advise(memory.base, SIZE, mmu.MADV_NOHUGEPAGE)


def punch(memory: Memory, other: Filler, low: int, high: int) -> None:
    """A hole in the file, by its descriptor: no mapping is named, and no event tells of it."""
    with descriptor(memory) as fd:
        mmu.punch_hole(fd, low, high - low)


@contextmanager
def descriptor(memory: Memory) -> Iterator[int]:
    """The file below the memory; an owned array's is reached through its mapping."""
    if memory.kind != "owned":
        yield memory.fd
        return
    fd = os.open(f"/proc/self/map_files/{memory.base:x}-{memory.base + SIZE:x}", os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def truncate(memory: Memory, other: Filler, low: int, high: int) -> None:
    """The file ends at *low*. A sealed one does not."""
    if memory.fd >= 0 or memory.kind == "owned":
        with descriptor(memory) as fd:
            _unless(errno.EPERM, memory.kind in ("owned", "sealed"), lambda: os.ftruncate(fd, low))


def rewrite(memory: Memory, other: Filler, low: int, high: int) -> None:
    """The owner writes the next generation over the lane of the READs: after a fork, every page is copied for it."""
    lane = mmu.lanes()[1]
    words = mmu.words_at(memory.base + lane.shift, lane.blocks * mmu.BLOCK)
    words += 1 << GENERATION


def merge(memory: Memory, other: Filler, low: int, high: int) -> None:
    """Pages become one with equal ones elsewhere (KSM), read-only behind the device's back; then they are written to again."""
    twin = mmu.map_anew(SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mmu.words_at(twin, SIZE)[:] = mmu.words_at(memory.base, SIZE)
    with ksm.merging():
        for place in (twin, memory.base):
            mmu.advise(place, SIZE, mmu.MADV_MERGEABLE)
        # The lane of the READs stands still, so all that lies wholly in it can be merged.
        wait_for(lambda: ksm.merged_pages() >= mmu.LANE_PAGES - 2, lambda: f"{ksm.merged_pages()} pages merged")
    rewrite(memory, other, low, high)
    mmu.advise(memory.base, SIZE, mmu.MADV_UNMERGEABLE)
    mmu.unmap(twin, SIZE)


ALL_KINDS = mmu.KINDS
ACTIONS = [
    Action("munmap", munmap, Outcome.GONE, ("unmap",), ALL_KINDS),
    Action("map_fixed", map_fixed, Outcome.GONE, ("unmap",), ("private", "memfd", "sealed", "owned", "file")),
    Action("move", move, Outcome.GONE, ("remap", "unmap"), ALL_KINDS),
    Action("shrink", shrink, Outcome.GONE, ("unmap",)),
    Action("grow_by_moving", grow_by_moving, Outcome.GONE, ("remap", "unmap")),
    Action("grow", grow, Outcome.KEPT, whole=True),
    Action("discard", discard, Outcome.ZEROED, ("discard",), ("private", "thp", "memfd", "owned", "file")),
    Action("remove", remove, Outcome.ZEROED, ("discard",), ALL_KINDS),
    Action("page_out", page_out, Outcome.KEPT, (), ALL_KINDS),
    Action("protect_read", protect_read, Outcome.FROZEN, (), ("private", "thp", "memfd", "owned", "file")),
    Action("protect_none", protect_none, Outcome.GONE),
    Action("fork", rewrite, Outcome.KEPT, (), ALL_KINDS, whole=True, rewrites=True),
    Action("merge", merge, Outcome.KEPT, (), ("private", "thp"), whole=True, rewrites=True),
    Action("punch", punch, Outcome.ZEROED, (), ("memfd", "sealed", "owned", "file", "path")),
    Action("truncate", truncate, Outcome.CUT, (), ("memfd", "sealed", "owned", "file", "path"), whole=True),
    Action("collapse", collapse, Outcome.KEPT, (), ("private", "thp", "memfd", "owned", "file"), whole=True),
]
CELLS = [(action, kind) for action in ACTIONS for kind in action.kinds]


def outcome(action: Action, kind: str) -> Outcome:
    """What becomes of the struck bytes of memory of *kind*, as the device's peer sees it."""
    private = kind in ("private", "thp")
    if action.name == "truncate":
        return Outcome.CUT if kind in ("memfd", "file", "path") else Outcome.KEPT
    if action.name == "remove":
        return Outcome.KEPT if private else Outcome.ZEROED
    if action.name == "punch":
        return Outcome.ZEROED
    if kind == "path":  # the device has a mapping of its own, and the application's is not its concern
        return Outcome.KEPT
    if action.name in ("discard", "protect_read", "protect_none"):  # shared memory keeps its bytes, an alias its rights
        return action.outcome if private else Outcome.KEPT
    return action.outcome


def events(action: Action, kind: str) -> dict[str, int]:
    """Invalidations by cause that the region must have counted: one for each event of each strike."""
    refused = action.name == "remove" and kind in ("private", "thp")
    if kind == "path" or refused:
        return {}
    strikes = 1 if action.whole else len(mmu.LANES) - 1
    causes = ("discard",) if action.name == "page_out" and kind not in ("private", "thp") else action.events
    return dict.fromkeys(causes, strikes)


REACHED = {
    Outcome.KEPT: mmu.LANES, Outcome.ZEROED: mmu.LANES, Outcome.FROZEN: ("bystander", "read"),
    Outcome.GONE: ("bystander",), Outcome.CUT: ("bystander",),
}  # fmt: skip
"""Lanes that the peer reaches all the while."""


def targets(action: Action) -> Iterator[tuple[int, int]]:
    """The byte ranges to strike, in order."""
    first = mmu.lanes()[1]
    if action.whole:
        yield first.struck[0], SIZE
        return
    for lane in mmu.lanes()[1:]:
        yield lane.struck


def restore(action: Action, memory: Memory) -> None:
    """Make what was protected readable again."""
    if action.name.startswith("protect"):
        for low, high in targets(action):
            mmu.protect(memory.base + low, high - low, mmap.PROT_READ | mmap.PROT_WRITE)


def lost(action: Action, memory: Memory) -> list[tuple[int, int]]:
    """Bytes of which the region's words cannot be found any more."""
    what = outcome(action, memory.kind)
    if what is Outcome.CUT or (what is Outcome.GONE and memory.private and not action.name.startswith("protect")):
        return list(targets(action))
    return []


@contextmanager
def forked(memory: Memory) -> Iterator[Callable[[], int]]:
    """A child that lives on beside its parent; call for its exit status: 0 when its private memory stayed as it was."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = _child(memory, ready[1], go[0])
        finally:
            os._exit(status)
    waited: list[int] = []

    def status() -> int:
        if not waited:
            os.write(go[1], b"x")
            waited.append(os.waitpid(child, 0)[1])
        return waited[0]

    try:
        assert os.read(ready[0], 1)
        yield status
    finally:
        status()
        for fd in (*ready, *go):
            os.close(fd)


def _child(memory: Memory, ready: int, go: int) -> int:
    def content() -> int:
        return zlib.crc32(bytes(mmu.words_at(memory.base, SIZE))) if memory.private else 0

    before = content()
    os.write(ready, b"r")
    os.read(go, 1)
    return 0 if content() == before else 2
