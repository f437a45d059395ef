"""`run`: schedules from first to last, each until nothing is left to do; stops at the first that breaks an invariant.

After every step (I8): no paging step was called out of order, the sequence is odd exactly while invalidations are active, no
copy is ISSUED while nobody makes it, counts are counts. At the end: every operation completed (I6: the heap is empty, or the
steps are used up, and one did not), nothing is held, memory holds what it must, a child's frames are unchanged, and additions
to the cell that all share add up (I7).
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of, copy_bytes, fill_bytes
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.paging import layout as P
from unpinned.swarm import layout as S
from unpinned.swarm.chance import DEATH, begin, draw
from unpinned.swarm.configure import configure, store_something
from unpinned.swarm.events import fail, pop
from unpinned.swarm.hosts import step_copy, step_round
from unpinned.swarm.memory import device_at, device_words, differs, host_at, paging_at, paging_words, word_at
from unpinned.swarm.network import arrive
from unpinned.swarm.notices import flushed, frame_sum, open_notice, start_notice, step_notice
from unpinned.swarm.pagers import committed, populated, scanned
from unpinned.swarm.workload import direction_at, post_next, post_receives, slot_at


@kernel
def step(w, b):
    """One event; its host, or -1 when nothing is left."""
    if pop(w) == 0:
        return -1
    kind = w[S.W_EVENT_KIND]
    x = w[S.W_EVENT_A]
    y = w[S.W_EVENT_B]
    if kind == S.EV_ROUND:
        step_round(w, b, x)
    elif kind == S.EV_COPY:
        step_copy(w, b, x)
    elif kind == S.EV_PACKET:
        arrive(w, x, y)
    elif kind == S.EV_NOTICE:
        step_notice(w, b, x)
        return w[w[S.W_NOTICE] + x * S.NOTICE_WORDS + S.NO_HOST]
    elif kind == S.EV_POST:
        post_next(w, b, x)
        return w[direction_at(w, x) + S.DR_FROM]
    elif kind == S.EV_RECEIVE:
        post_receives(w, b, x)
        return w[direction_at(w, x) + S.DR_TO]
    elif w[host_at(w, x) + S.HO_ALIVE]:
        if kind == S.EV_SCAN:
            scanned(w, x, y)
        elif kind == S.EV_POPULATE:
            populated(w, b, x, y)
        elif kind == S.EV_COMMIT:
            committed(w, x, y)
        elif kind == S.EV_FLUSH:
            flushed(w, x, y)
    return x


@kernel
def check_step(w, host):
    """What must hold after every step."""
    at = host_at(w, host)
    if w[at + S.HO_ALIVE] == 0:
        return 0
    h = words_at(device_at(w, host), device_words(w, host))
    p = words_at(paging_at(w, host), paging_words(w, host))
    if p[p[P.TOTALS] + P.COUNT_VIOLATIONS]:
        return fail(w, S.VIOLATION_I8, host, 1, p[p[P.TOTALS] + P.COUNT_VIOLATIONS])
    if (p[p[P.COUNTERS] + P.SEQUENCE] & 1) != (1 if p[P.ACTIVE_COUNT] > 0 else 0):
        return fail(w, S.VIOLATION_I8, host, 2, p[P.ACTIVE_COUNT])
    if w[at + S.HO_PHASE] == 0:
        for i in range(p[P.DMA_COUNT]):
            if p[p[P.DMA] + i * P.DMA_WORDS + P.DMA_STATE] == P.DMA_ISSUED:
                return fail(w, S.VIOLATION_I8, host, 3, i)
    if (
        h[L.H_INFLIGHT] < 0
        or h[L.H_POOL_USED] < 0
        or h[L.H_POOL_USED] > h[L.H_POOL_COUNT]
        or p[P.FAULT_LIVE] < p[P.FAULT_WAITING]
    ):
        return fail(w, S.VIOLATION_I8, host, 4, h[L.H_INFLIGHT])
    return 0


@kernel
def die(w):
    """A host's process is killed: its memory goes without asking, then it is silent for ever."""
    begin(w, DEATH, 1)
    w[S.W_DEATH] = S.NEVER
    host = draw(w, w[S.W_HOSTS])
    at = host_at(w, host)
    k = w[S.W_NOTICE_COUNT]
    if k >= S.NOTICES:
        return 0
    w[S.W_NOTICE_COUNT] = k + 1
    end = S.FIRST_PAGE
    while (
        end < S.FIRST_PAGE + w[at + S.HO_PAGES]
        and w[w[at + S.HO_PAGE] + (end - S.FIRST_PAGE) * S.PAGE_WORDS + S.PG_PINNED] == 0
    ):
        end += 1
    for d in range(w[S.W_DIRECTIONS]):
        x = direction_at(w, d)
        if w[x + S.DR_FROM] == host and w[x + S.DR_BROKEN] == 0:
            w[x + S.DR_BROKEN] = 2
            w[S.W_OPS_LEFT] -= w[x + S.DR_COUNT] - w[x + S.DR_NEXT]
            w[x + S.DR_COUNT] = w[x + S.DR_NEXT]
            for i in range(2 * S.SLOTS):  # nobody hears any more what becomes of what is under way
                w[slot_at(w, w[x + S.DR_SLOT] + i) + S.SL_UNKNOWN] = 1
            w[host_at(w, w[x + S.DR_TO]) + S.HO_SHARED_OPEN] = 1
    w[at + S.HO_EXCUSED] = 1
    return start_notice(w, k, host, S.FIRST_PAGE, end, P.CAUSE_RELEASE, 0)


