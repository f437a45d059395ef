"""How the modelled kernel and its host call the live paging steps of every device.

The modelled kernel announces a change to each device of process 0 in turn (mmu_notifier_invalidate_range_start walks the
subscriptions), waits for all of them together, and says when it is over. Each call is one step: between two of them anything may
happen. What the devices answer is kept in the thread: a ticket, and a token where the verdict was DEFERRED.

The *host* keeps the obligations of deferral when W_KEEP is 1: a frame that leaves its page is held for the token of each device
that deferred, an address range is not handed out again (nor faulted in after a discard) while a flush of it is owed, and
write-back waits for the flush. With W_KEEP 0 it does none of this, so that the explorer shows what goes wrong.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.layout import Block
from unpinned.model.machine import PROPERTY_I8, PROPERTY_I10, broken, frame_at, reach, settle_frame
from unpinned.paging import layout as P
from unpinned.paging.notifier import (
    flush_begin,
    flush_due,
    flush_end,
    invalidate_finish,
    invalidate_poll,
    invalidate_start,
    obligation_done,
    obligation_end,
)

ADDRESS_CAUSES = 1 << P.CAUSE_UNKNOWN | 1 << P.CAUSE_UNMAP | 1 << P.CAUSE_REMAP | 1 << P.CAUSE_DISCARD
FOREVER = 1 << 60  #: a moment at which every bound in time is reached: deadlines may pass whenever the scheduler likes


@kernel
def thread_at(w: Block, t: int) -> int:
    """First word of the thread's record."""
    return w[M.W_THREAD] + t * w[M.W_THREAD_WORDS]


@kernel
def line_at(w: Block, t: int) -> int:
    """The thread's line of its script."""
    return w[M.W_SCRIPT] + (t * w[M.W_LINES] + w[thread_at(w, t) + M.T_LINE]) * M.LINE_WORDS


@kernel
def device_at(w: Block, d: int) -> int:
    """First word of the device's record."""
    return w[M.W_DEVICE] + d * w[M.W_DEVICE_WORDS]


@kernel
def block_at(w: Block, d: int) -> int:
    """Address of the device's paging block; `words_at` makes it an array."""
    a = device_at(w, d)
    if w[a + M.D_ADDRESS]:
        return w[a + M.D_ADDRESS]
    return address_of(w) + 8 * w[a + M.D_OFFSET]


@kernel
def forget_answers(p: Block) -> int:
    """Two words of the block are answers to the last call, no state."""
    p[P.TICKET] = P.NONE
    p[P.OBLIGATION] = P.NONE
    return 0


# --- start, wait, finish -------------------------------------------------------------------------------------------------


@kernel
def start_one(w: Block, t: int, d: int, start: int, end: int, cause: int, may_sleep: int) -> int:
    """Announce the thread's change of pages ``[start, end)`` to device d; 1, or 0: FULL, try again (nothing changed)."""
    a = thread_at(w, t)
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    state = p[P.COUNTERS]
    inside = w[M.W_BLOCK_WORDS] if w[device_at(w, d) + M.D_ADDRESS] == 0 else 0
    scratch = w[M.W_SCRATCH]
    for i in range(state if inside else 0):
        w[scratch + i] = p[i]
    shift = p[P.PAGE_SHIFT]
    verdict = invalidate_start(p, start << shift, end << shift, cause, may_sleep, 0)
    if verdict == P.WAIT and not may_sleep:
        broken(w, PROPERTY_I8, t)
    ticket = p[P.TICKET]
    token = p[P.OBLIGATION]
    forget_answers(p)
    if verdict == P.FULL or verdict == P.REFUSED:
        for i in range(state if inside else 0):
            if w[scratch + i] != p[i] and i != P.FLUSH_WANTED:  # a flush may be asked for
                broken(w, PROPERTY_I10, i)
    if verdict == P.FULL:
        return 0
    w[a + M.T_AT] |= 1 << d
    if verdict == P.REFUSED:
        w[a + M.T_REFUSED] |= 1 << d
        return reach(w, M.REACHED_REFUSED) + 1
    if verdict == P.PROTOCOL:
        broken(w, PROPERTY_I8, t)
        return 1
    reach(w, M.REACHED_CAUSE << cause)
    w[a + M.T_TICKET + d] = ticket + 1
    if verdict == P.DEFERRED:
        w[a + M.T_TICKET + w[M.W_DEVICES] + d] = token + 1
        return reach(w, M.REACHED_DEFERRED) + 1
    return reach(w, M.REACHED_WAIT if verdict == P.WAIT else M.REACHED_DONE) + 1


@kernel
def all_ready(w: Block, t: int) -> int:
    """1 when every device that was started is out of the range."""
    a = thread_at(w, t)
    for d in range(w[M.W_DEVICES]):
        ticket = w[a + M.T_TICKET + d]
        if ticket and invalidate_poll(words_at(block_at(w, d), w[M.W_BLOCK_WORDS]), ticket - 1) != P.DONE:
            return 0
    return 1


@kernel
def finish_one(w: Block, t: int, d: int) -> int:
    """Tell device d that the thread's change is over; 1."""
    a = thread_at(w, t)
    w[a + M.T_AT] |= 1 << d
    ticket = w[a + M.T_TICKET + d]
    w[a + M.T_TICKET + d] = 0
    if ticket and invalidate_finish(words_at(block_at(w, d), w[M.W_BLOCK_WORDS]), ticket - 1, 0) != P.DONE:
        broken(w, PROPERTY_I8, t)
    return 1


# --- obligations -----------------------------------------------------------------------------------------------------------


