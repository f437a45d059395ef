"""Worlds and blocks that cannot be are refused, with the field and the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unpinned.model import layout as M
from unpinned.model.audit import audit
from unpinned.model.world import Op, Request, World, WorldError, state_words
from unpinned.paging.causes import Cause, Verdict
from unpinned.paging.policy import Policy, PolicyError, Row

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pages": 8}, "pages: 8: must be between 1 and 7"),
    ({"frames": 8}, "frames: 8: must be between 1 and 7"),
    ({"slots": 9}, "slots"),
    ({"devices": 3}, "devices: 3"),
    ({"device": "gpu"}, "device: 'gpu'"),
    ({"device": "vm"}, "tlb: only an HCA"),
    ({"device": "alias", "tlb": False}, "file: an alias needs an object"),
    ({"mode": "rude"}, "mode: 'rude'"),
    ({"touched": (0, 1), "frames": 1}, "touched: more resident pages than frames"),
    ({"touched": (5,)}, "touched: page 5"),
    ({"region": (1, 5)}, "region"),
    ({"faults": 9}, "faults: 9"),
    ({"deferrals": 4}, "deferrals: 4: must be between 0 and 3"),
    ({"retries": 9}, "retries: 9: must be between 0 and 8"),
    ({"chunk": 0}, "chunk: 0: must be between 1 and 7"),
    ({"pages": 2.5}, "pages: 2.5: must be an integer"),
    ({"touched": (0, 0)}, "touched: a page twice"),
    ({"readonly": (5,)}, "readonly: page 5 is not mapped"),
    ({"mapped": (0, 9)}, "mapped: page 9: not inside 2 pages"),
    ({"loops": (1,), "threads": ((Op("READ"),),)}, "loops: 1: there are 1 threads"),
    ({"threads": ((Op("WRITE", arg=300),),)}, "threads: WRITE 0 300: its argument must be at most 255"),
    ({"threads": ((Op("PROTECT", arg=2),),)}, "threads: PROTECT 0 2: its argument must be at most 1"),
    ({"threads": ((Op("EXIT", arg=1),),)}, "threads: EXIT 0 1: its argument must be at most 0"),
    ({"requests": (Request("READ", repeat=-2),)}, "requests: READ 0: repeat -2"),
    ({"threads": ((Op("EXPLODE"),),)}, "threads: 'EXPLODE'"),
    ({"threads": ((Op("UNMAP", 1, 4),),)}, "threads: UNMAP 1-3: not inside 2 pages"),
    ({"threads": ((Op("REMAP", 0, arg=2),),)}, "threads: REMAP 0 2: its target"),
    ({"threads": ((Op("MERGE", 0, arg=2),),)}, "threads: MERGE 0 2: its target"),
    ({"threads": ((Op("RECLAIM", 0, 2),),)}, "threads: RECLAIM 0-1: takes one page"),
    ({"threads": ((Op("READ", 0, process=1),),)}, "threads: READ 0 .child.: nobody forks"),
    ({"requests": (Request("SEND"),)}, "requests: 'SEND'"),
    ({"requests": (Request("READ", 0, 3),)}, "requests: READ 0-2"),
    ({"requests": (Request("READ", device=1),)}, "requests: READ 0 .device 1.: no such device"),
]


@pytest.mark.parametrize("fields, message", WRONG, ids=lambda value: "" if isinstance(value, dict) else value[:30])
def test_what_cannot_be_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        World(**fields)


def test_a_policy_that_no_world_can_honour_is_refused() -> None:
    with pytest.raises(PolicyError, match="RELEASE"):
        World(policy=Policy("never", {Cause.RELEASE: Row(Verdict.REFUSE_IF_BUSY)}))


@pytest.mark.parametrize("field, value", [("pages", 0), ("frames", 0), ("processes", 3), ("span", 9)])
def test_a_block_that_cannot_be_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}: must be between"):
        M.create(**{"pages": 4, "frames": 4, field: value})


@pytest.mark.parametrize("file", [False, True])
def test_the_first_state_is_what_was_asked_for(file: bool) -> None:
    world = World(
        pages=3, frames=3, touched=(0, 2), readonly=(2,), file=file, slots=1, requests=(Request("READ", 1, 3),)
    )
    w = world.build()
    assert audit(w) == []
    entries = w[w[M.W_PTE] : w[M.W_PTE] + 3]
    assert [bool(e & M.PTE_PRESENT) for e in entries] == [True, False, True]
    assert [bool(e & M.PTE_WRITE) for e in entries] == [True, False, False]
    assert w[M.W_SLOTS] == 1 + 3 * file
    assert [int(t) for t in w[w[M.W_TRUTH] : w[M.W_TRUTH] + 3]] == [30, 0, 32]


def test_no_word_has_two_owners() -> None:
    """Every part of the block begins where the one before it ends, and the state words are exactly the state."""
    w = World(
        pages=3, frames=4, devices=2, threads=((Op("FORK"),),), requests=(Request("READ"), Request("WRITE"))
    ).build()
    starts = [
        M.W_SCRIPT, M.W_ORDER, M.W_STATE, M.W_FRAME, M.W_SLOT, M.W_VMA, M.W_PTE, M.W_TRUTH, M.W_THREAD, M.W_REQUEST,
        M.W_DEVICE, M.W_TLB, M.W_BLOCKS, M.W_SCRATCH,
    ]  # fmt: skip
    places = [int(w[word]) for word in starts]
    assert places == sorted(set(places)) and places[0] == M.HEADER_WORDS
    index = state_words(w)
    assert index.min() >= w[M.W_STATE] and index.max() < w[M.W_SCRATCH] and len(index) % 4 == 0
    used, counts = np.unique(index, return_counts=True)
    assert set(used[counts > 1]) <= {w[M.W_FRAME]}


def test_a_large_machine_costs_no_time_to_make() -> None:
    w = M.create(pages=1 << 18, frames=1 << 18, slots=1 << 18, lists=True, span=1)
    frames = w[w[M.W_FRAME] : w[M.W_SLOT]].reshape(-1, int(w[M.W_FRAME_WORDS]))
    assert frames[1, M.F_NEXT] == 2 and frames[-1, M.F_NEXT] == 0 and w[w[M.W_STATE] + M.X_FREE_FRAMES] == 1 << 18
