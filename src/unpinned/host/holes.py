"""Reads of memory that nobody has written yet, without making it.

Private memory that was never touched reads as the kernel's one zero page. Shared memory has no such thing: to touch
it is to allocate and clear it (4 MiB take 2.4 ms, a READ of as much 2.4), and a peer that reads a sparse array would
fill the owner's memory with zeros. So a *hole* of a memory file of ours (`owned`) is not brought in for a read: its
pages are installed, without the write right, and remembered here; a copy from them reads the *file*, which answers
zeros without allocating, and what the owner has stored meanwhile if he has. So an entry here is never wrong, at worst
slow. A chunk of a fault is a hole as a whole or brought in as a whole: where data and holes alternate, a READ may
make up to a chunk of zeros.

    worker                                          driver
    nothing in the file there (SEEK_DATA): remember
    commit: installed                               translate: hit; a copy from a range listed here is a pread
                                                    a scan finds pages present (the owner has stored): cut

The list is the device's, in the copy scratch: HOLES ranges (end, start, file) of table addresses, written under the device lock
by workers and the driver, read by the driver without it. A file is one word, the address of its first byte and in the
low bits its descriptor, which lives as long as a region over it does. The order of the stores makes a torn range one
that holds nothing. A range that finds no room, or whose rest is dropped, is zapped: it faults again.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.atomics import load_acquire, store_release
from unpinned.compiled.libc import ENXIO, SYS_LSEEK, sys_call, sys_pread
from unpinned.host import layout as L
from unpinned.paging.table import zap_range

SEEK_DATA = 3


@kernel
def is_hole(file, start, end):
    """Has the file no data at table addresses [start, end)? Pages that were swapped out are data."""
    offset = start - (file & L.PAGE_MASK)
    found = sys_call(SYS_LSEEK, file & ~L.PAGE_MASK, offset, SEEK_DATA, 0, 0, 0)
    return found == -ENXIO or found >= offset + end - start


@kernel
def remember(s, p, file, start, end):
    """Copies from [start, end) read *file* from now on. Device lock held."""
    for i in range(s[L.COPY_HOLED]):
        at = L.COPY_HOLES + i * L.HOLE_WORDS
        if s[at] and s[at + 2] == file and s[at + 1] <= start <= s[at]:  # it goes on
            store_release(s, at, max(s[at], end))
            return 0
    i = s[L.COPY_HOLE_NEXT]
    at = L.COPY_HOLES + i * L.HOLE_WORDS
    s[L.COPY_HOLE_NEXT] = (i + 1) % L.HOLES
    end_before = s[at]
    store_release(s, at, 0)
    if end_before:
        zap_range(p, s[at + 1], end_before)
    store_release(s, at + 2, file)
    store_release(s, at + 1, start)
    store_release(s, at, end)
    s[L.COPY_HOLED] = max(s[L.COPY_HOLED], i + 1)
    return 0


@kernel
def cut(s, p, start, end):
    """Nothing of [start, end) is a hole any more. Device lock held."""
    if start >= end:
        return 0
    listed = 0
    for i in range(s[L.COPY_HOLED]):
        at = L.COPY_HOLES + i * L.HOLE_WORDS
        low, high = s[at + 1], s[at]
        if low < end and start < high:
            store_release(s, at, 0)
            if start - low >= high - end:  # the larger rest stays
                zap_range(p, min(end, high), high)
                high = max(low, start)
            else:
                zap_range(p, low, max(start, low))
                low = min(end, high)
            store_release(s, at + 1, low)
            store_release(s, at, high if high > low else 0)
        if s[at]:
            listed = i + 1
    s[L.COPY_HOLED] = listed
    return 0


@kernel
def read_hole(s, va, length, local):
    """Copy [va, va + length) to *local* through its file, if any of it lies in a hole: 1, else 0."""
    for i in range(s[L.COPY_HOLED]):
        at = L.COPY_HOLES + i * L.HOLE_WORDS
        end = load_acquire(s, at)
        if va < end and load_acquire(s, at + 1) < va + length:
            file = load_acquire(s, at + 2)
            if load_acquire(s, at) == end and sys_pread(file & ~L.PAGE_MASK, local, length, va - (file & L.PAGE_MASK)) == length:
                s[L.COPY_HOLE_BYTES] += length
                return 1
    return 0
