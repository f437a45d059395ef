"""The control plane's steps under the device lock, each one kernel: taken, done and given back without the GIL.

Nothing in Python may hold the device lock. The notifier needs it while the thread that called ``munmap`` sleeps, and that
thread may hold the GIL; a Python signal handler or the garbage collector may run between any two bytecodes. So Python
prepares (free lists and rings are its own, under `process.control`), and one call here publishes or retires.

``s`` is the caller's scratch: what to write, laid out as each function says.
"""

from __future__ import annotations

import platform

from unpinned.compiled import kernel
from unpinned.compiled.atomics import load_acquire, store_release
from unpinned.compiled.intrinsics import address_of, stack_words
from unpinned.compiled.libc import eventfd_write, monotonic_ns, sys_call, sys_poll
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.hca.completions import paid
from unpinned.hca.parking import forget
from unpinned.hca.qp import drained, fail_qp, release_faults, set_inflight
from unpinned.hca.ready import make_ready
from unpinned.host import engine_words as E
from unpinned.host.holes import cut
from unpinned.host.lock import halt, lock, resume, unlock
from unpinned.host.notify import invalidate
from unpinned.host.recorder import counted, end_copies, note
from unpinned.host.zeros import forget_untouched
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_begin
from unpinned.paging.regions import region_close, region_open
from unpinned.paging.table import zap_range
from unpinned.recording import layout as R

SYS_CLOSE = 3 if platform.machine() == "x86_64" else 57
DONE = 1
NOT_NOW = 0
GONE = -1  # another thread has closed it since the caller looked, and its record is free or another's


@kernel
def write_words(e, s):
    """Write s[3] pairs (index, value), from s[4] on, into the device's block, if the queue pair at s[0] has number s[1] and
    is in state s[2]. It then has a turn: it may have more to do now. DONE, NOT_NOW in another state, or GONE.
    """
    h = words_at(e[E.E_H], e[E.E_H + 1])
    lock(e, E.E_LOCK)
    result = NOT_NOW
    if h[s[0] + L.QP_NUMBER] != s[1]:
        result = GONE
    elif h[s[0] + L.QP_STATE] == s[2]:
        for i in range(s[3]):
            h[s[4 + 2 * i]] = s[5 + 2 * i]
        make_ready(h, s[0])
        result = DONE
    unlock(e, E.E_LOCK)
    return result


@kernel
def install_qp(e, q, s):
    """Publish the queue pair record ``s`` (QP_WORDS) at ``q``, except for its place in the ready ring."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    lock(e, E.E_LOCK)
    for i in range(L.QP_WORDS):
        if i != L.QP_QUEUED:  # its predecessor may still stand in the ring
            h[q + i] = s[i]
    h[L.H_QP_LIVE] = max(h[L.H_QP_LIVE], (q - h[L.H_QP_BASE]) // L.QP_WORDS + 1)
    unlock(e, E.E_LOCK)
    return DONE


@kernel
def kept(word):
    """Does a reset leave the queue pair's word alone? Its number, queues, rings and asynchronous events."""
    return (
        word == L.QP_NUMBER
        or word == L.QP_PD
        or (L.QP_SEND_CQ <= word and word <= L.QP_QUEUED)
        or (L.QP_SQ_RING <= word and word <= L.QP_RQ_STRIDE)
        or (L.QP_EVENT <= word and word <= L.QP_ASYNC_FD)
    )


@kernel
def clean_cq(h, cq, number):
    """Take the completions of a queue pair out of a completion queue, the others keep their order."""
    ring = h[cq + L.CQ_RING]
    mask = h[cq + L.CQ_MASK]
    stay = h[cq + L.CQ_HEAD]
    for i in range(h[cq + L.CQ_HEAD], h[cq + L.CQ_TAIL]):
        c = ring + (i & mask) * L.CQE_WORDS
        if h[c + L.E_QPN] != number:
            for k in range(L.CQE_WORDS):
                h[ring + (stay & mask) * L.CQE_WORDS + k] = h[c + k]
            stay += 1
    h[cq + L.CQ_TAIL] = stay
    return 0


