"""Livelocks where devices, pages, requests and threads are exchanged: what the full search says, and traces that are real and fair."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from support.quotient import names_forgotten
from support.symmetric import SYMMETRIC
from unpinned.check.mutant_worlds import WORLDS
from unpinned.model import Limits, Op, Request, World, explore
from unpinned.model import interleavings as E
from unpinned.model import layout as M
from unpinned.model.automorphisms import automorphisms
from unpinned.model.fairness import T_SEEN, T_SIZE, fair_part, fairness_table
from unpinned.model.layout import Block
from unpinned.model.narration import actor_name
from unpinned.model.search import Result, Search, party_name
from unpinned.paging.policy import POLICIES

pytestmark = [pytest.mark.model, pytest.mark.compiled_only]

FULL_MOST = Limits(states=400_000)
EACH = {**SYMMETRIC, **WORLDS}


def same_answer(world: World, limits: Limits = FULL_MOST) -> Result:
    """The reduced search's, which is the full one's."""
    full, reduced = explore(world, limits, reduce=False), explore(world, limits)
    assert full.verdict != "BOUNDED"
    assert (full.verdict, full.property, full.states >= reduced.states) == (reduced.verdict, reduced.property, True)
    if full.property == "LIVELOCK":
        assert full.message == reduced.message, "of parties that are alike the first is named"
    else:
        assert len(full.trace) == len(reduced.trace)
    if full.verdict == "SAFE":
        assert full.reached == reduced.reached
    return reduced


@pytest.mark.parametrize("mode", M.MODES)
@pytest.mark.parametrize("world", EACH.values(), ids=lambda world: world.name)
def test_the_reduction_changes_no_answer(world: World, mode: str) -> None:
    same_answer(dataclasses.replace(world, mode=mode))


# --- worlds in which somebody starves, and who is like him -----------------------------------------------------------------

READ, ALWAYS = Request("READ"), Request("READ", repeat=-1)
DISCARD = (Op("DISCARD"),)


def small(name: str, *threads: tuple[Op, ...], requests: tuple[Request, ...], **more: Any) -> World:
    return World(name, threads=threads, requests=requests, **{"pages": 1, "frames": 2, **more})


APART = ((Op("DISCARD", 0),), (Op("DISCARD", 1),))
STARVING = {
    world.name: world
    for world in (
        small("two reads", DISCARD, requests=(READ, READ), loops=(0,)),
        small("two devices", DISCARD, requests=(READ, Request("READ", device=1)), devices=2, loops=(0,)),
        small("two pages", (Op("DISCARD", 0, 2),), requests=(READ, Request("READ", 1)), loops=(0,), pages=2, frames=3, touched=(0, 1)),
        small("two pages that are read for ever", (Op("DISCARD", 0, 2),), requests=(ALWAYS, Request("READ", 1, repeat=-1)), pages=2,
              frames=3, touched=(0, 1), mode="unsleepable", loops=(0,)),
        small("one of three", DISCARD, requests=(ALWAYS, ALWAYS, READ)),
        small("two of four", DISCARD, requests=(ALWAYS, ALWAYS, READ, READ), loops=(0,)),
        small("two threads reclaim", *2 * ((Op("RECLAIM"),),), requests=(READ, READ), loops=(0, 1)),
        small("three threads", *2 * ((Op("READ"),),), (Op("RECLAIM"),), requests=(ALWAYS, ALWAYS), loops=(0, 1, 2)),
        small("refused for ever", (Op("UNMAP"),), requests=(ALWAYS, Request("READ", device=1, repeat=-1)), devices=2, mode="unsleepable"),
    )
}  # fmt: skip
# Who starves, states of the full search and of the reduced one.
FOUND = {
    "two reads": ("request 0", 3_944, 1_410),
    "two devices": ("request 0", 48_921, 14_690),
    "two pages": ("request 0", 10_290, 2_022),
    "two pages that are read for ever": ("thread 0", 21_318, 3_967),
    "one of three": ("request 0", 2_018, 1_025),
    "two of four": ("request 0", 50_005, 11_479),
    "two threads reclaim": ("request 0", 2_201, 630),
    "three threads": ("thread 0", 1_845, 946),
    "refused for ever": ("thread 0", 24_644, 12_393),
}


def states_after(world: World, numbers: list[int]) -> tuple[Search, list[Block]]:
    """The real world, step by step, with nothing reduced."""
    search = Search(world, Limits(states=16), reduce=False, liveness=False)
    states = [search.start.copy()]
    for number in numbers:
        after = search.step(states[-1], number)
        assert after is not None
        states.append(after)
    return search, states


def is_a_livelock(result: Result) -> None:
    """The cycle of the trace closes, its party is never done and completes nothing, everybody acts or is unable once."""
    world, numbers = result.world, [step.number for step in result.trace]
    search, states = states_after(world, numbers)
    frames = Search(world, Limits(states=16), exchange=False)
    cycle = states[result.cycle :]
    assert len(cycle) > 1 and frames.key(cycle[0]) == frames.key(cycle[-1])
    (party,) = (i for i in range(16) if result.message.endswith(f": {party_name(world, i)}"))
    for w in cycle:
        np.copyto(search.blocks[E.C_WORLD], w)
        assert search.call(E.REST) >> party & 1
    assert not any(int(w[M.W_COMPLETED]) >> party & 1 for w in cycle[1:])
    acted = {step.actor for step in result.trace[result.cycle :]}
    able = [{actor_name(world, n) for n in range(search.actors) if search.step(w, n) is not None} for w in cycle]
    assert set.intersection(*able) <= acted


@pytest.mark.parametrize("name", STARVING)
def test_who_starves_is_the_full_search_s_and_his_cycle_is_real(name: str) -> None:
    world = STARVING[name]
    result = same_answer(world)
    assert automorphisms(world) and result.property == "LIVELOCK"
    is_a_livelock(result)
    full = explore(world, FULL_MOST, reduce=False)
    assert (result.message.rpartition(": ")[2], full.states, result.states) == FOUND[name]


def part_of(world: World, party: int, forgets: bool = False) -> tuple[int, bool]:
    """Nodes of the first fair part for this party and those like it, and whether anything is exchanged inside it."""
    search = Search(world, Limits(states=1 << 17))
    assert search.run() == E.FINISHED
    (orbit,) = (orbit for orbit in search.group.orbits() if party in orbit)
    nodes = int(search.c[E.C_STATES]) << (len(orbit) - 1).bit_length()
    t = names_forgotten(search.group, orbit) if forgets else fairness_table(search.group, orbit)
    size = int(fair_part(search.c, np.zeros(3 * nodes, np.int64), np.zeros(2 * nodes + 2, np.int64), t))
    return size, bool(t[t[T_SEEN] : t[T_SEEN] + t[T_SIZE]].any())


def test_others_are_exchanged_while_a_party_starves() -> None:
    """In the part of the one that reads once, the two that read for ever are exchanged on the way round, or two devices are."""
    for name, party in (("one of three", 4), ("refused for ever", 0)):
        size, exchanged = part_of(STARVING[name], party)
        assert size and exchanged, name


NOT_STARVING = (
    small("both go on", DISCARD, requests=(ALWAYS, ALWAYS), faults=2, dma=2),
    small("both threads come round", DISCARD, DISCARD, requests=(), loops=(0, 1)),
    small("both pages come round", *APART, requests=(), loops=(0, 1), pages=2, frames=3, touched=(0, 1)),
)


@pytest.mark.parametrize("world", NOT_STARVING, ids=lambda world: world.name)
def test_an_analysis_that_forgets_who_became_whom_finds_livelocks_that_are_none(world: World) -> None:
    """The canary: of two that take turns the state in which one is next is the state in which the other is."""
    assert same_answer(world).verdict == "SAFE" and automorphisms(world)
    search = Search(world, Limits(states=16))
    parties = [orbit[0] for orbit in search.group.orbits() if len(orbit) > 1]
    assert all(part_of(world, party)[0] == 0 for party in parties)
    assert any(part_of(world, party, forgets=True)[0] for party in parties)


# --- worlds at random --------------------------------------------------------------------------------------------------------

SOME_OPS = ("DISCARD", "UNMAP", "MAP", "RECLAIM", "MIGRATE", "WRITE", "READ", "SOFT_DIRTY", "PROTECT", "OOM")
PAGES = st.integers(0, 1)
SCRIPTS = st.lists(st.builds(Op, st.sampled_from(SOME_OPS), PAGES), min_size=1, max_size=2).map(tuple)
REQUESTS = st.builds(Request, st.sampled_from(("READ", "READ", "WRITE")), PAGES, st.just(0), st.integers(0, 1), st.sampled_from((0, 0, -1)))


def moved(script: tuple[Op, ...]) -> tuple[Op, ...]:
    return tuple(dataclasses.replace(op, start=1 - op.start) for op in script)


@st.composite
def alike(draw: st.DrawFn) -> World:
    """A world with something in it twice: on the same page, on the other page, or on the other device."""
    script, asked, kind = draw(SCRIPTS), draw(REQUESTS), draw(st.sampled_from(("same", "page", "device")))
    elsewhere = {"same": {}, "page": {"start": 1 - asked.start}, "device": {"device": 1 - asked.device}}[kind]
    other = dataclasses.replace(asked, **elsewhere)
    twice = draw(st.booleans())
    threads = (script, moved(script) if kind == "page" else script) if twice else (script,)
    more = (Request("READ", repeat=draw(st.sampled_from((0, -1)))),) if draw(st.booleans()) else ()
    loops = tuple(range(len(threads))) if draw(st.booleans()) else ()
    return World(
        "at random", pages=2, frames=3, slots=1, touched=(0, 1), threads=threads, requests=(asked, other, *more), loops=loops,
        devices=2 if kind == "device" or asked.device else 1, mode=draw(st.sampled_from(("exact", "unsleepable", "spurious"))),
        policy=POLICIES[draw(st.sampled_from(("zap_everything", "by_cause")))], faults=draw(st.integers(1, 2)),
    )  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(alike())
def test_of_worlds_at_random_the_reduced_search_says_what_the_full_one_says(world: World) -> None:
    assume(automorphisms(world))
    limits = Limits(states=60_000)
    full = explore(world, limits, reduce=False)
    assume(full.verdict != "BOUNDED")
    event(str(full.property))
    result = same_answer(world, limits)
    if result.property == "LIVELOCK":
        is_a_livelock(result)
