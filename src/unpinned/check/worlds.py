"""The small worlds: for each cause, what threads do and what the wire asks for, as data.

Two or three pages, two or three frames, one or two devices, a few operations: small enough to be exhausted, and enough
for every collision that the protocol is about. A *scene* is what happens; a cell of the matrix (cause, verdict, mode)
explores all scenes of its cause under its verdict and mode. The first scenes of a cause are the smallest: `quick` stops
after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from unpinned.check.matrix import NOT_SHARED, Cell
from unpinned.model.world import Op, Request, World
from unpinned.paging.causes import Cause
from unpinned.paging.policy import Policy

Thread = tuple[Op, ...]

QUICK_SCENES: Final = 3
PAGES_MOST: Final = 3


@dataclass(frozen=True)
class Scene:
    """Who does what. `more`: further fields of the World."""

    name: str
    threads: tuple[Thread, ...]
    requests: tuple[Request, ...]
    more: Mapping[str, Any] = field(default_factory=dict)


def _op(name: str, start: int = 0, end: int = 1, arg: int = 0, process: int = 0) -> Op:
    return Op(name, start, end, arg, process)


def _write(start: int = 0, end: int = 1, device: int = 0) -> Request:
    return Request("WRITE", start, end, device=device)


def _read(start: int = 0, end: int = 1, device: int = 0) -> Request:
    return Request("READ", start, end, device=device)


def _scenes(op: Op, wide: Thread, *after: Op, **more: Any) -> tuple[Scene, ...]:
    """What every cause is tried with: `op` on page 0, `wide` on pages 0 and 1; `after` follows `op` in its thread."""
    one = {"touched": (0,), **more}
    two = {"frames": 3, **more, "pages": max(2, more.get("pages", 2)), "touched": (0, 1)}
    return (
        Scene("write", ((op, *after),), (_write(),), one),
        Scene("read", ((op, *after),), (_read(), _read()), one),
        Scene("reuse", ((op,), (_op("WRITE", 1, 2),)), (_write(),), {"frames": 2, **two, "touched": one["touched"]}),
        Scene("wide", (wide,), (_write(0, 2),), two),
        Scene("two-devices", ((op, *after),), (_write(), _read(0, 1, 1)), {**one, "devices": 2}),
        Scene("overlap", (wide, (_op("RECLAIM", 1, 2),)), (_write(1, 2),), two),
    )


def _one_by_one(name: str) -> Scene:
    """Two pages, one after the other, under a request over both: a batch, if it is deferred."""
    threads = ((_op(name), _op(name, 1, 2)),)
    return Scene("one-by-one", threads, (_write(0, 2),), {"pages": 2, "frames": 4, "touched": (0, 1), "chunk": 2})


def _again(op: Op, **more: Any) -> Scene:
    """Twice: what gives up when it is refused comes again, and finds the device flushed."""
    return Scene("again", ((op, op),), (_read(), _write()), {"touched": (0,), **more})


def _of_a_file(*script: Op) -> Scene:
    """A page of the page cache."""
    return Scene("file", (script,), (_write(), _read()), {"touched": (0,), "file": True})


_WRITE: Final = _op("WRITE")

SCENES: Final[dict[Cause, tuple[Scene, ...]]] = {
    Cause.UNMAP: (
        *_scenes(_op("UNMAP"), (_op("UNMAP", 0, 2),), _op("MAP"), _WRITE),
        Scene("replace", ((_op("REPLACE"), _WRITE),), (_write(),), {"touched": (0,)}),
        _one_by_one("UNMAP"),
        Scene("mapped-again", ((_op("UNMAP"),), (_op("MAP"),)), (_write(),), {"touched": (0,)}),
        _of_a_file(_op("UNMAP")),
    ),
    Cause.REMAP: (
        *_scenes(_op("REMAP", 0, 1, 2), (_op("REMAP", 0, 2, 2),), _op("WRITE", 2, 3), pages=4),
        # At its new address the page is anybody's; the device may still have the old one.
        *(
            Scene(f"moved-{op.name.lower()}", ((_op("REMAP", 0, 1, 1), op),), (_write(),), {"pages": 3, "frames": 3, "touched": (0, 2)})
            for op in (_op("RECLAIM", 1, 2), _op("MIGRATE", 1, 2), _op("MERGE", 1, 2, 2), _op("DISCARD", 1, 2))
        ),
    ),
    Cause.DISCARD: (
        *_scenes(_op("DISCARD"), (_op("DISCARD", 0, 2),), _WRITE),
        _one_by_one("DISCARD"),
        _of_a_file(_op("DISCARD"), _op("READ")),
        # The same for ever on another page: it must starve nobody.
        Scene("unrelated", ((_op("DISCARD", 1, 2),),), (_read(), _write()), {"pages": 2, "touched": (0, 1), "loops": (0,)}),
    ),
    Cause.RECLAIM: (
        *_scenes(_op("RECLAIM"), (_op("RECLAIM"), _op("RECLAIM", 1, 2)), _op("READ")),
        _one_by_one("RECLAIM"),
        _of_a_file(_op("RECLAIM"), _op("READ")),
        # Aging: a page that the device has used is spared once.
        Scene("aged", (2 * (_op("RECLAIM", 0, 1, 1),),), (_read(), _write()), {"touched": (0,)}),
    ),
    Cause.MIGRATE: (
        *_scenes(_op("MIGRATE"), (_op("COLLAPSE", 0, 2),), _op("READ"), frames=4),
        _again(_op("MIGRATE"), frames=4),
        Scene("split", ((_op("SPLIT", 0, 2), _WRITE),), (_write(0, 2),), {"pages": 2, "touched": (0, 1)}),
    ),
    Cause.COW: _scenes(_op("FORK"), (_op("FORK"), _op("WRITE", 0, 2)), _WRITE, frames=4),
    Cause.PROTECT: _scenes(_op("PROTECT"), (_op("PROTECT", 0, 2),), _op("PROTECT", 0, 1, 1), _WRITE),
    Cause.SOFT_DIRTY: (*_scenes(_op("SOFT_DIRTY"), (_op("SOFT_DIRTY", 0, 2),), _WRITE), _again(_op("SOFT_DIRTY"))),
    Cause.MERGE: (
        *_scenes(_op("MERGE", 0, 1, 1), (_op("MERGE", 0, 1, 1),), _WRITE, pages=2, touched=(0, 1)),
        _again(_op("MERGE", 0, 1, 1), pages=2, frames=3, touched=(0, 1)),
    ),
    Cause.RELEASE: (
        *_scenes(_op("EXIT"), (_op("EXIT"),)),
        # The OOM reaper: another process is to die, and this one's page goes. It may never sleep.
        Scene("reaper", ((_op("OOM"), _op("OOM")),), (_read(), _write()), {"touched": (0,)}),
    ),
}
"""Reclaim and migration take one page at a time, as the kernel's do; huge-page collapse is the migration of a range, a
split one that moves nothing."""

SOMETIMES: Final = (
    *(f"cause {cause.name}" for cause in Cause),
    "verdict DONE", "verdict WAIT", "verdict DEFERRED", "verdict REFUSED", "park", "minor fault", "major fault", "retry",
    "waiting", "exhausted", "fault failed", "joined", "flush", "flush waits", "held", "discharged", "cached translation",
    "stale use", "acknowledged", "refused request", "swap out", "swap in", "write-back", "copied on write", "abandoned",
)  # fmt: skip


def worlds_of(cell: Cell, quick: bool = False) -> list[World]:
    """The worlds of a cell. In mode blind nobody hears of the cause: the verdict is then that of UNKNOWN."""
    causes: Sequence[Cause] = list(SCENES) if cell.cause is Cause.UNKNOWN else [cell.cause]
    row = cell.row
    policy = Policy(f"{cell.cause.name} {row}", {cell.cause: row, Cause.UNKNOWN: row})
    found = []
    for cause in causes:
        if cell.device == "alias" and cause in NOT_SHARED:
            continue
        scenes = SCENES[cause][:2] if len(causes) > 1 else SCENES[cause]  # of each cause a write and a read
        for scene in scenes[: QUICK_SCENES if quick else None]:
            found.append(_world(f"{cell.name}/{cause.name.lower()}-{scene.name}", scene, policy, cell))
    return found


def _world(name: str, scene: Scene, policy: Policy, cell: Cell) -> World:
    """The scene's world. A call that fails leaves its range mapped, so nothing new is mapped there in mode spurious."""
    kind = {} if cell.device == "hca" else {"device": cell.device, "tlb": False, "file": cell.device == "alias"}
    fields: dict[str, Any] = {"pages": 1, "frames": 2, "slots": 2, **scene.more, **kind}
    threads = scene.threads
    if cell.mode == "spurious":
        threads = tuple(tuple(op for op in thread if op.name != "MAP") for thread in threads)
    return World(
        name=name, threads=threads, requests=scene.requests, policy=policy, mode=cell.mode, keep=cell.keeps, **fields
    )  # fmt: skip
