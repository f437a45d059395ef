"""The HCA's side of a modelled world: wire requests, the driver's look, the device's own translations.

A wire request is what is left of an RDMA READ or WRITE when the transport is taken away (that is swarm's):

    IDLE -- translate as far as it goes, describe the copy --> COPYING -- page by page, ascending --> COPIED -- complete --> IDLE
      |  the first page misses                                                                          all of it: COMPLETE
      +--> PARKED -- its fault is DONE (or lost too many races) --> IDLE        its fault FAILED --> FAILED (remote access error)

Translating asks the device's own cache first (p[TLB] = 1): that is what a flush is for. What it was translated to is kept with the
request, and a copy goes *there* (KIND_HCA), whatever the table says by then. The live device on Linux is different: its copies go
through a memory management unit, the application's (KIND_VM, process_vm at the application's addresses, a call that
takes mmap_lock) or its own mapping of the same object (KIND_ALIAS); the request then keeps which mapping or object
it was meant for.

The driver looks in one step which pages are there, and reports in another. What it saw is what is installed: the frame is put
into the entry (`retag`) in the same step as the install.

Sources: drivers/infiniband/hw/mlx5/odp.c (a request that misses stops until the driver has brought its pages in and resumes it);
PCI Express, Address Translation Services (a device that caches translations has completed an invalidation when nothing that
used them is under way); mm/process_vm_access.c (the call holds mmap_lock for reading while it pins the pages of its remote side,
here the arena, and then reaches its local side, here the region, as any system call does).
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import block_at, device_at
from unpinned.model.copies import touch_address, touch_frame, touch_object
from unpinned.model.layout import Block
from unpinned.model.machine import PROPERTY_I5, PROPERTY_I8, broken, pte_at, reach, slot_at, vma_at
from unpinned.paging import layout as P
from unpinned.paging.dma import dma_at, dma_complete, dma_issue
from unpinned.paging.faults import fault_begin, fault_end, fault_scanned, fault_take
from unpinned.paging.table import entry, retag, translate

EFAULT = 14
WRITE = 1
READ = 2
PREFETCH = 3


@kernel
def request_at(w: Block, r: int) -> int:
    """First word of the request's state."""
    return w[M.W_REQUEST] + r * w[M.W_REQUEST_WORDS]


@kernel
def order_at(w: Block, r: int) -> int:
    """First word of what the request asks for."""
    return w[M.W_ORDER] + r * M.ORDER_WORDS


@kernel
def translate_page(w: Block, d: int, page: int, write: int) -> int:
    """What the device translates the page to: its frame, the mapping's id (KIND_VM), the object's block (KIND_ALIAS); 0: a miss."""
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    tlb = w[M.W_TLB] + d * w[M.W_PAGES] + page
    if w[tlb] and (not write or w[tlb] & M.TLB_WRITE):
        if write:
            w[tlb] |= M.TLB_DIRTY
        reach(w, M.REACHED_TLB)
        return w[tlb] >> M.TLB_SHIFT
    size = 1 << p[P.PAGE_SHIFT]
    if translate(p, page * size, size, write, 0) < size:
        return 0
    e = entry(p, page * size)
    frame = e >> P.FLAG_BITS
    if p[P.TLB]:
        right = M.TLB_WRITE if e & P.WRITE else 0
        old = w[tlb] & M.TLB_OLD if w[tlb] >> M.TLB_SHIFT == frame else 0
        w[tlb] = frame << M.TLB_SHIFT | M.TLB_VALID | right | old | (M.TLB_DIRTY if write else 0)
    return w[vma_at(w, 0, page) + M.V_FLAGS] >> M.VMA_SHIFT if w[M.W_KIND] == M.KIND_VM else frame


