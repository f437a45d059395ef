"""Which pages of this process are there, and bringing them in.

`scan` answers "how far can the device go without a fault": it asks the process's own page table, so a page that sits
in the page cache but is not mapped counts as absent (it costs a minor fault). Three sources, tried in this order when a
scratch is made: the PAGEMAP_SCAN ioctl (Linux 6.7; about 1 us a call and 20 ns a page), the pagemap file (16 bits more to
read per page), mincore(2) (where /proc is closed; it counts what the page cache holds, so a fault is missed now and then
and the copy sleeps for it instead).
"""

from __future__ import annotations

import fcntl
import os

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.atomics import load_acquire
from unpinned.compiled.intrinsics import address_of, load8, stack_words, store64
from unpinned.compiled.libc import (
    EAGAIN,
    EFAULT,
    EINTR,
    EINVAL,
    ENOMEM,
    sys_getpid,
    sys_ioctl,
    sys_madvise,
    sys_mincore,
    sys_pread,
    sys_process_vm_readv,
    sys_process_vm_writev,
)
from unpinned.compiled.views import words_at
from unpinned.host import layout as L
from unpinned.host.layout import Words
from unpinned.host.system import SHORTAGES

PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
PAGE_IS_PRESENT = 8
PAGE_IS_SWAPPED = 16
MADV_WILLNEED, MADV_POPULATE_READ, MADV_POPULATE_WRITE = 3, 22, 23
TRIES = 64  # a signal a try is a lot of signals
HELD_PAGES = 512  # so many a mincore
HELD_WORDS = HELD_PAGES // 8

# struct pm_scan_arg, in words of SCAN_ARGUMENT (linux/fs.h)
_SIZE, _FLAGS, _START, _END, _WALK_END, _VECTOR, _VECTOR_LENGTH, _MAX, _INVERTED, _MASK, _ANY, _RETURN = range(12)


def scan_scratch(mode: int | None = None) -> Words:
    """Scratch for the scan kernels, of one thread; opens /proc/self/pagemap, which `close_scratch` closes.

    *mode* (MODE_*): None takes the best that works here. OSError when *mode* is asked for and does not work, or there is no
    descriptor left: that passes, and what was chosen would stay.
    """
    if mode is None:
        for candidate in (L.MODE_IOCTL, L.MODE_FILE):
            try:
                return scan_scratch(candidate)
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise
        return scan_scratch(L.MODE_MINCORE)
    s = np.zeros(L.SCAN_WORDS, np.int64)
    s[L.SCAN_MODE] = mode
    s[L.SCAN_FD] = s[L.SCAN_MAPS] = -1
    if mode == L.MODE_MINCORE:
        return s
    s[L.SCAN_FD] = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    s[L.SCAN_ARGUMENT + _SIZE] = 96
    s[L.SCAN_ARGUMENT + _MASK] = s[L.SCAN_ARGUMENT + _RETURN] = PAGE_IS_PRESENT
    try:
        if mode == L.MODE_IOCTL:
            # An empty range: ENOTTY where the request is unknown.
            fcntl.ioctl(int(s[L.SCAN_FD]), PAGEMAP_SCAN, bytearray(s[L.SCAN_ARGUMENT : L.SCAN_ARGUMENT + 12].tobytes()))
        else:
            os.pread(int(s[L.SCAN_FD]), 8, 0)
    except OSError:
        close_scratch(s)
        raise
    return s


def close_scratch(s: Words) -> None:
    """Close what `scan_scratch` opened; idempotent."""
    for word in (L.SCAN_FD, L.SCAN_MAPS):
        fd, s[word] = int(s[word]), -1
        if fd >= 0:
            os.close(fd)


