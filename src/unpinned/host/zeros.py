"""Reads of private memory that was never touched, without touching it.

It reads as zeros: a copy by process_vm has the kernel map its one zero page at every address, 0.6 us each, in tables that
the owner pays for. So where a look found a range untouched (`nearby`), it is noted here, and a copy from it asks whether it
still is: PAGEMAP_SCAN says that no page of it is there or swapped out, and then PROCMAP_QUERY that this is private memory without
a file that may be read (mprotect tells nobody). Then it is zeros at this moment, and those go on the wire. What is noted
is a hint and no more: wherever the answer is another one, process_vm copies as ever.

In this order: pages are also not there when memory is unmapped, moved away or a file's, and the second answer shows that it was
not. The other way round, what goes between the two answers would be read as zeros. To fool this order memory must go and come
back full; and who changed the mappings of watched memory once waits for an event that is not read while copies go on (`notify`).

*  An answer holds for the run: as long as copies go on where the last one ended they are of one moment, as one copy is. Anything
   else in between ends the run (`end_run`), so a copy finds whatever was written before it.
*  A page of a file, or of somebody's fault handler, is never taken for one of these: the former has a device's number (an
   inode's can be 0), the latter's range could not be watched, and only ranges that are watched for changes are noted; when they
   are no more, or an event takes them, it is forgotten.

The driver's alone: it looks, and it copies. Before Linux 6.11 nothing is noted.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import fill_bytes, load64, stack_words, store64
from unpinned.compiled.libc import sys_ioctl
from unpinned.compiled.views import words_at
from unpinned.host import layout as L
from unpinned.host.pagemap import untouched
from unpinned.host.userfaultfd import pending
from unpinned.host.vmas import PROCMAP_QUERY, READABLE, SHARED

RUN = 1 << 20  # so far an answer goes at most

# struct procmap_query, in words (linux/fs.h)
_SIZE, _FLAGS, _ADDRESS, _START, _END, _RIGHTS, _PAGE_SIZE, _OFFSET, _INODE, _DEVICE = range(10)
_WORDS = 13


@kernel
def private_upto(start: int, end: int, maps: int) -> int:
    """Up to where [start, end) is one mapping of readable private memory without a file; *start* where it is not."""
    q = stack_words(_WORDS)
    store64(q + 8 * _SIZE, 8 * _WORDS)
    store64(q + 8 * _ADDRESS, start)
    if sys_ioctl(maps, PROCMAP_QUERY, q) < 0:
        return start
    if load64(q + 8 * _RIGHTS) & (READABLE | SHARED) != READABLE or load64(q + 8 * _INODE) or load64(q + 8 * _DEVICE):
        return start
    return min(end, load64(q + 8 * _END))


@kernel
def note_untouched(s: L.Words, start: int, end: int) -> None:
    """A look found [start, end) untouched, and nothing has changed there since. Device lock held."""
    i = s[L.COPY_UNTOUCHED_LAST]
    at = L.COPY_UNTOUCHED + 2 * i
    if s[at] <= end and start <= s[at + 1]:  # it goes on
        s[at] = min(s[at], start)
        s[at + 1] = max(s[at + 1], end)
        return
    i = (i + 1) % L.UNTOUCHED
    at = L.COPY_UNTOUCHED + 2 * i
    s[L.COPY_UNTOUCHED_LAST] = i
    s[at] = start
    s[at + 1] = end


@kernel
def forget_untouched(s: L.Words, start: int, end: int) -> None:
    """[start, end) is unmapped, or watched no more: what comes there may have a fault handler of somebody's. The device stands still."""
    for i in range(L.UNTOUCHED):
        at = L.COPY_UNTOUCHED + 2 * i
        if s[at] < end and start < s[at + 1]:
            s[at] = s[at + 1] = 0


@kernel
def read_untouched(s: L.Words, va: int, length: int, local: int) -> int:
    """Fill *local* with zeros if [va, va + length) was noted, and is untouched now: 1, else 0."""
    if go_on(s, va, length, local):
        return 1
    for i in range(L.UNTOUCHED):
        at = L.COPY_UNTOUCHED + 2 * i
        if s[at] <= va and va + length <= s[at + 1]:
            m = words_at(s[L.COPY_SCAN], L.SCAN_WORDS)
            base = va & L.PAGE_MASK
            end = untouched(base, min(s[at + 1], base + RUN), m)
            if end > base:
                end = private_upto(base, end, m[L.SCAN_MAPS])
            if s[L.COPY_UFFD] and pending(s[L.COPY_UFFD]):
                return 0  # whose zeros? process_vm's copy is counted as at risk
            if va + length <= end:
                s[L.COPY_ZEROS_END] = end
                return fill(s, va, length, local)
            s[at] = min(max(end, va + length), s[at + 1])
    return 0


@kernel
def go_on(s: L.Words, va: int, length: int, local: int) -> int:
    """A copy of zeros, if the run of the last one comes to it: 1; else 0, and the run is over."""
    if va == s[L.COPY_ZEROS] and va + length <= s[L.COPY_ZEROS_END]:
        return fill(s, va, length, local)
    end_run(s)
    return 0


@kernel
def fill(s: L.Words, va: int, length: int, local: int) -> int:
    """A copy of zeros, of the run that goes on behind it. -> 1."""
    fill_bytes(local, 0, length)
    s[L.COPY_ZEROS] = va + length
    s[L.COPY_HOLE_BYTES] += length
    return 1


@kernel
def end_run(s: L.Words) -> None:
    """The next copy of zeros asks anew."""
    s[L.COPY_ZEROS] = -1
