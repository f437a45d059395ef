"""Ask the questions of the matrix: every world of every cell, on all cores, answers as they come.

Worlds are independent, so processes explore them; the compiled explorer is loaded (or compiled) once, before they are
forked. A world that would not fit into memory is refused before anything starts, with the bound that would.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unpinned.check.matrix import BOUNDED, Answer, Cell, Outcome
from unpinned.check.worlds import worlds_of
from unpinned.model.search import Limits, estimate, explore
from unpinned.model.world import World, WorldError

STATES_QUICK: Final = 30_000
STATES_FULL: Final = 1_000_000
SHARE: Final = 0.6  #: of the memory that is free now, what all processes together may take


@dataclass(frozen=True)
class Plan:
    """How far to go: `quick` explores the smallest worlds only."""

    quick: bool = False
    states: int = 0  #: 0: the default of quick or full
    processes: int = 0  #: 0: one a core

    @property
    def limits(self) -> Limits:
        states = self.states or (STATES_QUICK if self.quick else STATES_FULL)
        return Limits(states=states, memory=int(memory_free() * SHARE) // self.count)

    @property
    def count(self) -> int:
        return self.processes or len(os.sched_getaffinity(0))


def memory_free() -> int:
    """Bytes that can be had now without swapping: the system's, and what the control group leaves."""
    words = Path("/proc/meminfo").read_text().split()
    free = int(words[words.index("MemAvailable:") + 1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free


def require_memory(worlds: Sequence[World], limits: Limits) -> None:
    """Raise WorldError if a search could take more than it may, naming the bound that would fit."""
    needed, world = max((estimate(world, limits), world.name) for world in worlds)
    if needed <= limits.memory:
        return
    fits = int(limits.states * limits.memory / needed * 0.95)
    raise WorldError(
        f"states={limits.states}: {world} would take up to {_bytes(needed)}, and {_bytes(limits.memory)} are free for "
        f"each process: --states {fits} fits"
    )


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def explore_world(world: World, limits: Limits) -> Outcome:
    """What one world says."""
    result = explore(world, limits)
    cut = ""
    if result.verdict == BOUNDED:
        cut = f"{world.name}: after {result.states} states, at depth {result.depth}"
    return Outcome(
        world=world.name,
        verdict=result.verdict,
        states=result.states,
        transitions=result.transitions,
        depth=result.depth,
        seconds=result.seconds,
        broke=result.property or "",
        message=result.message,
        path=tuple(step.number for step in result.trace),
        loop=result.cycle if result.property == "LIVELOCK" else -1,
        cut=cut,
        reached=frozenset(result.reached),
    )


def answers(
    asked: Sequence[Cell], plan: Plan, explored: Callable[[int, int], None] = lambda done, of: None
) -> Iterator[Answer]:
    """The answer of each cell as soon as all of its worlds have spoken. `explored` hears how many worlds are done."""
    work = [(number, world) for number, cell in enumerate(asked) for world in worlds_of(cell, plan.quick)]
    limits = plan.limits
    require_memory([world for _, world in work], limits)
    missing = [sum(number == other for other, _ in work) for number in range(len(asked))]
    found: list[list[Outcome]] = [[] for _ in asked]
    done = 0
    for number, outcome in _outcomes(work, limits, plan.count):
        done += 1
        explored(done, len(work))
        found[number].append(outcome)
        if len(found[number]) == missing[number]:
            yield Answer(asked[number], tuple(sorted(found[number], key=lambda each: each.world)))


def _outcomes(work: Sequence[tuple[int, World]], limits: Limits, processes: int) -> Iterator[tuple[int, Outcome]]:
    if processes == 1 or len(work) == 1:
        yield from ((number, explore_world(world, limits)) for number, world in work)
        return
    first, *rest = work
    yield first[0], explore_world(first[1], limits)  # loads the explorer, once, for all who are forked from here
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _ignore_interrupts) as pool:
        try:
            yield from _shared(pool, rest, limits, 4 * processes)
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the group: it is the parent that ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _shared(
    pool: ProcessPoolExecutor, work: Sequence[tuple[int, World]], limits: Limits, ahead: int
) -> Iterator[tuple[int, Outcome]]:
    """Hand out a few more worlds than there are processes, so that Ctrl-C ends at once."""
    waiting = iter(work)
    running: dict[Future[Outcome], int] = {}
    while True:
        while len(running) < ahead and (item := next(waiting, None)):
            running[pool.submit(explore_world, item[1], limits)] = item[0]
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield running.pop(future), future.result()