@kernel
def left(w):
    """Operations that somebody alive still waits for."""
    count = w[S.W_OPS_LEFT]
    for d in range(w[S.W_DIRECTIONS]):
        x = direction_at(w, d)
        if w[host_at(w, w[x + S.DR_FROM]) + S.HO_ALIVE] == 0:
            for k in range(w[x + S.DR_DONE], w[x + S.DR_NEXT]):
                if w[w[S.W_OP] + (d * S.OPS + k) * S.OP_WORDS + S.OP_STATE] == S.POSTED:
                    count -= 1
    return count


@kernel
def play(w, b):
    """Events until none is left, or something is wrong."""
    while w[S.W_VERDICT] == 0:
        host = step(w, b)
        if host < 0:
            break
        w[S.W_EVENTS] += 1
        check_step(w, host)
        if w[S.W_EVENTS] >= w[S.W_NEXT_NOTICE]:
            if w[S.W_OPS_LEFT] > 0:
                open_notice(w)
            else:
                w[S.W_NEXT_NOTICE] = S.NEVER
        if w[S.W_EVENTS] >= w[S.W_NEXT_STORE]:
            if w[S.W_OPS_LEFT] > 0:
                store_something(w, b)
            else:
                w[S.W_NEXT_STORE] = S.NEVER
        if w[S.W_EVENTS] >= w[S.W_DEATH]:
            die(w)
        if w[S.W_EVENTS] >= w[S.W_EVENT_LIMIT]:
            fail(w, S.VIOLATION_I6, host, 1, left(w))
    return check_end(w, b) if w[S.W_VERDICT] == 0 else 0


@kernel
def check_end(w, b):
    """Nothing happens any more: is everything done, given back and right?"""
    if left(w) != 0:
        return fail(w, S.VIOLATION_I6, 0, 0, left(w))
    for host in range(w[S.W_HOSTS]):
        at = host_at(w, host)
        if w[at + S.HO_ALIVE]:
            check_quiet(w, host)
            for frame in range(w[at + S.HO_FRAMES]):
                f = w[at + S.HO_FRAME] + frame * S.FRAME_WORDS
                if w[f + S.FR_STATE] == S.FRAME_CHILD and w[f + S.FR_SUM] != frame_sum(w, b, host, frame):
                    return fail(w, S.VIOLATION_I1, host, frame, -1)
            if w[at + S.HO_SHARED_OPEN] == 0 and w[at + S.HO_EXCUSED] == 0:
                if word_at(w, b, host, w[at + S.HO_SHARED]) != w[at + S.HO_SHARED_SUM]:
                    return fail(
                        w, S.VIOLATION_I7, host, w[at + S.HO_SHARED_SUM], word_at(w, b, host, w[at + S.HO_SHARED])
                    )
    for i in range(w[S.W_DIRECTIONS] * 2 * S.SLOTS):
        s = slot_at(w, i)
        if w[s + S.SL_UNKNOWN] == 0 and w[host_at(w, w[s + S.SL_HOST]) + S.HO_ALIVE]:
            wrong = differs(w, b, w[s + S.SL_HOST], w[s + S.SL_VA], S.SLOT_BYTES, 0)
            if wrong >= 0:
                return fail(w, S.VIOLATION_DATA, w[s + S.SL_HOST], i, wrong)
    return 0


@kernel
def check_quiet(w, host):
    """Nothing may be held that should have been given back."""
    h = words_at(device_at(w, host), device_words(w, host))
    p = words_at(paging_at(w, host), paging_words(w, host))
    if h[L.H_POOL_USED] or h[L.H_INFLIGHT] or h[L.H_ACT_COUNT] or h[L.H_TX_COUNT] or p[P.DMA_COUNT]:
        return fail(w, S.VIOLATION_LEAK, host, h[L.H_POOL_USED], h[L.H_INFLIGHT])
    for i in range(h[L.H_QP_LIVE]):
        q = h[L.H_QP_BASE] + i * L.QP_WORDS
        if h[q + L.QP_READ_LIVE] or h[q + L.QP_PEND_COUNT] or h[q + L.QP_LAND_COUNT]:
            return fail(w, S.VIOLATION_LEAK, host, i, h[q + L.QP_READ_LIVE])
    if p[P.FAULT_LIVE] or p[P.ACTIVE_COUNT] or p[P.DEFERRAL_COUNT] or p[P.FLUSHING]:
        return fail(w, S.VIOLATION_LEAK, host, p[P.FAULT_LIVE], p[P.ACTIVE_COUNT])
    return 0


