"""Reads of memory that nobody has written yet, without making it.

Private memory that was never touched reads as the kernel's one zero page. Shared memory has no such thing: to touch
it is to allocate and clear it (4 MiB take 2.4 ms, a READ of as much 2.4), and a peer that reads a sparse array would
fill the owner's memory with zeros. So a *hole* of a memory file of ours (`owned`) is not brought in for a read: its
pages are installed, without the write right, and remembered here; a copy from them reads the *file*, which answers
zeros without allocating, and what the owner has stored meanwhile if he has. So an entry here is never wrong, at worst
slow. A chunk of a fault is a hole as a whole or brought in as a whole: where data and holes alternate, a READ may
make up to a chunk of zeros.

    driver, at a look (or a worker, of a chunk that the driver had not looked at, or whose pages it left to him)
      nothing in the file there (SEEK_DATA): remember, install
    driver, later
      translate: hit; a copy from a range listed here asks the file: zeros, or a pread
      a look finds pages present (the owner has stored): cut

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
from unpinned.host.zeros import fill, go_on
from unpinned.paging.table import zap_range

SEEK_DATA = 3


@kernel
def hole_from(file, start, end):
    """Up to where the file has no data, from table address *start* (a page's) on, at most *end*. Pages that were swapped out are data."""
    base = file & L.PAGE_MASK
    found = sys_call(SYS_LSEEK, file & ~L.PAGE_MASK, start - base, SEEK_DATA, 0, 0, 0)
    if found < 0:
        return end if found == -ENXIO else start
    return min(end, base + found & L.PAGE_MASK)


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
    """Copy [va, va + length) to *local* through its file, if any of it lies in a hole: 1, else 0.

    What the file says holds for a run of copies (`zeros`).
    """
    if go_on(s, va, length, local):
        return 1
    for i in range(s[L.COPY_HOLED]):
        at = L.COPY_HOLES + i * L.HOLE_WORDS
        end = load_acquire(s, at)
        start = load_acquire(s, at + 1)
        if va < end and start < va + length:
            file = load_acquire(s, at + 2)
            if load_acquire(s, at) != end:
                continue
            if start <= va & L.PAGE_MASK:
                s[L.COPY_ZEROS_END] = hole_from(file, va & L.PAGE_MASK, end)
                if va + length <= s[L.COPY_ZEROS_END]:
                    return fill(s, va, length, local)
            if sys_pread(file & ~L.PAGE_MASK, local, length, va - (file & L.PAGE_MASK)) == length:
                s[L.COPY_HOLE_BYTES] += length
                return 1
    return 0