@kernel
def issue(w: Block, r: int) -> int:
    """Translate what is left of the request as far as it goes and describe the copy, or begin a fault; 1, or 0: no room."""
    q = request_at(w, r)
    o = order_at(w, r)
    d = w[o + M.R_DEVICE]
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    write = 1 if w[o + M.R_OP] == WRITE else 0
    first = w[q + M.Q_CURSOR]
    end = w[o + M.R_END]
    size = 1 << p[P.PAGE_SHIFT]
    if w[o + M.R_OP] == PREFETCH:
        slot = fault_begin(p, first * size, end * size, P.WANT_AHEAD, P.NONE, 0, 0)
        if slot == P.NONE:
            return 0
        return end_request(w, r, M.REQUEST_FAILED if slot == P.OUTSIDE else M.REQUEST_COMPLETE)
    if p[P.DMA_LIVE] == p[P.DMA_CAPACITY]:
        return 0
    page = first
    while page < end:
        where = translate_page(w, d, page, write)
        if where == 0:
            break
        w[q + M.Q_FRAME + page - w[o + M.R_START]] = where
        page += 1
    if page > first:
        w[q + M.Q_DMA] = dma_issue(p, first * size, (page - first) * size, w[o + M.R_OP], 0, 0, 0) + 1
        w[q + M.Q_COPIED] = first
        w[q + M.Q_CURSOR] = page
        w[q + M.Q_STATE] = M.REQUEST_COPYING
        return 1
    live = p[P.FAULT_LIVE]
    slot = fault_begin(p, first * size, end * size, write, 0, 0, 0)
    if slot == P.NONE:
        return reach(w, M.REACHED_STARVED)
    if slot == P.OUTSIDE:
        return end_request(w, r, M.REQUEST_FAILED)
    w[q + M.Q_FAULT] = slot
    if p[P.FAULT_LIVE] == live:
        reach(w, M.REACHED_JOINED)
        w[q + M.Q_FAULT] = -slot
    w[q + M.Q_STATE] = M.REQUEST_PARKED
    return reach(w, M.REACHED_PARK) + 1


@kernel
def end_request(w: Block, r: int, state: int) -> int:
    """Acknowledge or refuse; a request that is repeated begins anew. 1."""
    q = request_at(w, r)
    o = order_at(w, r)
    w[M.W_COMPLETED] |= 1 << (w[M.W_THREADS] + r)
    reach(w, M.REACHED_ACK if state == M.REQUEST_COMPLETE else M.REACHED_REFUSED_REQUEST)
    times = w[q + M.Q_TIMES]
    for i in range(w[M.W_REQUEST_WORDS]):
        w[q + i] = 0
    w[q + M.Q_CURSOR] = w[o + M.R_START]
    w[q + M.Q_TIMES] = times
    if w[o + M.R_REPEAT] > times:
        w[q + M.Q_TIMES] = times + 1
    elif w[o + M.R_REPEAT] >= 0:
        w[q + M.Q_STATE] = state
    return 1


@kernel
def copy_page(w: Block, r: int) -> int:
    """The next page of the descriptor, ascending: one observer never sees a later write of a message without an earlier one."""
    q = request_at(w, r)
    o = order_at(w, r)
    p = words_at(block_at(w, w[o + M.R_DEVICE]), w[M.W_BLOCK_WORDS])
    page = w[q + M.Q_COPIED]
    write = 1 if w[o + M.R_OP] == WRITE else 0
    where = w[q + M.Q_FRAME + page - w[o + M.R_START]]
    done = 1
    if w[M.W_KIND] == M.KIND_HCA:
        touch_frame(w, w[o + M.R_DEVICE], page, where, write, w[o + M.R_VALUE])
    elif w[M.W_KIND] == M.KIND_VM:
        done = touch_address(w, page, where, write, w[o + M.R_VALUE])
    else:
        done = touch_object(w, where, write, w[o + M.R_VALUE])
    if done == 0:
        return 0
    at = dma_at(p, w[q + M.Q_DMA] - 1)
    if done < 0:
        p[at + P.DMA_STATE] = P.DMA_FAILED
        w[q + M.Q_STATE] = M.REQUEST_COPIED
        return 1
    before = (1 << (page - w[o + M.R_START])) - 1
    if w[q + M.Q_DONE] & before != before:
        broken(w, PROPERTY_I5, page)
    w[q + M.Q_DONE] |= before + 1
    w[q + M.Q_COPIED] = page + 1
    if page + 1 == w[q + M.Q_CURSOR]:
        p[at + P.DMA_STATE] = P.DMA_DONE
        w[q + M.Q_STATE] = M.REQUEST_COPIED
    return 1


@kernel
def complete(w: Block, r: int) -> int:
    """The copy is over: acknowledge the whole, or go on with what is left; 1."""
    q = request_at(w, r)
    o = order_at(w, r)
    state = dma_complete(words_at(block_at(w, w[o + M.R_DEVICE]), w[M.W_BLOCK_WORDS]), w[q + M.Q_DMA] - 1)
    w[q + M.Q_DMA] = 0
    w[q + M.Q_COPIED] = 0
    if state == P.PROTOCOL:
        broken(w, PROPERTY_I8, r)
    if state == P.DMA_FAILED:
        return end_request(w, r, M.REQUEST_FAILED)
    if w[q + M.Q_CURSOR] == w[o + M.R_END]:
        return end_request(w, r, M.REQUEST_COMPLETE)
    w[q + M.Q_STATE] = M.REQUEST_IDLE
    return 1


