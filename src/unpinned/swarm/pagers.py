"""Who brings pages in for the device: the driver's look at the page table, and a few slow workers.

The same sequence of steps as live (`host.burst.scan_faults`, `host.workers.serve`), each of which is an event here, so that
invalidations come between any two of them. What a scan or a worker saw (frames) is remembered from the moment in which it
looked; if the commit then installs, the entries get those frames: were the notifier wrong, they would be old ones.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.hca.device import wake_fault
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_chunk, fault_commit, fault_scanned, fault_take
from unpinned.paging.table import retag
from unpinned.swarm import layout as S
from unpinned.swarm.chance import PAGES, begin, draw, left_out, spread
from unpinned.swarm.events import fail, push, trace, wake
from unpinned.swarm.memory import bring_in, device_at, device_words, host_at, page_at, paging_at, paging_words

SCAN_NS = 1_000
COMMIT_NS = 500


@kernel
def slot_index(p, slot):
    return (slot - p[P.FAULTS]) // P.FAULT_WORDS


@kernel
def saw(w, host, index):
    """Where a scan or worker keeps the frames that it saw."""
    return w[host_at(w, host) + S.HO_SNAP] + index * (S.SNAP_PAGES + 1)


@kernel
def installed_now(p):
    return p[p[P.TOTALS] + P.COUNT_PAGES_IN]


@kernel
def tag(w, p, host, seen, start, end):
    """Give the entries just installed the frames that were seen."""
    for page in range(start >> S.PAGE_SHIFT, end >> S.PAGE_SHIFT):
        retag(p, page << S.PAGE_SHIFT, w[seen + page - (start >> S.PAGE_SHIFT)])
    return 0


@kernel
def list_scans(w, p, host):
    """The driver looks which pages of new faults are there; what it saw counts a little later."""
    while True:
        slot = fault_take(p, P.FAULT_SCAN)
        if slot < 0:
            return 0
        index = slot_index(p, slot)
        start = p[slot + P.FAULT_CURSOR]
        page = start >> S.PAGE_SHIFT
        last = min(p[slot + P.FAULT_END] >> S.PAGE_SHIFT, page + S.SNAP_PAGES)
        seen = saw(w, host, index)
        k = 0
        while page < last:
            g = page_at(w, host, page)
            if w[g + S.PG_STATE] != S.PRESENT or (p[slot + P.FAULT_WRITE] == 2 and w[g + S.PG_WRITE] == 0):
                break
            w[seen + k] = w[g + S.PG_FRAME]
            k += 1
            page += 1
        w[seen + S.SNAP_PAGES] = page << S.PAGE_SHIFT
        push(w, w[S.W_NOW] + SCAN_NS, S.EV_SCAN, host, index)


@kernel
def scanned(w, host, index):
    """What the driver saw is installed, if nothing came between."""
    h = words_at(device_at(w, host), device_words(w, host))
    p = words_at(paging_at(w, host), paging_words(w, host))
    slot = p[P.FAULTS] + index * P.FAULT_WORDS
    seen = saw(w, host, index)
    upto = w[seen + S.SNAP_PAGES]
    start = p[slot + P.FAULT_CURSOR]
    token = p[slot + P.FAULT_TOKEN]
    before = installed_now(p)
    status = fault_scanned(p, slot, upto, w[S.W_NOW])
    if installed_now(p) > before:
        tag(w, p, host, seen, start, upto)
    wake_fault(h, token, slot)
    trace(w, S.EV_SCAN, host, index, status, start, upto)
    wake(w, host, w[S.W_NOW] + 1)
    return hire(w, host)


@kernel
def hire(w, host):
    """Idle workers take faults that wait for one."""
    at = host_at(w, host)
    p = words_at(paging_at(w, host), paging_words(w, host))
    while w[at + S.HO_BUSY] < w[S.C_WORKERS]:
        slot = fault_take(p, P.FAULT_QUEUED)
        if slot < 0:
            return 0
        next_chunk(w, p, host, slot)
    return 0


@kernel
def next_chunk(w, p, host, slot):
    """A worker begins a chunk: how long it takes depends on where its pages are, and on luck."""
    if fault_chunk(p, slot) == 0:
        return 0
    w[host_at(w, host) + S.HO_BUSY] += 1
    ns = w[S.C_MINOR_NS]
    for page in range(p[slot + P.FAULT_CURSOR] >> S.PAGE_SHIFT, p[slot + P.FAULT_CHUNK_END] >> S.PAGE_SHIFT):
        if w[page_at(w, host, page) + S.PG_STATE] >= S.SWAPPED:
            ns = w[S.C_MAJOR_NS]
    index = w[S.W_SLOWED]
    w[S.W_SLOWED] += 1
    begin(w, PAGES, index)
    if draw(w, 256) < w[S.C_SLOW] and left_out(w, S.MASK_SLOW, index) == 0:
        ns = w[S.C_SLOW_NS]
    if w[S.C_FIXED] == 0:
        ns = spread(w, ns)
    when = w[S.W_NOW] + ns
    if w[S.C_SERIAL]:  # a firmware that serves one fault after the other
        at = host_at(w, host) + S.HO_FAULTS_AT
        when = max(w[at], w[S.W_NOW]) + ns
        w[at] = when
    push(w, when, S.EV_POPULATE, host, slot_index(p, slot))
    return 1


@kernel
def populated(w, b, host, index):
    """A worker has its pages, or an error; it commits in a moment."""
    p = words_at(paging_at(w, host), paging_words(w, host))
    slot = p[P.FAULTS] + index * P.FAULT_WORDS
    seen = saw(w, host, index)
    page = p[slot + P.FAULT_CURSOR] >> S.PAGE_SHIFT
    last = p[slot + P.FAULT_CHUNK_END] >> S.PAGE_SHIFT
    error = 0
    k = 0
    if last - page > S.SNAP_PAGES:
        return fail(w, S.VIOLATION_WORLD, host, 2, last - page)
    while page < last and error == 0:
        error = bring_in(w, b, host, page, p[slot + P.FAULT_WRITE])
        w[seen + k] = w[page_at(w, host, page) + S.PG_FRAME]
        k += 1
        page += 1
    w[seen + S.SNAP_PAGES] = error
    trace(w, S.EV_POPULATE, host, index, error, p[slot + P.FAULT_CURSOR], p[slot + P.FAULT_CHUNK_END])
    return push(w, w[S.W_NOW] + COMMIT_NS, S.EV_COMMIT, host, index)


@kernel
def committed(w, host, index):
    """The worker's second step: install what it saw, unless it was hit; then the next chunk, or the next fault."""
    at = host_at(w, host)
    h = words_at(device_at(w, host), device_words(w, host))
    p = words_at(paging_at(w, host), paging_words(w, host))
    slot = p[P.FAULTS] + index * P.FAULT_WORDS
    seen = saw(w, host, index)
    start = p[slot + P.FAULT_CURSOR]
    end = p[slot + P.FAULT_CHUNK_END]
    token = p[slot + P.FAULT_TOKEN]
    before = installed_now(p)
    status = fault_commit(p, slot, w[seen + S.SNAP_PAGES], w[S.W_NOW])
    if installed_now(p) > before:
        tag(w, p, host, seen, start, end)
    wake_fault(h, token, slot)
    trace(w, S.EV_COMMIT, host, index, status, start, end)
    wake(w, host, w[S.W_NOW] + 1)
    w[at + S.HO_BUSY] -= 1
    if status == P.COMMITTED or status == P.RETRY:
        next_chunk(w, p, host, slot)
    return hire(w, host)
