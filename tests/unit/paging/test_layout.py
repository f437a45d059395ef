"""The block: geometry is data, a small world is small, records view what kernels index."""

from __future__ import annotations

import numpy as np
import pytest

from unpinned.paging import create, view
from unpinned.paging import layout as P
from unpinned.paging.audit import audit


def test_a_small_world_fits_in_two_kibibytes() -> None:
    p = create(levels=1, bits=2, leaves=1, regions=0, active=2, deferrals=2, provisional=0, revoked=0, dma=2, faults=2)
    assert p.nbytes <= 2048
    assert p.nbytes - 8 * p[P.COUNTERS] == 8 * (1 + P.COUNT_WORDS)


def test_parts_follow_each_other_and_fill_the_block() -> None:
    p = create(levels=2, bits=3, leaves=5, regions=3, active=2, deferrals=2, provisional=2, revoked=2, dma=4, faults=3)
    starts = [P.REGIONS, P.ACTIVE, P.DEFERRALS, P.PROVISIONAL, P.REVOKED, P.DMA, P.FAULTS, P.SCAN_QUEUE, P.RUN_QUEUE]
    starts += [P.NODE_RECORDS, P.NODES, P.COUNTERS]
    words = p[starts]
    assert words[0] == P.HEADER_WORDS and (np.diff(words) > 0).all()
    assert len(p) == p[P.COUNTERS] + 1 + 4 * P.COUNT_WORDS
    assert audit(p) == []


@pytest.mark.parametrize("name", ["regions", "active", "deferrals", "provisional", "revoked", "dma", "faults", "nodes"])
def test_a_view_shares_the_block(name: str) -> None:
    p = create(leaves=8)
    records = view(p, name)
    records[-1][records.dtype.names[0]] = 4711
    assert 4711 in p[: p[P.COUNTERS]]


def test_counters_are_one_record_for_all_and_one_a_region() -> None:
    p = create(leaves=4, regions=3)
    assert view(p, "totals").shape == (1,) and view(p, "counters").shape == (3,)
    view(p, "counters")[2]["invalidations"][P.CAUSE_RELEASE] = 5
    assert p[-1] == 5


def test_every_cause_begins_as_now() -> None:
    assert set(view(create(leaves=4), "policy")["verdict"]) == {P.NOW}


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": 0},
        {"bits": 13},
        {"levels": 4, "leaves": 3},
        {"page_shift": 17},
        {"faults": -1},
        {"levels": 5, "bits": 12},
    ],
)
def test_an_impossible_geometry_names_the_argument(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="levels|bits|leaves|page_shift|faults"):
        create(**wrong)