@kernel
def hold(w: Block, t: int, frame: int) -> int:
    """The frame leaves its page: hold it for every device that deferred."""
    tokens = thread_at(w, t) + M.T_TICKET + w[M.W_DEVICES]
    for d in range(w[M.W_DEVICES] if w[M.W_KEEP] else 0):
        token = w[tokens + d]
        if token and obligation_done(words_at(block_at(w, d), w[M.W_BLOCK_WORDS]), token - 1) == 0:
            w[frame_at(w, frame) + M.F_HOLD + d] = token  # a later token's flush covers the earlier one's
            reach(w, M.REACHED_HELD)
    return 0


@kernel
def obligations_done(w: Block, t: int) -> int:
    """1 when the flushes that this thread's tokens name are over, or the host does not care."""
    tokens = thread_at(w, t) + M.T_TICKET + w[M.W_DEVICES]
    for d in range(w[M.W_DEVICES] if w[M.W_KEEP] else 0):
        if w[tokens + d] and obligation_done(words_at(block_at(w, d), w[M.W_BLOCK_WORDS]), w[tokens + d] - 1) != 1:
            return 0
    return 1


@kernel
def forget_tokens(w: Block, t: int) -> int:
    """The thread's operation is over: whatever it still owes is the host's alone."""
    tokens = thread_at(w, t) + M.T_TICKET + w[M.W_DEVICES]
    for d in range(w[M.W_DEVICES]):
        w[tokens + d] = 0
    return 0


@kernel
def deferral_over(w: Block, d: int, page: int) -> int:
    """Bits: the causes of the deferrals that device d still owes a flush for over the page."""
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    va = page << p[P.PAGE_SHIFT]
    causes = 0
    for token in range(p[P.DEFERRAL_CAPACITY] if p[P.DEFERRAL_COUNT] else 0):
        at = p[P.DEFERRALS] + token * P.DEFERRAL_WORDS
        flush = p[at + P.DEFERRAL_FLUSH]
        if (flush == P.FLUSH_OWED or flush == P.FLUSH_RUNNING) and p[at + P.DEFERRAL_START] <= va:
            if va < p[at + P.DEFERRAL_END]:
                causes |= 1 << p[at + P.DEFERRAL_CAUSE]
    return causes


@kernel
def address_owed(w: Block, start: int, end: int) -> int:
    """1 when the host must not give these addresses a new meaning yet: the flush of an unmapping or discard is owed."""
    for d in range(w[M.W_DEVICES] if w[M.W_KEEP] else 0):
        for page in range(start, end if words_at(block_at(w, d), w[M.W_BLOCK_WORDS])[P.DEFERRAL_COUNT] else start):
            if deferral_over(w, d, page) & ADDRESS_CAUSES:
                return 1
    return 0


@kernel
def discharge_step(w: Block, d: int) -> int:
    """The host lets go of the frames of one obligation that is over; 1, or 0: there is none."""
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    for token in range(p[P.DEFERRAL_CAPACITY] if p[P.DEFERRAL_COUNT] else 0):
        if p[p[P.DEFERRALS] + token * P.DEFERRAL_WORDS + P.DEFERRAL_FLUSH] != P.FLUSH_OVER:
            continue
        busy = 0
        for t in range(w[M.W_THREADS]):  # an operation under way may still hold frames for it
            busy |= w[thread_at(w, t) + M.T_TICKET + w[M.W_DEVICES] + d] == token + 1
        if busy:
            continue
        for frame in range(1, w[M.W_FRAMES] + 1):
            f = frame_at(w, frame)
            if w[f + M.F_HOLD + d] == token + 1:
                w[f + M.F_HOLD + d] = 0
                settle_frame(w, frame)
        if obligation_done(p, token) != 1 or obligation_end(p, token) != P.DONE:
            broken(w, PROPERTY_I8, token)
        return reach(w, M.REACHED_DISCHARGED) + 1
    return 0


# --- the flush ---------------------------------------------------------------------------------------------------------------


@kernel
def flush_step(w: Block, d: int) -> int:
    """The device's flush takes time: it begins when it is due, drops what was cached then, and ends; 1, or 0: not now."""
    a = device_at(w, d)
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    tlb = w[M.W_TLB] + d * w[M.W_PAGES]
    if w[a + M.D_FLUSH] == 0:
        if not flush_due(p, FOREVER):
            return 0
        flush_begin(p, 0)
        for i in range(tlb, tlb + w[M.W_PAGES] if p[P.TLB] else tlb):
            if w[i]:
                w[i] |= M.TLB_OLD
        w[a + M.D_FLUSH] = 1 if p[P.TLB] else 2
        return reach(w, M.REACHED_FLUSH) + 1
    if w[a + M.D_FLUSH] == 1:
        for i in range(tlb, tlb + w[M.W_PAGES]):
            if w[i] & M.TLB_OLD:
                drop_translation(w, i - tlb, w[i])
                w[i] = 0
        w[a + M.D_FLUSH] = 2
        return 1
    answer = flush_end(p, 0)
    if answer == P.WAIT:
        return reach(w, M.REACHED_FLUSH_WAITS)
    if answer != P.DONE:
        broken(w, PROPERTY_I8, d)
    w[a + M.D_FLUSH] = 0
    return 1


@kernel
def drop_translation(w: Block, page: int, cached: int) -> int:
    """A cached translation goes. If it was written through, that is recorded: in the frame that the kernel still caches,
    and in the soft-dirty log."""
    if cached & M.TLB_DIRTY:
        frame = cached >> M.TLB_SHIFT
        f = frame_at(w, frame)
        if w[f + M.F_SLOT]:
            w[f + M.F_FLAGS] |= M.FRAME_DIRTY
        e = w[M.W_PTE] + page
        if w[e] & M.PTE_PRESENT and w[e] >> M.PTE_SHIFT == frame:
            w[e] |= M.PTE_SOFT_DIRTY
    return 0
