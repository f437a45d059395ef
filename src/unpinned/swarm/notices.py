"""The host side of invalidations: a page-table change is announced, made and ended, each in a step of its own.

    begins -> (waits ->) changes -> finishes (-> holds: a deferral's frames, until its flush) (-> returns: mapped again)

Causes, and what each does to a page (mm/ in Linux 6.16; `paging.causes`):

* UNMAP, REMAP: gone, contents too; mapped again, as zeros, some time later (never before the flush of a deferral).
* DISCARD: zeros from then on. RECLAIM: contents to swap; with a deferral only once the flush is over, so that what the device
  wrote until then is kept.
* MIGRATE: another frame with the same contents. COW: the same, and the old frame is a child's, who must find it unchanged.
* PROTECT, SOFT_DIRTY: the write right goes. MERGE: another frame, same contents, no write right.
* RELEASE: the process ends: everything is gone, at once, and it may not sleep.

What may not sleep is refused while the device is busy; a caller that cannot take no for an answer tries again. A flush takes
C_FLUSH_NS, at whose end the device's own translations are dropped.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import copy_bytes, fill_bytes, load64
from unpinned.compiled.views import words_at
from unpinned.paging import layout as P
from unpinned.paging.dma import dma_collides
from unpinned.paging.notifier import (
    flush_begin,
    flush_deadline,
    flush_due,
    flush_end,
    invalidate_finish,
    invalidate_poll,
    invalidate_start,
    obligation_done,
    obligation_end,
)
from unpinned.paging.table import entry
from unpinned.swarm import layout as S
from unpinned.swarm.chance import NOTICES, begin, between, draw, left_out
from unpinned.swarm.events import fail, push, trace, wake
from unpinned.swarm.memory import (
    frame_at,
    frame_bytes,
    free_frame,
    host_at,
    page_at,
    paging_at,
    paging_words,
    shadow_bytes,
    swap_bytes,
    take_frame,
)
from unpinned.swarm.pagers import hire

STEP_NS = 400
POLL_NS = 700
AWAY_NS = 20_000  # until an unmapped address is mapped again


@kernel
def open_notice(w):
    """Begin the next notice, of a random cause over random pages."""
    k = w[S.W_NOTICE_COUNT]
    begin(w, NOTICES, k)
    w[S.W_NEXT_NOTICE] = w[S.W_EVENTS] + between(w, 1, 2 * w[S.C_GAP])
    if k >= S.NOTICES:
        w[S.W_NEXT_NOTICE] = S.NEVER
        return 0
    w[S.W_NOTICE_COUNT] = k + 1
    n = w[S.W_NOTICE] + k * S.NOTICE_WORDS
    host = draw(w, w[S.W_HOSTS])
    at = host_at(w, host)
    page = draw(w, w[at + S.HO_PAGES])
    pages = between(w, 1, 1 + draw(w, S.SLOT_PAGES))
    cause = P.CAUSE_DISCARD + draw(w, 7)  # DISCARD .. MERGE
    if w[S.C_UNMAPS] and draw(w, 8) == 0:
        cause = P.CAUSE_UNMAP + draw(w, 2)
    if w[S.C_BY_SCAN] and cause >= P.CAUSE_PROTECT:
        cause = P.CAUSE_RECLAIM  # there, present means writable
    sleeps = 1 if draw(w, 8) else 0
    w[n + S.NO_STATE] = S.NO_OVER
    if left_out(w, S.MASK_NOTICES, k) or w[at + S.HO_ALIVE] == 0:
        return 0
    start = S.FIRST_PAGE + page
    end = start
    while (
        end < S.FIRST_PAGE + w[at + S.HO_PAGES] and end < start + pages and w[page_at(w, host, end) + S.PG_PINNED] == 0
    ):
        end += 1
    if end == start:
        return 0
    if cause <= P.CAUSE_DISCARD:  # cells keep what was added to them
        while end > start and w[page_at(w, host, end - 1) + S.PG_SLOT] == 0:
            end -= 1
        if end == start:
            return 0
    return start_notice(w, k, host, start, end, cause, sleeps)


@kernel
def start_notice(w, k, host, start, end, cause, sleeps):
    n = w[S.W_NOTICE] + k * S.NOTICE_WORDS
    w[n + S.NO_HOST] = host
    w[n + S.NO_START] = start
    w[n + S.NO_END] = end
    w[n + S.NO_CAUSE] = cause
    w[n + S.NO_SLEEP] = sleeps
    w[n + S.NO_STATE] = S.NO_BEGINS
    w[n + S.NO_FRAMES] = 0
    w[n + S.NO_TRIES] = 0
    w[n + S.NO_POLLS] = 0
    w[S.W_NOTICE_OPEN] += 1
    return push(w, w[S.W_NOW], S.EV_NOTICE, k, 0)


@kernel
def end_notice(w, n):
    w[n + S.NO_STATE] = S.NO_OVER
    w[S.W_NOTICE_OPEN] -= 1
    return 0


@kernel
def step_notice(w, b, k):
    """The next step of notice ``k``."""
    n = w[S.W_NOTICE] + k * S.NOTICE_WORDS
    host = w[n + S.NO_HOST]
    if w[host_at(w, host) + S.HO_ALIVE] == 0:
        return end_notice(w, n)
    p = words_at(paging_at(w, host), paging_words(w, host))
    state = w[n + S.NO_STATE]
    if state == S.NO_BEGINS:
        begin_notice(w, p, k, n, host)
    elif state == S.NO_WAITS:
        if invalidate_poll(p, w[n + S.NO_TICKET]) == P.DONE:
            w[n + S.NO_STATE] = S.NO_CHANGES
            push(w, w[S.W_NOW] + STEP_NS, S.EV_NOTICE, k, 0)
        else:
            poll_later(w, k, n)
    elif state == S.NO_CHANGES:
        change(w, b, p, n, host)
        w[n + S.NO_STATE] = S.NO_FINISHES
        push(w, w[S.W_NOW] + STEP_NS, S.EV_NOTICE, k, 0)
    elif state == S.NO_FINISHES:
        if invalidate_finish(p, w[n + S.NO_TICKET], w[S.W_NOW]) != P.DONE:
            fail(w, S.VIOLATION_I8, host, k, P.PROTOCOL)
        trace(w, S.EV_NOTICE, host, k, state, w[n + S.NO_CAUSE], P.DONE)
        after_finish(w, k, n)
    elif state == S.NO_HOLDS:
        hold(w, b, p, k, n, host)
    elif state == S.NO_RETURNS:
        for page in range(w[n + S.NO_START], w[n + S.NO_END]):
            if w[page_at(w, host, page) + S.PG_STATE] == S.GONE:
                w[page_at(w, host, page) + S.PG_STATE] = S.ZERO
                w[page_at(w, host, page) + S.PG_LOST] = w[S.W_NOW]
        end_notice(w, n)
    return tend(w, p, host)


@kernel
def poll_later(w, k, n):
    """Not yet: again soon, then less and less soon."""
    w[n + S.NO_POLLS] += 1
    return push(w, w[S.W_NOW] + (POLL_NS << min(w[n + S.NO_POLLS], 7)), S.EV_NOTICE, k, 0)


@kernel
def state_sum(p):
    """Of all state but the words that answer the caller and the wish for a flush: a refusal must leave it as it was."""
    total = 0
    for i in range(p[P.COUNTERS]):
        if i != P.TICKET and i != P.OBLIGATION and i != P.FLUSH_WANTED:
            total = (total * 31 + p[i]) & 0xFFFFFFFFFF
    return total


@kernel
def begin_notice(w, p, k, n, host):
    cause = w[n + S.NO_CAUSE]
    may_refuse = w[n + S.NO_SLEEP] == 0 or p[P.POLICY + cause * P.POLICY_WORDS + P.POLICY_VERDICT] == P.REFUSE_IF_BUSY
    before = state_sum(p) if may_refuse else 0
    start = w[n + S.NO_START] << S.PAGE_SHIFT
    end = w[n + S.NO_END] << S.PAGE_SHIFT
    verdict = invalidate_start(p, start, end, cause, w[n + S.NO_SLEEP], w[S.W_NOW])
    trace(w, S.EV_NOTICE, host, k, S.NO_BEGINS, cause, verdict)
    w[n + S.NO_VERDICT] = verdict
    w[n + S.NO_TICKET] = p[P.TICKET]
    w[n + S.NO_TOKEN] = p[P.OBLIGATION]
    if verdict == P.REFUSED or verdict == P.FULL:
        if may_refuse and state_sum(p) != before:
            return fail(w, S.VIOLATION_I10, host, k, cause)
        w[n + S.NO_TRIES] += 1
        must = cause == P.CAUSE_UNMAP or cause == P.CAUSE_REMAP or cause == P.CAUSE_RELEASE
        if verdict == P.REFUSED and not must:
            return end_notice(w, n)
        if w[n + S.NO_TRIES] > 2:
            w[n + S.NO_SLEEP] = 1
        return poll_later(w, k, n)
    if verdict == P.WAIT:
        if w[n + S.NO_SLEEP] == 0:
            return fail(w, S.VIOLATION_I8, host, k, verdict)
        w[n + S.NO_STATE] = S.NO_WAITS
        return push(w, w[S.W_NOW] + POLL_NS, S.EV_NOTICE, k, 0)
    if verdict != P.DONE and verdict != P.DEFERRED:
        return fail(w, S.VIOLATION_I8, host, k, verdict)
    if verdict == P.DEFERRED:
        w[w[host_at(w, host) + S.HO_TOKENS] + w[n + S.NO_TOKEN]] += 1
    w[n + S.NO_STATE] = S.NO_CHANGES
    return push(w, w[S.W_NOW] + STEP_NS, S.EV_NOTICE, k, 0)


# ---- the change itself -----------------------------------------------------------------------------------------------


@kernel
def change(w, b, p, n, host):
    """The page table changes, now that the device is out of the way: which is looked at first (I3)."""
    deferred = w[n + S.NO_VERDICT] == P.DEFERRED
    downgraded = p[p[P.ACTIVE] + w[n + S.NO_TICKET] * P.ACTIVE_WORDS + P.ACTIVE_VERDICT] == P.DOWNGRADE
    start = w[n + S.NO_START] << S.PAGE_SHIFT
    end = w[n + S.NO_END] << S.PAGE_SHIFT
    if not deferred and dma_collides(p, start, end, downgraded):
        return fail(w, S.VIOLATION_I3, host, w[n + S.NO_START], w[n + S.NO_CAUSE])
    for page in range(w[n + S.NO_START], w[n + S.NO_END]):
        e = entry(p, page << S.PAGE_SHIFT)
        usable = e & (P.WRITE if downgraded else P.PRESENT)
        if deferred and e & P.STALE:
            usable = 0
        if usable:
            return fail(w, S.VIOLATION_I3, host, page, e)
        if p[P.TLB] and not deferred and not downgraded and w[w[host_at(w, host) + S.HO_TLB] + page - S.FIRST_PAGE]:
            return fail(w, S.VIOLATION_I3, host, page, -1)
        change_page(w, b, n, host, page, deferred)
    return 0


@kernel
def change_page(w, b, n, host, page, deferred):
    cause = w[n + S.NO_CAUSE]
    g = page_at(w, host, page)
    state = w[g + S.PG_STATE]
    if state == S.SWAPPING:
        return 0  # locked in the swap cache until its flush
    if cause <= P.CAUSE_DISCARD or cause == P.CAUSE_RELEASE:
        w[g + S.PG_STATE] = S.ZERO if cause == P.CAUSE_DISCARD else S.GONE
        w[g + S.PG_LOST] = w[S.W_NOW]
        fill_bytes(shadow_bytes(w, b, host, page << S.PAGE_SHIFT), 0, S.PAGE)
        if cause != P.CAUSE_DISCARD:
            w[host_at(w, host) + S.HO_EXCUSED] = 1
        if state == S.PRESENT:
            drop_frame(w, b, n, host, page, w[g + S.PG_FRAME], deferred)
        return 0
    if state != S.PRESENT:
        return 0
    frame = w[g + S.PG_FRAME]
    if cause == P.CAUSE_PROTECT or cause == P.CAUSE_SOFT_DIRTY:
        w[g + S.PG_WRITE] = 0
        return 0
    if cause == P.CAUSE_RECLAIM:
        if deferred:
            w[g + S.PG_STATE] = S.SWAPPING
        else:
            copy_bytes(swap_bytes(w, b, host, page), frame_bytes(w, b, host, frame), S.PAGE)
            w[g + S.PG_STATE] = S.SWAPPED
        return drop_frame(w, b, n, host, page, frame, deferred)
    other = take_frame(w, host, page)
    if other < 0:
        return 0
    copy_bytes(frame_bytes(w, b, host, other), frame_bytes(w, b, host, frame), S.PAGE)
    w[g + S.PG_FRAME] = other
    w[g + S.PG_WRITE] = 0 if cause == P.CAUSE_MERGE else 1
    if cause == P.CAUSE_COW:
        f = frame_at(w, host, frame)
        w[f + S.FR_STATE] = S.FRAME_CHILD
        w[f + S.FR_SUM] = frame_sum(w, b, host, frame)
        return 0
    return drop_frame(w, b, n, host, page, frame, deferred)


@kernel
def frame_sum(w, b, host, frame):
    base = frame_bytes(w, b, host, frame)
    total = 0
    for i in range(0, S.PAGE, 8):
        total = (total * 31 + (load64(base + i) & 0xFFFFFFFF)) & 0xFFFFFFFFFF
    return total


@kernel
def drop_frame(w, b, n, host, page, frame, deferred):
    """A frame that the page has left: free at once, or held for the obligation."""
    if not deferred:
        return free_frame(w, b, host, frame)
    w[frame_at(w, host, frame) + S.FR_STATE] = S.FRAME_HELD
    k = w[n + S.NO_FRAMES]
    w[n + S.NO_LIST + 2 * k] = frame
    w[n + S.NO_LIST + 2 * k + 1] = page
    w[n + S.NO_FRAMES] = k + 1
    return 0


@kernel
def after_finish(w, k, n):
    if w[n + S.NO_VERDICT] == P.DEFERRED:
        w[n + S.NO_STATE] = S.NO_HOLDS
        return push(w, w[S.W_NOW] + POLL_NS, S.EV_NOTICE, k, 0)
    return after_hold(w, k, n)


@kernel
def after_hold(w, k, n):
    cause = w[n + S.NO_CAUSE]
    if cause == P.CAUSE_RELEASE:
        w[host_at(w, w[n + S.NO_HOST]) + S.HO_ALIVE] = 0
    if cause == P.CAUSE_UNMAP or cause == P.CAUSE_REMAP:
        w[n + S.NO_STATE] = S.NO_RETURNS
        return push(w, w[S.W_NOW] + AWAY_NS, S.EV_NOTICE, k, 0)
    return end_notice(w, n)


@kernel
def hold(w, b, p, k, n, host):
    """Frames wait for the flush that their obligation names; then swap gets its contents, and they are free."""
    token = w[n + S.NO_TOKEN]
    if obligation_done(p, token) == 0:
        return poll_later(w, k, n)
    for i in range(w[n + S.NO_FRAMES]):
        frame = w[n + S.NO_LIST + 2 * i]
        page = w[n + S.NO_LIST + 2 * i + 1]
        if w[n + S.NO_CAUSE] == P.CAUSE_RECLAIM:
            copy_bytes(swap_bytes(w, b, host, page), frame_bytes(w, b, host, frame), S.PAGE)
            w[page_at(w, host, page) + S.PG_STATE] = S.SWAPPED
        free_frame(w, b, host, frame)
    users = w[host_at(w, host) + S.HO_TOKENS] + token
    w[users] -= 1
    if w[users] == 0 and obligation_end(p, token) != P.DONE:
        return fail(w, S.VIOLATION_I8, host, k, token)
    return after_hold(w, k, n)


# ---- flushes ---------------------------------------------------------------------------------------------------------


@kernel
def tend(w, p, host):
    """After a step: begin the flush that is due, see to faults that were armed."""
    at = host_at(w, host)
    now = w[S.W_NOW]
    if flush_due(p, now):
        flush_begin(p, now)
        trace(w, S.EV_FLUSH, host, 0, 0, 0, 0)
        push(w, now + w[S.C_FLUSH_NS], S.EV_FLUSH, host, 1)
    elif p[P.FLUSHING] == 0 and p[P.DEFERRAL_COUNT] > 0:
        when = flush_deadline(p)
        if when >= 0 and when != w[at + S.HO_FLUSH_AT]:
            w[at + S.HO_FLUSH_AT] = when
            push(w, when, S.EV_FLUSH, host, 0)
    if p[P.SCAN_LENGTH] > 0:
        wake(w, host, now + 1)
    if p[P.RUN_LENGTH] > 0:
        hire(w, host)
    return 0


@kernel
def flushed(w, host, ends):
    """The hardware's flush is over (``ends``), or a deferral's time is."""
    p = words_at(paging_at(w, host), paging_words(w, host))
    at = host_at(w, host)
    if ends:
        for i in range(w[at + S.HO_PAGES]):
            w[w[at + S.HO_TLB] + i] = 0
        status = flush_end(p, w[S.W_NOW])
        trace(w, S.EV_FLUSH, host, 1, status, 0, 0)
        if status == P.WAIT:
            push(w, w[S.W_NOW] + POLL_NS, S.EV_FLUSH, host, 1)
        elif status != P.DONE:
            fail(w, S.VIOLATION_I8, host, status, 0)
    else:
        w[at + S.HO_FLUSH_AT] = 0
    return tend(w, p, host)
