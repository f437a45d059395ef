"""The page table where a dict cannot see: huge entries, eviction, age, cost. (tests/property has the dict.)"""

from __future__ import annotations

import pytest

from unpinned.paging import create, view
from unpinned.paging import layout as P
from unpinned.paging.audit import audit, entries
from unpinned.paging.table import change_range, entry, install, next_present, slot, translate, zap_range

MIB = 1 << 20
RW = P.PRESENT | P.WRITE


def test_a_full_span_is_one_entry_and_splits_when_a_page_of_it_goes() -> None:
    p = create(leaves=8)
    assert install(p, 4 * MIB, 8 * MIB, RW, 0) == 1024
    assert p[P.NODES_LIVE] == 3  # root, and two on the way: no leaves
    assert translate(p, 4 * MIB, 4 * MIB, 1, 0) == 4 * MIB
    assert zap_range(p, 5 * MIB, 5 * MIB + 1) == 1
    assert translate(p, 4 * MIB, 4 * MIB, 1, 0) == MIB
    assert translate(p, 5 * MIB + 4096, 3 * MIB, 1, 0) == 3 * MIB - 4096
    assert p[P.PAGES] == 1023 and audit(p) == []


def test_sixty_four_gibibytes_are_swept_at_the_price_of_what_they_hold() -> None:
    p = create(leaves=64)
    install(p, 1 << 36, (1 << 36) + 4096, RW, 0)
    install(p, 3 << 35, (3 << 35) + 2 * MIB, RW, 0)
    assert next_present(p, 0, 1 << 47) == 1 << 36
    assert next_present(p, (1 << 36) + 1, 1 << 47) == (1 << 36) + 1
    assert next_present(p, (1 << 36) + 4096, 1 << 47) == 3 << 35
    assert zap_range(p, 1 << 36, 1 << 37) == 513
    assert p[P.PAGES] == 0 and p[P.NODES_LIVE] == 1


def test_a_slot_is_where_the_walk_to_its_entry_ends() -> None:
    p = create(leaves=8)
    install(p, 0, 4 * MIB, RW, 0)
    zap_range(p, 3 * MIB, 3 * MIB + 1)
    for va in (0, 2 * MIB - 1, 3 * MIB, 3 * MIB + 4096, 5 * MIB, 1 << 40):
        assert p[slot(p, va)] == entry(p, va)


def test_the_table_is_a_cache_that_evicts_and_never_lies() -> None:
    p = create(levels=3, bits=2, leaves=3, page_shift=12, regions=0)
    p[P.TLB] = 1
    for page in range(0, 64, 5):
        install(p, page << 12, (page + 1) << 12, RW, 0)
        assert entry(p, page << 12) & P.PRESENT, "what was just installed is there"
        assert audit(p) == []
    assert view(p, "totals")["evictions"] > 5
    assert p[P.EVICTED] == 1, "a device with a cache of its own must be flushed before the next promise"


def test_a_huge_entry_that_cannot_be_split_goes_whole() -> None:
    p = create(levels=2, bits=2, leaves=2, page_shift=12, regions=0)
    install(p, 0, 4 << 12, RW, 0)
    install(p, 5 << 12, 6 << 12, RW, 0)  # takes the last node
    assert zap_range(p, 0, 1 << 12) == 4
    assert sorted(entries(p)) == [5] and audit(p) == []


def test_an_entry_is_trusted_for_the_horizon_and_not_longer() -> None:
    p = create(leaves=8)
    p[P.HORIZON_NS] = 1_000_000
    install(p, 0, 8192, RW, 5_000_000)
    assert translate(p, 0, 8192, 1, 6_000_000) == 8192
    assert translate(p, 0, 8192, 1, 6_002_048) == 0
    install(p, 0, 4096, P.PRESENT, 6_002_048)
    assert translate(p, 0, 8192, 1, 6_002_048) == 4096, "validating keeps the write right"


def test_uses_are_recorded_where_the_world_asks_for_it() -> None:
    p = create(levels=1, bits=3, leaves=1, regions=0)
    p[P.TRACK] = P.ACCESSED | P.DIRTY
    install(p, 0, 3 << 12, RW, 0)
    translate(p, 0, 4096, 0, 0)
    translate(p, 4096, 4096, 1, 0)
    assert [entries(p)[page] & (P.ACCESSED | P.DIRTY) for page in range(3)] == [P.ACCESSED, P.ACCESSED | P.DIRTY, 0]
    assert change_range(p, 0, 3 << 12, ~P.ACCESSED, 0) == 2, "aging reads and clears the bit"


@pytest.mark.parametrize("write, expected", [(0, 8192), (1, 4096)])
def test_a_read_entry_is_not_written_through(write: int, expected: int) -> None:
    p = create(leaves=8)
    install(p, 0, 4096, RW, 0)
    install(p, 4096, 8192, P.PRESENT, 0)
    assert translate(p, 0, 8192, write, 0) == expected


@pytest.mark.parametrize(
    "va, length", [(-1, 1), (0, 0), (0, -5), (1 << 48, 1), ((1 << 48) - 1, 2), ((1 << 62), 1 << 62)]
)
def test_addresses_outside_are_never_usable(va: int, length: int) -> None:
    p = create(leaves=8)
    install(p, (1 << 48) - 4096, 1 << 48, RW, 0)
    assert translate(p, va, length, 0, 0) == 0
