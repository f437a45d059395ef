"""Device page faults: a range that translate() missed is brought in, step by step, while nothing else waits.

A fault is a slot that the world moves on. The driver first looks in line which pages are there (SCAN: about a
microsecond); what is not goes to a worker, chunk by chunk, so that a waiter resumes before the whole range is in::

    fault_begin -> SCAN -- fault_take --> SCANNING -- fault_scanned --> DONE      (all of it was there)
                    ^                         |                     \\-> QUEUED     (from FAULT_CURSOR on)
                    |                         | hit
                    +-------------------------+
    QUEUED -- fault_take --> RUNNING -- fault_chunk, populate, fault_commit --> RUNNING ... DONE
                                |  hit: the same chunk again                \\-> FAILED (errno)
    WAIT: a colliding invalidation is active or owed. Its end arms the slot again, as SCAN or QUEUED.

    driver                     worker                                       waiter
    slot = fault_begin(...)
    slot = fault_take(SCAN)
      scan, no lock
    fault_scanned(upto)
                               slot = fault_take(QUEUED)
                               while fault_chunk(slot):                     any time: translate() hits -> resume
                                 populate [CURSOR, CHUNK_END), no lock      DONE, and translate() misses: begin another
                                 fault_commit(errno)                        FAILED: NAK by FAULT_ERRNO
                                 unless COMMITTED or RETRY: leave           then, in every case, fault_end

Bounds. A slot that was HIT (see notifier.py) tries again, at most p[RETRIES_MAX] times over its life, then it is
FAILED with EAGAIN: the waiter answers "not ready", the peer asks again later, and nobody spins. A fault never leaves
its region, never covers more than p[FAULT_MAX_BYTES], and an error past what was asked for (read-ahead) does not fail
it. A write fault asks the world to populate for write; a scan alone gives the write right only to a page that has it
already, or where present means writable (REGION_WRITE_BY_SCAN).

A slot belongs to its waiters: it stays until each has called fault_end, and if a worker is on it then, the worker's
next step frees it. A prefetch has no waiter and frees itself, unless somebody has joined it; if that one leaves before it is
over, it is a prefetch again. While it lives nobody else gets the slot, so its number
is a safe name for it.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.collisions import arm, blocked, fault_poll, validated_at, violation
from unpinned.paging.layout import Block
from unpinned.paging.regions import count, is_revoked
from unpinned.paging.table import install, translate

__all__ = ["fault_begin", "fault_chunk", "fault_commit", "fault_end", "fault_poll", "fault_scanned", "fault_take"]


@kernel
def _free(p, slot):
    for i in range(slot, slot + P.FAULT_WORDS):
        p[i] = 0
    p[P.FAULT_LIVE] -= 1


@kernel
def _finish(p, slot, state, errno, now):
    """The fault is over: DONE or FAILED for its waiters, or free if it has none; -> the step's status."""
    region = p[slot + P.FAULT_REGION]
    if state == P.FAULT_FAILED:
        count(p, region, P.COUNT_FAULTS_EXHAUSTED if errno == P.EAGAIN else P.COUNT_FAULTS_FAILED, 1)
    else:
        count(p, region, P.COUNT_FAULT_NS, now - p[slot + P.FAULT_SINCE])
    p[slot + P.FAULT_STATE] = state
    p[slot + P.FAULT_ERRNO] = errno
    p[slot + P.FAULT_HIT] = 0
    p[slot + P.FAULT_CHUNK_END] = 0
    if p[slot + P.FAULT_WAITERS] == 0:
        _free(p, slot)
        return P.OVER
    if state == P.FAULT_DONE:
        return P.FINISHED
    return P.EXHAUSTED if errno == P.EAGAIN else P.FAILED


@kernel
def _wait(p, slot, after):
    """Park the fault until no invalidation of its range is active or owed; then it goes back to `after`."""
    count(p, p[slot + P.FAULT_REGION], P.COUNT_WAITS, 1)
    p[slot + P.FAULT_STATE] = P.FAULT_WAIT
    p[slot + P.FAULT_AFTER] = after
    p[slot + P.FAULT_HIT] = 0
    p[slot + P.FAULT_CHUNK_END] = 0
    p[P.FAULT_WAITING] += 1
    return P.WAITING


@kernel
def _joinable(p, start, end, need_write, region):
    """A slot that is about to bring in ``[start, end)`` with the asked right, a prefetch's too; or NONE.

    Not one that all its waiters have left: its next step frees it.
    """
    seen = 0
    slot = p[P.FAULTS]
    while seen < p[P.FAULT_LIVE]:
        state = p[slot + P.FAULT_STATE]
        if state:
            seen += 1
            if state < P.FAULT_DONE and p[slot + P.FAULT_CHUNK] and p[slot + P.FAULT_REGION] == region:
                if p[slot + P.FAULT_WAITERS] == 0 and p[slot + P.FAULT_TOKEN] >= 0:
                    pass
                elif p[slot + P.FAULT_CURSOR] <= start and end <= p[slot + P.FAULT_DEMAND]:
                    if p[slot + P.FAULT_WRITE] or not need_write:
                        return slot
        slot += P.FAULT_WORDS
    return P.NONE


