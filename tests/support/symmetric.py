"""Worlds in which pages can be exchanged, for everything that names a page one in which it is in use; and whether steps agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from unpinned.model import layout as M
from unpinned.model.automorphisms import Automorphism, automorphisms
from unpinned.model.group import Group
from unpinned.model.interleavings import C_RING, C_STATES
from unpinned.model.layout import Block
from unpinned.model.search import Limits, Search
from unpinned.model.symmetry import permute, symmetry_table
from unpinned.model.world import Op, Request, World
from unpinned.paging.causes import MEANINGS, Cause, Verdict
from unpinned.paging.policy import Policy, Row

_DEFERRED: Final = Policy("deferred", {cause: Row(Verdict.DEFER, 4, 1) for cause in Cause if MEANINGS[cause].deferrable})
_WRITES: Final = (Request("WRITE", 0), Request("WRITE", 1))
_READS: Final = (Request("READ", 0), Request("READ", 1))
_WIDE: Final = (Request("WRITE", 0, 2), Request("WRITE", 2, 4))


def _world(name: str, *threads: tuple[Op, ...], requests: tuple[Request, ...] = _WRITES, **more: Any) -> World:
    fields = {"pages": 2, "frames": 3, "touched": (0, 1), "faults": 2, "dma": 2, "active": 3, **more}
    return World(name, threads=threads, requests=requests, **fields)


SYMMETRIC: Final = {
    world.name: world
    for world in (
        _world("a range of both", (Op("DISCARD", 0, 2),)),
        _world("another page", (Op("UNMAP", 2),), requests=_READS, pages=3, touched=(0, 1, 2)),
        _world("two threads", (Op("UNMAP", 0),), (Op("UNMAP", 1),), requests=_READS),
        _world("mapped again", (Op("UNMAP", 0, 2),), (Op("MAP", 0),), (Op("MAP", 1),), requests=_READS[:0], frames=2),
        _world("deferred", (Op("DISCARD", 0, 2),), requests=_READS, policy=_DEFERRED),
        _world("deferred apart", (Op("SOFT_DIRTY", 0),), (Op("SOFT_DIRTY", 1),), requests=_READS, policy=_DEFERRED, deferrals=2),
        _world("to the swap", (Op("RECLAIM", 0),), (Op("RECLAIM", 1),), requests=(), slots=2, frames=2),
        _world("from the swap", (Op("RECLAIM", 0), Op("READ", 0)), (Op("RECLAIM", 1), Op("READ", 1)), requests=(), slots=1),
        _world("a file", (Op("RECLAIM", 0),), (Op("RECLAIM", 1),), requests=_READS, slots=0, file=True, touched=()),
        _world("a file unmapped", (Op("UNMAP", 0),), (Op("UNMAP", 1),), requests=(), slots=0, file=True),
        _world("an alias", (Op("DISCARD", 0, 2),), file=True, slots=0, device="alias", tlb=False, mode="late"),
        _world("the process's mapping", (Op("DISCARD", 0, 2),), device="vm", tlb=False),
        _world("forked", (Op("FORK"),), (Op("WRITE", 0),), (Op("WRITE", 1),), requests=(), frames=4),
        _world("a child", (Op("FORK"),), (Op("WRITE", 0, process=1), Op("WRITE", 1)), (Op("WRITE", 1, process=1), Op("WRITE", 0)),
               requests=(), frames=4),
        _world("merged", (Op("MERGE", 0, arg=2),), (Op("MERGE", 1, arg=2),), requests=(), pages=3, touched=(0, 1, 2), frames=3),
        _world("moved", (Op("REMAP", 0, arg=2),), (Op("REMAP", 1, arg=3),), requests=_READS, pages=4),
        _world("migrated", (Op("MIGRATE", 0),), (Op("MIGRATE", 1),), requests=_READS[:0], frames=4),
        _world("ranges", (Op("PROTECT", 0, 4),), requests=_WIDE, pages=4, touched=(0, 2), frames=4, chunk=2, retries=0),
        _world("ranges of threads", (Op("WRITE", 0, 2),), (Op("WRITE", 2, 4),), (Op("SPLIT", 0, 4),), requests=(), pages=4,
               touched=(0, 2), frames=4),
        _world("ranges of threads, forked", (Op("FORK"), Op("READ", 0)), (Op("WRITE", 1, 3),), (Op("WRITE", 3, 5),), requests=(),
               pages=5, touched=(1, 3), frames=6),
        _world("collapsed", (Op("COLLAPSE", 0, 2),), (Op("COLLAPSE", 2, 4),), requests=(), pages=4, touched=(0, 1, 2, 3), frames=6),
        _world("a prefetch", (Op("EXIT"),), requests=(Request("PREFETCH", 0), Request("PREFETCH", 1), *_READS), frames=2, touched=()),
        _world("a page a device", (Op("DISCARD", 0, 2),), requests=(Request("WRITE", 0), Request("WRITE", 1, device=1)), devices=2,
               faults=1, dma=1),
        _world("three", (Op("OOM", 0, 3),), requests=(*_READS, Request("READ", 2)), pages=3, touched=(0, 1, 2), faults=3, dma=3),
    )
}  # fmt: skip


class Exchange:
    """One automorphism of a world, and whether its steps agree with it: first a step and then new names, or the other way round."""

    def __init__(self, world: World, found: Automorphism) -> None:
        self.world, self.found = world, found
        self.search = Search(world, Limits(states=16), exchange=False)  # it renames frames, and nothing else
        self.table = symmetry_table([found])
        self.group = Group(world, [found])

    def of(self, w: Block) -> Block:
        """The state under the new names."""
        made = self.world.build()
        permute(w, made, self.table, 0)
        return made

    def actor(self, w: Block, number: int) -> int:
        """Who makes the step that actor `number` makes, under the new names."""
        return self.group.actor(1, w, number)

    def parties(self, bits: int) -> int:
        """Bits of threads and requests under the new names."""
        parties = range(self.group.threads + self.group.requests)
        return sum(1 << self.group.party(1, party) for party in parties if bits >> party & 1)

    def disagreements(self, w: Block, renamed: Callable[[Block], Block] | None = None) -> Iterator[str]:
        """Actors whose step from w is another one under the new names. `renamed`: in place of `of`."""
        of = renamed or self.of
        other = of(w)
        for number in range(self.search.actors):
            after, image = self.search.step(w, number), self.search.step(other, self.actor(w, number))
            if (after is None) != (image is None):
                yield f"actor {number}: only one of the two can go on"
            elif after is not None:
                same = [after[M.W_BROKEN] == image[M.W_BROKEN], after[M.W_REACHED] == image[M.W_REACHED]]
                same.append(self.parties(int(after[M.W_COMPLETED])) == image[M.W_COMPLETED])
                if not all(same) or self.search.key(of(after)) != self.search.key(image):
                    yield f"actor {number}: another state"


def exchanges(world: World) -> list[Exchange]:
    return [Exchange(world, found) for found in automorphisms(world)]


def reachable(world: World, limit: int) -> tuple[Search, int]:
    """The full search of a world, and how many states it found: `state_of` has each."""
    full = Search(world, Limits(states=limit), reduce=False, liveness=False)
    full.run()
    return full, int(full.c[C_STATES])


def state_of(full: Search, number: int) -> Block:
    packed = full.blocks[C_RING][number * full.stride : (number + 1) * full.stride]
    return np.asarray(full.unpacked(packed))
