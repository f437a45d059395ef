"""Each operation takes its steps, and raises its notifications, in the order of the real kernel."""

from __future__ import annotations

from typing import Any

import pytest

from unpinned.model import layout as M
from unpinned.model.search import Limits, Search
from unpinned.model.world import Op, Request, World

NAMES = {M.PHASE_START: "start", M.PHASE_CHANGE: "change", M.PHASE_FINISH: "end", M.PHASE_AFTER: "after"}
EXACT = ["start", "change", "end", "after"]


def alone(op: Op, **fields: Any) -> tuple[list[str], Any]:
    """What one operation does when nobody else does anything: its phases in order, and the world afterwards."""
    fields = {"pages": 2, "frames": 4, "touched": (0, 1), "threads": ((op,),)} | fields
    search = Search(World(**fields), Limits(states=16), reduce=False, liveness=False)
    w, phases = search.start, []
    for _ in range(60):
        thread = int(w[M.W_THREAD])
        after = search.step(w, 0)
        if after is None:
            break
        assert after[M.W_BROKEN] == 0
        if w[thread + M.T_OP] and w[thread + M.T_PHASE] != M.PHASE_WAIT:
            phases.append(NAMES[int(w[thread + M.T_PHASE])])
        w = after
    assert w[int(w[M.W_THREAD]) + M.T_LINE] == 1, "the operation does not end"
    return phases, w


def frames_used(w: Any) -> int:
    words = int(w[M.W_FRAME_WORDS])
    return sum(bool(w[w[M.W_FRAME] + f * words]) for f in range(1, int(w[M.W_FRAMES]) + 1))


def entry(w: Any, page: int, process: int = 0) -> int:
    return int(w[w[M.W_PTE] + process * w[M.W_PAGES] + page])


CASES = [
    (Op("UNMAP", 0, 2), EXACT, 0),
    (Op("DISCARD", 0, 2), EXACT, 0),
    (Op("OOM", 0, 2), EXACT, 0),
    (Op("EXIT"), EXACT, 0),
    (Op("REPLACE", 0, 2), ["start", "change", "change", "end", "after"], 0),
    (Op("PROTECT", 0, 2), EXACT, 2),
    (Op("FORK"), EXACT, 2),
    (Op("SOFT_DIRTY", 0, 2), EXACT, 2),
    (Op("SPLIT", 0, 2), EXACT, 2),
    (Op("RECLAIM", 0), ["start", "change", "end", "after", "after"], 1),  # written back, then dropped
    (Op("MIGRATE", 0), ["start", "change", "end", "after", "after"], 2),  # copied, then mapped
    (Op("COLLAPSE", 0, 2), ["start", "change", "end", "after", "after"], 2),  # nothing is copied before the end
    (Op("MERGE", 0, arg=1), 3 * EXACT, 1),  # both write-protected, compared, one replaced
]


@pytest.mark.parametrize("op, order, used", CASES, ids=lambda value: str(value) if isinstance(value, Op) else "")
def test_the_order_of_the_real_kernel(op: Op, order: list[str], used: int) -> None:
    phases, w = alone(op)
    assert phases == order
    assert frames_used(w) == used


@pytest.mark.parametrize(
    "mode, order",
    [
        ("late", ["change", "after", "start", "end"]),
        ("early", ["start", "end", "change", "after"]),
        ("spurious", ["start", "end"]),
        ("silent", ["change", "after"]),
        ("blind", EXACT),
        ("unsleepable", EXACT),
    ],
)
def test_the_same_operation_told_at_another_moment(mode: str, order: list[str]) -> None:
    phases, w = alone(Op("UNMAP", 0, 2), mode=mode)
    assert phases == order
    assert frames_used(w) == (2 if mode == "spurious" else 0)


def test_copy_on_write_notifies_around_the_replacement() -> None:
    search = Search(
        World(pages=1, frames=3, threads=((Op("FORK"), Op("WRITE")),)), Limits(states=16), reduce=False, liveness=False
    )
    w, phases = search.start, []
    while (after := search.step(w, 0)) is not None:
        thread = int(w[M.W_THREAD])
        if w[thread + M.T_LINE] == 1 and w[thread + M.T_OP] and w[thread + M.T_PHASE] != M.PHASE_WAIT:
            phases.append(NAMES[int(w[thread + M.T_PHASE])])
        w = after
    assert phases == EXACT
    assert entry(w, 0) & M.PTE_WRITE and not entry(w, 0, 1) & M.PTE_WRITE
    assert entry(w, 0) >> M.PTE_SHIFT != entry(w, 0, 1) >> M.PTE_SHIFT


def test_a_page_that_was_accessed_is_spared_once() -> None:
    search = Search(
        World(pages=1, frames=2, threads=((Op("READ"), Op("RECLAIM", arg=1), Op("RECLAIM", arg=1)),)),
        Limits(states=16), reduce=False, liveness=False,
    )  # fmt: skip
    w, spared = search.start, []
    while (after := search.step(w, 0)) is not None:
        w = after
        if w[M.W_REACHED] & M.REACHED_SPARED:
            spared.append(entry(w, 0) & M.PTE_PRESENT)
    assert spared == [M.PTE_PRESENT]
    assert entry(w, 0) & M.PTE_SWAP and frames_used(w) == 0


def test_a_page_that_only_a_device_has_accessed_is_spared_too() -> None:
    search = Search(
        World(pages=1, frames=2, threads=(2 * (Op("RECLAIM", arg=1),),), requests=(Request("READ"),)),
        Limits(states=16), reduce=False, liveness=False,
    )  # fmt: skip
    thread, request, driver = 0, 2, 3
    w = search.start
    for actor in (request, driver, driver, request, request, request, request):
        w = search.step(w, actor)
    assert w[M.W_REACHED] & M.REACHED_ACK and not entry(w, 0) & M.PTE_ACCESSED
    w = search.step(w, thread)
    assert w[M.W_REACHED] & M.REACHED_SPARED and entry(w, 0) & M.PTE_PRESENT
    w = search.step(w, thread)
    assert not w[M.W_REACHED] & M.REACHED_SPARED, "once"


def test_what_comes_back_from_the_swap_is_what_was_written() -> None:
    phases, w = alone(Op("RECLAIM"), pages=1, touched=(0,))
    slot = entry(w, 0) >> M.PTE_SHIFT
    assert w[w[M.W_SLOT] + slot * M.SLOT_WORDS + M.S_CONTENT] == 30
    assert entry(w, 0) == slot << M.PTE_SHIFT | M.PTE_SWAP