@kernel
def scan(start: int, end: int, s: Words) -> int:
    """First address of [start, end) whose page is not there, else *end*; an address that is not mapped is not there."""
    base = start & L.PAGE_MASK
    if s[L.SCAN_MODE] != L.MODE_IOCTL:
        return max(start, min(end, _scan_pages(base, end, s)))
    if _walk(base, end, 1, s) < 1 or s[L.SCAN_VECTOR] > base:
        return start
    return min(end, s[L.SCAN_VECTOR + 1])


@kernel
def resident(start: int, end: int, s: Words) -> int:
    """Bytes of [start, end) whose pages are there: a gigabyte that is all there takes 5 ms, one that is not 10 us."""
    total = 0
    base = start & L.PAGE_MASK
    while base < end:
        if s[L.SCAN_MODE] == L.MODE_IOCTL:
            found = _walk(base, end, L.SCAN_REGIONS, s)
            if found < 0:
                break
            for i in range(found):
                total += s[L.SCAN_VECTOR + 3 * i + 1] - s[L.SCAN_VECTOR + 3 * i]
            base = s[L.SCAN_ARGUMENT + _WALK_END]
        else:
            upto = _scan_pages(base, end, s)
            total += upto - base
            base = upto + L.PAGE
    return total


@kernel
def _walk(start: int, end: int, regions: int, s: Words) -> int:
    """One PAGEMAP_SCAN: number of ranges of present pages in SCAN_VECTOR (start, end, categories), or -errno."""
    a = L.SCAN_ARGUMENT
    s[a + _START] = start
    s[a + _END] = (end + L.PAGE - 1) & L.PAGE_MASK
    s[a + _VECTOR] = address_of(s) + 8 * L.SCAN_VECTOR
    s[a + _VECTOR_LENGTH] = regions
    found = -EINTR
    for _ in range(TRIES):
        if found != -EINTR:
            break
        found = sys_ioctl(s[L.SCAN_FD], PAGEMAP_SCAN, address_of(s) + 8 * a)
    return found


