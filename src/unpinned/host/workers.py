"""Fault workers: threads that bring pages in, and never copy.

A worker may sleep for as long as a disk, a lock or somebody's fault handler takes; that is why it holds nothing
meanwhile. What is a hole in a file of ours stays one (`holes`). After each chunk it commits what came and wakes the
device, so a message goes on while its later pages come.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.atomics import fetch_add, load_acquire
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.libc import futex_wait, monotonic_ns
from unpinned.compiled.views import words_at
from unpinned.hca.device import wake_fault
from unpinned.host import engine_words as E
from unpinned.host import layout as H
from unpinned.host.holes import cut, hole_from, remember
from unpinned.host.lock import lock, unlock
from unpinned.host.pagemap import announce, map_held, populate
from unpinned.host.recorder import nobody_waits, note, number
from unpinned.host.wake import kick
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_chunk, fault_commit, fault_take
from unpinned.recording import layout as R

IDLE_NS = 1_000_000_000


@kernel
def work(e):
    """A worker thread, until E_STOP."""
    fetch_add(e, E.E_THREADS, 1)
    h = words_at(e[E.E_H], e[E.E_H + 1])
    p = words_at(e[E.E_P], e[E.E_P + 1])
    while load_acquire(e, E.E_STOP) == 0:
        seen = load_acquire(e, E.E_WORK)
        lock(e, E.E_LOCK)
        slot = fault_take(p, P.FAULT_QUEUED)
        unlock(e, E.E_LOCK)
        if slot < 0:
            futex_wait(address_of(e) + 8 * E.E_WORK, seen & 0xFFFFFFFF, IDLE_NS)
        else:
            serve(e, h, p, slot)
    fetch_add(e, E.E_THREADS, -1)
    return 0


@kernel
def needed_soon(p, slot):
    """How far the disk should begin to read for a fault: to its end, and in a sequential run as far again as it reads ahead,
    so that the disk works while the wire carries what came."""
    end = p[slot + P.FAULT_END]
    region = p[slot + P.FAULT_REGION]
    if region < 0 or end == p[slot + P.FAULT_DEMAND]:
        return end
    return min(end + end - p[slot + P.FAULT_CURSOR], p[p[P.REGIONS] + region * P.REGION_WORDS + P.REGION_END])


@kernel
def is_direct(p, region):
    """Is the region reached by our own loads and stores? (`regions.register` sets the flag for these.)"""
    return region >= 0 and p[p[P.REGIONS] + region * P.REGION_WORDS + P.REGION_FLAGS] & P.REGION_WRITE_BY_SCAN != 0


@kernel
def serve(e, h, p, slot):
    """Bring one fault's range in, chunk by chunk."""
    c = words_at(e[E.E_COPY], e[E.E_COPY + 1])
    files = words_at(e[E.E_FILES], e[E.E_FILES + 1])
    announced = 0
    while True:
        lock(e, E.E_LOCK)
        if fault_chunk(p, slot) == 0:
            unlock(e, E.E_LOCK)
            return 0
        start = p[slot + P.FAULT_CURSOR]
        end = p[slot + P.FAULT_CHUNK_END]
        needed = needed_soon(p, slot)
        write = p[slot + P.FAULT_WRITE]
        direct = is_direct(p, p[slot + P.FAULT_REGION])
        file = files[p[slot + P.FAULT_REGION]] if write == 0 and p[slot + P.FAULT_REGION] >= 0 else 0
        if e[E.E_RECORD]:
            note(e, R.TAKEN, monotonic_ns(), start, end, number(p, slot), 0, 0)
        unlock(e, E.E_LOCK)
        error = 0
        hole = file and hole_from(file, start, end) == end
        if not hole:
            if announced < end:
                announce(start, needed)
                announced = needed
            error = map_held(start, end, write) if direct else populate(start, end, write)
        lock(e, E.E_LOCK)
        if hole:
            remember(c, p, file, start, end)
        elif c[H.COPY_HOLED]:
            cut(c, p, start, end)
        if e[E.E_RECORD]:
            how = nobody_waits(p, slot) | (R.CHUNK_HOLE if hole else 0)
            note(e, R.CHUNK, monotonic_ns(), start, end, error, number(p, slot), how)
        token = p[slot + P.FAULT_TOKEN]
        status = fault_commit(p, slot, error, monotonic_ns())
        wake_fault(h, token, slot)
        unlock(e, E.E_LOCK)
        kick(e)
        if status != P.COMMITTED and status != P.RETRY:
            return 0  # over: the slot may be another worker's by now