@kernel
def _read_ahead(p, region, start, end):
    """How far a fault over ``[start, end)`` looks: as far again as the sequential run that it continues.

    What of that is there already costs a scan only; how much is brought in is `_trim`'s. Where pieces follow each other that do
    not begin at a page, each begins on the last page of the one before.
    """
    if p[P.READ_AHEAD_BYTES] == 0:
        return end  # and nothing is remembered: the model has fewer states
    at = p[P.REGIONS] + region * P.REGION_WORDS
    page = (1 << p[P.PAGE_SHIFT]) - 1
    after = p[at + P.REGION_NEXT]
    if start == after or (start + page + 1 == after and end > after):
        window = min(p[P.READ_AHEAD_BYTES], end - p[at + P.REGION_RUN])
        limit = min((p[at + P.REGION_END] + page) & ~page, start + p[P.FAULT_MAX_BYTES])
        ahead = max(end, min(end + window, limit))
        count(p, region, P.COUNT_READ_AHEAD, (ahead - end) >> p[P.PAGE_SHIFT])
        end = ahead
    else:
        p[at + P.REGION_RUN] = start
    p[at + P.REGION_NEXT] = end
    return end


@kernel
def _trim(p, slot):
    """Where a fault whose scan is over ends: of the read-ahead that is not there, a quarter of the run is brought in.

    A large READ arrives as several requests and looks sequential to itself, and pages past its end cost the owner's
    memory: so no more of them than a quarter of its length.
    """
    end = p[slot + P.FAULT_END]
    demand = p[slot + P.FAULT_DEMAND]
    if end == demand:
        return end
    at = p[P.REGIONS] + p[slot + P.FAULT_REGION] * P.REGION_WORDS
    quarter = (max(0, demand - p[at + P.REGION_RUN]) >> 2) & ~((1 << p[P.PAGE_SHIFT]) - 1)
    kept = min(end, max(demand + quarter, p[slot + P.FAULT_CURSOR]))
    if kept < end:
        count(p, p[slot + P.FAULT_REGION], P.COUNT_READ_AHEAD, -((end - kept) >> p[P.PAGE_SHIFT]))
        p[slot + P.FAULT_END] = kept
        if p[at + P.REGION_NEXT] == end:
            p[at + P.REGION_NEXT] = kept
    return kept


@kernel
def fault_begin(p: Block, start: int, end: int, want: int, token: int, region: int, now: int) -> int:
    """A request over ``[start, end)`` missed: open a fault, or join one that is about to bring the range in.

    -> the slot (a word index: ``p[slot + P.FAULT_STATE]``), NONE when no slot is free, OUTSIDE when the range is not
    in the region, or revoked. The fault covers at most p[FAULT_MAX_BYTES] from `start`, and may read ahead inside the
    region.

    want: WANT_WRITE for a write, 0 for a read; with WANT_RESIDENT it ends after the scan, whatever that found. token
    (>= 0): whatever the caller wants to find in FAULT_TOKEN; NONE, ASKED: a prefetch, whose slot frees itself. Otherwise the
    caller owes one fault_end, also for a slot that it joined (whose FAULT_TOKEN is the first one's). region: its
    slot, or NONE for no bounds.
    """
    page = (1 << p[P.PAGE_SHIFT]) - 1
    by_scan = 0
    if start < 0 or start >= end:
        return P.OUTSIDE
    if region >= 0:
        at = p[P.REGIONS] + region * P.REGION_WORDS
        if start < p[at + P.REGION_START] or end > p[at + P.REGION_END] or is_revoked(p, region, start, end):
            return P.OUTSIDE
        by_scan = p[at + P.REGION_FLAGS] & P.REGION_WRITE_BY_SCAN
    start &= ~page
    end = min((end + page) & ~page, start + p[P.FAULT_MAX_BYTES])
    if token >= 0:
        slot = _joinable(p, start, end, want & P.WANT_WRITE, region)
        if slot >= 0:
            p[slot + P.FAULT_WAITERS] += 1
            count(p, region, P.COUNT_FAULTS_JOINED, 1)
            return slot
    if p[P.FAULT_LIVE] == p[P.FAULT_CAPACITY]:
        count(p, region, P.COUNT_FAULTS_REJECTED, 1)
        return P.NONE
    slot = p[P.FAULTS]
    while p[slot + P.FAULT_STATE]:
        slot += P.FAULT_WORDS
    p[P.FAULT_LIVE] += 1
    p[slot + P.FAULT_START] = start
    p[slot + P.FAULT_CURSOR] = start
    p[slot + P.FAULT_DEMAND] = end
    p[slot + P.FAULT_END] = end
    p[slot + P.FAULT_CHUNK] = 0 if want & P.WANT_RESIDENT else p[P.CHUNK_BYTES]
    p[slot + P.FAULT_WRITE] = (1 + by_scan) if want & P.WANT_WRITE else 0
    p[slot + P.FAULT_TOKEN] = token
    p[slot + P.FAULT_REGION] = region
    p[slot + P.FAULT_SINCE] = now
    p[slot + P.FAULT_WAITERS] = 1 if token >= 0 else 0
    if token < 0 or want > P.WANT_WRITE:
        count(p, region, P.COUNT_PREFETCHES, 1)
    else:
        count(p, region, P.COUNT_FAULTS_WRITE if want else P.COUNT_FAULTS_READ, 1)
        if region >= 0:
            p[slot + P.FAULT_END] = _read_ahead(p, region, start, end)
    if blocked(p, start, p[slot + P.FAULT_END]):
        _wait(p, slot, P.FAULT_SCAN)
    else:
        arm(p, slot, P.FAULT_SCAN)
    return slot


