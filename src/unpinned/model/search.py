"""`explore`: the Python side of the exhaustive search. Verdicts, bounds said beforehand, shortest traces.

SAFE      every interleaving was seen, and no property broke
BOUNDED   the search was cut (states, depth or memory): nothing broke so far
UNSAFE    a property broke; `trace` is a shortest way there
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from unpinned.compiled import build
from unpinned.model import interleavings as E
from unpinned.model import layout as M
from unpinned.model import properties
from unpinned.model.automorphisms import automorphisms
from unpinned.model.group import NAMES_MAX, Group
from unpinned.model.livelock import find_livelock, node_bytes
from unpinned.model.narration import Step, actor_name, narrate
from unpinned.model.symmetry import symmetry_table
from unpinned.model.world import World, WorldError, state_words
from unpinned.paging import layout as P

SAFE: Final = "SAFE"
BOUNDED: Final = "BOUNDED"
UNSAFE: Final = "UNSAFE"

ENTRIES: Final = [("unpinned.model.interleavings", "call", "w"), ("unpinned.model.fairness", "fair_part", "wwww")]
CHUNK: Final = 20_000  #: states per call into the compiled code: Ctrl-C is heard in between


@dataclass(frozen=True)
class Limits:
    """Where a search is cut. states: found; depth: steps; memory: bytes that it may take at most."""

    states: int = 2_000_000
    depth: int = 10_000
    memory: int = 4 << 30


@dataclass(frozen=True)
class Result:
    """What a search found."""

    world: World
    verdict: str
    property: str | None
    message: str
    states: int
    transitions: int
    depth: int
    trace: tuple[Step, ...]
    cycle: int  #: LIVELOCK: index of the first step of the cycle; else -1
    reached: frozenset[str]
    seconds: float
    bytes_per_state: int  #: kept: packed, parent, edges; the table of hashes takes 48 to 96 more
    collision_bound: float  #: probability that two different states had the same hash

    @builtins.property  # a field has that name
    def rate(self) -> float:
        """Transitions per second."""
        return self.transitions / max(self.seconds, 1e-9)


class ReplayError(ValueError):
    """A trace that does not fit its world: names the step and the reason."""


@cache  # looking for what is compiled takes longer than a small world
def prepare() -> None:
    """Compile the explorer, once (a line on stderr when there is something to do)."""
    build.ensure(ENTRIES)


class Search:
    """The blocks of one search. Memory is touched as states are found; the table of hashes doubles when it is half full."""

    def __init__(
        self, world: World, limits: Limits, reduce: bool = True, liveness: bool = True, exchange: bool = True
    ) -> None:
        prepare()
        self.world = world
        self.limits = limits
        self.start = world.build()
        self.index = state_words(self.start)
        self.stride = len(self.index) // 4
        found = automorphisms(world) if reduce and exchange else []
        if liveness and len(found) >= NAMES_MAX:
            found = []  # an edge has no room for them
        self.group = Group(world, found)
        self.actors = self.group.actors
        states = limits.states
        edges = states * 6 if liveness else 0
        ring = 1 << max(10, (states - 1).bit_length())
        table = 1 << 12
        frames = world.frames + 1
        self.blocks = {
            E.C_WORLD: self.start.copy(),
            E.C_BASE: self.start.copy(),
            E.C_INDEX: self.index,
            E.C_RING: np.empty(ring * self.stride, np.int64),
            E.C_TABLE: np.zeros(3 * table, np.int64),
            E.C_PARENT: np.empty(states + 1, np.int64),
            E.C_EDGES: np.empty(edges, np.int64),
            E.C_FIRST: np.zeros(states + 2 if liveness else 0, np.int64),
            E.C_PENDING: np.empty(states + 1 if liveness else 0, np.int64),
            E.C_SCRATCH: np.zeros(frames * (2 + int(self.start[M.W_FRAME_WORDS])) + 2 + 2 * self.stride, np.int64),
            E.C_PERMUTED: self.start.copy(),
            E.C_SYMMETRY: symmetry_table(found),
        }
        self.c = np.zeros(E.CONTROL_WORDS, np.int64)
        for word, block in self.blocks.items():
            self.c[word], self.c[word + 1] = block.ctypes.data, len(block)
        self.c[E.C_STRIDE], self.c[E.C_RING_MASK], self.c[E.C_TABLE_MASK] = self.stride, ring - 1, table - 1
        self.c[E.C_LIMIT], self.c[E.C_DEPTH_LIMIT] = min(states, table // 2), limits.depth
        self.c[E.C_CHUNK], self.c[E.C_REDUCE] = CHUNK, int(reduce)

    def call(self, command: int, argument: int = 0) -> int:
        """One call into the compiled code."""
        self.c[E.C_COMMAND], self.c[E.C_ARGUMENT] = command, argument
        return int(E.call(self.c))

    def grow(self) -> bool:
        """Double the table of hashes; False when the limit is reached."""
        if self.c[E.C_LIMIT] >= self.limits.states:
            return False
        table = 2 * (int(self.c[E.C_TABLE_MASK]) + 1)
        new = np.zeros(3 * table, np.int64)
        self.c[E.C_STATE] = table - 1
        self.call(E.GROW, new.ctypes.data)
        self.blocks[E.C_TABLE] = new
        self.c[E.C_LIMIT] = min(self.limits.states, table // 2)
        return True

    def run(self) -> int:
        """Until it ends; -> why (interleavings.FINISHED, FOUND, FULL_*)."""
        np.copyto(self.blocks[E.C_WORLD], self.start)
        self.call(E.ADD)
        self.c[E.C_LEVEL_END] = 1
        while True:
            status = self.call(E.RUN)
            if status == E.GO_ON or (status == E.FULL_STATES and self.grow()):
                continue
            return status

    # --- traces --------------------------------------------------------------------------------------------------------

    def path(self, state: int) -> list[int]:
        """Actors from the first state to this one, as the search numbered them."""
        parents = self.blocks[E.C_PARENT]
        actors = []
        while state:
            actors.append(int(parents[state]) & 0xFFFF)
            state = int(parents[state]) >> 16
        return actors[::-1]

    def key(self, w: Any) -> tuple[int, int]:
        """The hash of the canonical form of a world."""
        np.copyto(self.blocks[E.C_WORLD], w)
        self.call(E.CANONICAL)
        return int(self.c[E.C_STATE]), int(self.c[E.C_ACTOR])

    def step(self, w: Any, actor: int) -> Any:
        """The world after the actor's next step, or None."""
        np.copyto(self.blocks[E.C_WORLD], w)
        return self.blocks[E.C_WORLD].copy() if self.call(E.STEP, actor) else None

    def representative(self, w: Any) -> tuple[Any, int]:
        """The state that stands for w in the search, unpacked, and which element of the group makes it of w."""
        np.copyto(self.blocks[E.C_WORLD], w)
        at = self.call(E.CANONICAL)
        return self.unpacked(self.blocks[E.C_SCRATCH][at : at + self.stride]), int(self.c[E.C_RENAMED])

    def unpacked(self, packed: Any) -> Any:
        """The world whose packed state this is."""
        made = self.start.copy()
        made[self.index] = packed.view(np.int16)  # x86-64 and AArch64 are little-endian
        for d in range(self.world.devices):
            p = made[made[made[M.W_DEVICE] + d * made[M.W_DEVICE_WORDS] + M.D_OFFSET] :]
            p[p[P.COUNTERS] + P.SEQUENCE] = p[P.ACTIVE_COUNT] > 0
        return made

    def real(self, path: Sequence[int], names: int = 0) -> tuple[list[int], int]:
        """The same way with nothing renamed on it, and the names at its end, as an element of the group.

        Who makes each step in the real world is who makes it in the search, under the names that were given until then. With other `names`
        to begin with it is another way, just as real: the first state is its own image.
        """
        w = self.start.copy()
        stands, renamed = self.representative(w)
        names = int(self.group.after[names, renamed])
        numbers = []
        for actor in path:
            number = self.group.actor(names, stands, actor)
            w, after = self.step(w, number), self.step(stands, actor)
            if w is None or self.key(w) != self.key(after):
                raise AssertionError("a step of the reduced search has no counterpart: the symmetry is wrong")
            numbers.append(number)
            stands, renamed = self.representative(after)
            names = int(self.group.after[names, renamed])
        return numbers, names

    def last(self, path: Sequence[int], which: int) -> int:
        """The actor whose step breaks property `which` after this way."""
        w = self.start.copy()
        for number in path:
            w = self.step(w, number)
        for number in range(self.actors):
            made = self.step(w, number)
            if made is not None and made[M.W_BROKEN] == which:
                return number
        raise AssertionError("the step that breaks the property has no counterpart: the symmetry is wrong")

    def waiting(self, numbers: Sequence[int]) -> list[str]:
        """Who is not done after these steps of the real world."""
        w = self.start.copy()
        for number in numbers:
            w = self.step(w, number)
        np.copyto(self.blocks[E.C_WORLD], w)
        left = self.call(E.REST)
        return [party_name(self.world, i) for i in range(63) if left >> i & 1]


