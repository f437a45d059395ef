"""A device's own side: its translation cache, streams of requests, fault service and flush engine.

A stream is a queue pair in closed loop: a request arrives, is translated (cache, then page table), copied, answered; the
next one arrives a round trip later. A miss parks the stream and nothing else. Between translation and the end of the copy
a DMA descriptor stands in the paging block, so an invalidation meets it and waits.

The translation cache is the device's own: the paging block's entries may be gone, a cached translation is used until a
flush ends. That is why it must be flushed, and what goes wrong when frames are given up before. Sources: those of
`model/device.py`; how long each thing takes, with its source, stands in `profiles.py`.
"""

from __future__ import annotations

from unpinned.compiled import inlined_kernel, kernel
from unpinned.compiled.intrinsics import prefetch
from unpinned.compiled.views import words_at
from unpinned.paging import layout as P
from unpinned.paging.dma import dma_at, dma_complete, dma_issue
from unpinned.paging.faults import fault_begin, fault_chunk, fault_commit, fault_end, fault_scanned, fault_take
from unpinned.paging.notifier import flush_begin, flush_deadline, flush_due, flush_end
from unpinned.paging.table import entry, retag, slot, translate
from unpinned.study import layout as S
from unpinned.study.memory import discharge, judge, page_in, table_at

EFAULT = 14
RNR_NS = 50_000  # a request whose fault lost too many races comes again
FLUSH_AGAIN_NS = 200
ALLOC_AGAIN_NS = 20_000
LINE_WORDS = 8  # of a processor's cache


# --- measured distributions ----------------------------------------------------------------------------------------------


@kernel
def measure(s, kind, value):
    """Count `value` (ns, >= 0) in a histogram: 64 steps an octave, exact below 64."""
    at = s[S.HISTOGRAMS] + kind * S.HISTOGRAM_WORDS
    octave = 0
    step = value
    while step >= 2 * S.HISTOGRAM_STEPS:
        step >>= 1
        octave += 1
    bucket = step if octave == 0 else octave * S.HISTOGRAM_STEPS + step
    s[at + min(bucket, S.HISTOGRAM_MAX - 1)] += 1
    s[at + S.HISTOGRAM_MAX] = max(s[at + S.HISTOGRAM_MAX], value)
    s[at + S.HISTOGRAM_SUM] += value
    s[at + S.HISTOGRAM_COUNT] += 1
    return 0


# --- requests --------------------------------------------------------------------------------------------------------------


@inlined_kernel
def lookup(s, d, p, page, write, now):
    """The device's translation of one page, from its cache or its table: frame << 1 | may write; -1: a miss."""
    at = s[d + S.D_TLB] + 2 * (page & s[S.TLB_MASK])
    key = (page + 1) | s[d + S.D_EPOCH] << 32
    if s[at] == key and (write == 0 or s[at + 1] & 1) and p[P.TLB]:
        return s[at + 1]
    s[S.M_TLB_MISSES] += 1
    va = page << S.PAGE_SHIFT
    if translate(p, va, S.PAGE, write, now) < S.PAGE:
        return -1
    e = entry(p, va)
    s[at] = key
    s[at + 1] = (e >> P.FLAG_BITS) << 1 | (1 if e & P.WRITE else 0)
    return s[at + 1]