@kernel
def in_batch(h, q):
    """Does anything of the current batch, between its copies and its completions, refer to the queue pair?"""
    for i in range(h[L.H_ACT_COUNT]):
        if h[h[L.H_ACT_BASE] + i * L.ACT_WORDS + L.A_QP] == q:
            return True
    for i in range(h[L.H_TX_COUNT]):
        if h[h[L.H_TX_BASE] + i * L.TX_WORDS + L.T_QP] == q:
            return True
    return False


@kernel
def reset_qp(e, q, number, state):
    """Empty queue pair ``number``, its completions included, and put it into ``state`` (RESET or FREE). NOT_NOW while the current
    batch refers to it; it is then in the error state, so the next one does not. GONE when the record is not its any more.
    """
    h = words_at(e[E.E_H], e[E.E_H + 1])
    p = words_at(e[E.E_P], e[E.E_P + 1])
    lock(e, E.E_LOCK)
    result = NOT_NOW
    if h[q + L.QP_NUMBER] != number:
        result = GONE
    elif in_batch(h, q):
        h[q + L.QP_STATE] = L.QPS_ERR
    else:
        release_faults(h, p, q)
        forget(h, q + L.QP_PEND_HEAD)
        forget(h, q + L.QP_LAND_HEAD)
        set_inflight(h, q, h[q + L.QP_UNA], h[q + L.QP_UNA])
        clean_cq(h, h[q + L.QP_SEND_CQ], h[q + L.QP_NUMBER])
        clean_cq(h, h[q + L.QP_RECV_CQ], h[q + L.QP_NUMBER])
        for word in range(L.QP_WORDS):
            if not kept(word):
                h[q + word] = 0
        h[q + L.QP_LAST_ID] = -1
        for i in range(L.READ_RING):
            h[q + L.QP_AT_PSN + i] = -1
        h[q + L.QP_STATE] = state
        if state == L.QPS_FREE:
            h[q + L.QP_NUMBER] = 0
            paid(h, q + L.QP_EVENT)  # to nobody
            h[q + L.QP_ASYNC] = 0
        result = DONE
    unlock(e, E.E_LOCK)
    return result


@kernel
def break_qp(e, q, number):
    """Put queue pair ``number`` into the error state and flush it; NOT_NOW and GONE as for `reset_qp`."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    p = words_at(e[E.E_P], e[E.E_P + 1])
    lock(e, E.E_LOCK)
    result = GONE
    if h[q + L.QP_NUMBER] == number:
        h[q + L.QP_STATE] = L.QPS_ERR
        result = NOT_NOW
        if not in_batch(h, q):
            if h[q + L.QP_ERROR] == 0:
                fail_qp(h, p, q, L.WC_WR_FLUSH_ERR)
            result = DONE
    unlock(e, E.E_LOCK)
    return result


@kernel
def has_drained(e, q):
    """Is all done that the queue pair has begun? In SQD it stays so."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    lock(e, E.E_LOCK)
    result = DONE if drained(h, q) else NOT_NOW
    unlock(e, E.E_LOCK)
    return result


@kernel
def clear_cq(e, cq):
    """Retire a completion queue that no queue pair uses any more."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    lock(e, E.E_LOCK)
    paid(h, cq + L.CQ_EVENT)  # to nobody
    for i in range(L.CQ_WORDS):
        h[cq + i] = 0
    unlock(e, E.E_LOCK)
    return DONE


@kernel
def resize_cq(e, cq, s):
    """Move a completion queue into the ring of s[1] entries at s[0], what waits in it included; s becomes the old ring and its
    entries. NOT_NOW, and nothing is changed, where more completions wait than s[2].
    """
    h = words_at(e[E.E_H], e[E.E_H + 1])
    lock(e, E.E_LOCK)
    result = NOT_NOW
    old, mask = h[cq + L.CQ_RING], h[cq + L.CQ_MASK]
    if h[cq + L.CQ_TAIL] - h[cq + L.CQ_HEAD] <= s[2]:
        for i in range(h[cq + L.CQ_HEAD], h[cq + L.CQ_TAIL]):  # head and tail count on: each entry has its number's place
            for k in range(L.CQE_WORDS):
                h[s[0] + (i & (s[1] - 1)) * L.CQE_WORDS + k] = h[old + (i & mask) * L.CQE_WORDS + k]
        h[cq + L.CQ_RING] = s[0]
        h[cq + L.CQ_MASK] = s[1] - 1
        s[0] = old
        s[1] = mask + 1
        result = DONE
    unlock(e, E.E_LOCK)
    return result


@kernel
def arm_cq(e, cq, how):
    """Ask for an event at the next completion (1) or the next solicited one (2); asked for both, the first counts."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    lock(e, E.E_LOCK)
    if h[cq + L.CQ_ARMED] != 1:
        h[cq + L.CQ_ARMED] = how
    unlock(e, E.E_LOCK)
    return DONE


