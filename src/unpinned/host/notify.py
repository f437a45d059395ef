"""The MMU notifier's thread: Linux's userfaultfd events become invalidations of every device of the process.

The event is complete when it is *read*, so everything that must be over before the application goes on happens before
the read: all devices halt, their copies end, and only then the events are taken and the pages zapped::

    application          kernel                      notifier
    munmap(range)  -->   tears down, raises UNMAP    descriptor polls readable
      (sleeps)                                       halt every device; copies in flight end
      (wakes)      <--   event read                  read; zap and revoke; let the devices go

It allocates, frees and maps nothing, and needs no GIL: the thread it would wait for may be the one that sleeps.

UNMAP and REMAP take the range from every region that covers it for good (the region was registered for memory that is gone;
what the application puts there later is another thing), except from an implicit region, which is the address space,
whatever it holds. DISCARD (REMOVE) zaps and leaves the right to fault anew.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.atomics import fetch_add, load_acquire
from unpinned.compiled.intrinsics import address_of, stack_words, store64
from unpinned.compiled.libc import (
    EINTR,
    SYS_SCHED_GETATTR,
    SYS_SCHED_SETATTR,
    futex_wait,
    futex_wake,
    monotonic_ns,
    sys_call,
    sys_ioctl,
    sys_poll,
)
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.host import engine_words as E
from unpinned.host import layout as H
from unpinned.host.lock import halt, lock, resume, unlock
from unpinned.host.recorder import end_copies, note
from unpinned.host.userfaultfd import pending, read_events
from unpinned.host.wake import kick
from unpinned.host.zeros import forget_untouched
from unpinned.paging import layout as P
from unpinned.paging.notifier import invalidate_finish, invalidate_start
from unpinned.paging.regions import revoke
from unpinned.recording import layout as R

POLLIN = 1 << 32
UFFDIO_UNREGISTER = 0x8010AA01
SCHED_ATTR_BYTES, SCHED_RUNTIME = 48, 24  # struct sched_attr in its first version, of 6 words
SLICE_NS = 100_000  # the shortest that Linux grants
BLIND_NS = 1_000_000  # where poll fails (RLIMIT_NOFILE below 2), so often the thread looks


@kernel
def invalidate(e, p, start, end, cause, region, now):
    """One invalidation, start to finish.

    The device stands still: no descriptor is ISSUED and no other invalidation is open, so the start never says WAIT or FULL
    (a finish after WAIT would be counted as a violation).
    """
    if e[E.E_RECORD]:
        end_copies(e)
    totals = p[P.TOTALS]
    zapped = p[totals + P.COUNT_PAGES_ZAPPED]
    flushes = p[totals + P.COUNT_FLUSHES]
    invalidate_start(p, start, end, cause, 1, now)
    result = invalidate_finish(p, p[P.TICKET], now)
    if e[E.E_RECORD]:
        became = 2 * (p[totals + P.COUNT_PAGES_ZAPPED] - zapped) + p[totals + P.COUNT_FLUSHES] - flushes
        note(e, R.INVALIDATE, now, start, end, cause, region, became)
    return result


@kernel
def apply(e, h, p, kind, start, end, now):
    """Take [start, end) of the application's addresses out of one device's tables."""
    e[E.E_EVENTS_SEEN] += 1
    cause = P.CAUSE_DISCARD
    if kind == H.EVENT_UNMAP:
        cause = P.CAUSE_UNMAP
    elif kind == H.EVENT_REMAP:
        cause = P.CAUSE_REMAP
    for i in range(h[L.H_MR_LIVE]):
        mr = h[L.H_MR_BASE] + i * L.MR_WORDS
        if h[mr + L.MR_STATE] == 0:
            continue
        low = max(start, h[mr + L.MR_START])
        high = min(end, h[mr + L.MR_START] + h[mr + L.MR_LENGTH])
        if low >= high:
            continue
        delta = h[mr + L.MR_DELTA]
        if cause != P.CAUSE_DISCARD and h[mr + L.MR_IMPLICIT] == 0:
            revoke(p, h[mr + L.MR_REGION], low + delta, high + delta)
            forget_untouched(words_at(e[E.E_COPY], e[E.E_COPY + 1]), low + delta, high + delta)
            h[mr + L.MR_HOLES] = 1
            if e[E.E_RECORD]:
                end_copies(e)
                note(e, R.REVOKE, now, low + delta, high + delta, 0, h[mr + L.MR_REGION], 0)
        invalidate(e, p, low + delta, high + delta, cause, h[mr + L.MR_REGION], now)
    return 0


@kernel
def halt_all(g):
    for i in range(g[E.G_COUNT]):
        e = words_at(g[E.G_DEVICES + i], E.E_WORDS)
        halt(e)
    return 0


@kernel
def resume_all(g, since):
    for i in range(g[E.G_COUNT]):
        e = words_at(g[E.G_DEVICES + i], E.E_WORDS)
        took = monotonic_ns() - since
        e[E.E_HALTS] += 1
        e[E.E_HALT_NS] += took
        e[E.E_HALT_MAX_NS] = max(e[E.E_HALT_MAX_NS], took)
        p = words_at(e[E.E_P], e[E.E_P + 1])
        scans = p[P.SCAN_LENGTH]
        chunks = p[P.RUN_LENGTH]
        resume(e)
        if chunks:  # faults that waited for the invalidation go on
            fetch_add(e, E.E_WORK, 1)
            futex_wake(address_of(e) + 8 * E.E_WORK, chunks)
        if scans:
            kick(e)
    return 0


@kernel
def round_of_events(g, s):
    """Stop the devices, read what is queued, apply it, let them go; how many events."""
    lock(g, E.G_LOCK)
    since = monotonic_ns()
    halt_all(g)
    count = read_events(g[E.G_UFFD], s)
    if count < 0:
        g[E.G_ERRNO] = -count
    for k in range(count):
        r = k * H.EVENT_WORDS
        for i in range(g[E.G_COUNT]):
            e = words_at(g[E.G_DEVICES + i], E.E_WORDS)
            h = words_at(e[E.E_H], e[E.E_H + 1])
            p = words_at(e[E.E_P], e[E.E_P + 1])
            apply(e, h, p, s[r + H.EVENT_KIND], s[r + H.EVENT_START], s[r + H.EVENT_END], since)
    resume_all(g, since)
    unlock(g, E.G_LOCK)
    for k in range(count):
        r = k * H.EVENT_WORDS
        if s[r + H.EVENT_KIND] == H.EVENT_REMAP:  # the new place came along registered; nobody asked for it
            place = stack_words(2)
            store64(place, s[r + H.EVENT_NEW])
            store64(place + 8, s[r + H.EVENT_END] - s[r + H.EVENT_START])
            sys_ioctl(g[E.G_UFFD], UFFDIO_UNREGISTER, place)
    g[E.G_EVENTS] += max(count, 0)
    return count


@kernel
def be_prompt():
    """Ask the scheduler for short slices of this thread: it runs rarely and briefly, and an munmap waits for it.

    A thread that asks for less at a time is chosen earlier when it wakes (Linux 6.12; older ones ignore the wish).
    """
    attributes = stack_words(6)
    if sys_call(SYS_SCHED_GETATTR, 0, attributes, SCHED_ATTR_BYTES, 0, 0, 0) == 0:
        store64(attributes + SCHED_RUNTIME, SLICE_NS)
        sys_call(SYS_SCHED_SETATTR, 0, attributes, 0, 0, 0, 0)
    return 0


@kernel
def notify(g):
    """The notifier thread, until G_STOP."""
    fetch_add(g, E.G_THREADS, 1)
    be_prompt()
    s = words_at(g[E.G_SCRATCH], g[E.G_SCRATCH_LENGTH])
    fds = stack_words(2)
    while load_acquire(g, E.G_STOP) == 0:
        store64(fds, g[E.G_UFFD] | POLLIN)
        store64(fds + 8, g[E.G_WAKE_FD] | POLLIN)
        ready = sys_poll(fds, 2, -1)
        if ready < 0 and ready != -EINTR:  # a process that may have no descriptors may not poll two of them: somebody sleeps all the same
            futex_wait(address_of(g) + 8 * E.G_STOP, 0, BLIND_NS)
            ready = pending(g[E.G_UFFD])
        if ready > 0 and load_acquire(g, E.G_STOP) == 0:
            round_of_events(g, s)
    fetch_add(g, E.G_THREADS, -1)
    return 0