@kernel
def fault_take(p: Block, state: int) -> int:
    """Take the oldest slot in `state` (FAULT_SCAN -> FAULT_SCANNING, FAULT_QUEUED -> FAULT_RUNNING); -> slot or NONE.

    A slot whose range has come under an invalidation meanwhile is put into FAULT_WAIT instead, and the next one is
    looked at; one that nobody waits for any more is freed.
    """
    queue = p[P.SCAN_QUEUE] if state == P.FAULT_SCAN else p[P.RUN_QUEUE]
    length = P.SCAN_LENGTH if state == P.FAULT_SCAN else P.RUN_LENGTH
    while p[length] > 0:
        slot = p[queue]
        p[length] -= 1
        for i in range(queue, queue + p[length]):
            p[i] = p[i + 1]
        p[queue + p[length]] = 0
        if p[slot + P.FAULT_WAITERS] == 0 and p[slot + P.FAULT_TOKEN] >= 0:
            _free(p, slot)
        elif blocked(p, p[slot + P.FAULT_CURSOR], p[slot + P.FAULT_END]):
            _wait(p, slot, state)
        else:
            p[slot + P.FAULT_STATE] = state + 1
            return slot
    return P.NONE


@kernel
def _collided(p, slot, upto, now):
    """What a scan or chunk over ``[FAULT_CURSOR, upto)`` must do that may not install: 0 (it may), or the status.

    The slot is left SCANNING or RUNNING for RETRY.
    """
    hit = p[slot + P.FAULT_HIT]
    stopped = blocked(p, p[slot + P.FAULT_CURSOR], upto)
    if not hit and not stopped:
        return 0
    p[slot + P.FAULT_HIT] = 0
    p[slot + P.FAULT_RETRIES] += 1
    count(p, p[slot + P.FAULT_REGION], P.COUNT_RETRIES, 1)
    if p[slot + P.FAULT_RETRIES] > p[P.RETRIES_MAX]:
        return _finish(p, slot, P.FAULT_FAILED, P.EAGAIN, now)
    if stopped:
        return _wait(p, slot, p[slot + P.FAULT_STATE] - 1)
    return P.RETRY


@kernel
def _abandoned(p, slot):
    """Free a slot under way that had waiters and has none left; True if it was one."""
    if p[slot + P.FAULT_WAITERS] or p[slot + P.FAULT_TOKEN] < 0:
        return False
    _free(p, slot)
    return True


@kernel
def fault_scanned(p: Block, slot: int, upto: int, now: int) -> int:
    """The driver looked, without the lock: ``[FAULT_CURSOR, upto)`` is resident. Install it and go on.

    -> FINISHED, COMMITTED (now FAULT_QUEUED, from FAULT_CURSOR on), RETRY (armed for another scan), WAITING, EXHAUSTED,
    OVER (nobody waits, the slot is free), PROTOCOL (not SCANNING). In every case the slot is no longer the caller's.
    """
    if p[slot + P.FAULT_STATE] != P.FAULT_SCANNING:
        return violation(p)
    if _abandoned(p, slot):
        return P.OVER
    collided = _collided(p, slot, p[slot + P.FAULT_END], now)
    if collided == P.RETRY:
        arm(p, slot, P.FAULT_SCAN)
    if collided:
        return collided
    start = p[slot + P.FAULT_CURSOR]
    end = p[slot + P.FAULT_END]
    region = p[slot + P.FAULT_REGION]
    write = p[slot + P.FAULT_WRITE]
    upto = min(end, upto) & ~((1 << p[P.PAGE_SHIFT]) - 1)
    if upto > start:
        rights = P.PRESENT | P.WRITE if write == 2 else P.PRESENT
        count(p, region, P.COUNT_PAGES_IN, install(p, start, upto, rights, validated_at(p, start, upto, now)))
        # Only so far as the entries have the right that was asked for: a scan cannot give the write right.
        start += translate(p, start, upto - start, write, now)
        p[slot + P.FAULT_CURSOR] = start
    if start >= p[slot + P.FAULT_DEMAND]:
        count(p, region, P.COUNT_FAULTS_MINOR, 1)
    if start >= _trim(p, slot) or p[slot + P.FAULT_CHUNK] == 0:
        return _finish(p, slot, P.FAULT_DONE, 0, now)
    if start < p[slot + P.FAULT_DEMAND]:
        count(p, region, P.COUNT_FAULTS_MAJOR, 1)
    arm(p, slot, P.FAULT_QUEUED)
    return P.COMMITTED


