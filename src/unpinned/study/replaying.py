"""A recording through the paging steps, record by record, in the order in which things happened.

What is taken from the recording: which bytes each queue pair touched and when, how much of its message was still to come,
when a request that had to wait came (its copies are noted only when they are made), what the owner did (invalidations,
regions that came and went), what the host's page table held when it was looked at, and when pages that were missing had
come. What is predicted: for each request, whether the device's table has its pages; every entry installed, grown old and
dropped; every flush. The device's page table is the real one (block p), the host's is a second block m used as a map of
which pages are there.

A recorded copy took place, so what it needed was there by then: a fault that the model still has under way there ends in
the same moment. Flushes take no time; with a policy that defers, they come when they are due.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_begin, fault_chunk, fault_commit, fault_end, fault_scanned, fault_take
from unpinned.paging.notifier import (
    flush_begin,
    flush_due,
    flush_end,
    invalidate_finish,
    invalidate_poll,
    invalidate_start,
    obligation_end,
)
from unpinned.paging.regions import is_revoked, region_close, region_open, revoke
from unpinned.paging.table import install, translate, zap_range
from unpinned.recording import layout as R

PAGE = 4096
PAGE_MASK = ~(PAGE - 1)
TOKEN = 1
STEPS_MAX = 100_000  # a bound, never met
TRIES_MAX = 64  # faults of one run of copies

# What a replay counts besides the block's own counters: words of `o`
O_ACCESSES = 0
O_BYTES = 1
O_UNSERVED = 2  # accesses that the model could not serve: no region, or a fault that failed
O_REFUSED = 3
O_ZERO = 4  # time of the first record
O_STEP = 5  # ns of a bucket
O_BUCKETS = 6
O_FIRST = 8  # predicted faults in each bucket


@kernel
def region_of(p, start, end):
    """The open region that holds [start, end) and is not revoked there, or -1."""
    for region in range(p[P.REGION_COUNT]):
        at = p[P.REGIONS] + region * P.REGION_WORDS
        if p[at + P.REGION_OPEN] and p[at + P.REGION_START] <= start and end <= p[at + P.REGION_END]:
            if is_revoked(p, region, start, end) == 0:
                return region
    return -1


@kernel
def flush(p, now):
    """One flush, and the end of what it owed."""
    flush_begin(p, now)
    flush_end(p, now)
    for token in range(p[P.DEFERRAL_CAPACITY] if p[P.DEFERRAL_COUNT] else 0):
        if p[p[P.DEFERRALS] + token * P.DEFERRAL_WORDS + P.DEFERRAL_FLUSH] == P.FLUSH_OVER:
            obligation_end(p, token)
    return 0


@kernel
def advance(p, m, now):
    """Look up what waits for a look, and have a worker begin with what is missing; pages come with their records."""
    for _ in range(STEPS_MAX):
        if flush_due(p, now):
            flush(p, now)
        looked = fault_take(p, P.FAULT_SCAN)
        if looked >= 0:
            start = p[looked + P.FAULT_CURSOR]
            there = translate(m, start, p[looked + P.FAULT_END] - start, 0, 0)
            fault_scanned(p, looked, start + there, now)
            continue
        worked = fault_take(p, P.FAULT_QUEUED)
        if worked < 0:
            break
        fault_chunk(p, worked)
    return reap(p)


@kernel
def reap(p):
    """Nobody waits any more for a fault that is over."""
    seen = 0
    live = p[P.FAULT_LIVE]
    slot = p[P.FAULTS]
    while seen < live:
        if p[slot + P.FAULT_STATE]:
            seen += 1
            while p[slot + P.FAULT_STATE] >= P.FAULT_DONE and p[slot + P.FAULT_WAITERS]:
                fault_end(p, slot)
        slot += P.FAULT_WORDS
    return 0


@kernel
def arrive(p, m, start, end, error, to_the_end, now):
    """Pages of [start, end) have come (or could not, errno): every chunk under way there commits, and with *to_the_end* the
    chunks behind it that lie there too. How many committed."""
    seen = 0
    came = 0
    live = p[P.FAULT_LIVE]
    slot = p[P.FAULTS]
    while seen < live and slot < p[P.FAULTS] + p[P.FAULT_CAPACITY] * P.FAULT_WORDS:
        if p[slot + P.FAULT_STATE]:
            seen += 1
            while p[slot + P.FAULT_STATE] == P.FAULT_RUNNING and p[slot + P.FAULT_CHUNK_END]:
                first = p[slot + P.FAULT_CURSOR]
                last = p[slot + P.FAULT_CHUNK_END]
                if last <= start or end <= first:
                    break
                if error == 0:
                    install(m, first, last, P.PRESENT, 0)
                status = fault_commit(p, slot, error, now)
                came += 1
                if status == P.COMMITTED or status == P.RETRY:
                    fault_chunk(p, slot)
                if to_the_end == 0:
                    break
        slot += P.FAULT_WORDS
    return came


@kernel
def miss(p, m, o, start, end, write, region, now):
    """A request over [start, end) missed: a fault, or a share in one; 0 when there can be none."""
    if region < 0:
        return 0
    end = min(end, p[p[P.REGIONS] + region * P.REGION_WORDS + P.REGION_END])
    if p[P.FAULT_LIVE] == p[P.FAULT_CAPACITY]:
        arrive(p, m, 0, 1 << 62, 0, 1, now)
        reap(p)
    before = p[p[P.TOTALS] + P.COUNT_FAULTS_READ] + p[p[P.TOTALS] + P.COUNT_FAULTS_WRITE]
    if fault_begin(p, start, end, write, TOKEN, region, now) < 0:
        return 0
    bucket = min(max(0, now - o[O_ZERO]) // o[O_STEP], o[O_BUCKETS] - 1)
    o[O_FIRST + bucket] += p[p[P.TOTALS] + P.COUNT_FAULTS_READ] + p[p[P.TOTALS] + P.COUNT_FAULTS_WRITE] - before
    advance(p, m, now)
    return 1


@kernel
def access(p, m, o, at, records):
    """Bytes that were touched: what of them the model's table does not have is a fault over the rest of the message."""
    start = records[at + R.A]
    end = start + records[at + R.B]
    rest = end + records[at + R.C]
    now = records[at + R.TIME]
    write = 0 if records[at + R.D] == P.OP_READ else 1
    o[O_ACCESSES] += 1
    o[O_BYTES] += records[at + R.B]
    for _ in range(TRIES_MAX):
        start += translate(p, start, end - start, write, now)
        if start >= end:
            return 0
        if arrive(p, m, start, end, 0, 1, now) == 0:
            if miss(p, m, o, start, rest, write, region_of(p, start, end), now) == 0:
                break
        reap(p)
    o[O_UNSERVED] += 1
    return 0


