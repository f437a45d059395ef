"""Regions: bounds, what is revoked, counters."""

from __future__ import annotations

import pytest

from unpinned.paging import create, view
from unpinned.paging import layout as P
from unpinned.paging.audit import audit
from unpinned.paging.regions import count, is_revoked, region_close, region_open, region_unrevoke, revoke


@pytest.fixture
def p() -> P.Block:
    p = create(leaves=4, regions=4, revoked=2)
    assert region_open(p, 0, 0, 1 << 20, 0) == P.DONE
    assert region_open(p, 2, 0, 1 << 47, 0) == P.DONE
    return p


def test_a_slot_is_opened_once_and_closed_once(p: P.Block) -> None:
    assert region_open(p, 0, 0, 1, 0) == P.PROTOCOL
    assert region_open(p, 1, 5, 5, 0) == region_open(p, 1, -1, 5, 0) == region_open(p, 4, 0, 5, 0) == P.PROTOCOL
    assert p[P.REGION_COUNT] == 3
    assert region_close(p, 2) == P.DONE
    assert p[P.REGION_COUNT] == 1
    assert region_close(p, 2) == region_close(p, -1) == P.PROTOCOL
    assert view(p, "totals")["violations"] == 6


def test_what_is_revoked_stays_so_and_neighbours_merge(p: P.Block) -> None:
    assert revoke(p, 0, 100, 200) == revoke(p, 0, 200, 300) == P.DONE
    assert p[P.REVOKED_COUNT] == 1
    assert [is_revoked(p, 0, *r) for r in ((0, 100), (0, 101), (299, 300), (300, 301))] == [0, 1, 1, 0]
    assert is_revoked(p, 2, 100, 200) == 0, "another region's"
    assert region_unrevoke(p, 0) == 1
    assert is_revoked(p, 0, 0, 1 << 20) == 0


def test_without_room_more_is_revoked_never_less(p: P.Block) -> None:
    revoke(p, 0, 100, 200)
    revoke(p, 0, 400, 500)
    revoke(p, 0, 900, 901)
    assert is_revoked(p, 0, 900, 901) == 1
    revoke(p, 2, 5, 6)
    assert is_revoked(p, 2, 5, 6) == 1 and is_revoked(p, 2, 1 << 46, 1 << 47) == 1, "the whole region"
    assert region_close(p, 0) == P.DONE and p[P.REVOKED_COUNT] == 0
    assert region_unrevoke(p, 2) == 0
    assert is_revoked(p, 2, 5, 6) == 0
    assert audit(p) == []


def test_only_an_open_region_can_be_revoked(p: P.Block) -> None:
    assert revoke(p, 1, 0, 5) == revoke(p, 3, 0, 5) == revoke(p, 0, 5, 5) == P.PROTOCOL


def test_counters_are_kept_until_the_slot_is_opened_again(p: P.Block) -> None:
    count(p, 2, P.COUNT_RETRIES, 3)
    count(p, P.NONE, P.COUNT_RETRIES, 1)
    assert view(p, "counters")["retries"].tolist() == [0, 0, 3, 0] and view(p, "totals")["retries"] == 4
    region_close(p, 2)
    assert view(p, "counters")[2]["retries"] == 3
    region_open(p, 2, 0, 5, 0)
    assert view(p, "counters")[2]["retries"] == 0 and view(p, "totals")["retries"] == 4
