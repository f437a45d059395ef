"""Who collides with whom: the questions that the notifier and the faults both ask, and what an ended collision sets
free.

The protocol itself is told, and owned, by notifier.py.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.layout import Block


@kernel
def violation(p: Block) -> int:
    """Count a step that came out of order; -> PROTOCOL."""
    p[p[P.TOTALS] + P.COUNT_VIOLATIONS] += 1
    return P.PROTOCOL


@kernel
def is_active(p: Block, start: int, end: int) -> bool:
    """True when an invalidation between start and finish touches ``[start, end)``."""
    seen = 0
    at = p[P.ACTIVE]
    while seen < p[P.ACTIVE_COUNT]:
        if p[at + P.ACTIVE_STATE]:
            seen += 1
            if p[at + P.ACTIVE_START] < end and start < p[at + P.ACTIVE_END]:
                return True
        at += P.ACTIVE_WORDS
    return False


@kernel
def _flush_among(p, at, count, words, flush, start, end):
    """The most urgent flush among `count` records of which the range is in words 1 and 2 and the flush in word `flush`."""
    running = P.FLUSH_NONE
    seen = 0
    while seen < count:
        if p[at]:
            seen += 1
            state = p[at + flush]
            if (state == P.FLUSH_OWED or state == P.FLUSH_RUNNING) and p[at + 1] < end and start < p[at + 2]:
                if state == P.FLUSH_OWED:
                    return state
                running = state
        at += words
    return running


@kernel
def flush_owed(p: Block, start: int, end: int) -> int:
    """Where the flush of ``[start, end)`` stands: FLUSH_OWED if a record waits for one, else FLUSH_RUNNING, else FLUSH_NONE.

    Besides deferrals, an invalidation that still waits for its flush counts: its entries are gone from the table, and
    for one that overlaps it that is no proof that the device has forgotten them.
    """
    count = p[P.DEFERRAL_COUNT]
    owed = _flush_among(p, p[P.DEFERRALS], count, P.DEFERRAL_WORDS, P.DEFERRAL_FLUSH, start, end)
    if owed != P.FLUSH_OWED and p[P.TLB]:
        active = _flush_among(p, p[P.ACTIVE], p[P.ACTIVE_COUNT], P.ACTIVE_WORDS, P.ACTIVE_FLUSH, start, end)
        owed = active if active else owed
    return owed


@kernel
def blocked(p: Block, start: int, end: int) -> int:
    """1 when a fault over ``[start, end)`` must wait: an invalidation is active there, or a flush is owed (and now
    asked for).
    """
    owed = flush_owed(p, start, end)
    if owed == P.FLUSH_OWED:
        p[P.FLUSH_WANTED] |= 1
    return 1 if owed or is_active(p, start, end) else 0


@kernel
def faults_under_way(p: Block, start: int, end: int, hit: int) -> int:
    """How many scans and chunks under way touch ``[start, end)``; hit 1: they must not install."""
    seen = 0
    found = 0
    slot = p[P.FAULTS]
    while seen < p[P.FAULT_LIVE]:
        state = p[slot + P.FAULT_STATE]
        if state:
            seen += 1
            upto = p[slot + P.FAULT_END] if state == P.FAULT_SCANNING else p[slot + P.FAULT_CHUNK_END]
            if state == P.FAULT_SCANNING or state == P.FAULT_RUNNING:
                if p[slot + P.FAULT_CURSOR] < end and start < upto:
                    p[slot + P.FAULT_HIT] |= hit
                    found += 1
        slot += P.FAULT_WORDS
    return found


# --- what an ended collision sets free (the rest of a fault's life is in faults.py) ----------------------------------------


@kernel
def arm(p: Block, slot: int, state: int) -> None:
    """Put a fault into FAULT_SCAN or FAULT_QUEUED, last in its queue."""
    p[slot + P.FAULT_STATE] = state
    if state == P.FAULT_SCAN:
        p[p[P.SCAN_QUEUE] + p[P.SCAN_LENGTH]] = slot
        p[P.SCAN_LENGTH] += 1
    else:
        p[p[P.RUN_QUEUE] + p[P.RUN_LENGTH]] = slot
        p[P.RUN_LENGTH] += 1


@kernel
def fault_poll(p: Block) -> int:
    """Arm every fault in FAULT_WAIT whose collision is over; -> how many. invalidate_finish and flush_end do it
    themselves.
    """
    armed = 0
    slot = p[P.FAULTS]
    last = slot + p[P.FAULT_CAPACITY] * P.FAULT_WORDS
    while p[P.FAULT_WAITING] > 0 and slot < last:
        if p[slot + P.FAULT_STATE] == P.FAULT_WAIT:
            if not blocked(p, p[slot + P.FAULT_CURSOR], p[slot + P.FAULT_END]):
                p[P.FAULT_WAITING] -= 1
                arm(p, slot, p[slot + P.FAULT_AFTER])
                p[slot + P.FAULT_AFTER] = 0
                armed += 1
        slot += P.FAULT_WORDS
    return armed


# --- discards whose end nobody tells --------------------------------------------------------------------------------


@kernel
def remember_discard(p: Block, start: int, end: int, now: int) -> None:
    """Entries over the range are provisional from now on for p[PROVISIONAL_NS]; without room, together with the last
    range.
    """
    kept = 0
    for i in range(p[P.PROVISIONAL_COUNT]):
        at = p[P.PROVISIONAL] + i * P.PROVISIONAL_WORDS
        if p[at + P.PROVISIONAL_UNTIL] > now:
            for k in range(P.PROVISIONAL_WORDS):
                p[p[P.PROVISIONAL] + kept * P.PROVISIONAL_WORDS + k] = p[at + k]
            kept += 1
    used = p[P.PROVISIONAL] + kept * P.PROVISIONAL_WORDS
    for i in range(used, p[P.PROVISIONAL] + p[P.PROVISIONAL_COUNT] * P.PROVISIONAL_WORDS):
        p[i] = 0
    p[P.PROVISIONAL_COUNT] = kept
    if p[P.PROVISIONAL_CAPACITY] == 0:
        return
    if kept == p[P.PROVISIONAL_CAPACITY]:
        used -= P.PROVISIONAL_WORDS
        start = min(start, p[used + P.PROVISIONAL_START])
        end = max(end, p[used + P.PROVISIONAL_END])
    else:
        p[P.PROVISIONAL_COUNT] += 1
    p[used + P.PROVISIONAL_START] = start
    p[used + P.PROVISIONAL_END] = end
    p[used + P.PROVISIONAL_UNTIL] = now + p[P.PROVISIONAL_NS]


@kernel
def validated_at(p: Block, start: int, end: int, now: int) -> int:
    """The time to install with: `now`, or so much earlier over a discarded range that only p[PROVISIONAL_TRUST_NS] is
    left.
    """
    for i in range(p[P.PROVISIONAL_COUNT]):
        at = p[P.PROVISIONAL] + i * P.PROVISIONAL_WORDS
        if (
            p[at + P.PROVISIONAL_START] < end
            and start < p[at + P.PROVISIONAL_END]
            and now < p[at + P.PROVISIONAL_UNTIL]
        ):
            return min(now, now - p[P.HORIZON_NS] + p[P.PROVISIONAL_TRUST_NS])
    return now


# --- counting ------------------------------------------------------------------------------------------


@kernel
def count_range(p: Block, start: int, end: int, which: int, amount: int, per_page: int) -> None:
    """Count for the totals and for every region that ``[start, end)`` touches (per_page: at most the pages that it
    shares).
    """
    if amount == 0:
        return
    p[p[P.TOTALS] + which] += amount
    at = p[P.TOTALS] + P.COUNT_WORDS + which
    region = p[P.REGIONS]
    for _ in range(p[P.REGION_COUNT]):
        shared = min(end, p[region + P.REGION_END]) - max(start, p[region + P.REGION_START])
        if shared > 0:
            p[at] += min(amount, max(1, shared >> p[P.PAGE_SHIFT])) if per_page else amount
        region += P.REGION_WORDS
        at += P.COUNT_WORDS
