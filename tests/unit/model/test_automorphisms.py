"""Which permutations leave a world as it is: each reason why one does not, and the group that the others are."""

from __future__ import annotations

from typing import Any

import pytest

from support.symmetric import SYMMETRIC
from support.worlds import EVERYTHING
from unpinned.check import matrix
from unpinned.check.worlds import worlds_of
from unpinned.model.automorphisms import Automorphism, automorphisms
from unpinned.model.world import Op, Request, World
from unpinned.paging.causes import Cause, Verdict
from unpinned.paging.policy import Policy, Row

READS = (Request("READ", 0), Request("READ", 1))
BOTH: dict[str, Any] = {"pages": 2, "touched": (0, 1), "threads": ((Op("UNMAP", 0, 2),),), "requests": READS}


def pages(**more: Any) -> set[tuple[int, ...]]:
    """Where pages go in the automorphisms of a world."""
    return {found.pages for found in automorphisms(World(**{**BOTH, **more}))}


def test_requests_and_pages_are_exchanged_together() -> None:
    (found,) = automorphisms(World(**BOTH))
    assert (found.pages, found.devices, found.requests, found.threads) == ((1, 0), (0,), (1, 0), (0,))
    assert found.contents[30:] == (31, 30) and found.contents[:30] == tuple(range(30))


DEFERRED = Policy("deferred", {Cause.DISCARD: Row(Verdict.DEFER, 4, 1)})
THREE = tuple(Request("READ", page) for page in range(3))


@pytest.mark.parametrize(
    "more",
    [
        {"requests": (Request("READ", 0, 2),)},
        {"requests": (Request("READ", 0),)},
        {"requests": (Request("READ", 0), Request("WRITE", 1))},
        {"requests": (Request("READ", 0), Request("READ", 1, repeat=1))},
        {"devices": 2, "requests": (Request("READ", 0), Request("READ", 1, device=1), Request("READ", 1))},
        {"touched": (0,)},
        {"readonly": (1,)},
        {"mapped": (0,), "touched": (0,)},
        {"region": (0, 1)},
        {"threads": ((Op("UNMAP", 0),),)},
        {"threads": ((Op("UNMAP", 0), Op("UNMAP", 1)),)},
        {"threads": ((Op("UNMAP", 0),), (Op("DISCARD", 1),))},
        {"threads": ((Op("UNMAP", 0),), (Op("UNMAP", 1), Op("MAP", 1)))},
        {"threads": ((Op("DISCARD", 0),), (Op("DISCARD", 1),)), "loops": (0,)},
        {"threads": ((Op("RECLAIM", 0),), (Op("RECLAIM", 1, arg=1),))},
        {"threads": ((Op("FORK"),), (Op("READ", 0),), (Op("READ", 1, process=1),))},
        {"threads": ((Op("READ", 0, 2),),)},
        {"threads": ((Op("WRITE", 0, 2),),)},
        {"threads": ((Op("COLLAPSE", 0, 2),),)},
        {"threads": ((Op("MERGE", 0, arg=1),),)},
        {"threads": ((Op("REMAP", 0, 2, arg=2),),), "pages": 4},
        {"threads": ((Op("REMAP", 0, arg=2),), (Op("REMAP", 1, arg=2),), (Op("READ", 3),)), "pages": 4, "mapped": (0, 1, 3),
         "requests": (Request("READ", 0), Request("READ", 3))},
        {"threads": ((Op("WRITE", 0, arg=7),), (Op("WRITE", 1, arg=7), Op("WRITE", 1, arg=8)))},
        {"threads": ((Op("WRITE", 0, arg=30),), (Op("WRITE", 1, arg=9),))},
    ],
    ids=str,
)  # fmt: skip
def test_what_tells_pages_apart(more: dict[str, Any]) -> None:
    assert not {found for found in pages(**more) if found[:2] == (1, 0)}


def test_contents_have_one_new_name_each() -> None:
    """A page that holds what a thread writes, or two that write the same: the names must agree."""
    same = ((Op("WRITE", 0, arg=7),), (Op("WRITE", 1, arg=7),))
    assert pages(threads=same) == {(1, 0)}
    crossed = ((Op("WRITE", 0, arg=31),), (Op("WRITE", 1, arg=30),))
    assert pages(threads=crossed) == {(1, 0)}


def test_ranges_are_exchanged_whole() -> None:
    wide = {"pages": 4, "touched": (0, 2), "requests": (Request("WRITE", 0, 2), Request("WRITE", 2, 4))}
    assert pages(**wide, threads=((Op("UNMAP", 0, 4),),)) == {(2, 3, 0, 1)}
    assert pages(**wide, threads=((Op("UNMAP", 0, 2),), (Op("UNMAP", 2, 4),))) == {(2, 3, 0, 1)}
    assert pages(**wide, threads=((Op("UNMAP", 1, 3),),)) == set()


def test_neighbours_stay_neighbours_where_something_is_deferred() -> None:
    three: dict[str, Any] = {"pages": 3, "touched": (0, 1, 2), "requests": THREE, "threads": ((Op("DISCARD", 0, 3),),)}
    assert len(pages(**three)) == 5
    assert pages(**three, policy=DEFERRED) == {(2, 1, 0)}
    assert len(pages(**three, policy=DEFERRED, deferrals=0)) == 5


def test_what_nobody_mentions_stays_where_it_is() -> None:
    assert pages(pages=4, touched=(0, 1, 2, 3), frames=4) == {(1, 0, 2, 3)}


def then(a: Automorphism, b: Automorphism) -> Automorphism:
    """First a, then b."""
    kinds = ("pages", "devices", "requests", "threads", "contents")
    return Automorphism(*(tuple(getattr(b, kind)[to] for to in getattr(a, kind)) for kind in kinds))


@pytest.mark.parametrize("world", SYMMETRIC.values(), ids=lambda world: world.name)
def test_they_are_a_group(world: World) -> None:
    found = automorphisms(world)
    assert any(g.pages != tuple(range(world.pages)) for g in found)
    both = [then(a, b) for a in found for b in found]
    assert {g for g in both if g.moves} <= set(found)
    assert any(not g.moves for g in both), "each has one that undoes it"


@pytest.mark.parametrize("world", EVERYTHING, ids=lambda world: world.name)
def test_most_worlds_have_none(world: World) -> None:
    assert automorphisms(world) == []


def test_no_world_of_the_matrix_has_pages_that_are_alike() -> None:
    """Where one has, docs/check.md says what is gained by their exchange, and should say it anew. Two equal READs are alike, though."""
    alike = 0
    for cell in matrix.cells():
        for world in worlds_of(cell):
            found = automorphisms(world)
            assert [g.pages for g in found if g.pages != tuple(range(world.pages))] == [], world.name
            assert bool(found) == world.name.endswith("-read"), world.name
            alike += bool(found)
    assert alike == 299
