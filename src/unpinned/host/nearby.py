"""What is nearby counts as there: pages that memory holds already, or that cost nothing to make.

To hand a fault to a worker and be told of its end takes two wake-ups: 20 us where cores stay awake, over 100 where they
do not. A worker is needed for what may sleep, a disk or somebody's fault handler. A page in the cache of its file is only
not mapped yet, and private memory that was never touched reads as the kernel's zero page: whoever touches it has it at
once. So where a look ends, the driver asks whether that is all that is missing, and if so the copies map it in passing.

=========================  =================================  =======================================================
memory                     what tells that it is nearby       for
=========================  =================================  =======================================================
direct (a sealed memfd)    mincore: the memory holds it       reading; and writing, mapped by loads before, sixteen
                                                              pages a fault (`pagemap.load_pages`)
our mapping of a file      mincore, if the file is ours to    reading, mapped by populate before (process_vm's own
(REGION_OURS)              ask about; else it says "all"      fault is dear); to write, its system would be asked
private (REGION_ANONYMOUS) PAGEMAP_SCAN: neither there nor    reading; to be written it would have to be made, and
                           swapped out                        memory may be short
a hole of memory of ours   SEEK_DATA: its file has nothing    reading; it stays one (`holes`)
=========================  =================================  =======================================================

A page that leaves between the question and the copy makes the copy sleep, as any whose page has left does (`trust`).
"""

from __future__ import annotations

from typing import Final

from unpinned.compiled import kernel
from unpinned.host import layout as L
from unpinned.host.holes import hole_from
from unpinned.host.layout import PAGE, PAGE_MASK
from unpinned.host.pagemap import held, load_pages, populate, scan, untouched
from unpinned.paging import layout as P

REGION_OURS: Final = P.REGION_WORLD
REGION_ANONYMOUS: Final = 2 * P.REGION_WORLD
AHEAD: Final = 16 * PAGE  # so far the driver asks past what is wanted
MAPPED: Final = 64 * PAGE  # so much it maps itself


@kernel
def nearby(p, slot, upto, m):
    """A look at the fault in *slot* found its pages up to *upto*: how far they are there, with what is nearby.

    Of the driver, which has taken the slot (FAULT_SCANNING); no lock. What it may note as untouched is left in SCAN_UNTOUCHED.
    """
    m[L.SCAN_UNTOUCHED] = 0
    region = p[slot + P.FAULT_REGION]
    base = upto & PAGE_MASK
    end = min(p[slot + P.FAULT_END], max(p[slot + P.FAULT_DEMAND], base + AHEAD))
    if region < 0 or base >= end or p[slot + P.FAULT_TOKEN] == P.NONE:  # a user's prefetch: its pages are to be mapped
        return upto
    flags = p[p[P.REGIONS] + region * P.REGION_WORDS + P.REGION_FLAGS]
    write = p[slot + P.FAULT_WRITE]
    if flags & P.REGION_WRITE_BY_SCAN:
        last = held(base, min(end, base + MAPPED) if write else end)
        if write:
            load_pages(base, (last - base) // PAGE)
    elif write:
        return upto
    elif flags & REGION_OURS:
        last = held(base, min(end, base + MAPPED))
        if last > base and populate(base, last, 0):
            return upto
    elif flags & REGION_ANONYMOUS:
        last = untouched(base, p[slot + P.FAULT_END], m)  # as far as it goes: there is nothing to map, or to make
        m[L.SCAN_UNTOUCHED] = last if last > base else 0
    else:
        return upto
    return scan(last, p[slot + P.FAULT_END], m) if last > base else upto


@kernel
def hole_after(p, slot, upto, files):
    """`nearby` of the fault in *slot* ended at *upto*: how far it goes on as a hole of the region's file, if it has one.

    *files*: of each region's slot, see `holes`. Of the driver, which has taken the slot; no lock.
    """
    region = p[slot + P.FAULT_REGION]
    end = p[slot + P.FAULT_END]
    if region < 0 or files[region] == 0 or p[slot + P.FAULT_WRITE] or p[slot + P.FAULT_TOKEN] == P.NONE or upto >= end or upto & ~PAGE_MASK:
        return upto
    return hole_from(files[region], upto, end)