# ---- regions -------------------------------------------------------------------------------------------------------


@kernel
def open_region(e, mr, s):
    """Open paging slot s[0] over [s[1], s[2]) with flags s[3] and publish region record s[4:] at ``mr``; a paging status."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    p = words_at(e[E.E_P], e[E.E_P + 1])
    lock(e, E.E_LOCK)
    result = region_open(p, s[0], s[1], s[2], s[3])
    if result == P.DONE:
        for i in range(L.MR_WORDS):
            h[mr + i] = s[4 + i]
        h[L.H_MR_LIVE] = max(h[L.H_MR_LIVE], (mr - h[L.H_MR_BASE]) // L.MR_WORDS + 1)
        if e[E.E_RECORD]:
            note(e, R.OPEN, monotonic_ns(), s[1], s[2], s[3], s[0], h[mr + L.MR_PINNED])
    unlock(e, E.E_LOCK)
    return result


@kernel
def record(e, r, out):
    """The hooks write to ring ``r`` from now on (one of no words: to none); what is counted at that moment goes into ``out``.

    The page table and the list of holes are emptied before the first record: all that is in them comes from what is recorded.
    """
    h = words_at(e[E.E_H], e[E.E_H + 1])
    p = words_at(e[E.E_P], e[E.E_P + 1])
    halt(e)
    if e[E.E_RECORD]:
        end_copies(e)
    e[E.E_RECORD + 1] = len(r)
    e[E.E_RECORD] = address_of(r) if len(r) else 0
    if len(r):
        note(e, R.HORIZON, monotonic_ns(), p[P.HORIZON_NS], 0, 0, 0, 0)
        zap_range(p, 0, 1 << 62)
        cut(words_at(e[E.E_COPY], e[E.E_COPY + 1]), p, 0, 1 << 62)
        for i in range(h[L.H_MR_LIVE]):
            mr = h[L.H_MR_BASE] + i * L.MR_WORDS
            if h[mr + L.MR_STATE]:
                slot = h[mr + L.MR_REGION]
                at = p[P.REGIONS] + slot * P.REGION_WORDS
                start = p[at + P.REGION_START]
                note(e, R.OPEN, monotonic_ns(), start, p[at + P.REGION_END], p[at + P.REGION_FLAGS], slot, h[mr + L.MR_PINNED])
    counted(e, p, out)
    resume(e)
    return DONE


@kernel
def recorded(e, out):
    """What is counted, and how far the ring has come (``recorder.counted``), at one moment."""
    p = words_at(e[E.E_P], e[E.E_P + 1])
    lock(e, E.E_LOCK)
    counted(e, p, out)
    unlock(e, E.E_LOCK)
    return DONE


@kernel
def revoke_regions(e, mr):
    """No new copy and no new fault of region ``mr`` from here on (0: of any region); on return no copy is in flight."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    halt(e)
    if mr:
        h[mr + L.MR_STATE] = 2
    else:
        for i in range(h[L.H_MR_LIVE]):
            record = h[L.H_MR_BASE] + i * L.MR_WORDS
            if h[record + L.MR_STATE] == 1:
                h[record + L.MR_STATE] = 2
    resume(e)
    return DONE