@inlined_kernel
def next_request(s, x, actor, now):
    """Put the stream's next access into its record; it arrives at `now`, or at its moment if that is later."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    if s[a + S.A_CURSOR] >= s[a + S.A_LAST]:
        if s[a + S.A_LOOP] == 0:
            s[a + S.A_STATE] = S.ENDED
            s[s[S.WHEN] + actor] = S.NEVER
            s[S.SCRIPTS_ENDED] += 1
            s[S.M_SCRIPT_NS] = s[S.NOW]
            return 0
        s[a + S.A_CURSOR] = s[a + S.A_FIRST]
    word = x[s[a + S.A_CURSOR]]
    arrives = max(now, x[s[a + S.A_CURSOR] + s[S.MOMENTS]]) if s[S.MOMENTS] else now
    s[a + S.A_CURSOR] += 1
    s[a + S.A_PAGE] = word & S.ACCESS_PAGE
    s[a + S.A_COUNT] = word >> S.ACCESS_COUNT_SHIFT & S.ACCESS_COUNT_MASK
    s[a + S.A_WRITE] = 1 if word & S.ACCESS_WRITE else 0
    s[a + S.A_STATE] = S.ISSUE
    s[a + S.A_BEGAN] = arrives
    s[a + S.A_MISSED] = -1
    s[s[S.WHEN] + actor] = arrives
    if s[a + S.A_CURSOR] + LINE_WORDS < s[a + S.A_LAST]:
        look_ahead(s, x, a)
    return 1


@kernel
def look_ahead(s, x, a):
    """Bring nearer what a stream's coming requests touch. Only the processor's caches change: memory is what takes time here.

    Of the next one, the frame; of the one after it, its slots in the translation cache and in the table; and their words.
    """
    device = s[a + S.A_DEVICE]
    p = words_at(table_at(s, device), s[S.TABLE_WORDS])
    prefetch(s, s[S.FRAME] + (p[s[a + S.A_AHEAD]] >> P.FLAG_BITS))
    if s[a + S.A_WRITE]:
        prefetch(s, s[S.PTE] + s[a + S.A_PAGE])
    cursor = s[a + S.A_CURSOR]
    page = x[cursor] & S.ACCESS_PAGE
    prefetch(s, s[s[S.DEVICE] + device * S.DEVICE_WORDS + S.D_TLB] + 2 * (page & s[S.TLB_MASK]))
    s[a + S.A_AHEAD] = slot(p, page << S.PAGE_SHIFT)
    prefetch(p, s[a + S.A_AHEAD])
    prefetch(x, cursor + LINE_WORDS)
    return 0


@inlined_kernel
def stream_step(s, x, actor, now):
    """A stream's moment has come: its request arrives (again), or its copy ends; -> as `operations.operation_step`."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    if s[a + S.A_STATE] == S.COPYING:
        return copied(s, x, actor, now)
    d = s[S.DEVICE] + s[a + S.A_DEVICE] * S.DEVICE_WORDS
    p = words_at(table_at(s, s[a + S.A_DEVICE]), s[S.TABLE_WORDS])
    page = s[a + S.A_PAGE]
    write = s[a + S.A_WRITE]
    misses = s[S.M_TLB_MISSES]
    for i in range(s[a + S.A_COUNT]):
        cached = lookup(s, d, p, page + i, write, now)
        if cached < 0:
            return park(s, x, actor, page + i, now)
        judge(s, page + i, cached, write)
        if i == 0:
            s[a + S.A_FRAME] = cached
    op = P.OP_WRITE if write else P.OP_READ
    s[a + S.A_DMA] = dma_issue(p, page << S.PAGE_SHIFT, s[a + S.A_COUNT] << S.PAGE_SHIFT, op, 0, 0, actor)
    s[a + S.A_STATE] = S.COPYING
    s[s[S.WHEN] + actor] = now + s[S.T_COPY] * s[a + S.A_COUNT] + s[S.T_WALK] * (s[S.M_TLB_MISSES] - misses)
    return 0


