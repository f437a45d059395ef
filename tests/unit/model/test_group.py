"""The tables of a group: composition and inverses, orbits of parties, actors by their names."""

from __future__ import annotations

import pytest

from support.quotient import WORLDS
from support.symmetric import SYMMETRIC
from unpinned.model import estimate
from unpinned.model import layout as M
from unpinned.model.automorphisms import automorphisms
from unpinned.model.group import NAMES_MAX, Group
from unpinned.model.interleavings import C_SYMMETRY
from unpinned.model.narration import actor_name
from unpinned.model.search import Limits, Search
from unpinned.model.world import Op, Request, World

ALL = pytest.mark.parametrize("world", [*WORLDS, *SYMMETRIC.values()], ids=lambda world: world.name)
FOUR = World("four", devices=2, requests=tuple(Request("READ", device=d) for d in (0, 0, 1, 1)), threads=2 * ((Op("UNMAP"),),))


def group(world: World) -> Group:
    return Group(world, automorphisms(world))


@ALL
def test_what_is_undone_by_itself_is_nothing_and_by_nothing_is_itself(world: World) -> None:
    after, size = group(world).after, group(world).size
    assert all(after[h, h] == 0 and after[h, 0] == h for h in range(size))
    assert all(sorted(row) == list(range(size)) for row in [*after.tolist(), *after.T.tolist()])


@ALL
def test_parties_and_actors_go_where_the_table_says(world: World) -> None:
    """(h after g^-1) after g is h."""
    made = group(world)
    parties = [party for orbit in made.orbits() for party in orbit]
    once = {made.fair_actor(0, actor): actor for actor in range(made.actors)}
    for h in range(made.size):
        for g in range(made.size):
            names = int(made.after[h, g])
            assert all(made.party(names, made.party(g, party)) == made.party(h, party) for party in parties)
            for actor in range(made.actors):
                assert made.fair_actor(names, once[made.fair_actor(g, actor)]) == made.fair_actor(h, actor)


def test_orbits_are_of_all_parties_and_of_no_workers() -> None:
    assert group(FOUR).size == 2 * 2 * 2 * 2
    assert group(FOUR).orbits() == [[0, 1], [4, 5, 6, 7]]
    assert Group(FOUR).orbits() == [[0], [1], [4], [5], [6], [7]]
    assert Group(World("nobody", requests=())).orbits() == []


@ALL
def test_actors_are_the_explorer_s(world: World) -> None:
    """A fair actor for every name in a trace; who turns to no device is meant whichever device is said."""
    made, w = group(world), world.build()
    names: dict[int, str] = {}
    for actor in range(made.actors):
        assert names.setdefault(made.fair_actor(0, actor), actor_name(world, actor)) == actor_name(world, actor)
        for g in range(made.size):
            assert made.fair_actor(0, made.actor(g, w, actor)) == made.fair_actor(g, actor)
    assert len(set(names.values())) == made.fair_actors == len(names)
    assert made.actors == Search(world, Limits(states=16)).actors


def test_a_thread_that_notifies_turns_to_the_device_of_another_name() -> None:
    (devices,) = (g for g in range(group(FOUR).size) if [group(FOUR).party(g, p) for p in (0, 1, 4, 5, 6, 7)] == [0, 1, 6, 7, 4, 5])
    w = FOUR.build()
    assert group(FOUR).actor(devices, w, 1) == 1
    at = int(w[M.W_THREAD])
    w[at + M.T_OP], w[at + M.T_PHASE] = M.OP_UNMAP, M.PHASE_START
    assert group(FOUR).actor(devices, w, 1) == 0 and group(FOUR).actor(devices, w, 0) == 1
    assert group(FOUR).actor(devices, w, 2) == 2, "the other thread does not"


def test_where_an_edge_has_no_room_for_all_names_nothing_is_exchanged() -> None:
    """Of six equal requests there are 720 permutations."""
    six = World("six", pages=1, frames=1, requests=6 * (Request("READ"),))
    assert group(six).size == 720 > NAMES_MAX
    assert len(Search(six, Limits(states=16)).blocks[C_SYMMETRY]) == 0 == Search(six, Limits(states=16)).group.size - 1
    assert len(Search(six, Limits(states=16), liveness=False).blocks[C_SYMMETRY]) > 0


def test_who_is_like_others_takes_more_memory_where_livelocks_are_looked_for() -> None:
    """Five words a state for the analysis, for every party of an orbit."""
    alone, two = World("one", requests=(Request("READ"), Request("WRITE"))), World("two", requests=2 * (Request("READ"),))
    assert estimate(two, liveness=False) == estimate(alone, liveness=False)
    assert estimate(two) - estimate(alone) == 40 * Limits().states