@kernel
def close_region(e, mr, slot, low, high):
    """Forget everything about [low, high) of table addresses, and the region's records."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    p = words_at(e[E.E_P], e[E.E_P + 1])
    halt(e)
    invalidate(e, p, low, high, P.CAUSE_RELEASE, slot, monotonic_ns())
    c = words_at(e[E.E_COPY], e[E.E_COPY + 1])
    cut(c, p, low, high)
    forget_untouched(c, low, high)
    region_close(p, slot)
    if e[E.E_RECORD]:
        note(e, R.CLOSE, monotonic_ns(), low, high, 0, slot, 0)
    for i in range(L.MR_WORDS):
        h[mr + i] = 0
    resume(e)
    return DONE


@kernel
def faults_of(e, slot, low, high, prefetches):
    """How many faults of a region that touch [low, high) have not ended; only ``prefetches`` if that is not 0."""
    p = words_at(e[E.E_P], e[E.E_P + 1])
    count = 0
    lock(e, E.E_LOCK)
    f = p[P.FAULTS]
    for _ in range(p[P.FAULT_CAPACITY]):
        under_way = p[f + P.FAULT_STATE] != P.FAULT_FREE and p[f + P.FAULT_STATE] < P.FAULT_DONE
        if under_way and p[f + P.FAULT_REGION] == slot and p[f + P.FAULT_START] < high and low < p[f + P.FAULT_END]:
            if prefetches == 0 or p[f + P.FAULT_TOKEN] < 0:
                count += 1
        f += P.FAULT_WORDS
    unlock(e, E.E_LOCK)
    return count


@kernel
def begin_faults(e, slot, low, high, want, limit):
    """Begin up to ``limit`` faults with nobody waiting from ``low`` on; the address that was reached, or P.OUTSIDE."""
    p = words_at(e[E.E_P], e[E.E_P + 1])
    lock(e, E.E_LOCK)
    at = low
    begun = 0
    now = monotonic_ns()
    while at < high and begun < limit:
        step = min(high - at, p[P.FAULT_MAX_BYTES])
        result = fault_begin(p, at, at + step, want, P.NONE, slot, now)
        if result < 0:
            if result == P.OUTSIDE:
                at = P.OUTSIDE
            break
        begun += 1
        at += step
    unlock(e, E.E_LOCK)
    return at


# ---- the notifier's list of devices ----------------------------------------------------------------------------------


@kernel
def serve_device(g, address):
    """Apply events to the device whose engine block lies at ``address`` from now on; NOT_NOW when the list is full."""
    lock(g, E.G_LOCK)
    result = NOT_NOW
    if g[E.G_COUNT] < E.DEVICES_MAX:
        g[E.G_DEVICES + g[E.G_COUNT]] = address
        g[E.G_COUNT] += 1
        result = DONE
    unlock(g, E.G_LOCK)
    return result


@kernel
def leave_device(g, address):
    """Leave a device alone; on return the notifier does not look at it."""
    lock(g, E.G_LOCK)
    stay = 0
    for i in range(g[E.G_COUNT]):
        if g[E.G_DEVICES + i] != address:
            g[E.G_DEVICES + stay] = g[E.G_DEVICES + i]
            stay += 1
    g[E.G_COUNT] = stay
    unlock(g, E.G_LOCK)
    return DONE


@kernel
def end_notifier(g):
    """Stop the notifier's thread and close its descriptor, which wakes whoever still waits for an event.

    One step, because such a thread may hold the GIL. 0, or NOT done after about 5 s: the thread did not end.
    """
    store_release(g, E.G_STOP, 1)
    eventfd_write(g[E.G_WAKE_FD], 1)
    rounds = 0
    nothing = stack_words(1)
    while load_acquire(g, E.G_THREADS) > 0 and rounds < 5000:
        sys_poll(nothing, 0, 1)
        rounds += 1
    sys_call(SYS_CLOSE, g[E.G_UFFD], 0, 0, 0, 0, 0)
    return load_acquire(g, E.G_THREADS)