@kernel
def park(s, x, actor, page, now):
    """The request misses at `page`: a fault over the rest of it."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    p = words_at(table_at(s, s[a + S.A_DEVICE]), s[S.TABLE_WORDS])
    if s[a + S.A_MISSED] < 0:
        s[a + S.A_MISSED] = now
    end = s[a + S.A_PAGE] + s[a + S.A_COUNT]
    slot = fault_begin(p, page << S.PAGE_SHIFT, end << S.PAGE_SHIFT, s[a + S.A_WRITE], actor, 0, now)
    if slot == P.OUTSIDE:
        s[S.M_ERRORS] += 1
        return next_request(s, x, actor, now + s[S.T_WIRE] + s[a + S.A_THINK])
    s[a + S.A_SLOT] = slot
    s[a + S.A_STATE] = S.PARKED if slot >= 0 else S.ISSUE
    s[s[S.WHEN] + actor] = S.NEVER if slot >= 0 else now + RNR_NS
    return 1


@inlined_kernel
def copied(s, x, actor, now):
    """The copy ends: the request is answered, the next one comes."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    p = words_at(table_at(s, s[a + S.A_DEVICE]), s[S.TABLE_WORDS])
    judge(s, s[a + S.A_PAGE], s[a + S.A_FRAME], 0)
    p[dma_at(p, s[a + S.A_DMA]) + P.DMA_STATE] = P.DMA_DONE
    dma_complete(p, s[a + S.A_DMA])
    s[a + S.A_DMA] = -1
    s[S.M_ACCESSES] += 1
    s[S.M_PAGES] += s[a + S.A_COUNT]
    s[S.M_WRITES] += s[a + S.A_WRITE]
    if s[a + S.A_MISSED] < 0:
        s[S.M_HITS] += 1
    measure(s, S.H_LATENCY, now - s[a + S.A_BEGAN] + s[S.T_WIRE])
    next_request(s, x, actor, now + s[S.T_WIRE] + s[a + S.A_THINK])
    return 2 if p[P.ACTIVE_COUNT] else 0


@kernel
def resume_streams(s, x, device, now):
    """Look at the parked requests of a device: their page is there, or will never be."""
    p = words_at(table_at(s, device), s[S.TABLE_WORDS])
    for actor in range(device * s[S.STREAMS], (device + 1) * s[S.STREAMS]):
        a = s[S.ACTORS] + actor * S.ACTOR_WORDS
        if s[a + S.A_STATE] != S.PARKED:
            continue
        slot = s[a + S.A_SLOT]
        state = p[slot + P.FAULT_STATE]
        va = s[a + S.A_PAGE] << S.PAGE_SHIFT
        length = s[a + S.A_COUNT] << S.PAGE_SHIFT
        if state != P.FAULT_DONE and state != P.FAULT_FAILED:
            if translate(p, va, length, s[a + S.A_WRITE], now) < length:
                continue
        error = p[slot + P.FAULT_ERRNO] if state == P.FAULT_FAILED else 0
        fault_end(p, slot)
        s[a + S.A_SLOT] = -1
        s[a + S.A_STATE] = S.ISSUE
        if error and error != P.EAGAIN:
            s[S.M_ERRORS] += 1
            next_request(s, x, actor, now + s[S.T_WIRE] + s[a + S.A_THINK])
            continue
        resumed = now + (RNR_NS if error else s[S.T_RESUME])
        if error == 0:
            measure(s, S.H_FAULT, resumed - s[a + S.A_MISSED])
        s[S.M_STALL_NS] += resumed - s[a + S.A_MISSED]
        s[s[S.WHEN] + actor] = resumed
    return 0


# --- faults ------------------------------------------------------------------------------------------------------------------


@kernel
def resident_upto(s, start, end, write):
    """The first page of [start, end) that the host does not have (with the right to write, if that is asked)."""
    need = S.PTE_PRESENT | (S.PTE_WRITE if write else 0)
    while start < end and s[s[S.PTE] + start] & need == need:
        start += 1
    return start


@kernel
def tag(s, p, start, end):
    """Write the frames of pages [start, end) into the entries just installed."""
    for page in range(start, end):
        retag(p, page << S.PAGE_SHIFT, s[s[S.PTE] + page] >> S.PTE_FRAME_SHIFT)
    return 0