@kernel
def looked_up(p, m, o, at, records):
    """What the host's page table held at that moment; and the request (or prefetch) that wanted to know."""
    start = records[at + R.A] & PAGE_MASK
    demand = records[at + R.B]
    end = records[at + R.C]
    upto = min(records[at + R.D] & PAGE_MASK, end)
    now = records[at + R.TIME]
    if upto > start:
        install(m, start, upto, P.PRESENT, 0)
    if upto < end:
        zap_range(m, max(upto, start), max(upto, start) + PAGE)
    flags = records[at + R.E]
    write = 1 if flags & R.FAULT_WRITE else 0
    if flags & R.FAULT_PREFETCH:
        want = (P.WANT_WRITE if write else 0) | (P.WANT_RESIDENT if flags & R.FAULT_RESIDENT else 0)
        fault_begin(p, start, demand, want, P.NONE, flags & R.FAULT_REGION, now)
        advance(p, m, now)
    else:
        began = now - (flags >> R.FAULT_AGE_SHIFT) * 1000
        start += translate(p, start, demand - start, write, began)
        if start < demand:
            miss(p, m, o, start, demand, write, flags & R.FAULT_REGION, began)
    return 0


@kernel
def populated(p, m, at, records):
    """A worker brought pages in, or could not."""
    start = records[at + R.A]
    end = records[at + R.B]
    if records[at + R.C] == 0:
        install(m, start, end, P.PRESENT, 0)
    arrive(p, m, start, end, records[at + R.C], 0, records[at + R.TIME])
    return reap(p)


@kernel
def invalidated(p, m, o, at, records):
    """The owner changed a range."""
    start = records[at + R.A]
    end = records[at + R.B]
    cause = records[at + R.C]
    now = records[at + R.TIME]
    if cause == P.CAUSE_UNMAP or cause == P.CAUSE_DISCARD or cause == P.CAUSE_REMAP or cause == P.CAUSE_RELEASE:
        zap_range(m, start, end)
    verdict = invalidate_start(p, start, end, cause, 1, now)
    ticket = p[P.TICKET]
    if verdict == P.REFUSED:
        o[O_REFUSED] += 1
    if ticket < 0:
        return 0
    if verdict == P.WAIT:
        flush(p, now)
        invalidate_poll(p, ticket)
    invalidate_finish(p, ticket, now)
    return 0


@kernel
def replay(p, m, o, records):
    """Every record, in order; -> how many."""
    count = len(records) // R.WORDS
    for i in range(count):
        at = i * R.WORDS
        kind = records[at + R.KIND]
        if flush_due(p, records[at + R.TIME]):
            flush(p, records[at + R.TIME])
        if kind == R.ACCESS:
            access(p, m, o, at, records)
        elif kind == R.FAULT:
            looked_up(p, m, o, at, records)
        elif kind == R.CHUNK:
            populated(p, m, at, records)
        elif kind == R.INVALIDATE:
            invalidated(p, m, o, at, records)
        elif kind == R.REVOKE:
            revoke(p, records[at + R.D], records[at + R.A], records[at + R.B])
        elif kind == R.OPEN:
            region_open(p, records[at + R.D], records[at + R.A], records[at + R.B], records[at + R.C])
        elif kind == R.CLOSE:
            region_close(p, records[at + R.D])
    if p[P.DEFERRAL_COUNT] and p[P.FLUSHING] == 0:
        flush(p, p[P.FLUSH_SINCE])  # what is still owed when the recording ends
    return count

