"""Where mutants die: small worlds that are SAFE as they are, each for the collisions that a few mutants get wrong.

A mutant names its world. Most worlds have a few hundred states, so a copy of the package runs them without compiling.
"""

from __future__ import annotations

from typing import Any, Final

from unpinned.check.mutants import Mutant
from unpinned.model.world import Op, Request, World
from unpinned.paging.causes import Cause
from unpinned.paging.policy import POLICIES, Policy, Row

_WRITE, _READ = Request("WRITE"), Request("READ")
_AGAIN = Request("READ", 0, 1, 0, 1)


def _deferring(cause: Cause, pages: int = 2) -> Policy:
    return Policy(f"defer {cause.name}", {cause: Row.parse(f"DEFER {pages} pages 1 us")})


def _world(name: str, *threads: tuple[Op, ...], requests: tuple[Request, ...] = (_WRITE,), **more: Any) -> World:
    return World(name=name, threads=threads, requests=requests, **{"pages": 1, "frames": 2, **more})


_BY_CAUSE: Final = POLICIES["by_cause"]

WORLDS: Final[dict[str, World]] = {
    world.name: world
    for world in (
        _world("unmap", (Op("UNMAP"),)),
        _world("migrate", (Op("MIGRATE"),)),
        _world("absent", (Op("UNMAP", 1, 2),), requests=(Request("READ", 0, 2),), pages=2, frames=3, touched=()),
        _world("wide", (Op("UNMAP", 1, 2),), requests=(Request("WRITE", 0, 2),), pages=2, frames=3, touched=(), chunk=2),
        _world("second-page", (Op("UNMAP", 0, 2),), requests=(Request("READ", 1, 2, 0, 1),), pages=2, touched=(0, 1)),
        _world("overlap", (Op("UNMAP"),), (Op("RECLAIM"),), requests=(_AGAIN,)),
        _world("readonly", requests=(_READ, _WRITE), frames=1, readonly=(0,)),
        _world("readonly-absent", requests=(_READ, _WRITE), frames=1, readonly=(0,), touched=()),
        _world("region", requests=(Request("READ", 0, 2),), pages=2, region=(0, 1)),
        _world("prefetch", (Op("UNMAP"),), requests=(Request("PREFETCH"),)),
        _world("prefetch-joined", requests=(Request("PREFETCH"), _READ), touched=()),
        _world("reaper", (Op("OOM"),)),
        _world("unsleepable", (Op("UNMAP"),), requests=(_AGAIN,), mode="unsleepable"),
        _world("discard-three-times", (Op("DISCARD"), Op("DISCARD"), Op("DISCARD"))),
        _world("unrelated", (Op("DISCARD", 1),), requests=(_READ,), pages=2, touched=(0, 1), loops=(0,)),
        _world("protect", (Op("PROTECT"),), frames=1, policy=_BY_CAUSE),
        _world("reclaim-refused", (Op("RECLAIM"), Op("READ")), policy=_BY_CAUSE),
        _world("reclaim-refused-at-last", (Op("RECLAIM"),), policy=_BY_CAUSE),
        _world("reclaim-twice", *[2 * (Op("RECLAIM"), Op("READ"))], requests=(Request("WRITE", 0, 1, 0, 1),), slots=2),
        _world(
            "reclaim-twice-uncached", *[2 * (Op("RECLAIM"), Op("READ"))], requests=(Request("WRITE", 0, 1, 0, 1),), slots=2,
            tlb=False,
        ),
        _world("reclaim-deferred", (Op("RECLAIM"), Op("READ")), policy=_deferring(Cause.RECLAIM)),
        _world("unmap-deferred-twice", (Op("UNMAP"),), requests=(_AGAIN,), policy=_deferring(Cause.UNMAP)),
        _world(
            "soft-dirty-twice", (Op("SOFT_DIRTY"), Op("SOFT_DIRTY")), requests=(_AGAIN,), policy=_deferring(Cause.SOFT_DIRTY)
        ),
        _world(
            "remap-deferred", (Op("REMAP", 0, 1, 1), Op("RECLAIM", 1)), pages=2, slots=2, deferrals=2, policy=_deferring(Cause.REMAP)
        ),
        _world("discard-deferred", (Op("DISCARD"), Op("WRITE")), policy=_deferring(Cause.DISCARD)),
        _world(
            "discard-bounded", (Op("DISCARD", 0), Op("DISCARD", 1)), requests=(Request("READ", 0, 2),), pages=2,
            frames=3, touched=(0, 1), deferrals=2, policy=_deferring(Cause.DISCARD, 1),
        ),
        _world(
            "discard-two-pages", (Op("DISCARD", 0), Op("DISCARD", 1)), requests=(Request("WRITE", 0, 2),), pages=2,
            frames=4, touched=(0, 1), chunk=2, policy=_deferring(Cause.DISCARD, 4),
        ),
        _world("two-devices", (Op("RECLAIM"),), requests=(_WRITE, Request("WRITE", 0, 1, 1)), devices=2, policy=_BY_CAUSE),
    )
}  # fmt: skip


def world_of(mutant: Mutant) -> World:
    """Where a mutant is looked for."""
    return WORLDS[mutant.world]