@kernel
def scanner_step(s, x, actor, now):
    """A fault has been reported and looked up: install what is there."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    p = words_at(table_at(s, s[a + S.A_DEVICE]), s[S.TABLE_WORDS])
    slot = s[a + S.A_SLOT]
    s[a + S.A_STATE] = S.IDLE
    s[s[S.WHEN] + actor] = S.NEVER
    start = p[slot + P.FAULT_CURSOR] >> S.PAGE_SHIFT
    by_scan = s[S.FIRMWARE_SCAN] and p[slot + P.FAULT_WRITE]
    upto = resident_upto(s, start, p[slot + P.FAULT_END] >> S.PAGE_SHIFT, by_scan)
    status = fault_scanned(p, slot, upto << S.PAGE_SHIFT, now)
    if status == P.FINISHED or status == P.COMMITTED:
        tag(s, p, start, upto)
    resume_streams(s, x, s[a + S.A_DEVICE], now)
    return 1


@kernel
def scanner_begin(s, actor, now):
    """Take a fault that waits, if there is one: it is reported now, and looked up when that has taken its time."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    p = words_at(table_at(s, s[a + S.A_DEVICE]), s[S.TABLE_WORDS])
    slot = fault_take(p, P.FAULT_SCAN)
    if slot < 0:
        return 0
    pages = (p[slot + P.FAULT_END] - p[slot + P.FAULT_CURSOR]) >> S.PAGE_SHIFT
    s[a + S.A_SLOT] = slot
    s[a + S.A_STATE] = S.BUSY
    s[s[S.WHEN] + actor] = now + s[S.T_REPORT] + s[S.T_SCAN] + pages * (s[S.T_REPORT_PAGE] + s[S.T_SCAN_PAGE])
    return 1


@kernel
def worker_begin(s, actor, now):
    """Take a fault that waits for its pages, if there is one."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    p = words_at(table_at(s, s[a + S.A_DEVICE]), s[S.TABLE_WORDS])
    slot = fault_take(p, P.FAULT_QUEUED)
    if slot < 0:
        return 0
    s[a + S.A_SLOT] = slot
    return worker_chunk(s, actor, now)


@kernel
def worker_chunk(s, actor, now):
    """Begin the next chunk of the worker's fault; 1 if there is one, and then it takes the time of its pages."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    p = words_at(table_at(s, s[a + S.A_DEVICE]), s[S.TABLE_WORDS])
    slot = s[a + S.A_SLOT]
    s[a + S.A_STATE] = S.IDLE
    s[s[S.WHEN] + actor] = S.NEVER
    if fault_chunk(p, slot) == 0:
        return 0
    s[a + S.A_STATE] = S.BUSY
    s[a + S.A_ERRNO] = 0
    took = 0
    major = 0
    for page in range(p[slot + P.FAULT_CURSOR] >> S.PAGE_SHIFT, p[slot + P.FAULT_CHUNK_END] >> S.PAGE_SHIFT):
        pte = s[s[S.PTE] + page]
        if pte & S.PTE_PRESENT:
            took += s[S.T_SCAN_PAGE]
        elif pte & S.PTE_SWAPPED:
            took += s[S.T_MAJOR_PAGE] if major else s[S.T_MAJOR]
            major = 1
        else:
            took += s[S.T_MINOR]
    s[s[S.WHEN] + actor] = now + took
    return 1


