"""How operations begin: mmap_lock, the page lock, frames in hand. The CPU's own accesses are here, for most need no more.

Each phase answers 0 (not now: somebody holds a lock, or no frame is free; nothing has changed), 1 (done, go on), STAY or GIVE_UP.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import address_owed, block_at, line_at, thread_at
from unpinned.model.changes import GIVE_UP, STAY, new_mapping
from unpinned.model.layout import Block
from unpinned.model.machine import (
    BLOCKED,
    COPY,
    SEGFAULT,
    access,
    fault_page,
    frame_at,
    is_held,
    pte_at,
    reach,
    settle_frame,
    take_frame,
    take_slot,
    vma_at,
)
from unpinned.paging import layout as P
from unpinned.paging.table import change_range, entry


@kernel
def lock_mm(w: Block, t: int, how: int) -> int:
    """Take mmap_lock (LOCK_READ or LOCK_WRITE); 1, or 0: somebody has it."""
    x = w[M.W_STATE] + M.X_LOCK
    if w[x] < 0 or (how == M.LOCK_WRITE and w[x] > 0):
        return 0
    w[x] = -1 - t if how == M.LOCK_WRITE else w[x] + 1
    w[thread_at(w, t) + M.T_LOCKS] |= how
    return 1


@kernel
def unlock_all(w: Block, t: int) -> int:
    """Let go of mmap_lock, the page lock, and the frames in hand."""
    a = thread_at(w, t)
    locks = w[a + M.T_LOCKS]
    x = w[M.W_STATE] + M.X_LOCK
    if locks & M.LOCK_WRITE:
        w[x] = 0
    if locks & M.LOCK_READ:
        w[x] -= 1
    w[a + M.T_LOCKS] = 0
    w[a + M.T_FRAME] = 0
    w[a + M.T_NEW] = 0
    for frame in range(1, w[M.W_FRAMES] + 1):
        f = frame_at(w, frame)
        if w[f + M.F_HAND] >> t & 1:
            w[f + M.F_HAND] &= ~(1 << t)
            if locks & M.LOCK_PAGE:
                w[f + M.F_FLAGS] &= ~M.FRAME_LOCKED
            settle_frame(w, frame)
    return 0


@kernel
def isolate(w: Block, t: int, page: int) -> int:
    """Lock the page's frame and take it in hand: a private page that nobody else has; -> the frame, or 0.

    Nor one that an obligation holds: a reference more than expected keeps reclaim, migration and merging away, as it does for
    a pinned page (mm/vmscan.c, folio_maybe_dma_pinned; mm/migrate.c, expected references; mm/ksm.c). The device may still write there.
    """
    e = w[pte_at(w, 0, page)]
    if e & M.PTE_PRESENT == 0:
        return 0
    f = frame_at(w, e >> M.PTE_SHIFT)
    if w[f + M.F_FLAGS] & (M.FRAME_LOCKED | M.FRAME_MERGED) or w[f + M.F_HAND] or w[f + M.F_MAPS] > 1:
        return 0
    if is_held(w, e >> M.PTE_SHIFT):
        return 0
    w[f + M.F_FLAGS] |= M.FRAME_LOCKED
    w[f + M.F_HAND] = 1 << t
    w[thread_at(w, t) + M.T_LOCKS] |= M.LOCK_PAGE
    return e >> M.PTE_SHIFT


@kernel
def accessed(w: Block, page: int) -> int:
    """Test and clear the accessed marks of the CPU and of every device."""
    e = pte_at(w, 0, page)
    young = w[e] & M.PTE_ACCESSED
    w[e] &= ~M.PTE_ACCESSED
    for d in range(w[M.W_DEVICES]):
        p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
        young |= entry(p, page << p[P.PAGE_SHIFT]) & P.ACCESSED
        change_range(p, page << p[P.PAGE_SHIFT], (page + 1) << p[P.PAGE_SHIFT], ~P.ACCESSED, 0)
    return 1 if young else 0


@kernel
def begin_copy(w: Block, t: int, process: int, page: int) -> int:
    """do_wp_page, first part: a new frame with the old one's content; 1, or 0: none free, or mmap_lock is taken."""
    a = thread_at(w, t)
    if process == 0 and w[w[M.W_STATE] + M.X_LOCK] < 0:
        return 0
    new = take_frame(w, 1 << t)
    if new == 0:
        return 0
    if process == 0:
        lock_mm(w, t, M.LOCK_READ)
    old = w[pte_at(w, process, page)] >> M.PTE_SHIFT
    w[frame_at(w, new) + M.F_CONTENT] = w[frame_at(w, old) + M.F_CONTENT]
    w[frame_at(w, old) + M.F_HAND] |= 1 << t  # nobody may reuse or merge it meanwhile
    w[a + M.T_FRAME] = old
    w[a + M.T_NEW] = new
    w[a + M.T_PAGE] = page
    return 1


