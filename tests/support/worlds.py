"""Small modelled worlds that several tests share, and random walks through them."""

from __future__ import annotations

from random import Random

import numpy as np

from unpinned.model import layout as M
from unpinned.model.interleavings import C_WORLD
from unpinned.model.layout import Block
from unpinned.model.search import Limits, Search
from unpinned.model.world import Op, Request, World
from unpinned.paging import layout as P
from unpinned.paging.policy import POLICIES

BATCHING = POLICIES["by_cause_batching"]

EVERYTHING = (
    World(
        "unmap and map", pages=2, frames=3, faults=2, dma=2, policy=BATCHING,
        threads=((Op("UNMAP", 0), Op("MAP", 0), Op("WRITE", 0)), (Op("DISCARD", 0, 2), Op("READ", 0, 2))),
        requests=(Request("WRITE", 0, 2), Request("READ", 1)),
    ),
    World(
        "fork and merge", pages=2, frames=6, touched=(0, 1),
        threads=((Op("FORK"), Op("WRITE", 0), Op("EXIT")), (Op("WRITE", 1, process=1), Op("EXIT", process=1)), (Op("MERGE", 0, arg=1),)),
        requests=(Request("WRITE", 0, 2), Request("PREFETCH", 1)),
    ),
    World(
        "reclaim and migrate", pages=2, frames=4, slots=2, active=3, deferrals=2, policy=BATCHING, touched=(0, 1),
        threads=((Op("RECLAIM", 0), Op("RECLAIM", 1)), (Op("MIGRATE", 0), Op("COLLAPSE", 0, 2)), (Op("WRITE", 0), Op("SOFT_DIRTY", 0))),
        requests=(Request("WRITE", 0), Request("READ", 1)),
    ),
    World(
        "move and protect", pages=3, frames=3, deferrals=2, policy=BATCHING,
        threads=((Op("REMAP", 0, arg=2), Op("READ", 2), Op("OOM", 2)), (Op("PROTECT", 0, 2), Op("PROTECT", 0, 2, 1), Op("SPLIT", 0, 2))),
        requests=(Request("WRITE", 0, 2), Request("WRITE", 2)),
    ),
    World(
        "two devices", pages=1, frames=3, devices=2, policy=BATCHING, threads=((Op("RECLAIM", 0, arg=1), Op("REPLACE", 0)),),
        requests=(Request("WRITE", 0), Request("READ", 0, device=1, repeat=1)),
    ),
    World(
        "a file", pages=2, frames=3, slots=0, file=True, touched=(0,), readonly=(1,),
        threads=((Op("RECLAIM", 0), Op("WRITE", 0)), (Op("DISCARD", 0, 2),)),
        requests=(Request("WRITE", 0, 2), Request("READ", 0, 2)),
    ),
)  # fmt: skip


def walk(world: World, choose: Random, steps: int = 200):  # type: ignore[no-untyped-def]
    """A random run: yields (before, actor, after or None if the step cannot be made, the world); the caller may look, not change."""
    search = Search(world, Limits(states=16), reduce=False, liveness=False)
    w = world.build()
    idle = 0
    for _ in range(steps):
        before = w
        actor = choose.randrange(search.actors)
        after = search.step(before, actor)
        w = search.blocks[C_WORLD].copy()
        yield before, actor, after, w
        idle = 0 if after is not None else idle + 1
        if idle > 60 or w[M.W_BROKEN]:
            return


def same_state(a: Block, b: Block) -> bool:
    """Do two worlds agree in everything from W_STATE on, but counters and scratch?"""
    a, b = a.copy(), b.copy()
    for w in (a, b):
        for d in range(int(w[M.W_DEVICES])):
            at = int(w[w[M.W_DEVICE] + d * w[M.W_DEVICE_WORDS] + M.D_OFFSET])
            w[at + w[at + P.COUNTERS] : at + w[M.W_BLOCK_WORDS]] = 0
    first, end = int(a[M.W_STATE]), int(a[M.W_SCRATCH])
    return bool(np.array_equal(a[first:end], b[first:end]))