@kernel
def fault_chunk(p: Block, slot: int) -> int:
    """Begin the next chunk of a fault that this worker took; -> 1 and the world populates ``[FAULT_CURSOR,
    FAULT_CHUNK_END)``, for write if FAULT_WRITE is not 0; or 0: leave the slot alone (it is done, waits, has failed,
    or is free and perhaps another's).

    Call it again only after a fault_commit that said COMMITTED or RETRY.
    """
    if p[slot + P.FAULT_STATE] != P.FAULT_RUNNING or p[slot + P.FAULT_CHUNK_END]:
        return 0  # not, or no longer, this worker's
    if _abandoned(p, slot):
        return 0
    start = p[slot + P.FAULT_CURSOR]
    demand = p[slot + P.FAULT_DEMAND]
    end = demand if start < demand else p[slot + P.FAULT_END]  # an error past the demand must not fail it
    end = min(end, start + p[slot + P.FAULT_CHUNK])
    if blocked(p, start, end):
        _wait(p, slot, P.FAULT_QUEUED)
        return 0
    p[slot + P.FAULT_HIT] = 0
    p[slot + P.FAULT_CHUNK_END] = end
    return 1


@kernel
def fault_commit(p: Block, slot: int, err: int, now: int) -> int:
    """The world populated the chunk (err 0) or could not (errno). Install it, unless a colliding invalidation came
    between.

    -> COMMITTED or RETRY: the slot is still this worker's, and it calls fault_chunk again. FINISHED, WAITING, FAILED,
    EXHAUSTED, OVER, PROTOCOL: it leaves the slot alone, which may be another's already.
    """
    if p[slot + P.FAULT_STATE] != P.FAULT_RUNNING or p[slot + P.FAULT_CHUNK_END] == 0:
        return violation(p)
    if _abandoned(p, slot):
        return P.OVER
    start = p[slot + P.FAULT_CURSOR]
    end = p[slot + P.FAULT_CHUNK_END]
    p[slot + P.FAULT_HIT] |= err == P.EAGAIN  # the world's own "try again" counts as a collision
    collided = _collided(p, slot, end, now)
    if collided:
        if collided == P.RETRY:
            p[slot + P.FAULT_CHUNK_END] = 0
        return collided
    if err:
        if start < p[slot + P.FAULT_DEMAND]:
            return _finish(p, slot, P.FAULT_FAILED, err, now)
        return _finish(p, slot, P.FAULT_DONE, 0, now)
    rights = P.PRESENT | P.WRITE if p[slot + P.FAULT_WRITE] else P.PRESENT
    pages = install(p, start, end, rights, validated_at(p, start, end, now))
    count(p, p[slot + P.FAULT_REGION], P.COUNT_PAGES_IN, pages)
    p[slot + P.FAULT_CURSOR] = end
    p[slot + P.FAULT_CHUNK_END] = 0
    p[slot + P.FAULT_CHUNK] *= 4
    if end >= p[slot + P.FAULT_END]:
        return _finish(p, slot, P.FAULT_DONE, 0, now)
    return P.COMMITTED


@kernel
def fault_end(p: Block, slot: int) -> int:
    """One waiter is done with the slot: resumed, NAKed or gone. -> DONE (freed), BUSY (others wait, or a worker is on
    it and its next step frees it), PROTOCOL (no waiter is known).
    """
    if p[slot + P.FAULT_WAITERS] == 0:
        return violation(p)
    p[slot + P.FAULT_WAITERS] -= 1
    state = p[slot + P.FAULT_STATE]
    prefetch = p[slot + P.FAULT_TOKEN] < 0
    if p[slot + P.FAULT_WAITERS] > 0 or (state < P.FAULT_DONE and (state != P.FAULT_WAIT or prefetch)):
        return P.BUSY
    if state == P.FAULT_WAIT:
        p[P.FAULT_WAITING] -= 1
    _free(p, slot)
    return P.DONE