@kernel
def _scan_pages(base: int, end: int, s: Words) -> int:
    """Address of the first page of [base, end) that is not there, by the pagemap file or mincore."""
    vector = address_of(s) + 8 * L.SCAN_VECTOR
    while base < end:
        pages = min((end - base + L.PAGE - 1) // L.PAGE, 3 * L.SCAN_REGIONS)
        if s[L.SCAN_MODE] == L.MODE_FILE:
            got = sys_pread(s[L.SCAN_FD], vector, 8 * pages, base // L.PAGE * 8) // 8
        else:
            status = sys_mincore(base, pages * L.PAGE, vector)
            if status < 0 and pages > 1:
                pages = 1  # a hole somewhere in it: go page by page to find out where
                status = sys_mincore(base, L.PAGE, vector)
            got = pages if status == 0 else 0
        for i in range(pages):
            there = s[L.SCAN_VECTOR + i] < 0 if s[L.SCAN_MODE] == L.MODE_FILE else load8(vector + i) & 1 != 0
            if i >= got or not there:
                return base + i * L.PAGE
        base += pages * L.PAGE
    return base


@kernel
def announce(start: int, end: int) -> None:
    """Pages of [start, end) will be needed: let the disk begin with all of them. Returns before they are there.

    A mapping of a file is read without the kernel's own read-ahead (`memory.map_file`), so populating it alone would
    wait for one page after the other: 64 KiB of a cold file take 831 us without this and 155 us with it.
    """
    base = start & L.PAGE_MASK
    if end - base > L.PAGE:
        sys_madvise(base, ((end + L.PAGE - 1) & L.PAGE_MASK) - base, MADV_WILLNEED)


@kernel
def populate(start: int, end: int, write: int) -> int:
    """Bring in the pages of [start, end), for writing where *write*; 0 or errno. Sleeps as long as that takes.

    EFAULT: a hole, a page past the end of its file, or *write* where writing is not allowed.
    """
    base = start & L.PAGE_MASK
    length = ((end + L.PAGE - 1) & L.PAGE_MASK) - base
    advice = MADV_POPULATE_WRITE if write else MADV_POPULATE_READ
    status = 0
    for _ in range(TRIES):
        status = sys_madvise(base, length, advice)
        if status != -EINTR and status != -EAGAIN:
            break
    if status < 0 and sys_madvise(base, 0, advice) < 0:
        return _touch(base, base + length, write)  # the advice itself is unknown, or refused
    return EFAULT if status == -EINVAL or status == -ENOMEM else -status  # not allowed; not mapped


@kernel
def map_held(start: int, end: int, write: int) -> int:
    """`populate` for a mapping of ours of shared memory whose end cannot move: what the memory holds is mapped by loads.

    A load leaves the bytes alone, takes no lock of the address space, and of a writable shared mapping the kernel maps
    sixteen pages around it, for writing too. `populate` also marks each page as accessed; the owner's munmap marks it
    again, and what is marked twice moves to another list, page by page, while he waits. What the memory does not hold (a
    hole, or swapped out) is not touched: there may be no memory for it, and a load can only say so by a signal.
    """
    base = start & L.PAGE_MASK
    vector = stack_words(HELD_WORDS)
    error = 0
    while base < end and error == 0:
        pages = min((end - base + L.PAGE - 1) // L.PAGE, HELD_PAGES)
        known = sys_mincore(base, pages * L.PAGE, vector) == 0
        first = 0
        while first < pages and error == 0:
            held = known and load8(vector + first) & 1 != 0
            last = first + 1
            while last < pages and held == (known and load8(vector + last) & 1 != 0):
                last += 1
            if held:
                load_pages(base + first * L.PAGE, last - first)
            else:
                error = populate(base + first * L.PAGE, base + last * L.PAGE, write)
            first = last
        base += pages * L.PAGE
    return error


@kernel
def load_pages(base: int, pages: int) -> None:
    """A word of each page: an acquiring load is one that no compiler leaves out."""
    words = words_at(base, pages * L.PAGE // 8)
    for i in range(pages):
        load_acquire(words, i * (L.PAGE // 8))


@kernel
def held(base: int, end: int) -> int:
    """Up to where memory holds the pages of [base, end), at most HELD_PAGES of them: mapped, or in the cache of their file."""
    vector = stack_words(HELD_WORDS)
    pages = min((end - base) // L.PAGE, HELD_PAGES)
    if sys_mincore(base, pages * L.PAGE, vector) != 0:
        return base
    for i in range(pages):
        if load8(vector + i) & 1 == 0:
            return base + i * L.PAGE
    return base + pages * L.PAGE


@kernel
def untouched(base: int, end: int, s: Words) -> int:
    """Up to where the pages of [base, end) are neither there nor swapped out; *base* where the kernel cannot say."""
    if s[L.SCAN_MODE] != L.MODE_IOCTL:
        return base
    a = L.SCAN_ARGUMENT
    s[a + _MASK] = 0
    s[a + _ANY] = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
    found = _walk(base, end, 1, s)
    s[a + _MASK] = PAGE_IS_PRESENT
    s[a + _ANY] = 0
    if found < 0:
        return base
    return s[L.SCAN_VECTOR] if found > 0 else end


@kernel
def _touch(base: int, end: int, write: int) -> int:
    """`populate` for Linux before 5.14, or where a profile refuses it: a byte of each page, by process_vm. Where *write*, the
    kernel readies the page for writing and then finds nothing at address 0 to write: the page's bytes stay as they are."""
    cell = stack_words(5)
    store64(cell, cell + 32)
    store64(cell + 8, 1)
    store64(cell + 24, 1)
    while base < end:
        store64(cell + 16, base)
        if write:
            store64(cell, 0)
            sys_process_vm_writev(sys_getpid(), cell, 1, cell + 16, 1)
            store64(cell, cell + 32)
        if sys_process_vm_readv(sys_getpid(), cell, 1, cell + 16, 1) < 1:
            return EFAULT
        base += L.PAGE
    return 0