@kernel
def resume(w: Block, r: int) -> int:
    """A parked request whose fault is over goes on, or is refused; 1, or 0: it still waits."""
    q = request_at(w, r)
    p = words_at(block_at(w, w[order_at(w, r) + M.R_DEVICE]), w[M.W_BLOCK_WORDS])
    slot = abs(w[q + M.Q_FAULT])
    state = p[slot + P.FAULT_STATE]
    if state != P.FAULT_DONE and state != P.FAULT_FAILED:
        return 0
    error = p[slot + P.FAULT_ERRNO]
    if w[q + M.Q_FAULT] < 0:
        error = P.EAGAIN  # it may have failed at a page that only the one who began it needs
    fault_end(p, slot)
    w[q + M.Q_FAULT] = 0
    if state == P.FAULT_FAILED and error != P.EAGAIN:  # EAGAIN: not ready, the peer asks again
        reach(w, M.REACHED_FAULT_FAILED)
        return end_request(w, r, M.REQUEST_FAILED)
    w[q + M.Q_STATE] = M.REQUEST_IDLE
    return 1


@kernel
def request_step(w: Block, r: int) -> int:
    """The next step of a wire request; 1, or 0: it cannot go on now."""
    state = w[request_at(w, r) + M.Q_STATE]
    if state == M.REQUEST_IDLE:
        return issue(w, r)
    if state == M.REQUEST_COPYING:
        return copy_page(w, r)
    if state == M.REQUEST_COPIED:
        return complete(w, r)
    if state == M.REQUEST_PARKED:
        return resume(w, r)
    return 0


@kernel
def note_status(w: Block, status: int) -> int:
    """Count what a fault step answered."""
    if status == P.RETRY:
        reach(w, M.REACHED_RETRY)
    elif status == P.WAITING:
        reach(w, M.REACHED_WAITING)
    elif status == P.EXHAUSTED:
        reach(w, M.REACHED_EXHAUSTED)
    return 0


@kernel
def tag_entries(w: Block, d: int, start: int, end: int, seen: int) -> int:
    """Put the frames that were seen (from word `seen` on) into the entries that the commit has just installed."""
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    size = 1 << p[P.PAGE_SHIFT]
    for page in range(start, end):
        e = entry(p, page * size)
        if e and e >> P.FLAG_BITS == 0:
            retag(p, page * size, w[seen + page - start])
    for i in range(seen, seen + w[M.W_SPAN]):
        w[i] = 0
    return 0


@kernel
def resident(w: Block, page: int) -> int:
    """What the page's entry would point to if it is there now: its frame, or the object's block (KIND_ALIAS); else 0."""
    if w[M.W_KIND] == M.KIND_ALIAS:
        return page + 1 if w[slot_at(w, page + 1) + M.S_FRAME] else 0
    e = w[pte_at(w, 0, page)]
    return e >> M.PTE_SHIFT if e & M.PTE_PRESENT else 0


@kernel
def driver_step(w: Block, d: int) -> int:
    """Take the oldest fault and look which of its pages are there; or report what was seen. 1, or 0: nothing to do."""
    a = device_at(w, d)
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    seen = a + M.D_SEEN
    if w[a + M.D_SCAN] == 0:
        if p[P.SCAN_LENGTH] == 0:
            return 0
        slot = fault_take(p, P.FAULT_SCAN)
        if slot < 0:
            return reach(w, M.REACHED_WAITING) + 1
        first = p[slot + P.FAULT_CURSOR] >> p[P.PAGE_SHIFT]
        page = first
        while page < p[slot + P.FAULT_END] >> p[P.PAGE_SHIFT]:
            there = resident(w, page)
            if there == 0:
                break
            w[seen + page - first] = there
            page += 1
        w[a + M.D_SCAN] = slot
        w[a + M.D_UPTO] = page
        return 1
    slot = w[a + M.D_SCAN]
    upto = w[a + M.D_UPTO]
    first = p[slot + P.FAULT_CURSOR] >> p[P.PAGE_SHIFT]
    status = fault_scanned(p, slot, upto << p[P.PAGE_SHIFT], 0)
    if status == P.PROTOCOL:
        broken(w, PROPERTY_I8, d)
    if status == P.FINISHED:
        reach(w, M.REACHED_MINOR)
    note_status(w, status)
    tag_entries(w, d, first, upto, seen)
    w[a + M.D_SCAN] = 0
    w[a + M.D_UPTO] = 0
    return 1