@kernel
def cpu_phase(w: Block, t: int, op: int) -> int:
    """READ and WRITE: the page in hand, faulted in if need be; 1: it must be copied first; GIVE_UP: the last page is done."""
    a = thread_at(w, t)
    o = line_at(w, t)
    process = w[o + M.O_PROCESS]
    page = max(w[a + M.T_PAGE], w[o + M.O_START])
    write = 1 if op == M.OP_WRITE else 0
    e = w[pte_at(w, process, page)]
    if e & M.PTE_PRESENT == 0 or (write and e & M.PTE_WRITE == 0):  # a fault, which needs the lock
        if process == 0 and (w[w[M.W_STATE] + M.X_LOCK] < 0 or address_owed(w, page, page + 1)):
            return 0
    there = fault_page(w, process, page, write)
    if there == BLOCKED:
        return 0
    if there == COPY:
        if begin_copy(w, t, process, page):
            return 1
        return STAY if w[pte_at(w, process, page)] != e else 0  # it was brought in, at least
    if there == SEGFAULT:
        reach(w, M.REACHED_SEGFAULT)
        return GIVE_UP
    access(w, process, page, write, w[o + M.O_ARG])
    w[a + M.T_PAGE] = page + 1
    return STAY if page + 1 < w[o + M.O_END] else GIVE_UP


@kernel
def lock_phase(w: Block, t: int, op: int) -> int:
    """Take what the operation needs before it announces anything."""
    a = thread_at(w, t)
    o = line_at(w, t)
    start = w[o + M.O_START]
    end = w[o + M.O_END]
    if op == M.OP_READ or op == M.OP_WRITE:
        return cpu_phase(w, t, op)
    if w[o + M.O_PROCESS] or op == M.OP_EXIT:
        return lock_mm(w, t, M.LOCK_WRITE) if w[o + M.O_PROCESS] == 0 else 1
    if op == M.OP_RECLAIM or op == M.OP_MIGRATE:
        e = w[pte_at(w, 0, start)]
        if op == M.OP_RECLAIM and w[o + M.O_ARG] and e & M.PTE_PRESENT and accessed(w, start):
            reach(w, M.REACHED_SPARED)
            return GIVE_UP
        frame = isolate(w, t, start)
        if frame == 0:
            return GIVE_UP
        w[a + M.T_FRAME] = frame
        if op == M.OP_MIGRATE:
            w[a + M.T_NEW] = take_frame(w, 1 << t)
            return 1 if w[a + M.T_NEW] else GIVE_UP
        return 1 if w[frame_at(w, frame) + M.F_SLOT] or take_slot(w) else GIVE_UP
    if op == M.OP_MAP:
        if w[w[M.W_STATE] + M.X_LOCK] or address_owed(w, start, end):
            return 0
        for page in range(start, end):
            if w[vma_at(w, 0, page) + M.V_FLAGS]:
                return GIVE_UP  # EEXIST
        new_mapping(w, start, end, w[o + M.O_ARG])
        return GIVE_UP
    if op == M.OP_REMAP:
        if address_owed(w, w[o + M.O_ARG], w[o + M.O_ARG] + end - start):
            return 0
        for page in range(w[o + M.O_ARG], w[o + M.O_ARG] + end - start):
            if w[vma_at(w, 0, page) + M.V_FLAGS]:
                return GIVE_UP  # EEXIST
    if op == M.OP_FORK and (w[M.W_PROCESSES] < 2 or w[w[M.W_STATE] + M.X_ALIVE] & 2):
        return GIVE_UP
    reads = op == M.OP_DISCARD or op == M.OP_OOM or op == M.OP_MERGE or op == M.OP_SPLIT
    if not lock_mm(w, t, M.LOCK_READ if reads else M.LOCK_WRITE):
        return 0
    if op == M.OP_MERGE:
        w[a + M.T_NEW] = isolate(w, t, w[o + M.O_ARG])  # the frame that stays
        w[a + M.T_FRAME] = isolate(w, t, start)
        return 1 if w[a + M.T_NEW] and w[a + M.T_FRAME] else GIVE_UP
    if op == M.OP_COLLAPSE:
        for page in range(start, end):
            if isolate(w, t, page) == 0:
                return GIVE_UP
    return 1
