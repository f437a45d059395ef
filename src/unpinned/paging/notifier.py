"""The notifier: the one owner of the collision protocol between the CPU's page table and the device.

Two sides race for every page. The *host* changes the CPU's page table and must first get the device out of the range.
A *fault* brings a page in for the device and installs a translation of what it saw, which may have changed while it
looked. The lock guards steps, and neither side can hold it while it sleeps: the host waits for copies, the fault
waits for the disk. So each side is a pair of steps, and this file decides what happens when they interleave::

    host                                    fault (one slot of faults.py)                 device
    ----                                    -----------------------------                 ------
                                            fault_chunk: HIT = 0, snapshot
    invalidate_start(range, cause)          .                                             copy over the range:
      sequence becomes odd                  .  populates the chunk                        ISSUED
      range is ACTIVE                       .  (no lock)                                  .
      colliding chunks: HIT = 1   ------->  .                                             .
      entries zapped / downgraded / stale   .                                             .
      -> WAIT  <-------------------------------------------------------- collides ------  .
                                            fault_commit: HIT -> installs nothing;        DONE
    invalidate_poll -> DONE                   range ACTIVE -> WAITING
    (changes the page table, frees, ...)
    invalidate_finish
      range no longer ACTIVE
      waiting faults armed again  ------->  fault_chunk: HIT = 0, ...
      last one: sequence becomes even       fault_commit: not HIT -> installs

Rules, each kept by a step below:

1. From start to finish nothing is installed over the range: a commit that was HIT installs nothing, and a chunk, scan
   or fault that collides with an ACTIVE range does not begin but waits.
2. A fault waits for *colliding* invalidations only, never for the mm's; what it was HIT by is noted per slot, so
   unrelated invalidations, however many, never make it try again.
3. start says DONE only when no ISSUED descriptor and no cached translation of the range is left; else WAIT, and poll
   says when. A caller that may not sleep is never told WAIT: it is REFUSED, which is decided before anything changes;
   but the flush that was missing is asked for, so that it may come again and finds it done.
4. Two phases, so that many devices are started together and waited for once. A refusal by one leaves the others as
   they are: they get finish.
5. start and finish pair up. REFUSED, FULL and PROTOCOL open no ticket; every other verdict opens one. A finish
   without a start, twice, or before poll said DONE changes nothing, returns PROTOCOL and is counted in
   COUNT_VIOLATIONS.

Deferral. Under DEFER the entries become STALE (no new use) and the range is *owed* a flush: the host may go on, but
holds the frame until its obligation (p[OBLIGATION]) is flushed; the batch ends with one flush for everything owed. A
flush begins when half of what the policy allows is owed, so that the other half can be while it runs; what would exceed
the bound is done NOW, and so waits for the device as if nothing could be deferred.
Until then a fault over an owed range waits, and asks for the flush (else the device could hold an old and a new
translation of one page), and a stronger invalidation over it flushes it too. The flush is the world's (`flush_begin`,
the hardware's own time, `flush_end`), the obligation is discharged by the host (`obligation_end`). A world whose
device keeps no translations of its own (p[TLB] = 0, live) has nothing to flush but copies in flight.

Cause and policy. What start does is one row of the policy table in the block (p[POLICY], see policy.py), so it needs
no Python.

After a DISCARD on live Linux nothing says when the pages really go (the event comes before). What faults install over
such a range for p[PROVISIONAL_NS] is *provisional*: trusted for p[PROVISIONAL_TRUST_NS] only, then validated again.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.collisions import (
    count_range,
    fault_poll,
    faults_under_way,
    flush_owed,
    remember_discard,
    violation,
)
from unpinned.paging.dma import dma_collides
from unpinned.paging.flushes import (
    ask_for_flush,
    deferral_for,
    flush_begin,
    flush_deadline,
    flush_due,
    flush_end,
    obligation_done,
    obligation_end,
    owe,
)
from unpinned.paging.layout import Block
from unpinned.paging.table import change_range, next_present

__all__ = [
    "fault_poll",
    "flush_begin",
    "flush_deadline",
    "flush_due",
    "flush_end",
    "invalidate_finish",
    "invalidate_poll",
    "invalidate_start",
    "obligation_done",
    "obligation_end",
]


@kernel
def invalidate_start(p: Block, start: int, end: int, cause: int, may_sleep: int, now: int) -> int:
    """The CPU's page table is about to change over ``[start, end)`` (taken outward to pages), for `cause`; -> a
    verdict.

    DONE      the device is out of the range. Ticket in p[TICKET]; call invalidate_finish when the change is made.
    WAIT      the same, once invalidate_poll(p, p[TICKET]) says DONE: do not change anything before. Only if may_sleep.
    DEFERRED  make the change, but hold the frames until obligation p[OBLIGATION] is flushed. Ticket as for DONE.
    REFUSED   nothing has changed, no ticket: the pages stay with their owner. (Where the caller may not sleep, a flush
              that it would have waited for is now asked for.)
    FULL      nothing has changed, no ticket record is free: finish another one first.
    PROTOCOL  an empty range or an unknown cause; counted.
    """
    p[P.TICKET] = P.NONE
    p[P.OBLIGATION] = P.NONE
    if cause < 0 or cause >= P.CAUSES or start < 0 or start >= end:
        return violation(p)
    page = (1 << p[P.PAGE_SHIFT]) - 1
    start &= ~page
    end = (min(end, 1 << 62) + page) & ~page
    verdict = p[P.POLICY + cause * P.POLICY_WORDS + P.POLICY_VERDICT]

    # Decide. Nothing changes before the verdict is known.
    owed = flush_owed(p, start, end)
    copying = dma_collides(p, start, end, verdict == P.DOWNGRADE)
    cached = p[P.TLB] and (owed or p[P.EVICTED] or next_present(p, start, end) >= 0)
    token = P.NONE
    if verdict == P.DEFER:
        held = p[P.HELD_PAGES] + ((end - start) >> p[P.PAGE_SHIFT])
        if (copying or cached) and held <= p[P.POLICY + cause * P.POLICY_WORDS + P.POLICY_MAX_PAGES]:
            token = deferral_for(p, start, end, cause)
        if token < 0:  # nothing to defer, or too much
            verdict = P.NOW
    elif verdict == P.REFUSE_IF_BUSY:
        if copying or owed or faults_under_way(p, start, end, 0):
            count_range(p, start, end, P.COUNT_REFUSED, 1, 0)
            return P.REFUSED
        verdict = P.NOW
    if not may_sleep and token < 0 and cached:
        cached = ask_for_flush(p, start, end, owed)
    if not may_sleep and token < 0 and (copying or cached):
        count_range(p, start, end, P.COUNT_REFUSED, 1, 0)
        return P.REFUSED
    ticket = 0
    while ticket < p[P.ACTIVE_CAPACITY] and p[p[P.ACTIVE] + ticket * P.ACTIVE_WORDS + P.ACTIVE_STATE]:
        ticket += 1
    if ticket == p[P.ACTIVE_CAPACITY]:
        return P.FULL

    # Open the sequence, before the table changes.
    if p[P.ACTIVE_COUNT] == 0:
        p[p[P.COUNTERS] + P.SEQUENCE] += 1
    p[P.ACTIVE_COUNT] += 1
    p[P.TICKET] = ticket
    at = p[P.ACTIVE] + ticket * P.ACTIVE_WORDS
    p[at + P.ACTIVE_STATE] = 1
    p[at + P.ACTIVE_START] = start
    p[at + P.ACTIVE_END] = end
    p[at + P.ACTIVE_CAUSE] = cause
    p[at + P.ACTIVE_VERDICT] = verdict
    p[at + P.ACTIVE_SINCE] = now
    faults_under_way(p, start, end, 1)
    count_range(p, start, end, P.COUNT_INVALIDATIONS + cause, 1, 0)

    # Change the table.
    keep, add, which = 0, 0, P.COUNT_PAGES_ZAPPED
    if verdict == P.DOWNGRADE:
        keep, which = ~P.WRITE, P.COUNT_PAGES_DOWNGRADED
    elif verdict == P.DEFER:
        keep, add, which = -1, P.STALE, P.COUNT_PAGES_DEFERRED
    changed = change_range(p, start, end, keep, add)
    count_range(p, start, end, which, changed, 1)
    if verdict == P.DEFER:
        owe(p, token, start, end, cause, now)
        return P.DEFERRED
    if p[P.TLB]:
        if cached and (owed or p[P.EVICTED] or changed > 0):
            p[at + P.ACTIVE_FLUSH] = P.FLUSH_OWED
            p[P.FLUSH_WANTED] |= 1
            return P.WAIT
    elif changed > 0 or copying:
        p[at + P.ACTIVE_FLUSH] = P.FLUSH_OVER  # nothing but the copies to wait for; counted as a flush when it ends
    return P.WAIT if copying else P.DONE


@kernel
def invalidate_poll(p: Block, ticket: int) -> int:
    """-> DONE when the device is out of the ticket's range, WAIT (copies in flight, or a flush owed), PROTOCOL (no
    such ticket).
    """
    at = p[P.ACTIVE] + ticket * P.ACTIVE_WORDS
    if ticket < 0 or ticket >= p[P.ACTIVE_CAPACITY] or not p[at + P.ACTIVE_STATE]:
        return violation(p)
    verdict = p[at + P.ACTIVE_VERDICT]
    if verdict == P.DEFER:
        return P.DONE
    if p[at + P.ACTIVE_FLUSH] == P.FLUSH_OWED or p[at + P.ACTIVE_FLUSH] == P.FLUSH_RUNNING:
        return P.WAIT
    if dma_collides(p, p[at + P.ACTIVE_START], p[at + P.ACTIVE_END], verdict == P.DOWNGRADE):
        return P.WAIT
    return P.DONE


@kernel
def invalidate_finish(p: Block, ticket: int, now: int) -> int:
    """The change is made; faults may go on. -> DONE, or PROTOCOL (unknown ticket, or still WAIT) with nothing changed."""
    ready = invalidate_poll(p, ticket)
    if ready == P.WAIT:
        return violation(p)
    if ready == P.PROTOCOL:
        return ready
    at = p[P.ACTIVE] + ticket * P.ACTIVE_WORDS
    start = p[at + P.ACTIVE_START]
    end = p[at + P.ACTIVE_END]
    if p[at + P.ACTIVE_FLUSH] == P.FLUSH_OVER:
        count_range(p, start, end, P.COUNT_FLUSHES, 1, 0)
        count_range(p, start, end, P.COUNT_FLUSH_NS, now - p[at + P.ACTIVE_SINCE], 0)
    if p[at + P.ACTIVE_CAUSE] == P.CAUSE_DISCARD and p[P.PROVISIONAL_NS] > 0:
        remember_discard(p, start, end, now)
    for i in range(at, at + P.ACTIVE_WORDS):
        p[i] = 0
    p[P.ACTIVE_COUNT] -= 1
    if p[P.ACTIVE_COUNT] == 0:
        p[p[P.COUNTERS] + P.SEQUENCE] += 1
    fault_poll(p)
    return P.DONE