@kernel
def shared_page(s, actor):
    """The first page of the worker's chunk that must be copied before it can be written, or -1."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    p = words_at(table_at(s, s[a + S.A_DEVICE]), s[S.TABLE_WORDS])
    slot = s[a + S.A_SLOT]
    if p[slot + P.FAULT_WRITE] == 0 or s[S.CHILDREN] == 0:
        return -1
    for page in range(p[slot + P.FAULT_CURSOR] >> S.PAGE_SHIFT, p[slot + P.FAULT_CHUNK_END] >> S.PAGE_SHIFT):
        if s[s[S.PTE] + page] & S.PTE_SHARED:
            return page
    return -1


@kernel
def worker_populate(s, x, actor, now):
    """The chunk's time is over: its pages are there (or it waits for frames), and the fault commits."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    p = words_at(table_at(s, s[a + S.A_DEVICE]), s[S.TABLE_WORDS])
    slot = s[a + S.A_SLOT]
    write = p[slot + P.FAULT_WRITE]
    first = p[slot + P.FAULT_CURSOR] >> S.PAGE_SHIFT
    last = p[slot + P.FAULT_CHUNK_END] >> S.PAGE_SHIFT
    error = 0
    for page in range(first, last):
        at = s[S.PTE] + page
        pte = s[at]
        if pte & S.PTE_MAPPED == 0:
            error = EFAULT
            break
        if pte & S.PTE_PRESENT == 0:
            flags = S.PTE_WRITE | S.PTE_ACCESSED
            if page_in(s, page, flags) == 0:
                s[s[S.WHEN] + actor] = now + ALLOC_AGAIN_NS
                return 0
            s[S.M_MAJOR if pte & S.PTE_SWAPPED else S.M_MINOR] += 1
            s[S.M_SWAP_IN] += 1 if pte & S.PTE_SWAPPED else 0
        elif write and pte & S.PTE_WRITE == 0:
            if pte & S.PTE_SHARED and s[S.CHILDREN]:
                error = P.EAGAIN  # a fork came between: break it once more
                break
            s[at] = (s[at] | S.PTE_WRITE) & ~S.PTE_SHARED
        if write:
            s[at] |= S.PTE_DIRTY
    status = fault_commit(p, slot, error, now)
    if status == P.FINISHED or status == P.COMMITTED:
        if error == 0:
            tag(s, p, first, last)
    if status == P.COMMITTED or status == P.RETRY:
        worker_chunk(s, actor, now)
    else:
        s[a + S.A_STATE] = S.IDLE
        s[s[S.WHEN] + actor] = S.NEVER
    resume_streams(s, x, s[a + S.A_DEVICE], now)
    return 1


# --- the flush engine --------------------------------------------------------------------------------------------------------


@kernel
def flush_step(s, x, actor, now):
    """A flush is due, or has ended."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    device = s[a + S.A_DEVICE]
    d = s[S.DEVICE] + device * S.DEVICE_WORDS
    p = words_at(table_at(s, device), s[S.TABLE_WORDS])
    if s[a + S.A_STATE] == S.IDLE:
        if flush_due(p, now):
            flush_begin(p, now)
            s[a + S.A_STATE] = S.BUSY
            s[s[S.WHEN] + actor] = now + s[d + S.D_FLUSH_NS]
        else:
            s[s[S.WHEN] + actor] = S.NEVER
        return 0
    s[d + S.D_EPOCH] += 1
    if flush_end(p, now) == P.WAIT:
        s[s[S.WHEN] + actor] = now + FLUSH_AGAIN_NS
        return 0
    s[a + S.A_STATE] = S.IDLE
    s[s[S.WHEN] + actor] = S.NEVER
    discharge(s, device)
    return 2


@kernel
def look_at_device(s, device, now):
    """Something moved: give idle scanners, workers and the flush engine what waits for them."""
    p = words_at(table_at(s, device), s[S.TABLE_WORDS])
    actor = s[s[S.DEVICE] + device * S.DEVICE_WORDS + S.D_SERVICE]
    for i in range(s[S.SCANNERS]):
        if p[P.SCAN_LENGTH] > 0 and s[s[S.ACTORS] + (actor + i) * S.ACTOR_WORDS + S.A_STATE] == S.IDLE:
            scanner_begin(s, actor + i, now)
    actor += s[S.SCANNERS]
    for i in range(s[S.WORKERS]):
        if p[P.RUN_LENGTH] > 0 and s[s[S.ACTORS] + (actor + i) * S.ACTOR_WORDS + S.A_STATE] == S.IDLE:
            worker_begin(s, actor + i, now)
    actor += s[S.WORKERS]
    if s[s[S.ACTORS] + actor * S.ACTOR_WORDS + S.A_STATE] == S.IDLE:
        when = S.NEVER
        if p[P.FLUSH_WANTED]:
            when = now
        elif p[P.DEFERRAL_COUNT]:
            deadline = flush_deadline(p)
            when = max(now, deadline) if deadline >= 0 else S.NEVER
        s[s[S.WHEN] + actor] = when
    return 0