@kernel
def tally(w, t):
    """Add a schedule to the statistics."""
    t[S.T_SCHEDULES] += 1
    t[S.T_EVENTS] += w[S.W_EVENTS]
    t[S.T_PACKETS] += w[S.W_PACKETS]
    t[S.T_LOST] += w[S.W_LOST]
    t[S.T_NOTICES] += w[S.W_NOTICE_COUNT]
    t[S.T_TIMEOUTS] += w[S.W_TIMEOUTS]
    t[S.T_CHECKED] += w[S.W_CHECKED]
    t[S.T_SKIPPED] += w[S.W_SKIPPED]
    t[S.T_COPIES] += w[S.W_COPIES]
    t[S.T_VIRTUAL_NS] += w[S.W_END]
    for d in range(w[S.W_DIRECTIONS]):
        x = direction_at(w, d)
        t[S.T_OPS] += w[x + S.DR_DONE]
        t[S.T_ERRORS] += 1 if w[x + S.DR_BROKEN] == 1 else 0
    for host in range(w[S.W_HOSTS]):
        h = words_at(device_at(w, host), device_words(w, host))
        p = words_at(paging_at(w, host), paging_words(w, host))
        n = p[P.TOTALS]
        t[S.T_DEATHS] += 1 - w[host_at(w, host) + S.HO_ALIVE]
        t[S.T_FAULTS] += p[n + P.COUNT_FAULTS_READ] + p[n + P.COUNT_FAULTS_WRITE]
        t[S.T_REFUSED] += p[n + P.COUNT_REFUSED]
        t[S.T_DEFERRED] += p[n + P.COUNT_PAGES_DEFERRED]
        t[S.T_FLUSHES] += p[n + P.COUNT_FLUSHES]
        t[S.T_RETRIES] += p[n + P.COUNT_RETRIES]
        t[S.T_WAITS] += p[n + P.COUNT_WAITS]
        t[S.T_EVICTIONS] += p[n + P.COUNT_EVICTIONS]
        t[S.T_RNR] += h[L.C_RNR_NAK] + h[L.C_RNR_NAK_FAULT]
        t[S.T_RETRANSMITTED] += h[L.C_RETRANSMITTED]
        t[S.T_PARKED] += h[L.C_PARKED]
        t[S.T_IMPLIED] += h[L.C_IMPLIED_NAK]
        t[S.T_DROPS] += h[L.C_POOL_DROPS]
        for cause in range(P.CAUSES):
            t[S.T_CAUSES + cause] += p[n + P.COUNT_INVALIDATIONS + cause]
    return 0


@kernel
def reset(w, b, template, seed):
    """The world as it was made, with this seed. Masks, trace and limits are the caller's and stay."""
    limit = w[S.W_EVENT_LIMIT]
    traced = w[S.W_TRACE]
    copy_bytes(address_of(w), address_of(template), 8 * w[S.W_SOURCE_WORDS])
    w[S.W_EVENT_LIMIT] = limit
    w[S.W_TRACE] = traced
    w[S.W_TRACE_COUNT] = 0
    w[S.W_SEED] = seed
    w[S.W_NOW] = 1
    w[S.W_NET_BYTES] = address_of(b) + template[S.W_NET_BYTES]
    for host in range(w[S.W_HOSTS]):
        at = host_at(w, host)
        fill_bytes(address_of(b) + w[at + S.HO_SHADOW], 0, w[at + S.HO_PAGES] * S.PAGE)
        for i in range(w[at + S.HO_PAGES]):  # what is pinned is there
            g = w[at + S.HO_PAGE] + i * S.PAGE_WORDS
            if w[g + S.PG_STATE] == S.PRESENT:
                fill_bytes(address_of(b) + w[at + S.HO_BYTES] + w[g + S.PG_FRAME] * S.PAGE, 0, S.PAGE)
    return 0


@kernel
def run(w, b, template, c, t, first, count):
    """Play seeds [first, first + count); -> how many held every invariant. The world of the first that did not is left in ``w``.

    w: the world, its last words the masks and the trace; b: its bytes; template: what `image` made; c: overrides of the
    configuration; t: statistics, added to.
    """
    for i in range(count):
        reset(w, b, template, first + i)
        configure(w, b, c)
        play(w, b)
        tally(w, t)
        if w[S.W_VERDICT]:
            return i
    return count
