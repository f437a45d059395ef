"""The page table against a dict: whatever is installed, zapped, downgraded, aged or evicted, both say the same."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from unpinned.paging import create
from unpinned.paging import layout as P
from unpinned.paging.audit import audit, entries
from unpinned.paging.table import change_range, downgrade_range, install, next_present, retag, translate, zap_range

KEPT = P.WRITE | P.ACCESSED | P.DIRTY
GEOMETRIES = [(1, 2), (1, 6), (2, 2), (2, 3), (3, 2), (5, 1)]  # at most 64 pages


class Reference:
    """The table's meaning, in the plainest Python: page number -> (flags, validation time in its own units).

    A huge entry is one word for ``leaf`` pages, so they have their flags and time in common: what marks one of them ACCESSED
    or DIRTY marks all. Which pages stand in huge entries is part of the meaning (``huge``: their first pages): those of an
    aligned run installed at once where none of them had an entry of its own, until a part of the run is changed alone.
    """

    def __init__(self, leaf: int) -> None:
        self.leaf = leaf  # 0: there are no huge entries
        self.pages: dict[int, tuple[int, int]] = {}
        self.huge: set[int] = set()

    def sharing(self, page: int) -> range:
        """The pages that have their entry in common with *page*, itself included."""
        first = page - page % self.leaf if self.leaf else page
        return range(first, first + self.leaf) if first in self.huge else range(page, page + 1)

    def runs(self, pages: range) -> list[tuple[int, bool]]:
        """(first page, is all of it in *pages*?) of each run that could be a huge entry and touches *pages*."""
        if not self.leaf:
            return []
        firsts = range(pages.start - pages.start % self.leaf, pages.stop, self.leaf)
        return [(first, pages.start <= first and first + self.leaf <= pages.stop) for first in firsts]

    def install(self, pages: range, rights: int, now: int) -> None:
        for first, whole in self.runs(pages):
            if not whole:
                self.huge.discard(first)
            elif not set(range(first, first + self.leaf)) & set(self.pages):
                self.huge.add(first)
        for page in pages:
            flags = self.pages.get(page, (0, 0))[0]
            self.pages[page] = (rights | (0 if flags & P.STALE else flags & KEPT), now >> P.TIME_SHIFT)

    def change(self, pages: range, keep: int, add: int) -> int:
        changed = set()
        for page in set(pages) & set(self.pages):
            flags, time = self.pages[page]
            made = (flags & keep) | add
            if (made, time if keep else 0) != (flags, time):
                changed.add(page)
            if made:
                self.pages[page] = (made, time)
            else:
                del self.pages[page]
        for first, whole in self.runs(pages):
            run = set(range(first, first + self.leaf))
            if not run & set(self.pages) or (not whole and changed & run):
                self.huge.discard(first)
        return len(changed)

    def usable(self, page: int, need: int, oldest: int, track: int) -> bool:
        flags, time = self.pages.get(page, (0, 0))
        if flags & (need | P.STALE) != need or time < oldest:
            return False
        for other in self.sharing(page):
            self.pages[other] = (flags | track, time)
        return True


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    first = draw(st.integers(0, 63))
    return first, draw(st.sampled_from([1, 2, 3, 4, 8, 16, 64]))


class PageTable(RuleBasedStateMachine):
    """Enough nodes for everything: the table and the dict are equal after every step."""

    spare = 1000

    @initialize(
        geometry=st.sampled_from(GEOMETRIES),
        shift=st.sampled_from([0, 12]),
        huge=st.booleans(),
        horizon=st.sampled_from([0, 5 << P.TIME_SHIFT]),
        track=st.sampled_from([0, P.ACCESSED | P.DIRTY]),
    )
    def make(self, geometry: tuple[int, int], shift: int, huge: bool, horizon: int, track: int) -> None:
        levels, bits = geometry
        self.count = 1 << (levels * bits)
        self.shift = shift
        self.p = create(
            levels=levels, bits=bits, leaves=min(levels + self.spare, 100), page_shift=shift, regions=0, faults=0
        )
        self.p[P.HUGE] = huge and levels > 1
        self.p[P.HORIZON_NS] = horizon
        self.p[P.TRACK] = track
        self.empty = self.p.copy()
        self.now = 0
        self.reference = Reference(1 << bits if self.p[P.HUGE] else 0)

    def bytes(self, span: tuple[int, int], ragged: int = 0) -> tuple[int, int, range]:
        """A span of pages inside the table as (start, end, pages); ragged: begins and ends inside its pages."""
        first = span[0] % self.count
        last = min(first + span[1], self.count)
        size = 1 << self.shift
        inner = min(ragged, size - 1)
        start, end = first * size + inner, last * size - inner
        return (start, end, range(first, last)) if start < end else (first * size, last * size, range(first, last))

    @rule(span=spans(), write=st.booleans(), passed=st.integers(0, 3))
    def install(self, span: tuple[int, int], write: bool, passed: int) -> None:
        start, end, pages = self.bytes(span)
        rights = P.PRESENT | P.WRITE if write else P.PRESENT
        self.now += passed << P.TIME_SHIFT
        assert install(self.p, start, end, rights, self.now) == len(pages)
        self.reference.install(pages, rights, self.now)

    @rule(span=spans(), ragged=st.integers(0, 100))
    def zap(self, span: tuple[int, int], ragged: int) -> None:
        start, end, pages = self.bytes(span, ragged)
        self.same(zap_range(self.p, start, end), self.reference.change(pages, 0, 0))

    @rule(span=spans())
    def downgrade(self, span: tuple[int, int]) -> None:
        start, end, pages = self.bytes(span)
        self.same(downgrade_range(self.p, start, end), self.reference.change(pages, ~P.WRITE, 0))

    @rule(span=spans())
    def mark_stale(self, span: tuple[int, int]) -> None:
        start, end, pages = self.bytes(span)
        self.same(change_range(self.p, start, end, -1, P.STALE), self.reference.change(pages, -1, P.STALE))

    @rule(span=spans(), ragged=st.integers(0, 100), write=st.booleans())
    def translate(self, span: tuple[int, int], ragged: int, write: bool) -> None:
        start, end, pages = self.bytes(span, ragged)
        horizon = int(self.p[P.HORIZON_NS])
        oldest = (self.now - horizon) >> P.TIME_SHIFT if horizon else 0
        need = P.PRESENT | P.WRITE if write else P.PRESENT
        track = int(self.p[P.TRACK]) & (P.ACCESSED | P.DIRTY if write else P.ACCESSED)
        expected = end - start
        for page in pages:
            if not self.reference.usable(page, need, oldest, track):
                expected = max(0, (page << self.shift) - start)
                break
        self.same(translate(self.p, start, end - start, write, self.now), expected)

    @rule(span=spans())
    def next_present(self, span: tuple[int, int]) -> None:
        start, end, pages = self.bytes(span)
        expected = next((max(start, page << self.shift) for page in pages if page in self.reference.pages), P.NONE)
        self.same(next_present(self.p, start, end), expected)

    @rule()
    def drop_everything(self) -> None:
        zap_range(self.p, 0, 1 << 62)
        self.reference.pages.clear()
        self.reference.huge.clear()
        self.p[P.EVICT_HAND] = 0
        assert np.array_equal(self.p[: self.p[P.COUNTERS]], self.empty[: self.p[P.COUNTERS]]), (
            "an empty table has a history"
        )

    @rule(va=st.sampled_from([-1, -(1 << 40), 1 << 40, 1 << 61]), length=st.sampled_from([1, 4096, 1 << 61]))
    def outside(self, va: int, length: int) -> None:
        assert translate(self.p, va, length, 0, self.now) == 0
        assert install(self.p, va, va + length, P.PRESENT, self.now) == 0
        if va > 0:
            assert zap_range(self.p, va, va + length) == 0

    def same(self, got: int, expected: int) -> None:
        assert got == expected

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "p"):
            assert audit(self.p) == []
            self.compare(entries(self.p))

    def compare(self, found: dict[int, int]) -> None:
        flags = {page: (e & P.FLAG_MASK & ~P.HUGE_ENTRY, e >> P.FLAG_BITS) for page, e in found.items()}
        assert flags == self.reference.pages
        huge = {page for page, e in found.items() if e & P.HUGE_ENTRY}
        assert huge == {page for first in self.reference.huge for page in self.reference.sharing(first)}


class SmallPageTable(PageTable):
    """As few nodes as may be: entries may be missing (the table is a cache), but none is ever wrong."""

    spare = 0

    def same(self, got: int, expected: int) -> None:
        """Counts say nothing here: an entry may have been evicted, or gone with a huge one that could not be split."""

    @rule(span=spans(), write=st.booleans())
    def translate(self, span: tuple[int, int], ragged: int = 0, write: bool = False) -> None:
        """Never more than the dict allows. (The dict has forgotten what was evicted before it is asked.)"""
        start, end, pages = self.bytes(span)
        usable = translate(self.p, start, end - start, write, self.now)
        need = P.PRESENT | P.WRITE if write else P.PRESENT
        for page in pages[: usable >> self.shift]:
            assert self.reference.pages[page][0] & (need | P.STALE) == need

    @rule(span=spans())
    def next_present(self, span: tuple[int, int]) -> None:
        start, end, pages = self.bytes(span)
        found = next_present(self.p, start, end)
        assert found == P.NONE or found >> self.shift in self.reference.pages

    def compare(self, found: dict[int, int]) -> None:
        mask = P.FLAG_MASK & ~P.HUGE_ENTRY & ~(P.ACCESSED | P.DIRTY)
        for page, e in found.items():
            flags, time = self.reference.pages[page]
            # An entry that was evicted and installed again has not kept what it had.
            assert e & mask & ~flags == 0 and e & (P.PRESENT | P.STALE) == flags & (P.PRESENT | P.STALE)
            assert e >> P.FLAG_BITS == time
        self.reference.pages = {page: entry for page, entry in self.reference.pages.items() if page in found}


TestPageTable = PageTable.TestCase
TestSmallPageTable = SmallPageTable.TestCase
TestPageTable.settings = TestSmallPageTable.settings = settings(stateful_step_count=30, max_examples=40)


def test_pages_of_a_huge_entry_are_marked_together() -> None:
    """One word holds the flags of them all; split, each has them by itself."""
    p = create(levels=2, bits=2, leaves=4, page_shift=0, regions=0, faults=0)
    p[P.HUGE], p[P.TRACK] = 1, P.ACCESSED | P.DIRTY
    install(p, 4, 8, P.PRESENT | P.WRITE, 0)
    assert translate(p, 6, 1, 1, 0) == 1
    both = P.PRESENT | P.WRITE | P.ACCESSED | P.DIRTY
    assert entries(p) == dict.fromkeys(range(4, 8), both | P.HUGE_ENTRY)
    assert zap_range(p, 5, 6) == 1
    assert entries(p) == dict.fromkeys((4, 6, 7), both)


def test_retag_sets_the_frame_and_keeps_the_flags() -> None:
    p = create(levels=2, bits=2, leaves=4, page_shift=0, regions=0, faults=0)
    install(p, 3, 5, P.PRESENT | P.WRITE, 0)
    assert retag(p, 4, 77) == 1
    assert retag(p, 5, 77) == 0 and retag(p, -1, 1) == 0 and retag(p, 16, 1) == 0
    assert entries(p) == {3: P.PRESENT | P.WRITE, 4: 77 << P.FLAG_BITS | P.PRESENT | P.WRITE}
