"""The block `s`: the modelled host, its actors in virtual time, and what is measured, in one contiguous int64 array.

Order: header | devices | when | actors | page table | frames | free frames | held frames | caches | histograms. Device
page tables (`paging` blocks) live outside, at the addresses in the device records: they keep their own layout.

Times are virtual nanoseconds from 0. Pages are numbered from 0; page n lies at table address ``n << 12`` of every device,
and one region (slot 0) spans them all. Frames are numbered from 0 and can be counted, freed and reused, so a device that
uses a frame too long is caught in the act (V_* words), not assumed to be right.

An *actor* is whoever waits for its next moment: ``s[s[WHEN] + actor]`` says when, its record what for. The order of actors
is: the streams of all devices; scanners, workers and flush engine of each device; the processors; the reclaim daemon.
Equal moments go to the lowest actor, so a run is a function of its input.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.int64]

NEVER: Final = 1 << 62
PAGE_SHIFT: Final = 12
PAGE: Final = 1 << PAGE_SHIFT
DEVICES_MAX: Final = 8

# --- header: time and bounds -------------------------------------------------------------------------------------------
NOW: Final = 0
EVENTS: Final = 1
STOP_NS: Final = 2  #: the run ends here
STOP_ACCESSES: Final = 3  #: or with so many page accesses
STOP_OPS: Final = 4  #: or when so many processors have ended their script (0: never)
SCRIPTS_ENDED: Final = 5
FILL: Final = 6  #: pages that are resident when the run begins; -1 when they are there
FILL_INSTALLED: Final = 7  #: 1: and the devices know them

# --- header: geometry --------------------------------------------------------------------------------------------------
DEVICES: Final = 8
STREAMS: Final = 9  #: of each device
SCANNERS: Final = 10  #: of each device: faults that it reports and looks up at once
WORKERS: Final = 11  #: of each device: faults whose pages are brought in at once
CPUS: Final = 12  #: processors with a script; the reclaim daemon comes after them
WHEN: Final = 13
ACTORS: Final = 14  #: first word of the actor records
ACTOR_COUNT: Final = 15
DEVICE: Final = 16  #: first word of the device records
PTE: Final = 17
PAGES: Final = 18
FRAME: Final = 19
FRAMES: Final = 20
FREE: Final = 21  #: stack of free frames
FREE_COUNT: Final = 22
HELD: Final = 23
HELD_CAPACITY: Final = 24
HELD_COUNT: Final = 25
HISTOGRAMS: Final = 26
HELD_FRAMES: Final = 27
CHILD: Final = 28  #: first frame + 1 of those that only a forked child still has
CHILDREN: Final = 29
TABLE_WORDS: Final = 31  #: length of each device's paging block
HELD_NEXT: Final = 30  #: where the search for a free held record begins

# --- header: the HCA's and the host's times (profiles.py) ----------------------------------------------------------------
MOMENTS: Final = 50  #: a recording: words from an access to the moment at which it is due; 0: requests follow answers
STREAMS_FROM: Final = 51  #: when the streams' first requests arrive
T_REPORT: Final = 32  #: a miss until the host knows of it, ns
T_REPORT_PAGE: Final = 33  #: and for each page that the fault covers
T_SCAN: Final = 34  #: one look at the host's page table
T_SCAN_PAGE: Final = 35
T_MINOR: Final = 36  #: bring in a page that needs no disk
T_MAJOR: Final = 37  #: the first page of a chunk that comes from swap
T_MAJOR_PAGE: Final = 38  #: each further one
T_RESUME: Final = 39  #: fault over until the parked request goes on
T_FLUSH: Final = 40  #: the device forgets all its translations
T_FLUSH_SPREAD: Final = 41  #: added to it for device d: d * spread // devices
T_COPY: Final = 42  #: one page of DMA
T_WALK: Final = 43  #: a miss in the device's translation cache that hits its page table
T_WIRE: Final = 44  #: a round trip without any of these
T_NOTIFY: Final = 45  #: one notifier call of one device, on the CPU
T_PAGE: Final = 46  #: the CPU's own work for a page of an operation
T_WRITE_BACK: Final = 47  #: a dirty page to swap (asynchronous: the daemon's share)
TLB_MASK: Final = 48  #: entries of the device's translation cache, less one
FIRMWARE_SCAN: Final = 49  #: 1: the fault service sees the write right of a page at once (drivers); 0: a scan cannot (live)

# --- header: the policy beyond its table ---------------------------------------------------------------------------------
TWO_PHASE: Final = 52  #: 1: start every device, then wait for all; 0: one after the other
AGING: Final = 53  #: 1: reclaim sees the device's accessed bits
PINNED: Final = 54  #: 1: no notifier; frames belong to the device for good
LOW: Final = 55  #: free frames at which the reclaim daemon wakes
HIGH: Final = 56  #: and at which it sleeps again
HAND: Final = 57  #: where it looks next
DAEMON_BATCH: Final = 58

# --- header: integrals and counters (measured) -----------------------------------------------------------------------------
M_SINCE: Final = 64  #: when the integrals were last brought up to date
M_FRAME_NS: Final = 65  #: frames in use x us (held ones included)
M_HELD_NS: Final = 66  #: frames held for a flush x us
M_HELD_MAX: Final = 67
M_FRAMES_MAX: Final = 68
M_ACCESSES: Final = 69  #: requests that were served
M_PAGES: Final = 70  #: pages that they touched
M_HITS: Final = 71  #: of them without any fault
M_STALL_NS: Final = 72  #: time that requests waited for a page
M_ERRORS: Final = 73  #: requests over memory that was not there
M_TLB_MISSES: Final = 74
M_OPS: Final = 75  #: notifier operations
M_OP_PAGES: Final = 76
M_BLOCKED_NS: Final = 77  #: time that the CPU side waited for devices
M_REFUSED: Final = 78
M_SWAP_OUT: Final = 79
M_SWAP_IN: Final = 80
M_TOUCHES: Final = 81
M_TOUCH_WAITS: Final = 82  #: touches of a page whose flush was owed
M_ALLOC_WAITS: Final = 83  #: waits for a free frame
M_HOT_EVICTED: Final = 84  #: pages reclaimed although the device had just used them
M_MINOR: Final = 85
M_MAJOR: Final = 86
M_SCRIPT_NS: Final = 87  #: when the last script ended
M_WRITES: Final = 88

# --- header: violations seen (0 for every safe policy) ----------------------------------------------------------------------
V_FREED: Final = 96  #: I1: the device used a frame that was free, or another page's
V_WRITE: Final = 97  #: I2: the device wrote where the CPU may not
V_STALE: Final = 98  #: I3: the device read a frame that had been replaced by a visible copy
V_LOST: Final = 99  #: I4: the device wrote to a frame that was given up: the write is lost
V_PINNED: Final = 100  #: pinned: the device used a frame that is no longer the process's page, or wrote unseen
V_PROTOCOL: Final = 101  #: steps that paging refused as out of order
HEADER_WORDS: Final = 112

# --- device records ------------------------------------------------------------------------------------------------------
D_P: Final = 0  #: address of its paging block
D_TLB: Final = 1  #: first word of its translation cache: two words an entry
D_EPOCH: Final = 2  #: an entry of an older epoch is flushed
D_SERVICE: Final = 3  #: its first scanner: workers and flush engine follow
D_FLUSH_NS: Final = 4
DEVICE_WORDS: Final = 8

# --- page-table words ------------------------------------------------------------------------------------------------------
PTE_PRESENT: Final = 1
PTE_WRITE: Final = 2
PTE_DIRTY: Final = 4
PTE_ACCESSED: Final = 8
PTE_MAPPED: Final = 16  #: there is a mapping: a fault can bring a page in
PTE_SWAPPED: Final = 32  #: its content is on the swap device
PTE_SHARED: Final = 64  #: copy on write
PTE_FRAME_SHIFT: Final = 8
PTE_FLAGS: Final = (1 << PTE_FRAME_SHIFT) - 1

# --- frames ------------------------------------------------------------------------------------------------------------------
FRAME_FREE: Final = 0
FRAME_USED: Final = 1  #: somebody's page: the owner is in the high bits
FRAME_HELD: Final = 2  #: given up, kept until the device has flushed
FRAME_REPLACED: Final = 3  #: held, and a copy of it is visible already: any use is wrong
FRAME_ORPHAN: Final = 4  #: pinned by the device, no longer the process's page
FRAME_STATE: Final = 7
FRAME_OWNER_SHIFT: Final = 3

# --- held records: what one or several operations gave up, until every device has flushed ----------------------------------
HELD_STATE: Final = 0  #: 0 free, 1 its operation is under way, 2 complete
HELD_PAGES: Final = 1
HELD_HEAD: Final = 2  #: first frame + 1 of a list through the owners of FRAME words; 0: none
HELD_TOKEN: Final = 3  #: a word a device: obligation + 1, or 0
HELD_WORDS: Final = HELD_TOKEN + DEVICES_MAX

# --- actors --------------------------------------------------------------------------------------------------------------------
A_KIND: Final = 0
A_STATE: Final = 1
A_DEVICE: Final = 2
A_BEGAN: Final = 3  #: when the request, or the operation, began
A_SLOT: Final = 4  #: fault slot, or -1
A_DMA: Final = 5  #: descriptor, or -1
A_CURSOR: Final = 6  #: next of its accesses or script
A_FIRST: Final = 7  #: its part of the accesses or script: [first, last)
A_LAST: Final = 8
A_LOOP: Final = 9  #: 1: from the start again
A_PAGE: Final = 10
A_COUNT: Final = 11  #: pages
A_WRITE: Final = 12
A_THINK: Final = 13  #: a stream's pause between two requests, ns
A_OP: Final = 14
A_CAUSE: Final = 15
A_AT: Final = 16  #: an operation's next page, or next device to start
A_REFUSED: Final = 17
A_MISSED: Final = 18  #: when this request first missed, or -1
A_ERRNO: Final = 19
A_TICKET: Final = 20  #: a word a device, or -1
A_TOKEN: Final = A_TICKET + DEVICES_MAX
A_HELD: Final = A_TOKEN + DEVICES_MAX  #: held record of the operation, or -1
A_PHASE: Final = A_HELD + 1  #: where its operation stands: 0, STARTING, WAITING, APPLYING
A_FRAME: Final = A_PHASE + 1  #: what the request's first page was translated to
A_LEFT: Final = A_FRAME + 1  #: what an operation was cut to; pages of a script row that are still to do
A_AHEAD: Final = A_LEFT + 1  #: a stream: where its device's table has its next request's first page
ACTOR_WORDS: Final = A_AHEAD + 1

KIND_STREAM: Final = 1
KIND_SCANNER: Final = 2
KIND_WORKER: Final = 3
KIND_FLUSH: Final = 4
KIND_CPU: Final = 5
KIND_DAEMON: Final = 6

# A_STATE
IDLE: Final = 0
ISSUE: Final = 1  #: stream: a request arrives
COPYING: Final = 2  #: stream: DMA under way
PARKED: Final = 3  #: stream: waits for a page
BUSY: Final = 4  #: scanner, worker, flush engine
BREAKING: Final = 5  #: worker: breaks copy-on-write before it brings pages in
NEXT: Final = 6  #: processor: takes the next row of its script
OPERATING: Final = 7  #: processor: an operation is under way (A_PHASE)
TOUCHING: Final = 8  #: processor: reads or writes pages
ENDED: Final = 9

# A_PHASE
STARTING: Final = 1
WAITING: Final = 2
APPLYING: Final = 3

# --- operations: a script is rows of OP_WORDS words ---------------------------------------------------------------------------
OP_KIND: Final = 0
OP_PAGE: Final = 1
OP_COUNT: Final = 2
OP_THINK: Final = 3  #: pause before it, ns; with MOMENTS: when it is due
OP_WORDS: Final = 4

DO_SLEEP: Final = 0
DO_DISCARD: Final = 1  #: the pages go, the mapping stays (MADV_DONTNEED)
DO_UNMAP: Final = 2
DO_MAP: Final = 3  #: a mapping without pages
DO_READ: Final = 4  #: the CPU reads each page
DO_WRITE: Final = 5  #: or writes it: may break copy-on-write
DO_FORK: Final = 6  #: write-protect and share the range
DO_EXIT: Final = 7  #: the child has gone: pages are its own again, at the next write
DO_MIGRATE: Final = 8  #: each page to another frame
DO_MERGE: Final = 9  #: give up a page for an equal one
DO_SOFT_DIRTY: Final = 10  #: write-protect for a dirty log
DO_RECLAIM: Final = 11
DO_COW: Final = 12  #: internal: a copy-on-write page is copied
DO_REMAP: Final = 13  #: the pages move to another place (mremap)
DO_RELEASE: Final = 14  #: the registration ends; the memory stays as it is

# --- accesses: one word each ----------------------------------------------------------------------------------------------------
ACCESS_PAGE: Final = (1 << 40) - 1
ACCESS_COUNT_SHIFT: Final = 40
ACCESS_COUNT_MASK: Final = (1 << 16) - 1
ACCESS_WRITE: Final = 1 << 60

# --- histograms: logarithmic, 64 steps an octave (1.1 %) ----------------------------------------------------------------------
HISTOGRAM_STEPS: Final = 64
HISTOGRAM_OCTAVES: Final = 40
HISTOGRAM_MAX: Final = HISTOGRAM_STEPS * HISTOGRAM_OCTAVES  #: the word after the buckets: largest value
HISTOGRAM_SUM: Final = HISTOGRAM_MAX + 1
HISTOGRAM_COUNT: Final = HISTOGRAM_MAX + 2
HISTOGRAM_WORDS: Final = HISTOGRAM_MAX + 8
H_LATENCY: Final = 0  #: of a request, as the peer sees it
H_BLOCKED: Final = 1  #: of an operation: what the CPU side waited for devices
H_FAULT: Final = 2  #: a miss until the request goes on
HISTOGRAM_KINDS: Final = 3

CAPACITY_FRAMES: Final = 1 << 24
LIMITS: Final = {
    "pages": (1, 1 << 24), "frames": (1, CAPACITY_FRAMES), "devices": (1, DEVICES_MAX), "streams": (0, 256),
    "scanners": (1, 64), "workers": (1, 64), "cpus": (0, 16), "tlb": (1, 1 << 20),
}  # fmt: skip
"""The least and the most of each argument of `create`."""
assert PTE_SHARED < 1 << PTE_FRAME_SHIFT and FRAME_ORPHAN <= FRAME_STATE < 1 << FRAME_OWNER_SHIFT


def create(*, pages: int, frames: int, devices: int, streams: int, scanners: int, workers: int, cpus: int, tlb: int) -> Block:
    """An empty block of this geometry. Raises ValueError naming the argument that cannot be."""
    asked = {
        "pages": pages, "frames": frames, "devices": devices, "streams": streams, "scanners": scanners, "workers": workers,
        "cpus": cpus, "tlb": tlb,
    }  # fmt: skip
    for name, value in asked.items():
        least, most = LIMITS[name]
        if not least <= value <= most:
            raise ValueError(f"{name}={value}: must be between {least} and {most}")
    if tlb & (tlb - 1):
        raise ValueError(f"tlb={tlb}: must be a power of two")
    service = scanners + workers + 1
    actors = devices * (streams + service) + cpus + 1
    held = 4_096
    parts = (
        (DEVICE, devices * DEVICE_WORDS), (WHEN, actors), (ACTORS, actors * ACTOR_WORDS), (PTE, pages), (FRAME, frames),
        (FREE, frames), (HELD, held * HELD_WORDS), (-1, devices * tlb * 2), (HISTOGRAMS, HISTOGRAM_KINDS * HISTOGRAM_WORDS),
    )  # fmt: skip
    s = np.zeros(HEADER_WORDS + sum(words for _, words in parts), np.int64)
    at, caches = HEADER_WORDS, 0
    for word, words in parts:
        if word >= 0:
            s[word] = at
        else:
            caches = at
        at += words
    s[DEVICES], s[STREAMS], s[SCANNERS], s[WORKERS], s[CPUS] = devices, streams, scanners, workers, cpus
    s[ACTOR_COUNT], s[PAGES], s[FRAMES], s[HELD_CAPACITY], s[TLB_MASK] = actors, pages, frames, held, tlb - 1
    for device in range(devices):
        record = s[DEVICE] + device * DEVICE_WORDS
        s[record + D_TLB], s[record + D_EPOCH] = caches + device * tlb * 2, 1
        s[record + D_SERVICE] = devices * streams + device * service
    s[s[FREE] : s[FREE] + frames] = np.arange(frames - 1, -1, -1)
    s[FREE_COUNT], s[HELD_NEXT] = frames, s[HELD]
    s[s[WHEN] : s[WHEN] + actors] = NEVER
    _set_up_actors(s)
    return s


def _set_up_actors(s: Block) -> None:
    made = [(KIND_STREAM, device) for device in range(int(s[DEVICES])) for _ in range(int(s[STREAMS]))]
    service = [KIND_SCANNER] * int(s[SCANNERS]) + [KIND_WORKER] * int(s[WORKERS]) + [KIND_FLUSH]
    made += [(kind, device) for device in range(int(s[DEVICES])) for kind in service]
    made += [(KIND_CPU, 0)] * int(s[CPUS]) + [(KIND_DAEMON, 0)]
    table = actors(s)
    for actor, (kind, device) in enumerate(made):
        table[actor, A_KIND], table[actor, A_DEVICE] = kind, device
    for word in (A_SLOT, A_DMA, A_MISSED, A_HELD):
        table[:, word] = -1
    table[:, A_TICKET : A_TOKEN + DEVICES_MAX] = -1


def actors(s: Block) -> NDArray[Any]:
    """The actor records as rows."""
    return s[s[ACTORS] : s[ACTORS] + s[ACTOR_COUNT] * ACTOR_WORDS].reshape(-1, ACTOR_WORDS)


def page_table(s: Block) -> NDArray[np.int64]:
    """The host's page table, a word a page."""
    return s[s[PTE] : s[PTE] + s[PAGES]]


def histogram(s: Block, kind: int) -> NDArray[np.int64]:
    """The words of one histogram (H_*)."""
    at = int(s[HISTOGRAMS]) + kind * HISTOGRAM_WORDS
    return s[at : at + HISTOGRAM_WORDS]
