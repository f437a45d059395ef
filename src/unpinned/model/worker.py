"""A device's fault worker: brings chunks in through the modelled kernel's own fault path.

Four kinds of step, with the lock let go between them as in the live world: take a fault, begin a chunk, bring one page in (which
may have to copy it first, and then raises a notification of its own, against the very fault that it serves), commit.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import address_owed, block_at, device_at, thread_at
from unpinned.model.device import EFAULT, note_status, tag_entries
from unpinned.model.layout import Block
from unpinned.model.locks import begin_copy
from unpinned.model.machine import BLOCKED, COPY, PROPERTY_I8, SEGFAULT, broken, cached_frame, fault_page, pte_at, reach
from unpinned.model.operations import enter, mode_of, next_phase, operation_step
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_chunk, fault_commit, fault_take


@kernel
def populate_page(w: Block, t: int, d: int, page: int, write: int) -> int:
    """Bring one page of the chunk in; 1, or 0: not now."""
    a = device_at(w, d)
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    seen = a + M.D_SEEN + w[M.W_SPAN] + page - (p[w[a + M.D_WORK] + P.FAULT_CURSOR] >> p[P.PAGE_SHIFT])
    if w[M.W_KIND] == M.KIND_ALIAS:  # the object's page, through a mapping of our own
        if cached_frame(w, page + 1) == 0:
            return 0
        w[seen] = page + 1
        w[a + M.D_POPULATED] = page + 1
        return 1
    if w[w[M.W_STATE] + M.X_LOCK] < 0 or address_owed(w, page, page + 1):
        return 0
    before = w[pte_at(w, 0, page)]
    there = fault_page(w, 0, page, write)
    if there == BLOCKED:
        return 0
    if there == COPY:
        if not begin_copy(w, t, 0, page):
            return 1 if w[pte_at(w, 0, page)] != before else 0  # it was brought in, at least
        w[thread_at(w, t) + M.T_OP] = M.OP_POPULATE
        return enter(w, t, M.OP_POPULATE, next_phase(mode_of(w, M.OP_POPULATE, 0), M.PHASE_LOCK))
    if there == SEGFAULT:
        w[a + M.D_ERROR] = EFAULT
        return 1
    w[seen] = w[pte_at(w, 0, page)] >> M.PTE_SHIFT
    w[a + M.D_POPULATED] = page + 1
    return 1


@kernel
def worker_step(w: Block, d: int) -> int:
    """The next step of the worker of device d; 1, or 0: nothing to do, or not now."""
    t = w[M.W_CPUS] + d
    if w[thread_at(w, t) + M.T_OP]:
        return operation_step(w, t, M.OP_POPULATE, 0)
    a = device_at(w, d)
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    shift = p[P.PAGE_SHIFT]
    slot = w[a + M.D_WORK]
    if slot == 0:
        if p[P.RUN_LENGTH] == 0:
            return 0
        w[a + M.D_WORK] = max(0, fault_take(p, P.FAULT_QUEUED))
        return 1
    if p[slot + P.FAULT_CHUNK_END] == 0:
        if fault_chunk(p, slot):
            w[a + M.D_POPULATED] = p[slot + P.FAULT_CURSOR] >> shift
            reach(w, M.REACHED_MAJOR)
        else:
            w[a + M.D_WORK] = 0
        return 1
    start = p[slot + P.FAULT_CURSOR] >> shift
    end = p[slot + P.FAULT_CHUNK_END] >> shift
    if w[a + M.D_POPULATED] < end and w[a + M.D_ERROR] == 0:
        return populate_page(w, t, d, w[a + M.D_POPULATED], p[slot + P.FAULT_WRITE])
    status = fault_commit(p, slot, w[a + M.D_ERROR], 0)
    if status == P.PROTOCOL:
        broken(w, PROPERTY_I8, d)
    note_status(w, status)
    tag_entries(w, d, start, end, a + M.D_SEEN + w[M.W_SPAN])
    w[a + M.D_POPULATED] = 0
    w[a + M.D_ERROR] = 0
    if status != P.COMMITTED and status != P.RETRY:
        w[a + M.D_WORK] = 0
    return 1
