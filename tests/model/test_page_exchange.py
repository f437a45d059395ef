"""Pages that are alike are exchanged: every step agrees with it, the reduced search with the full one, and traces are the real world's."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.symmetric import SYMMETRIC, Exchange, exchanges, reachable, state_of
from unpinned.model import Limits, Op, Request, World, explore, replay
from unpinned.model import interleavings as E
from unpinned.model import layout as M
from unpinned.model.layout import Block
from unpinned.model.search import Search
from unpinned.paging import layout as P
from unpinned.paging.causes import Cause, Verdict
from unpinned.paging.policy import Policy, Row

pytestmark = [pytest.mark.model, pytest.mark.compiled_only]

MODES = ("exact", "late", "unsleepable")
FULL_MOST = 1 << 15  #: states of a full search here
ALL = pytest.mark.parametrize("world", SYMMETRIC.values(), ids=lambda world: world.name)

# States of the full search, and of the reduced one; transitions and depth of the reduced one.
PINNED = {
    "a range of both": (5_332, 2_339, 5_188, 35),
    "two threads": (8_274, 4_140, 10_018, 34),
    "a file": (38_795, 11_906, 34_622, 42),
    "ranges": (6_971, 3_129, 6_520, 43),
    "a page a device": (8_031, 3_756, 10_267, 36),
    "three": (75_443, 12_281, 44_328, 39),
}


@pytest.mark.parametrize("name", PINNED)
def test_the_counts_are_pinned_and_clearly_less_than_the_full_search_s(name: str) -> None:
    full, reduced = (explore(SYMMETRIC[name], liveness=False, reduce=how) for how in (False, True))
    assert (full.states, reduced.states, reduced.transitions, reduced.depth) == PINNED[name]
    assert full.verdict == reduced.verdict == "SAFE" and full.reached == reduced.reached


def frames_alone(world: World) -> Search:
    """A search that renames frames, and exchanges nothing."""
    search = Search(world, Limits(states=1 << 18), liveness=False, exchange=False)
    search.run()
    return search


def exchanged(world: World) -> bool:
    """Were automorphisms used to the end?"""
    return Search(world, Limits(states=1 << 18), liveness=False).run() != E.UNLIKE


@ALL
@pytest.mark.parametrize("mode", MODES)
def test_the_reduction_changes_no_answer(world: World, mode: str) -> None:
    """Verdict, what breaks and how soon, what is reached; and of every state one stands for all its kind."""
    world = dataclasses.replace(world, mode=mode)
    full, reduced = explore(world, reduce=False, liveness=False), explore(world, liveness=False)
    assert (full.verdict, full.property, len(full.trace)) == (reduced.verdict, reduced.property, len(reduced.trace))
    if full.verdict == "SAFE":
        assert full.reached == reduced.reached
        assert exchanged(world) == (reduced.states < 0.75 * frames_alone(world).c[E.C_STATES]), "frames alone save less"
    # (Frames that a device has seen mean nothing to one that copies through the process's mapping: they are named, and change nothing.)
    if full.verdict == "SAFE" and full.states <= FULL_MOST and world.device != "vm":
        search, count = reachable(world, FULL_MOST)
        canonical = Search(world, Limits(states=16), liveness=False)
        assert len({canonical.key(state_of(search, state)) for state in range(count)}) == reduced.states


# --- every step agrees with the exchange ---------------------------------------------------------------------------------


def some_states(world: World, most: int) -> Iterator[Block]:
    """Of all states of the full search `most`, evenly chosen."""
    search, count = reachable(world, FULL_MOST)
    for state in range(0, count, max(1, count // most)):
        yield state_of(search, state)


@ALL
@pytest.mark.parametrize("mode", MODES)
def test_steps_agree_with_the_exchange(world: World, mode: str) -> None:
    """Of each state, under new names, the same can follow: what makes the reduction right."""
    world = dataclasses.replace(world, mode=mode)
    tried = exchanges(world)
    for w in some_states(world, 150):
        for exchange in tried:
            assert list(exchange.disagreements(w)) == [], exchange.found


def tables(w: Block) -> dict[str, list[int]]:
    """Words that are indexed by a page or name one, by what they belong to."""
    at = {name: int(w[word]) for name, word in vars(M).items() if name.startswith("W_")}
    found: defaultdict[str, list[int]] = defaultdict(list)
    for name, first, last in (
        ("entries of processes", "W_PTE", "W_TRUTH"), ("mappings", "W_VMA", "W_PTE"), ("truths", "W_TRUTH", "W_THREAD"),
        ("slots", "W_SLOT", "W_VMA"), ("caches", "W_TLB", "W_BLOCKS"),
    ):  # fmt: skip
        found[name] = list(range(at[first], at[last]))
    found["contents of frames"] = [at["W_FRAME"] + f * at["W_FRAME_WORDS"] + M.F_CONTENT for f in range(at["W_FRAMES"] + 1)]
    found["slots of frames"] = [at["W_FRAME"] + f * at["W_FRAME_WORDS"] + M.F_SLOT for f in range(at["W_FRAMES"] + 1)]
    found["pages in hand"] = [at["W_THREAD"] + t * at["W_THREAD_WORDS"] + M.T_PAGE for t in range(at["W_THREADS"])]
    for r in range(at["W_REQUESTS"]):
        q = at["W_REQUEST"] + r * at["W_REQUEST_WORDS"]
        found["translated up to"].append(q + M.Q_CURSOR)
        found["copied up to"].append(q + M.Q_COPIED)
        found["translated to"] += range(q + M.Q_FRAME, q + at["W_REQUEST_WORDS"])
    for d in range(at["W_DEVICES"]):
        a = at["W_DEVICE"] + d * at["W_DEVICE_WORDS"]
        p = int(w[a + M.D_OFFSET])
        found["seen up to"].append(a + M.D_UPTO)
        found["brought in up to"].append(a + M.D_POPULATED)
        found["seen"] += range(a + M.D_SEEN, a + at["W_DEVICE_WORDS"])
        found["entries of devices"] += range(p + int(w[p + P.NODES]), p + int(w[p + P.COUNTERS]))
        found["invalidations"] += range(p + int(w[p + P.ACTIVE]), p + int(w[p + P.DEFERRALS]))
        found["deferrals"] += range(p + int(w[p + P.DEFERRALS]), p + int(w[p + P.PROVISIONAL]))
        found["descriptors"] += range(p + int(w[p + P.DMA]), p + int(w[p + P.FAULTS]))
        for slot in range(int(w[p + P.FAULT_CAPACITY])):
            fault = p + int(w[p + P.FAULTS]) + slot * P.FAULT_WORDS
            for name in ("START", "END", "DEMAND", "CURSOR", "CHUNK_END"):
                found[f"FAULT_{name}"].append(fault + getattr(P, f"FAULT_{name}"))
    return found


class Forgetful(Exchange):
    """A wrong exchange: what is in one table keeps its old name and place."""

    def __init__(self, world: World, right: Exchange, forgets: str) -> None:
        super().__init__(world, right.found)
        self.without_pages = self.table.copy()
        self.without_pages[2 + world.devices + len(world.requests) + len(world.threads) + world.devices] = 0
        self.words = np.array(tables(self.search.start)[forgets], np.int64)

    def of(self, w: Block) -> Block:
        right = super().of(w)
        kept, self.table = self.table, self.without_pages
        wrong = super().of(w)
        self.table = kept
        right[self.words] = wrong[self.words]
        return right


def is_noticed(forgets: str) -> bool:
    for world in SYMMETRIC.values():
        for exchange in exchanges(world):
            forgetful = Forgetful(world, exchange, forgets)
            if any(any(forgetful.disagreements(w)) for w in some_states(world, 60)):
                return True
    return False


@pytest.mark.parametrize("forgets", tables(SYMMETRIC["deferred"].build()))
def test_an_exchange_that_forgets_a_table_is_noticed(forgets: str) -> None:
    """The canary of the test above: it can fail, whatever is forgotten."""
    assert is_noticed(forgets)


# --- traces ---------------------------------------------------------------------------------------------------------------


def changed(name: str, **more: Any) -> World:
    return dataclasses.replace(SYMMETRIC[name], **more)


WRITES = (Request("WRITE", 0), Request("WRITE", 1))
PROTECTED = changed(
    "two threads", threads=((Op("PROTECT", 0),), (Op("PROTECT", 1),)), requests=WRITES,
    policy=Policy("deferred", {Cause.PROTECT: Row(Verdict.DEFER, 4, 1)}),
)  # fmt: skip
REPLACED = changed("two threads", threads=((Op("REPLACE", 0),), (Op("REPLACE", 1),)), requests=WRITES, device="vm", tlb=False)


@pytest.mark.parametrize("world, found", [(PROTECTED, "I2"), (REPLACED, "DEADLOCK")], ids=str)
def test_a_counterexample_is_the_real_world_s(world: World, found: str) -> None:
    """On the way pages and actors are exchanged; the trace has their own names, step by step, and breaks the same property as soon."""
    search = Search(world, Limits(states=1 << 15), liveness=False)
    assert search.run() == E.FOUND and len(search.blocks[E.C_SYMMETRY]), "with automorphisms"
    path = search.path(int(search.c[E.C_STATE]))
    full, reduced = explore(world, reduce=False, liveness=False), explore(world, liveness=False)
    assert full.property == reduced.property == found and len(full.trace) == len(reduced.trace)
    assert reduced.states < 0.6 * full.states
    numbers = [step.number for step in reduced.trace]
    assert numbers[: len(path)] != path, "the search itself went another way"
    assert replay(world, numbers) == reduced.trace
    assert [bool(step.broken) for step in reduced.trace] == [False] * (len(numbers) - 1) + [found != "DEADLOCK"]


def test_every_way_of_the_reduced_search_is_one_of_the_real_world() -> None:
    """To states everywhere in the search; most of these ways name other actors than the search did."""
    world = SYMMETRIC["a range of both"]
    search = Search(world, Limits(states=1 << 14), liveness=False)
    assert search.run() == E.FINISHED
    frames, (exchange,) = frames_alone(world), exchanges(world)
    renamed = 0
    count = int(search.c[E.C_STATES])
    for state in range(0, count, count // 60):
        path = search.path(state)
        numbers, names = search.real(path)
        w = search.start.copy()
        for number in numbers:
            w = search.step(w, number)
        packed = search.blocks[E.C_RING][state * search.stride : (state + 1) * search.stride]
        stands = search.unpacked(packed)
        assert search.key(w) == search.key(stands)
        assert frames.key(w) == frames.key(exchange.of(stands) if names else stands), "under the names that are given at the end"
        renamed += numbers != path
    assert renamed > 10


@pytest.mark.parametrize("world", [REPLACED, SYMMETRIC["ranges of threads, forked"]], ids=lambda world: world.name)
def test_a_deadlock_names_who_waits_at_the_end_of_its_trace(world: World) -> None:
    result = explore(world, liveness=False)
    assert result.property == "DEADLOCK"
    search = Search(world, Limits(states=16), reduce=False, liveness=False)
    w = search.start
    for step in result.trace:
        w = search.step(w, step.number)
    assert all(search.step(w, number) is None for number in range(search.actors))
    lines = [int(w[w[M.W_THREAD] + t * w[M.W_THREAD_WORDS] + M.T_LINE]) for t in range(len(world.threads))]
    late = [f"thread {t}" for t, script in enumerate(world.threads) if lines[t] < len(script)]
    asked = [int(w[w[M.W_REQUEST] + r * w[M.W_REQUEST_WORDS] + M.Q_STATE]) for r in range(len(world.requests))]
    late += [f"request {r}" for r, state in enumerate(asked) if state < M.REQUEST_COMPLETE]
    assert result.message.endswith(f": {', '.join(late)}") and late


def test_where_a_freed_frame_is_remembered_nothing_is_exchanged() -> None:
    """Which of two free frames is taken then is not a question of names alone: the search begins again, and says what it always said."""
    late = changed("two threads", mode="late")
    alone = frames_alone(late).c
    for liveness in (False, True):
        assert Search(late, Limits(states=1 << 15), liveness=liveness).run() == E.UNLIKE
        found = explore(late, liveness=liveness)
        assert (found.property, found.states, found.depth) == ("I3", alone[E.C_STATES], alone[E.C_DEPTH])
