"""Faults of a replay: each moves when the recorded one in the same slot moved; the others move when pages come.

A fault takes time, and what happens meanwhile matters: one that is under way when its range is unmapped tries again and
installs pages that the next invalidation finds. So the model's fault is begun, looked at, taken by a worker and brought in
when the recorded one was. A fault that only the model has (an access found its pages in the live table, not in this one) is
looked at at once, and its pages come with the next record that says so. A copy that took place proves that its pages were
there.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_begin, fault_chunk, fault_commit, fault_end, fault_scanned, fault_take
from unpinned.paging.notifier import flush_begin, flush_due, flush_end, obligation_end
from unpinned.paging.regions import is_revoked
from unpinned.paging.table import install, translate

TOKEN = 1
STEPS_MAX = 100_000  # a bound, never met

# What a replay counts besides the block's own counters, and what it knows of slots and regions: words of `o`
O_ACCESSES = 0
O_BYTES = 1
O_UNSERVED = 2  # accesses that the model could not serve: no region, or a fault that failed
O_REFUSED = 3
O_BLIND = 4  # 1: requests that waited are not given, only what was copied
O_SLOTS = 5  # fault slots
O_REGIONS = 6  # first of a word a region: 1 when it is pinned
O_FIRST = 8  # SLOT_WORDS for each fault slot
SLOT_MODEL = 0  # of the recorded slot of this number: the model's fault for it, or 0
SLOT_RECORDED = 1  # of the model's slot of this number: 1 + the recorded one that it follows, or 0: it follows none
SLOT_LOOKING = 2  # of the model's slot of this number: WAITS for the recorded one's look to begin, LOOKS until that is over, or 0
WAITS, LOOKS = 2, 1
SLOT_WORDS = 3


@kernel
def following(p, o, slot):
    """Where `o` keeps what it knows of the model's fault slot."""
    return O_FIRST + (slot - p[P.FAULTS]) // P.FAULT_WORDS * SLOT_WORDS


@kernel
def counterpart(p, o, number):
    """The model's fault, under way, for the recorded one in slot `number`; or NONE."""
    if number < 0 or number >= o[O_SLOTS]:
        return P.NONE
    slot = o[O_FIRST + number * SLOT_WORDS + SLOT_MODEL]
    if slot and p[slot + P.FAULT_STATE] and o[following(p, o, slot) + SLOT_RECORDED] == number + 1:
        return slot
    return P.NONE


@kernel
def follow(p, o, slot, number, looking):
    """The model's new fault moves with the recorded one in slot `number` (NONE: with none)."""
    at = following(p, o, slot)
    o[at + SLOT_RECORDED] = 0
    o[at + SLOT_LOOKING] = 0
    if 0 <= number < o[O_SLOTS]:
        o[at + SLOT_RECORDED] = number + 1
        o[at + SLOT_LOOKING] = looking
        o[O_FIRST + number * SLOT_WORDS + SLOT_MODEL] = slot
    return 0


@kernel
def faults_of(p):
    """Faults for a request so far."""
    return p[p[P.TOTALS] + P.COUNT_FAULTS_READ] + p[p[P.TOTALS] + P.COUNT_FAULTS_WRITE]


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
def answer(p, m, slot, now):
    """Look which pages of a fault the host has."""
    start = p[slot + P.FAULT_CURSOR]
    there = translate(m, start, p[slot + P.FAULT_END] - start, 0, 0)
    return fault_scanned(p, slot, start + there, now)


@kernel
def look(p, slot):
    """Have the driver take the fault if it has not, and what waits before it."""
    while p[slot + P.FAULT_STATE] == P.FAULT_SCAN and fault_take(p, P.FAULT_SCAN) >= 0:
        pass
    return 0


