"""Frames, slots and faults of the modelled kernel, one call at a time; with the lowest free one and with free lists."""

from __future__ import annotations

from typing import Any

import pytest

from unpinned.model import layout as M
from unpinned.model.audit import audit
from unpinned.model.machine import (
    BLOCKED,
    COPY,
    SEGFAULT,
    THERE,
    access,
    content,
    drop_cache,
    fault_page,
    map_frame,
    map_pages,
    settle_frame,
    take_frame,
    take_slot,
    unmap_frame,
    write_back,
)

PAGES, FRAMES, SLOTS = 4, 3, 5


@pytest.fixture(params=[False, True], ids=["lowest", "lists"])
def w(request: pytest.FixtureRequest) -> Any:
    made = M.create(pages=PAGES, frames=FRAMES, slots=SLOTS, processes=2, lists=request.param)
    map_pages(made, 0, 0, 3, M.VMA_MAPPED | M.VMA_WRITE)
    return made


def frame_of(w: Any, page: int, process: int = 0) -> int:
    return int(w[w[M.W_PTE] + process * PAGES + page]) >> M.PTE_SHIFT


def test_every_frame_is_given_out_once_and_comes_back(w: Any) -> None:
    taken = [int(take_frame(w, 1)) for _ in range(FRAMES)]
    assert sorted(taken) == [1, 2, 3] and take_frame(w, 1) == 0
    for frame in taken:
        assert settle_frame(w, frame) == 0, "somebody has it in hand"
        w[w[M.W_FRAME] + frame * w[M.W_FRAME_WORDS] + M.F_HAND] = 0
        assert settle_frame(w, frame) == 1
    assert audit(w) == []
    assert sorted(int(take_frame(w, 1)) for _ in range(FRAMES)) == [1, 2, 3]


def test_faults_bring_pages_in_until_no_frame_is_left(w: Any) -> None:
    assert [fault_page(w, 0, page, 1) for page in range(3)] == [THERE] * 3
    assert fault_page(w, 0, 3, 0) == SEGFAULT, "nothing is mapped there"
    map_pages(w, 0, 3, 4, M.VMA_MAPPED)
    assert fault_page(w, 0, 3, 1) == SEGFAULT, "it may not be written"
    before = w.copy()
    assert fault_page(w, 0, 3, 0) == BLOCKED and (before == w).all()
    assert audit(w) == []


def test_a_shared_frame_is_copied_and_a_private_one_reused(w: Any) -> None:
    assert fault_page(w, 0, 0, 1) == THERE
    frame = frame_of(w, 0)
    w[w[M.W_PTE]] &= ~M.PTE_WRITE
    map_pages(w, 1, 0, 1, M.VMA_MAPPED | M.VMA_WRITE)
    w[w[M.W_STATE] + M.X_ALIVE] |= 2
    map_frame(w, 1, 0, frame, 0)
    assert fault_page(w, 0, 0, 1) == COPY
    assert unmap_frame(w, 1, 0) == frame
    assert fault_page(w, 0, 0, 1) == THERE and frame_of(w, 0) == frame
    w[w[M.W_PTE]] &= ~M.PTE_WRITE
    w[w[M.W_FRAME] + frame * w[M.W_FRAME_WORDS] + M.F_HAND] = 4
    assert fault_page(w, 0, 0, 1) == COPY, "somebody holds a reference to it"


def test_out_to_the_swap_and_back(w: Any) -> None:
    fault_page(w, 0, 1, 1)
    access(w, 0, 1, 1, 42)
    frame, slot = frame_of(w, 1), int(take_slot(w))
    f, s = int(w[M.W_FRAME] + frame * w[M.W_FRAME_WORDS]), int(w[M.W_SLOT]) + slot * M.SLOT_WORDS
    w[f + M.F_SLOT], w[s + M.S_FRAME], w[s + M.S_REFS] = slot, frame, 1
    assert unmap_frame(w, 0, 1) == frame and w[f + M.F_FLAGS] & M.FRAME_DIRTY, "the dirty mark goes to the frame"
    w[w[M.W_PTE] + 1] = slot << M.PTE_SHIFT | M.PTE_SWAP
    assert content(w, 0, 1) == 42, "in the swap cache"
    write_back(w, frame)
    assert drop_cache(w, frame) == slot and settle_frame(w, frame) == 1
    assert content(w, 0, 1) == 42 and audit(w) == [], "in the swap"
    assert fault_page(w, 0, 1, 0) == THERE
    assert content(w, 0, 1) == 42 and not w[w[M.W_PTE] + 1] & M.PTE_WRITE and audit(w) == []
    assert fault_page(w, 0, 1, 1) == THERE and w[w[M.W_PTE] + 1] & M.PTE_WRITE


def test_a_read_that_finds_something_else_breaks_i4(w: Any) -> None:
    fault_page(w, 0, 0, 1)
    access(w, 0, 0, 1, 7)
    access(w, 0, 0, 0, 0)
    assert w[M.W_BROKEN] == 0
    w[w[M.W_FRAME] + frame_of(w, 0) * w[M.W_FRAME_WORDS] + M.F_CONTENT] = 8
    access(w, 0, 0, 0, 0)
    assert w[M.W_BROKEN] == 4