def estimate(world: World, limits: Limits | None = None, *, liveness: bool = True) -> int:
    """Bytes that a search takes at most."""
    limits = limits or Limits()
    stride = len(state_words(world.build())) // 4
    table = 24 * (1 << (2 * limits.states - 1).bit_length())
    kept = 64 + node_bytes(Group(world, automorphisms(world))) if liveness else 0
    return limits.states * (8 * stride + 8 + kept) + table * 3 // 2


def explore(world: World, limits: Limits | None = None, *, reduce: bool = True, liveness: bool = True) -> Result:
    """Every interleaving of `world`, breadth first, until a property breaks.

    Args:
        world: what is explored.
        limits: where the search is cut.
        reduce: explore one state for all that differ in names of frames, and of equal devices, pages, requests and threads, only.
        liveness: also look for fair cycles without progress; needs the edges in memory.

    Raises:
        WorldError: it could take more memory than the limit; names the bound that would fit.
    """
    limits = limits or Limits()
    need = estimate(world, limits, liveness=liveness)
    if need > limits.memory:
        fits = int(limits.states * limits.memory / need)
        raise WorldError(
            f"limits.states: {limits.states} states could take {need >> 20} MiB, limits.memory is {limits.memory >> 20} MiB;"
            f" {fits} states would fit"
        )
    prepare()
    began = time.perf_counter()
    search = Search(world, limits, reduce, liveness)
    status = search.run()
    if status == E.UNLIKE:
        search = Search(world, limits, reduce, liveness, exchange=False)
        status = search.run()
    c = search.c
    if status == E.UNFIT:
        raise WorldError("world: a value does not fit into 16 bits")
    verdict, message, cycle = SAFE, "every interleaving", -1
    which: str | None = None
    trace: tuple[Step, ...] = ()
    if status == E.FOUND:
        number = int(c[E.C_BROKEN])
        verdict, which = UNSAFE, properties.NAMES[number]
        message = properties.MEANINGS[which]
        actor = int(c[E.C_ACTOR])
        numbers, _ = search.real(search.path(int(c[E.C_STATE])))
        if actor >= 0:
            numbers.append(search.last(numbers, number))
        if number == properties.DEADLOCK:
            message += f": {', '.join(search.waiting(numbers))}"  # who it is in the trace, not in what stands for it
        trace = replay(world, numbers)
    elif status != E.FINISHED:
        verdict = BOUNDED
        cut = {E.FULL_STATES: "states", E.FULL_RING: "memory", E.FULL_EDGES: "memory", E.FULL_DEPTH: "depth"}[status]
        message = f"cut by limits.{cut} at {int(c[E.C_STATES])} states, depth {int(c[E.C_DEPTH])}"
    elif liveness:
        found = find_livelock(search)
        if found is not None:
            party, stem, loop = found
            verdict, which = UNSAFE, "LIVELOCK"
            message = f"{properties.MEANINGS[which]}: {party_name(world, party)}"
            trace, cycle = replay(world, [*stem, *loop]), len(stem)
    seconds = time.perf_counter() - began
    reached = int(c[E.C_REACHED])
    states = int(c[E.C_STATES])
    return Result(
        world=world, verdict=verdict, property=which, message=message, states=states,
        transitions=int(c[E.C_TRANSITIONS]), depth=int(c[E.C_DEPTH]), trace=trace, cycle=cycle,
        reached=frozenset(name for i, name in enumerate(M.REACHED) if reached >> i & 1),
        seconds=seconds,
        bytes_per_state=8 * search.stride + 8 + 64 * liveness,
        collision_bound=states * states / 2.0**129,
    )  # fmt: skip


def party_name(world: World, party: int) -> str:
    """Who is meant by bit `party` of a set of parties."""
    threads = len(world.threads) + world.devices
    return f"thread {party}" if party < threads else f"request {party - threads}"


def replay(world: World, numbers: Sequence[int]) -> tuple[Step, ...]:
    """Make the same steps again, from the first state. Raises ReplayError when one of them cannot be made."""
    search = Search(world, Limits(states=16), reduce=False, liveness=False)
    w = search.start.copy()
    steps = []
    for i, number in enumerate(numbers):
        if not 0 <= number < search.actors:
            raise ReplayError(f"step {i}: there is no actor {number} in world {world.name!r}")
        after = search.step(w, number)
        if after is None:
            raise ReplayError(f"step {i}: {actor_name(world, number)} cannot go on")
        steps.append(narrate(world, i, number, w, after))
        w = after
    return tuple(steps)
