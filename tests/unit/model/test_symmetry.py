"""New names for devices, requests, threads, pages and contents, and states that are one under them."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from support.symmetric import SYMMETRIC, Exchange, exchanges
from support.worlds import same_state, walk
from unpinned.model.audit import audit
from unpinned.model.automorphisms import automorphisms
from unpinned.model.search import Limits, Search
from unpinned.model.symmetry import symmetry_table
from unpinned.model.world import Op, Request, World

TWO = World("two", pages=1, frames=2, devices=2, threads=((Op("UNMAP"),),), requests=(Request("READ"), Request("READ", device=1)))
PICKED = (
    "a range of both", "mapped again", "deferred apart", "from the swap", "a file", "a file unmapped", "an alias", "a child", "ranges",
    "ranges of threads, forked", "a page a device",
)  # fmt: skip
WORLDS = [TWO, *(SYMMETRIC[name] for name in PICKED)]


def states(world: World, seed: int, count: int = 12) -> list[np.ndarray]:
    """Some states of a world, reached at random."""
    found = [w.copy() for run in range(4) for *_, w in walk(world, Random(f"{seed}.{run}"), 120)]
    return Random(seed).sample(found, min(count, len(found)))


def test_only_what_is_the_same_is_exchanged() -> None:
    swap = [1, 0, 1, 0, 0, 2, 1]  # devices, requests, threads and workers
    table = symmetry_table(automorphisms(TWO))
    assert table[:2].tolist() == [1, len(table) - 2] and table[2 : 2 + len(swap)].tolist() == swap
    for requests in (
        (Request("READ"), Request("WRITE", device=1)),
        (Request("READ"), Request("READ", device=1, repeat=1)),
        (Request("READ"),),
    ):
        assert automorphisms(World("two", pages=1, frames=2, devices=2, requests=requests)) == []
    assert len(symmetry_table([])) == 0
    (writes,) = automorphisms(World("two", pages=1, devices=2, requests=(Request("WRITE"), Request("WRITE", device=1))))
    assert writes.contents[20:22] == (21, 20), "what they write is renamed with them"


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_exchanging_twice_is_nothing(world: World, seed: int) -> None:
    (exchange,) = exchanges(world)
    for w in states(world, seed):
        there = exchange.of(w)
        assert same_state(w, exchange.of(there))
        assert audit(there) == []


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_exchanged_states_are_one_state(world: World, seed: int) -> None:
    search = Search(world, Limits(states=16), liveness=False)
    (exchange,) = exchanges(world)
    assert exchange.search.key(exchange.of(world.build())) == exchange.search.key(world.build()), "the first state stays"
    for w in states(world, seed):
        assert search.key(w) == search.key(exchange.of(w))
    assert Search(TWO, Limits(states=16), liveness=False).actors == 3 * 2 + 2 + 6


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_steps_agree_with_the_exchange(world: World, seed: int) -> None:
    exchange = Exchange(world, automorphisms(world)[0])
    for w in states(world, seed, 8):
        assert list(exchange.disagreements(w)) == []
