"""The explorer: pinned counts, the reduced search against the full one, deadlocks, livelocks, traces, bounds."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from support.worlds import EVERYTHING
from unpinned.check.mutant_worlds import WORLDS
from unpinned.model import Limits, Op, ReplayError, Request, World, WorldError, estimate, explore, replay
from unpinned.model import interleavings as E
from unpinned.model import layout as M
from unpinned.model.search import Search
from unpinned.paging.causes import MEANINGS, Cause, Verdict
from unpinned.paging.policy import POLICIES, Policy, Row

pytestmark = pytest.mark.model

SMALLEST = World("smallest", pages=1, frames=2, threads=((Op("UNMAP"),),), requests=(Request("WRITE"),))
MOVED = World("moved", pages=1, frames=2, threads=((Op("MIGRATE"), Op("RECLAIM")),), requests=(Request("WRITE"),))
TWO = World(
    "two devices", pages=1, frames=2, devices=2, threads=((Op("UNMAP"),),),
    requests=(Request("READ"), Request("READ", device=1)),
)  # fmt: skip


def policy(cause: Cause, verdict: Verdict) -> Policy:
    bound = (1, 1) if verdict is Verdict.DEFER else (0, 0)
    return Policy("test", {cause: Row(verdict, *bound)})


def test_the_counts_of_the_smallest_world_are_pinned() -> None:
    """Another count: the protocol, the model or the reduction has changed. Know why before writing the new one here."""
    result = explore(SMALLEST)
    assert (result.verdict, result.states, result.transitions, result.depth) == ("SAFE", 147, 226, 20)
    assert result.reached >= {"cause UNMAP", "flush", "park", "retry", "waiting", "major fault", "acknowledged"}


@pytest.mark.compiled_only
def test_compiled_and_interpreted_searches_find_the_same() -> None:
    code = (
        "from unpinned.model import *; r = explore(World('x', pages=1, frames=2, threads=((Op('MIGRATE'), Op('RECLAIM')),),"
        "requests=(Request('WRITE'),))); print(r.verdict, r.states, r.transitions, r.depth, sorted(r.reached))"
    )
    interpreted = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    r = explore(MOVED)
    assert interpreted.stdout.strip() == f"{r.verdict} {r.states} {r.transitions} {r.depth} {sorted(r.reached)}"


def representatives(world: World) -> set[tuple[int, int]]:
    """The canonical form of every state of the full search."""
    full = Search(world, Limits(states=1 << 15), reduce=False, liveness=False)
    assert full.run() == E.FINISHED
    reduced = Search(world, Limits(states=16), reduce=True, liveness=False)
    found = set()
    for state in range(int(full.c[E.C_STATES])):
        packed = full.blocks[E.C_RING][state * full.stride : (state + 1) * full.stride]
        found.add(reduced.key(full.unpacked(packed)))
    return found


@pytest.mark.parametrize(
    "world",
    [
        SMALLEST,
        pytest.param(MOVED, marks=pytest.mark.compiled_only),
        pytest.param(TWO, marks=pytest.mark.compiled_only),
    ],
    ids=lambda world: world.name,
)
def test_the_reduced_search_sees_what_the_full_one_sees(world: World) -> None:
    full = explore(world, reduce=False, liveness=False)
    reduced = explore(world, liveness=False)
    assert len(representatives(world)) == reduced.states <= full.states
    assert (full.verdict, full.reached) == (reduced.verdict, reduced.reached)
    if world.devices == 2:
        assert reduced.states < 0.55 * full.states


SMALL = sorted(set(WORLDS) - {"overlap", "two-devices", "discard-bounded", "discard-two-pages"})


@pytest.mark.compiled_only
@pytest.mark.parametrize("mode", ["exact", "late", "unsleepable"])
@pytest.mark.parametrize("name", SMALL)
def test_the_reduction_changes_no_answer(name: str, mode: str) -> None:
    """Verdict, what breaks and how soon, what is reached, livelocks too; and of every state one stands for all its kind."""
    world = dataclasses.replace(WORLDS[name], mode=mode)
    full, reduced = explore(world, reduce=False), explore(world)
    assert (full.verdict, full.property, full.reached) == (reduced.verdict, reduced.property, reduced.reached)
    if full.property != "LIVELOCK":  # whose walk is not the shortest
        assert len(full.trace) == len(reduced.trace)
    if full.verdict == "SAFE":
        assert len(representatives(world)) == reduced.states <= full.states


@pytest.mark.parametrize("mode, found", [("late", "I3"), ("silent", "I3")])
def test_a_shortest_trace_is_found_with_and_without_the_reduction(mode: str, found: str) -> None:
    for world in (SMALLEST, TWO):
        told = World(**{**world.__dict__, "mode": mode})
        full = explore(told, reduce=False, liveness=False)
        reduced = explore(told, liveness=False)
        assert full.property == reduced.property == found
        assert len(full.trace) == len(reduced.trace) == full.depth + 1
        assert reduced.trace[-1].broken == found and not any(step.broken for step in reduced.trace[:-1])
        assert replay(told, [step.number for step in reduced.trace]) == reduced.trace


CASES = [
    # The obligations of causes.py, proved or refuted: cause, verdict, does the host keep its obligation?, what is found
    (Cause.UNMAP, Verdict.NOW, True, None),
    (Cause.UNMAP, Verdict.DEFER, True, None),
    (Cause.UNMAP, Verdict.DEFER, False, "I1"),
    (Cause.UNMAP, Verdict.DOWNGRADE, True, "I3"),
    (Cause.UNMAP, Verdict.REFUSE_IF_BUSY, True, "I3"),
    (Cause.REMAP, Verdict.DEFER, True, None),
    (Cause.REMAP, Verdict.DEFER, False, "I1"),
    (Cause.DISCARD, Verdict.DEFER, True, None),
    (Cause.DISCARD, Verdict.DEFER, False, "I1"),
    (Cause.RECLAIM, Verdict.DEFER, True, None),
    (Cause.RECLAIM, Verdict.DEFER, False, "I1"),
    (Cause.RECLAIM, Verdict.REFUSE_IF_BUSY, True, None),
    (Cause.MIGRATE, Verdict.DEFER, True, "I3"),
    (Cause.MIGRATE, Verdict.REFUSE_IF_BUSY, True, None),
    (Cause.COW, Verdict.NOW, True, None),
    (Cause.COW, Verdict.DEFER, True, "I3"),
    (Cause.PROTECT, Verdict.DOWNGRADE, True, None),
    (Cause.PROTECT, Verdict.DEFER, True, "I2"),
    (Cause.SOFT_DIRTY, Verdict.DEFER, True, None),
    (Cause.SOFT_DIRTY, Verdict.DEFER, False, "I2"),
    (Cause.MERGE, Verdict.NOW, True, None),
    (Cause.MERGE, Verdict.DOWNGRADE, True, "I3"),
    (Cause.RELEASE, Verdict.NOW, True, None),
]
SCRIPTS = {
    Cause.UNMAP: (1, 2, ((Op("UNMAP"), Op("MAP"), Op("WRITE")),)),
    Cause.REMAP: (2, 2, ((Op("REMAP", 0, arg=1), Op("READ", 1), Op("UNMAP", 1)),)),
    Cause.DISCARD: (1, 2, ((Op("DISCARD"), Op("WRITE"), Op("READ")),)),
    Cause.RECLAIM: (1, 2, ((Op("RECLAIM"),), (Op("READ"),))),
    Cause.MIGRATE: (1, 3, ((Op("MIGRATE"),), (Op("READ"),))),
    Cause.COW: (1, 3, ((Op("FORK"), Op("WRITE"), Op("READ")), (Op("READ", process=1),))),
    Cause.PROTECT: (1, 2, ((Op("PROTECT"), Op("PROTECT", arg=1), Op("READ")),)),
    Cause.SOFT_DIRTY: (1, 2, ((Op("SOFT_DIRTY"), Op("READ")),)),
    Cause.MERGE: (2, 3, ((Op("MERGE", 0, arg=1), Op("READ", 0, 2)),)),
    Cause.RELEASE: (1, 2, ((Op("EXIT"),),)),
}


@pytest.mark.parametrize("cause, verdict, keep, found", CASES, ids=lambda value: getattr(value, "name", str(value)))
@pytest.mark.compiled_only
def test_obligations(cause: Cause, verdict: Verdict, keep: bool, found: str | None) -> None:
    pages, frames, threads = SCRIPTS[cause]
    world = World(
        f"{cause.name} {verdict.name}", pages=pages, frames=frames, threads=threads, keep=keep,
        touched=(0, 1) if cause is Cause.MERGE else (0,), policy=policy(cause, verdict),
        requests=(Request("WRITE"), Request("READ")),
    )  # fmt: skip
    result = explore(world)
    assert result.property == found, result.message
    assert result.verdict == ("UNSAFE" if found else "SAFE")
    assert f"cause {cause.name}" in result.reached or "verdict REFUSED" in result.reached


def test_a_callback_that_may_not_sleep_and_must_flush_comes_again_after_the_flush() -> None:
    """It is refused as long as the device may have the page cached, and asks for the flush: no livelock, unless the device
    never stops using the page."""
    result = explore(World(**{**SMALLEST.__dict__, "mode": "unsleepable"}))
    assert result.verdict == "SAFE" and result.reached >= {"verdict REFUSED", "verdict DONE", "abandoned", "flush"}
    assert "verdict WAIT" not in result.reached
    for_ever = (Request("WRITE", repeat=-1),)
    result = explore(World(**{**SMALLEST.__dict__, "mode": "unsleepable", "requests": for_ever}))
    assert (result.verdict, result.property) == ("UNSAFE", "LIVELOCK")
    assert "thread 0" in result.message and 0 < result.cycle < len(result.trace)
    assert {"thread 0", "request 0"} <= {step.actor for step in result.trace[result.cycle :]}


def test_a_request_joins_the_prefetch_of_its_page() -> None:
    """With one fault slot: it would otherwise find none until the prefetch is over, and then ask for the page again."""
    requests = (Request("PREFETCH"), Request("READ"))
    result = explore(World("joined", pages=1, frames=1, threads=(), requests=requests, touched=()))
    assert result.verdict == "SAFE" and "joined" in result.reached and "starved" not in result.reached


def test_a_slow_flush_does_not_stretch_the_bound_of_a_deferral() -> None:
    threads = ((Op("DISCARD", 0), Op("DISCARD", 1), Op("DISCARD", 2)),)
    made = World(
        "bounded", pages=3, frames=4, touched=(0, 1, 2), threads=threads, requests=(Request("READ", 0, 3),), deferrals=3,
        policy=Policy("two at most", {Cause.DISCARD: Row(Verdict.DEFER, 2, 1)}),
    )  # fmt: skip
    result = explore(made)
    assert result.verdict == "SAFE" and result.reached >= {"held", "verdict DEFERRED", "verdict WAIT"}


def test_an_invalidation_that_waits_for_a_copy_that_waits_for_its_lock_is_a_deadlock() -> None:
    world = World(
        "vm", pages=1, frames=2, tlb=False, device="vm", threads=((Op("REPLACE"),),), requests=(Request("WRITE"),)
    )
    result = explore(world)
    assert (result.verdict, result.property) == ("UNSAFE", "DEADLOCK")
    assert "thread 0" in result.message and "request 0" in result.message


@pytest.mark.parametrize("page, found", [(1, None), (0, "LIVELOCK")])
def test_only_colliding_invalidations_starve_a_fault(page: int, found: str | None) -> None:
    world = World(
        "for ever", pages=2, frames=3, loops=(0,), threads=((Op("DISCARD", page),),), requests=(Request("WRITE", 0),)
    )
    assert explore(world).property == found


LIVE: dict[str, Any] = {"pages": 1, "frames": 2, "tlb": False, "mode": "late", "requests": (Request("WRITE"),)}


@pytest.mark.parametrize(
    "world, found",
    [
        (World("in one call", device="vm", threads=((Op("REPLACE"),),), **LIVE), "I3"),
        (World("by two threads", device="vm", threads=((Op("UNMAP"),), (Op("MAP"),)), **LIVE), "I3"),
        (World("by one thread", device="vm", threads=((Op("UNMAP"), Op("MAP")),), **LIVE), None),
        (World("an alias", device="alias", file=True, threads=((Op("REPLACE"),),), **LIVE), None),
    ],
    ids=lambda value: value.name if isinstance(value, World) else str(value),
)
def test_what_a_late_notifier_lets_through(world: World, found: str | None) -> None:
    """Linux tells user space after the fact: a copy strays into what replaced the range, unless it goes through an alias."""
    result = explore(world)
    assert result.property == found
    assert ("stray" in result.reached) == (found is not None)


@pytest.mark.slow
@pytest.mark.compiled_only
def test_everything_is_reached_and_nothing_breaks() -> None:
    reached: set[str] = set()
    for world in EVERYTHING:
        result = explore(world, Limits(states=300_000), liveness=False)
        assert result.verdict in ("SAFE", "BOUNDED"), f"{world.name}: {result.message}"
        reached |= result.reached
    assert set(M.REACHED) - reached == {"cause UNKNOWN", "stray"}  # by notifiers that are blind or late


TWO_OWED = {
    "pages": 2,
    "frames": 5,
    "slots": 2,
    "touched": (0, 1),
    "faults": 2,
    "dma": 2,
    "active": 3,
    "deferrals": 2,
    "chunk": 2,
}


@pytest.mark.compiled_only
@pytest.mark.parametrize(
    "threads",
    [
        # A page under two deferrals: what the weaker one allows, the stronger one may not.
        ((Op("DISCARD", 0, 2), Op("WRITE")), (Op("RECLAIM", 0), Op("RECLAIM", 1))),
        # A held frame that the child maps alone by now: it must copy it all the same before it writes.
        ((Op("FORK"), Op("WRITE"), Op("UNMAP", 1)), (Op("WRITE", 1, process=1),)),
        ((Op("UNMAP", 0, 2), Op("MAP", 0, 2), Op("WRITE", 1)), (Op("DISCARD", 1),)),
        ((Op("SOFT_DIRTY", 0, 2), Op("COLLAPSE", 0, 2)), (Op("MIGRATE", 1),)),
    ],
    ids=lambda threads: " ".join(op.name for script in threads for op in script),
)
@pytest.mark.parametrize("tlb", [True, False])
def test_several_deferrals_at_once(threads: tuple[tuple[Op, ...], ...], tlb: bool) -> None:
    requests = (Request("WRITE", 0, 2), Request("READ", 0, 2))
    batched = {cause: Row(Verdict.DEFER, 512, 1) for cause in Cause if MEANINGS[cause].deferrable}
    policy = Policy("all that can be deferred", batched)
    world = World("owed", threads=threads, requests=requests, tlb=tlb, policy=policy, **TWO_OWED)  # type: ignore[arg-type]
    result = explore(world, Limits(states=100_000), liveness=False)
    assert result.property is None, result.message
    assert {"verdict DEFERRED", "discharged"} <= result.reached


ANYTHING = [
    *(Op(name, page) for page in (0, 1) for name in ("UNMAP", "DISCARD", "RECLAIM", "SOFT_DIRTY", "MIGRATE", "OOM", "WRITE")),
    *(Op("MERGE", page, arg=2) for page in (0, 1)), Op("FORK"), Op("EXIT"), Op("MAP"), Op("REPLACE"), Op("REMAP", 1, arg=0),
]  # fmt: skip


@pytest.mark.compiled_only
@pytest.mark.parametrize("first", [Op("UNMAP"), Op("REMAP", arg=1), Op("DISCARD"), Op("RECLAIM"), Op("SOFT_DIRTY")], ids=str)
def test_whatever_follows_a_deferral_its_obligation_is_enough(first: Op) -> None:
    """Of each pair of operations every interleaving with a device that writes twice. (A deferred mremap was not safe once.)"""
    batched = {cause: Row(Verdict.DEFER, 4, 1) for cause in Cause if MEANINGS[cause].deferrable}
    fields: dict[str, Any] = {"pages": 3, "frames": 4, "slots": 2, "touched": (0, 2), "mapped": (0, 2), "deferrals": 2, "active": 3}
    for second in ANYTHING:
        script = (first, second, Op("READ", 1 if first.name == "REMAP" else 0))
        request = Request("WRITE", repeat=1)
        result = explore(World(str(script), threads=(script,), requests=(request,), policy=Policy("all", batched), **fields))
        assert result.verdict == "SAFE", f"{first}, {second}: {result.message}"
        assert "verdict DEFERRED" in result.reached


@pytest.mark.compiled_only
def test_a_file_s_page_is_written_for_the_child_too() -> None:
    deferred = policy(Cause.UNMAP, Verdict.DEFER)
    threads = ((Op("FORK"), Op("UNMAP")), (Op("READ", process=1),))
    shared = World("shared", pages=1, frames=3, slots=1, file=True, threads=threads, requests=(Request("WRITE"),), policy=deferred)
    assert explore(shared).verdict == "SAFE"
    aliased = dataclasses.replace(shared, device="alias", tlb=False, mode="late")
    assert explore(aliased).verdict == explore(dataclasses.replace(shared, file=False)).verdict == "SAFE"
    with pytest.raises(WorldError, match="MERGE 0 1: only private memory is merged"):
        World("merged", file=True, threads=((Op("MERGE", 0, arg=1),),))


def test_a_search_that_is_cut_says_where() -> None:
    world = EVERYTHING[0]
    few = explore(world, Limits(states=1000), liveness=False)
    assert few.verdict == "BOUNDED" and few.states == 1000 and "limits.states" in few.message
    shallow = explore(world, Limits(states=100_000, depth=9), liveness=False)
    assert (shallow.verdict, shallow.depth) == ("BOUNDED", 9) and "limits.depth" in shallow.message
    assert few.collision_bound < 1e-30


def test_memory_is_looked_at_before_the_search() -> None:
    limits = Limits(states=10_000_000, memory=1 << 20)
    assert estimate(SMALLEST, limits) > limits.memory
    with pytest.raises(WorldError, match=r"limits.states: 10000000 .* 1 MiB; \d+ states would fit"):
        explore(SMALLEST, limits)


def test_a_trace_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ReplayError, match="step 0: device 0 flush cannot go on"):
        replay(SMALLEST, [4])
    with pytest.raises(ReplayError, match="step 1: there is no actor 99"):
        replay(SMALLEST, [0, 99])


def test_a_state_is_small() -> None:
    for world in EVERYTHING:
        search = Search(world, Limits(states=16), liveness=False)
        assert 8 * search.stride <= 2048
    assert np.array_equal(SMALLEST.build(), SMALLEST.build())
    assert POLICIES["by_cause"].name == "by_cause"
