"""Loops at C speed that the benchmarks compare with, or that must run without the GIL."""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import load8, load64, stack_words, store64
from unpinned.compiled.libc import SYS_PPOLL, monotonic_ns, poll1, sys_call, sys_ioctl, sys_read, sys_write
from unpinned.host.pagemap import announce, populate, scan
from unpinned.paging.table import translate

SECOND = 1_000_000_000
UFFDIO_COPY = 0xC028AA03
UFFD_EVENT_PAGEFAULT = 0x12
PAGE = 4096


@kernel
def echo(fd, address, rounds):
    """Send every datagram of a connected socket back: blocking calls, nothing else."""
    for _ in range(rounds):
        n = sys_read(fd, address, 64)
        if n < 0:
            return n
        sys_write(fd, address, n)
    return 0


@kernel
def ping(fd, address, length, times):
    """Round trips of *length* bytes over a connected socket; nanoseconds of each into *times*."""
    for i in range(len(times)):
        began = monotonic_ns()
        if sys_write(fd, address, length) < 0 or sys_read(fd, address, 64) < 0:
            return -1
        times[i] = monotonic_ns() - began
    return 0


@kernel
def nap(ns):
    """Sleep."""
    limit = stack_words(2)
    store64(limit, ns // SECOND)
    store64(limit + 8, ns % SECOND)
    return sys_call(SYS_PPOLL, 0, 0, limit, 0, 8, 0)


@kernel
def serve_slowly(fd, page, state):
    """Answer the missing-page faults of a userfaultfd, each after state[1] ns, until state[0]; state[2] counts them."""
    message = stack_words(4)
    copy = stack_words(5)
    while state[0] == 0:
        if poll1(fd, 50) <= 0 or sys_read(fd, message, 32) != 32 or load8(message) != UFFD_EVENT_PAGEFAULT:
            continue
        nap(state[1])
        store64(copy, load64(message + 16) & ~(PAGE - 1))  # where to: the page that was touched
        store64(copy + 8, page)
        store64(copy + 16, PAGE)
        store64(copy + 24, 0)
        store64(copy + 32, 0)
        sys_ioctl(fd, UFFDIO_COPY, copy)
        state[2] += 1
    return 0


@kernel
def looks(places, length, scratch, times):
    """Look at the pages of *length* bytes at each place, as the driver does; nanoseconds of each. How many were not all there."""
    absent = 0
    for i in range(len(places)):
        began = monotonic_ns()
        upto = scan(places[i], places[i] + length, scratch)
        times[i] = monotonic_ns() - began
        absent += upto < places[i] + length
    return absent


@kernel
def bring_in(places, length, write, times):
    """Bring in *length* bytes at each place, as a fault worker does; nanoseconds of each. 0 or errno."""
    for i in range(len(places)):
        began = monotonic_ns()
        announce(places[i], places[i] + length)
        error = populate(places[i], places[i] + length, write)
        times[i] = monotonic_ns() - began
        if error:
            return error
    return 0


@kernel
def walks(p, places, now):
    """Translate a page at each place in a device's table; nanoseconds of all. -1: one was not there."""
    began = monotonic_ns()
    for i in range(len(places)):
        if translate(p, places[i], PAGE, 0, now) < PAGE:
            return -1
    return monotonic_ns() - began
