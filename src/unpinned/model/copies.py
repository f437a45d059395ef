"""What a device's copy touches, and whether it may: the invariants I1, I2 and I3 at each copy of a page."""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import block_at, deferral_over, thread_at
from unpinned.model.layout import Block
from unpinned.model.machine import (
    BLOCKED,
    COPY,
    PROPERTY_I1,
    PROPERTY_I2,
    PROPERTY_I3,
    SEGFAULT,
    broken,
    cached_frame,
    fault_page,
    frame_at,
    map_frame,
    pte_at,
    reach,
    set_truth,
    settle_frame,
    slot_at,
    take_frame,
    unmap_frame,
    vma_at,
)
from unpinned.paging import layout as P


@kernel
def told_done(w: Block, p: Block, d: int, page: int, write: int) -> int:
    """1 when the device has said that it is out of the page (for writes, at least) and the change is not finished (I3)."""
    va = page << p[P.PAGE_SHIFT]
    for t in range(w[M.W_THREADS]):
        a = thread_at(w, t)
        ticket = w[a + M.T_TICKET + d]
        if ticket and (w[a + M.T_PHASE] == M.PHASE_CHANGE or w[a + M.T_PHASE] == M.PHASE_FINISH):
            at = p[P.ACTIVE] + (ticket - 1) * P.ACTIVE_WORDS
            if p[at + P.ACTIVE_START] <= va < p[at + P.ACTIVE_END]:
                verdict = p[at + P.ACTIVE_VERDICT]
                if verdict == P.NOW or (verdict == P.DOWNGRADE and write):
                    return 1
    return 0


@kernel
def being_logged(w: Block, page: int) -> int:
    """1 while a thread clears the soft-dirty marks of the page and has not returned: late writes still get into its log."""
    for t in range(w[M.W_CPUS]):
        a = thread_at(w, t)
        if w[a + M.T_OP] == M.OP_SOFT_DIRTY:
            o = w[M.W_SCRIPT] + (t * w[M.W_LINES] + w[a + M.T_LINE]) * M.LINE_WORDS
            if w[o + M.O_START] <= page < w[o + M.O_END]:
                return 1
    return 0


@kernel
def judge(w: Block, d: int, page: int, frame: int, write: int) -> int:
    """May the device touch this frame for this page now? -> 0, or the property that it breaks (I1, I2, I3)."""
    f = frame_at(w, frame)
    e = w[pte_at(w, 0, page)]
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    if w[f + M.F_FLAGS] == 0:
        return PROPERTY_I1
    if e & M.PTE_PRESENT and e >> M.PTE_SHIFT == frame:
        if (
            write
            and e & M.PTE_WRITE == 0
            and not (deferral_over(w, d, page) & 1 << P.CAUSE_SOFT_DIRTY and being_logged(w, page))
        ):
            return PROPERTY_I2
        return PROPERTY_I3 if told_done(w, p, d, page, write) else 0
    # The page has left this frame. Legal only as long as a flush of it is owed, and the frame is still what it was.
    reach(w, M.REACHED_STALE)
    if not deferral_over(w, d, page) or e & M.PTE_PRESENT:
        return PROPERTY_I3
    if w[w[M.W_STATE] + M.X_ALIVE] & 2 and not w[slot_at(w, w[f + M.F_SLOT]) + M.S_FILE]:  # a file's page is shared for writing
        for other in range(w[M.W_PAGES]):
            mine = w[pte_at(w, 1, other)]
            if mine & M.PTE_PRESENT and mine >> M.PTE_SHIFT == frame and (write or not w[f + M.F_HOLD + d]):
                return PROPERTY_I2 if write else PROPERTY_I3  # held, it is not written to: a reader sees what it was
    slot = e >> M.PTE_SHIFT if e & M.PTE_SWAP else w[vma_at(w, 0, page) + M.V_SLOT]
    if w[f + M.F_HOLD + d] or w[f + M.F_HAND] or (slot and w[f + M.F_SLOT] == slot):
        return 0
    return PROPERTY_I1  # it is somebody else's page by now


@kernel
def set_child_truth(w: Block, slot: int, value: int) -> int:
    """A write to a file's block, for a child that may be the only one by now who maps it; 0."""
    if w[M.W_PROCESSES] == 2 and w[slot_at(w, slot) + M.S_FILE]:
        for page in range(w[M.W_PAGES]):
            if w[vma_at(w, 1, page) + M.V_SLOT] == slot:
                set_truth(w, 1, page, value)
    return 0


@kernel
def touch_frame(w: Block, d: int, page: int, frame: int, write: int, value: int) -> int:
    """The copy of one page: judged, then made. A write is what everybody who maps the frame must see from now on."""
    wrong = judge(w, d, page, frame, write)
    if wrong:
        return broken(w, wrong, page)
    if not write:
        return 0
    f = frame_at(w, frame)
    w[f + M.F_CONTENT] = value
    slot = w[f + M.F_SLOT]
    for other in range(w[M.W_PAGES]):
        e = w[pte_at(w, 0, other)]
        number = e >> M.PTE_SHIFT
        if (e & (M.PTE_PRESENT | M.PTE_MIGRATION) and number == frame) or (e & M.PTE_SWAP and slot == number):
            set_truth(w, 0, other, value)
        elif slot and w[vma_at(w, 0, other) + M.V_SLOT] == slot:
            set_truth(w, 0, other, value)
    return set_child_truth(w, slot, value)


@kernel
def copy_at_once(w: Block, page: int) -> int:
    """Copy on write by the process's own memory management unit, which needs no notification; 1, or 0: no frame."""
    new = take_frame(w, 0)
    if new == 0:
        return 0
    old = unmap_frame(w, 0, page)
    w[frame_at(w, new) + M.F_CONTENT] = w[frame_at(w, old) + M.F_CONTENT]
    map_frame(w, 0, page, new, M.PTE_WRITE | M.PTE_DIRTY | M.PTE_SOFT_DIRTY | M.PTE_ACCESSED)
    settle_frame(w, old)
    return 1


@kernel
def touch_address(w: Block, page: int, meant: int, write: int, value: int) -> int:
    """The same through the process's own mapping: -> 1, 0 (not now), or SEGFAULT. A mapping that is not the one meant: a stray."""
    if w[w[M.W_STATE] + M.X_LOCK] < 0:
        return 0
    there = fault_page(w, 0, page, write)
    if there == SEGFAULT or there == BLOCKED:
        return there
    if there == COPY and not copy_at_once(w, page):
        return 0
    if w[vma_at(w, 0, page) + M.V_FLAGS] >> M.VMA_SHIFT != meant:
        reach(w, M.REACHED_STRAY)
        broken(w, PROPERTY_I3, page)
    if write:
        w[frame_at(w, w[pte_at(w, 0, page)] >> M.PTE_SHIFT) + M.F_CONTENT] = value
        set_truth(w, 0, page, value)
    return 1


@kernel
def touch_object(w: Block, slot: int, write: int, value: int) -> int:
    """The same through another mapping of the file: the object, wherever the application maps it; 1, or 0: not now."""
    frame = cached_frame(w, slot)
    if frame and write:
        f = frame_at(w, frame)
        w[f + M.F_CONTENT] = value
        w[f + M.F_FLAGS] |= M.FRAME_DIRTY
        for page in range(w[M.W_PAGES]):
            if w[vma_at(w, 0, page) + M.V_SLOT] == slot:
                set_truth(w, 0, page, value)
        set_child_truth(w, slot, value)
    return 1 if frame else 0
