"""A recording through the paging steps, record by record, in the order in which things happened.

Given, from the recording: which bytes each queue pair touched and when, and how much of its message was still to come; when a
request that had to wait came; which prefetches were asked for; what the host's page table held when it was looked at, and when
pages that were missing had come; for whom nobody waited any more; what the owner did (invalidations, regions that came and
went); which chunks were holes of a file; for how long the device believed what it had looked up. Predicted: for each request,
whether the device's table has its pages; every fault, how far it looks and what it installs; every entry grown old or dropped,
for want of room in the list of holes too (block s, the live one); every flush. The device's page table is the real one (block
p), the host's is a second block m used as a map of which pages are there.

Flushes take no time; with a policy that defers, they come when they are due. How faults move: `replay_faults`.

What became of a record in the model is written into its first word: of a request or access, how many faults it began; of an
invalidation, pages zapped * 2 + flushes, as in its last word, which is never read here.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.host.holes import cut, remember
from unpinned.host.layout import COPY_HOLED
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_begin, fault_chunk
from unpinned.paging.notifier import flush_due, invalidate_finish, invalidate_poll, invalidate_start
from unpinned.paging.regions import region_close, region_open, revoke
from unpinned.paging.table import install, translate, zap_range
from unpinned.recording import layout as R
from unpinned.study.replay_faults import (
    LOOKS,
    O_ACCESSES,
    O_BLIND,
    O_BYTES,
    O_REFUSED,
    O_REGIONS,
    O_UNSERVED,
    SLOT_LOOKING,
    WAITS,
    abandon,
    answer,
    arrive,
    commit,
    counterpart,
    drop,
    faults_of,
    flush,
    follow,
    following,
    look,
    miss,
    region_of,
    settle,
)

PAGE = 4096
PAGE_MASK = ~(PAGE - 1)
TRIES_MAX = 64  # faults of one run of copies
OUTCOME = R.STAMP


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
    before = faults_of(p)
    served = 0
    for _ in range(TRIES_MAX):
        start += translate(p, start, end - start, write, now)
        if start >= end:
            served = 1
            break
        region = region_of(p, start, end)
        if region >= 0 and o[o[O_REGIONS] + region]:
            return 0  # pinned: the table is not asked
        install(m, start & PAGE_MASK, (end + PAGE - 1) & PAGE_MASK, P.PRESENT, 0)
        if arrive(p, m, o, start, end, 0, 1, now) == 0:
            if miss(p, m, o, start, rest, write, region, P.NONE, 0, now) == 0:
                break
    o[O_UNSERVED] += 1 - served
    records[at + OUTCOME] = faults_of(p) - before
    return 0


@kernel
def requested(p, m, o, at, records):
    """A request that had to wait, or a prefetch."""
    start = records[at + R.A]
    end = records[at + R.B]
    number = records[at + R.C]
    region = records[at + R.D]
    now = records[at + R.TIME]
    flags = records[at + R.E]
    write = P.WANT_WRITE if flags & R.FAULT_WRITE else 0
    looking = WAITS if flags & R.FAULT_LATER else LOOKS
    old = counterpart(p, o, number)
    if old >= 0:
        drop(p, m, old, now)
        settle(p, m, o, now)
    if flags & R.FAULT_PREFETCH:
        slot = fault_begin(p, start, end, write | (P.WANT_RESIDENT if flags & R.FAULT_RESIDENT else 0), P.NONE, region, now)
        if slot >= 0:
            follow(p, o, slot, number, looking)
            settle(p, m, o, now)
    elif o[O_BLIND] == 0:
        there = translate(p, start, end - start, write, now)
        if there < end - start:
            if there > PAGE:  # a packet that missed lies in two pages at most: it was a later one
                start += there
            before = faults_of(p)
            miss(p, m, o, start, end, write, region, number, looking, now)
            records[at + OUTCOME] = faults_of(p) - before
    return 0


@kernel
def looked(p, m, o, s, at, records):
    """What the host's page table held at that moment."""
    start = records[at + R.A]
    end = records[at + R.B]
    upto = min(records[at + R.C] & PAGE_MASK, end)
    now = records[at + R.TIME]
    if upto > start:
        install(m, start, upto, P.PRESENT, 0)
    if upto < end:
        zap_range(m, max(upto, start), max(upto, start) + PAGE)
    there = max(start, upto - records[at + R.E] // R.LOOKED_HOLE * PAGE)
    if s[COPY_HOLED]:
        cut(s, p, start, there)
    if upto > there:
        remember(s, p, 1 + region_of(p, there, upto), there, upto)
    slot = counterpart(p, o, records[at + R.D])
    if slot >= 0:
        if records[at + R.E] & R.LOOKED_NOBODY:
            abandon(p, slot)
        look(p, slot)
        o[following(p, o, slot) + SLOT_LOOKING] = 0
        if p[slot + P.FAULT_STATE] == P.FAULT_SCANNING and answer(p, m, slot, now) == P.RETRY:
            o[following(p, o, slot) + SLOT_LOOKING] = WAITS
    return settle(p, m, o, now)


@kernel
def listed(p, m, o, at, records):
    """The driver begins to look at a fault that had to wait for it, or once more."""
    slot = counterpart(p, o, records[at + R.C])
    if slot >= 0 and o[following(p, o, slot) + SLOT_LOOKING] == WAITS:
        o[following(p, o, slot) + SLOT_LOOKING] = LOOKS
    return settle(p, m, o, records[at + R.TIME])


@kernel
def taken(p, o, at, records):
    """A worker begins with what was missing."""
    slot = counterpart(p, o, records[at + R.C])
    if slot >= 0 and p[slot + P.FAULT_STATE] == P.FAULT_RUNNING and p[slot + P.FAULT_CHUNK_END] == 0:
        fault_chunk(p, slot)
    return 0


@kernel
def populated(p, m, o, s, at, records):
    """A worker brought pages in, or could not."""
    start = records[at + R.A]
    end = records[at + R.B]
    error = records[at + R.C]
    now = records[at + R.TIME]
    if error == 0:
        install(m, start, end, P.PRESENT, 0)
    if records[at + R.E] & R.CHUNK_HOLE:
        remember(s, p, 1 + region_of(p, start, end), start, end)
    elif s[COPY_HOLED]:
        cut(s, p, start, end)
    slot = counterpart(p, o, records[at + R.D])
    if slot >= 0:
        if records[at + R.E] & R.CHUNK_NOBODY:
            abandon(p, slot)
        if p[slot + P.FAULT_STATE] == P.FAULT_RUNNING:
            if p[slot + P.FAULT_CHUNK_END] or fault_chunk(p, slot):
                commit(p, m, slot, error, now)
    return arrive(p, m, o, start, end, error, 0, now)


@kernel
def invalidated(p, m, o, at, records):
    """The owner changed a range."""
    start = records[at + R.A]
    end = records[at + R.B]
    cause = records[at + R.C]
    now = records[at + R.TIME]
    if cause == P.CAUSE_UNMAP or cause == P.CAUSE_DISCARD or cause == P.CAUSE_REMAP or cause == P.CAUSE_RELEASE:
        zap_range(m, start, end)
    zapped = p[p[P.TOTALS] + P.COUNT_PAGES_ZAPPED]
    flushes = p[p[P.TOTALS] + P.COUNT_FLUSHES]
    verdict = invalidate_start(p, start, end, cause, 1, now)
    ticket = p[P.TICKET]
    if verdict == P.REFUSED:
        o[O_REFUSED] += 1
    if ticket >= 0:
        if verdict == P.WAIT:
            flush(p, now)
            invalidate_poll(p, ticket)
        invalidate_finish(p, ticket, now)
    records[at + OUTCOME] = 2 * (p[p[P.TOTALS] + P.COUNT_PAGES_ZAPPED] - zapped) + p[p[P.TOTALS] + P.COUNT_FLUSHES] - flushes
    return settle(p, m, o, now)


@kernel
def replay(p, m, o, s, records):
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
            requested(p, m, o, at, records)
        elif kind == R.LOOKED:
            looked(p, m, o, s, at, records)
        elif kind == R.LISTED:
            listed(p, m, o, at, records)
        elif kind == R.TAKEN:
            taken(p, o, at, records)
        elif kind == R.CHUNK:
            populated(p, m, o, s, at, records)
        elif kind == R.INVALIDATE:
            invalidated(p, m, o, at, records)
        elif kind == R.REVOKE:
            revoke(p, records[at + R.D], records[at + R.A], records[at + R.B])
        elif kind == R.OPEN:
            region_open(p, records[at + R.D], records[at + R.A], records[at + R.B], records[at + R.C])
            o[o[O_REGIONS] + records[at + R.D]] = records[at + R.E]
        elif kind == R.HORIZON:
            p[P.HORIZON_NS] = records[at + R.A]
        elif kind == R.CLOSE:
            cut(s, p, records[at + R.A], records[at + R.B])
            region_close(p, records[at + R.D])
    if p[P.DEFERRAL_COUNT] and p[P.FLUSHING] == 0:
        flush(p, p[P.FLUSH_SINCE])  # what is still owed when the recording ends
    return count