@kernel
def settle(p, m, o, now):
    """Flush what is due; have driver and workers take what waits for them; let go of what is over.

    A fault that follows a recorded one is looked at, and its chunks begin, with that one.
    """
    for _ in range(STEPS_MAX):
        if flush_due(p, now):
            flush(p, now)
        looked = P.NONE
        if p[P.SCAN_LENGTH] and o[following(p, o, p[p[P.SCAN_QUEUE]]) + SLOT_LOOKING] != WAITS:
            looked = fault_take(p, P.FAULT_SCAN)
        if looked >= 0:
            if o[following(p, o, looked) + SLOT_LOOKING] == 0:
                answer(p, m, looked, now)
            continue
        worked = fault_take(p, P.FAULT_QUEUED)
        if worked < 0:
            break
        if o[following(p, o, worked) + SLOT_RECORDED] == 0:
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
def commit(p, m, slot, error, now):
    """The chunk of a fault that a worker is on has come, or could not (errno)."""
    if error == 0:
        install(m, p[slot + P.FAULT_CURSOR], p[slot + P.FAULT_CHUNK_END], P.PRESENT, 0)
    return fault_commit(p, slot, error, now)


@kernel
def arrive(p, m, o, start, end, error, every, now):
    """Pages of [start, end) have come (or could not, errno): faults under way there that follow none move on; with *every*, all
    of them, to their end. How many moved."""
    seen = 0
    came = 0
    live = p[P.FAULT_LIVE]
    slot = p[P.FAULTS]
    while seen < live and slot < p[P.FAULTS] + p[P.FAULT_CAPACITY] * P.FAULT_WORDS:
        if p[slot + P.FAULT_STATE]:
            seen += 1
            if every and p[slot + P.FAULT_STATE] <= P.FAULT_SCANNING:
                if p[slot + P.FAULT_CURSOR] < end and start < p[slot + P.FAULT_END]:
                    look(p, slot)
                    o[following(p, o, slot) + SLOT_LOOKING] = 0
                    answer(p, m, slot, now)
                    came += 1
            elif every or o[following(p, o, slot) + SLOT_RECORDED] == 0:
                for _ in range(STEPS_MAX):
                    if p[slot + P.FAULT_STATE] != P.FAULT_RUNNING:
                        break
                    if p[slot + P.FAULT_CHUNK_END] == 0 and fault_chunk(p, slot) == 0:
                        break
                    if p[slot + P.FAULT_CHUNK_END] <= start or end <= p[slot + P.FAULT_CURSOR]:
                        break
                    came += 1
                    status = commit(p, m, slot, error, now)
                    if every == 0:
                        if status == P.COMMITTED or status == P.RETRY:
                            fault_chunk(p, slot)
                        break
        slot += P.FAULT_WORDS
    settle(p, m, o, now)
    return came


@kernel
def abandon(p, slot):
    """Nobody waits for the fault any more: its next step frees it."""
    while p[slot + P.FAULT_STATE] and p[slot + P.FAULT_WAITERS]:
        fault_end(p, slot)
    return p[slot + P.FAULT_STATE]


@kernel
def drop(p, m, slot, now):
    """End a fault whose recorded one is over, wherever it is."""
    if p[slot + P.FAULT_WAITERS] == 0:
        return 0  # a prefetch frees itself
    look(p, slot)
    state = abandon(p, slot)
    if state == P.FAULT_SCANNING:
        fault_scanned(p, slot, 0, now)
    elif state == P.FAULT_RUNNING:
        if p[slot + P.FAULT_CHUNK_END]:
            fault_commit(p, slot, 0, now)
        else:
            fault_chunk(p, slot)
    return 0


@kernel
def miss(p, m, o, start, end, write, region, number, looking, now):
    """A request over [start, end) missed: a fault (which follows the recorded one in slot `number`), or a share in one; 0 when
    there can be none."""
    if region < 0:
        return 0
    end = min(end, p[p[P.REGIONS] + region * P.REGION_WORDS + P.REGION_END])
    if p[P.FAULT_LIVE] == p[P.FAULT_CAPACITY]:
        arrive(p, m, o, 0, 1 << 62, 0, 1, now)
    before = faults_of(p)
    slot = fault_begin(p, start, end, write, TOKEN, region, now)
    if slot < 0:
        return 0
    if faults_of(p) > before:
        follow(p, o, slot, number, looking)
    settle(p, m, o, now)
    return 1
