"""The block `w`: a whole modelled world in one contiguous int64 array.

A world is the machine (frames, swap and file blocks, two processes' mappings and page-table entries, the threads that
change them), the devices of process 0 (translation cache, driver, worker, flush, wire requests in progress) and one
paging block `p` (paging/layout.py) per device, which the live step functions work on. Order::

    header | policy of the machine | scripts | orders        constants: written once by `create`
           | state words | frames | slots | mappings | page tables | truth
           | threads | requests | devices | translation caches
           | paging blocks (one per device, unless a device names one elsewhere by address)
           | scratch (one paging block, for "a refusal changes nothing")

The explorer keeps of this only the words that can change (`canonical.state_words`), each as 16 bits: a world of three
pages and one device is about 240 of them. For large worlds (virtual time, 2**18 pages) the same functions run on the
block as it is; W_LISTS = 1 then takes frames and slots from free lists instead of "the lowest free one", O(1) each.

Numbers. Pages are counted from 0, frames, slots and mapping ids from 1 (0: none). A *slot* is a block of backing store: swap,
or the file's own block of a page. Words that hold "thing + 1" say so. Contents of pages are small numbers: 0 is zeroes, every
writer has a value of its own. Prefixes say what a constant is an offset of: ``W_`` the header, ``F_`` a frame, ``S_`` a slot,
``V_`` a page's mapping, ``PTE_`` bits of an entry, ``T_`` a thread, ``O_`` a line of a script, ``Q_`` a request, ``D_`` a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.int64]

# --- header: geometry (constant) -------------------------------------------------------------------------------------
W_MAGIC: Final = 0
W_WORDS: Final = 1  #: length of the block
W_PAGES: Final = 2  #: pages of address space of each process
W_PROCESSES: Final = 3  #: 1, or 2 when somebody forks
W_FRAMES: Final = 4  #: physical frames
W_SLOTS: Final = 5  #: blocks of backing store, swap and file
W_THREADS: Final = 6  #: CPU and kernel threads, then one worker per device
W_CPUS: Final = 7  #: of them, threads with a script: the worker of device d is thread W_CPUS + d
W_DEVICES: Final = 8
W_REQUESTS: Final = 9
W_SPAN: Final = 10  #: pages that a request or a chunk of a fault has at most
W_MODE: Final = 11  #: MODE_*: how notifications are raised
W_KEEP: Final = 12  #: 1: the host keeps the obligations of deferral
W_KIND: Final = 13  #: KIND_*: what a copy touches
W_LISTS: Final = 14  #: 1: free lists (large worlds); 0: the lowest free one (canonical)
W_REGION: Final = 15  #: bounds of the region that wire requests go through: first page << 32 | one past the last
W_FRAME: Final = 16  #: first word of the record of frame 0 (which is never used)
W_FRAME_WORDS: Final = 17  #: length of a frame's record: F_HOLD + devices
W_SLOT: Final = 18
W_VMA: Final = 19  #: mapping records: process 0's pages, then process 1's
W_PTE: Final = 20  #: page-table entries, likewise
W_TRUTH: Final = 21  #: what each page must contain: the last value written (a ghost: read by properties only)
W_THREAD: Final = 22
W_THREAD_WORDS: Final = 23
W_REQUEST: Final = 24
W_REQUEST_WORDS: Final = 25
W_DEVICE: Final = 26
W_DEVICE_WORDS: Final = 27
W_TLB: Final = 28  #: translation caches: W_PAGES words per device
W_SCRIPT: Final = 29  #: first line of thread 0; W_LINES lines per thread
W_LINES: Final = 30
W_ORDER: Final = 31  #: ORDER_WORDS constant words per request
W_STATE: Final = 32  #: first word of the state: everything before is constant
W_BLOCKS: Final = 33  #: first paging block; W_STATE .. W_BLOCKS is the machine's state
W_BLOCK_WORDS: Final = 34
W_SCRATCH: Final = 35
W_LOOPS: Final = 36  #: bit t: thread t begins its script again

# --- header: what steps report (no state; the explorer zeroes them before each step) -----------------------------------
W_BROKEN: Final = 37  #: number of the property that does not hold (properties.py), 0: none
W_WHERE: Final = 38  #: what it is about: a page, a request, a thread
W_REACHED: Final = 39  #: bits REACHED_*: the `sometimes`
W_COMPLETED: Final = 40  #: bits: parties (thread t: t, request r: W_THREADS + r) that completed something in this step
W_CHOICE: Final = 41  #: which device the acting thread turns to next: the scheduler's choice
HEADER_WORDS: Final = 42

# --- state words (offsets from W_STATE) ----------------------------------------------------------------------------------
X_LOCK: Final = 0  #: mmap_lock of process 0: readers, or -1 - thread of the writer
X_ALIVE: Final = 1  #: bits: processes alive
X_NEXT_ID: Final = 2  #: id of the last mapping made
X_FREE_FRAME: Final = 3  #: W_LISTS: first free frame
X_FREE_SLOT: Final = 4  #: W_LISTS: first free slot
X_FREE_FRAMES: Final = 5  #: W_LISTS: how many
X_WORDS: Final = 6

# --- how notifications are raised -------------------------------------------------------------------------------------
MODE_EXACT: Final = 0  #: start, change, finish
MODE_LATE: Final = 1  #: change, then start and finish: userfaultfd's UNMAP
MODE_EARLY: Final = 2  #: start and finish, then the change: userfaultfd's REMOVE
MODE_SPURIOUS: Final = 3  #: start and finish for a call that then fails
MODE_SILENT: Final = 4  #: nothing
MODE_BLIND: Final = 5  #: as exact, without a cause
MODE_UNSLEEPABLE: Final = 6  #: as exact, and the callback may not sleep
MODES: Final = ("exact", "late", "early", "spurious", "silent", "blind", "unsleepable")

# --- what a copy touches ------------------------------------------------------------------------------------------------
KIND_HCA: Final = 0  #: the frame that was translated
KIND_VM: Final = 1  #: whatever the process maps there at that moment (process_vm_readv, _writev)
KIND_ALIAS: Final = 2  #: the object that the region was opened on, through a mapping of its own
KINDS: Final = ("hca", "vm", "alias")

# --- frames ---------------------------------------------------------------------------------------------------------------
F_FLAGS: Final = 0  #: FRAME_*; 0: free
F_MAPS: Final = 1  #: page-table entries that point here
F_CONTENT: Final = 2
F_SLOT: Final = 3  #: the slot that this frame is the cache of (swap cache, page cache)
F_HAND: Final = 4  #: bits: threads that hold a reference (isolated, gathered, being copied, about to be mapped)
F_NEXT: Final = 5  #: W_LISTS: next free frame
F_HOLD: Final = 6  #: + device: token + 1 of the obligation that the frame is held for
FRAME_USED: Final = 1
FRAME_DIRTY: Final = 2  #: newer than its slot
FRAME_LOCKED: Final = 4  #: the page lock
FRAME_MERGED: Final = 8  #: made read-only for everybody by same-page merging

# --- slots ------------------------------------------------------------------------------------------------------------------
S_REFS: Final = 0  #: swap entries that point here; 0: free
S_FRAME: Final = 1  #: its cache
S_CONTENT: Final = 2
S_FILE: Final = 3  #: 1: a block of a file
S_NEXT: Final = 4  #: W_LISTS: next free slot
SLOT_WORDS: Final = 5

# --- mappings ---------------------------------------------------------------------------------------------------------------
V_FLAGS: Final = 0  #: VMA_* | id << VMA_SHIFT
V_SLOT: Final = 1  #: the file's block, 0: anonymous
VMA_WORDS: Final = 2
VMA_MAPPED: Final = 1
VMA_WRITE: Final = 2
VMA_FILE: Final = 4  #: shared: writes go to the page cache
VMA_SHIFT: Final = 8

# --- page-table entries -----------------------------------------------------------------------------------------------------
PTE_PRESENT: Final = 1
PTE_WRITE: Final = 2
PTE_DIRTY: Final = 4
PTE_ACCESSED: Final = 8
PTE_SWAP: Final = 16  #: the number is a slot
PTE_MIGRATION: Final = 32  #: the number is the old frame; who faults here waits
PTE_SOFT_DIRTY: Final = 64
PTE_SHIFT: Final = 8  #: above: the frame or slot

# --- threads ----------------------------------------------------------------------------------------------------------------
T_OP: Final = 0  #: OP_*; 0: between two lines of its script
T_LINE: Final = 1  #: line of the script
T_PHASE: Final = 2  #: PHASE_*
T_SUB: Final = 3  #: step inside the phase
T_ROUND: Final = 4  #: for operations that notify more than once
T_PAGE: Final = 5  #: the page in hand
T_FRAME: Final = 6  #: the old frame in hand
T_NEW: Final = 7  #: the new frame in hand
T_LOCKS: Final = 8  #: LOCK_*: what it holds
T_AT: Final = 9  #: bits: devices that have been started (or finished)
T_REFUSED: Final = 10  #: bit d: device d refused; REFUSED_ITSELF: the kernel gave up
T_TICKET: Final = 11  #: + device: ticket + 1; after them, + devices: token + 1
THREAD_WORDS: Final = 11  #: + 2 * devices
REFUSED_ITSELF: Final = 1 << 8
LOCK_READ: Final = 1  #: mmap_lock
LOCK_WRITE: Final = 2
LOCK_PAGE: Final = 4  #: the page lock of T_FRAME

PHASE_LOCK: Final = 0
PHASE_START: Final = 1
PHASE_WAIT: Final = 2
PHASE_CHANGE: Final = 3
PHASE_FINISH: Final = 4
PHASE_AFTER: Final = 5
PHASE_OVER: Final = 6

# --- lines of a script --------------------------------------------------------------------------------------------------------
O_OP: Final = 0
O_START: Final = 1  #: first page
O_END: Final = 2  #: one past the last
O_ARG: Final = 3
O_PROCESS: Final = 4
LINE_WORDS: Final = 5

OP_NONE: Final = 0
OP_READ: Final = 1
OP_WRITE: Final = 2
OP_UNMAP: Final = 3
OP_MAP: Final = 4
OP_REPLACE: Final = 5  #: mmap(MAP_FIXED) over what is there
OP_REMAP: Final = 6  #: arg: page where the range goes
OP_DISCARD: Final = 7
OP_PROTECT: Final = 8  #: arg 0: read-only, 1: read-write
OP_FORK: Final = 9
OP_RECLAIM: Final = 10  #: arg 1: spared once if the CPU or a device has accessed it
OP_MIGRATE: Final = 11
OP_MERGE: Final = 12  #: arg: the page that it is merged with
OP_COLLAPSE: Final = 13
OP_SPLIT: Final = 14
OP_SOFT_DIRTY: Final = 15
OP_OOM: Final = 16
OP_EXIT: Final = 17
OP_POPULATE: Final = 18  #: a worker's: bring a chunk of a fault in
OPS: Final = (
    "NONE", "READ", "WRITE", "UNMAP", "MAP", "REPLACE", "REMAP", "DISCARD", "PROTECT", "FORK", "RECLAIM", "MIGRATE",
    "MERGE", "COLLAPSE", "SPLIT", "SOFT_DIRTY", "OOM", "EXIT", "POPULATE",
)  # fmt: skip

# --- requests: constants (at W_ORDER) and state (at W_REQUEST) ---------------------------------------------------------------
R_OP: Final = 0  #: 1: RDMA WRITE (memory <- wire), 2: RDMA READ, 3: a prefetch, for which nobody waits
R_START: Final = 1  #: first page
R_END: Final = 2
R_DEVICE: Final = 3
R_VALUE: Final = 4  #: what a WRITE puts into each page
R_REPEAT: Final = 5  #: how often it is issued again after it is complete; -1: for ever
ORDER_WORDS: Final = 6

Q_STATE: Final = 0  #: REQUEST_*
Q_CURSOR: Final = 1  #: first page that is not translated yet
Q_COPIED: Final = 2  #: first page of the descriptor that is not copied yet
Q_DMA: Final = 3  #: descriptor + 1
Q_FAULT: Final = 4  #: fault slot (a word of the paging block); negative: joined, somebody else began it
Q_DONE: Final = 5  #: bits: pages that have been written (I5)
Q_TIMES: Final = 6  #: how often it was complete
Q_FRAME: Final = 7  #: + i: the frame that page R_START + i was translated to
REQUEST_WORDS: Final = 7  #: + span
REQUEST_IDLE: Final = 0  #: to be translated
REQUEST_COPYING: Final = 1  #: a descriptor is in flight
REQUEST_COPIED: Final = 2  #: copied, not yet completed
REQUEST_PARKED: Final = 3  #: waits for its fault
REQUEST_COMPLETE: Final = 4  #: acknowledged
REQUEST_FAILED: Final = 5  #: remote access error

# --- devices -------------------------------------------------------------------------------------------------------------------
D_OFFSET: Final = 0  #: first word of its paging block (constant)
D_ADDRESS: Final = 1  #: or its address, when it is not in `w` (constant)
D_LENGTH: Final = 2  #: its words (constant)
D_SCAN: Final = 3  #: fault slot that the driver looks at
D_SCANNED: Final = 4  #: 1: it has looked
D_UPTO: Final = 5  #: page up to which it saw pages there
D_WORK: Final = 6  #: fault slot that the worker is on
D_POPULATED: Final = 7  #: page up to which it has brought the chunk in
D_ERROR: Final = 8  #: or the errno
D_FLUSH: Final = 9  #: 0 idle, 1 begun, 2 the cache has dropped its translations
D_SEEN: Final = 10  #: + i: frame that the driver saw; + span + i: that the worker got
DEVICE_WORDS: Final = 10  #: + 2 * span

TLB_VALID: Final = 1
TLB_WRITE: Final = 2
TLB_DIRTY: Final = 4  #: it has written through this translation
TLB_OLD: Final = 8  #: cached when the running flush began: the flush drops it
TLB_SHIFT: Final = 8

# --- what was reached (the `sometimes`) --------------------------------------------------------------------------------------
REACHED: Final = (
    *(f"cause {name}" for name in
      "UNKNOWN UNMAP REMAP DISCARD RECLAIM MIGRATE COW PROTECT SOFT_DIRTY MERGE RELEASE".split()),
    "verdict DONE", "verdict WAIT", "verdict DEFERRED", "verdict REFUSED", "verdict FULL",
    "park", "minor fault", "major fault", "retry", "waiting", "exhausted", "fault failed", "joined", "starved",
    "flush", "flush waits", "held", "discharged", "cached translation", "acknowledged", "refused request",
    "swap out", "swap in", "write-back", "copied on write", "reused", "abandoned", "spared", "segfault", "stale use", "stray",
)  # fmt: skip
_BIT: Final = {name: 1 << i for i, name in enumerate(REACHED)}
REACHED_CAUSE: Final = 1  #: << cause
REACHED_DONE: Final = _BIT["verdict DONE"]
REACHED_WAIT: Final = _BIT["verdict WAIT"]
REACHED_DEFERRED: Final = _BIT["verdict DEFERRED"]
REACHED_REFUSED: Final = _BIT["verdict REFUSED"]
REACHED_FULL: Final = _BIT["verdict FULL"]
REACHED_PARK: Final = _BIT["park"]
REACHED_MINOR: Final = _BIT["minor fault"]
REACHED_MAJOR: Final = _BIT["major fault"]
REACHED_RETRY: Final = _BIT["retry"]
REACHED_WAITING: Final = _BIT["waiting"]
REACHED_EXHAUSTED: Final = _BIT["exhausted"]
REACHED_FAULT_FAILED: Final = _BIT["fault failed"]
REACHED_JOINED: Final = _BIT["joined"]
REACHED_STARVED: Final = _BIT["starved"]
REACHED_FLUSH: Final = _BIT["flush"]
REACHED_FLUSH_WAITS: Final = _BIT["flush waits"]
REACHED_HELD: Final = _BIT["held"]
REACHED_DISCHARGED: Final = _BIT["discharged"]
REACHED_TLB: Final = _BIT["cached translation"]
REACHED_ACK: Final = _BIT["acknowledged"]
REACHED_REFUSED_REQUEST: Final = _BIT["refused request"]
REACHED_SWAP_OUT: Final = _BIT["swap out"]
REACHED_SWAP_IN: Final = _BIT["swap in"]
REACHED_WRITE_BACK: Final = _BIT["write-back"]
REACHED_COW: Final = _BIT["copied on write"]
REACHED_REUSED: Final = _BIT["reused"]
REACHED_ABANDONED: Final = _BIT["abandoned"]
REACHED_SPARED: Final = _BIT["spared"]
REACHED_SEGFAULT: Final = _BIT["segfault"]
REACHED_STALE: Final = _BIT["stale use"]
REACHED_STRAY: Final = _BIT["stray"]

MAGIC: Final = 0x756E70696E6E4D31

assert len(REACHED) < 63 and len(OPS) == OP_POPULATE + 1 and len(MODES) == MODE_UNSLEEPABLE + 1
assert len({PTE_PRESENT, PTE_WRITE, PTE_DIRTY, PTE_ACCESSED, PTE_SWAP, PTE_MIGRATION, PTE_SOFT_DIRTY}) == 7
assert PTE_PRESENT | PTE_WRITE | PTE_DIRTY | PTE_ACCESSED | PTE_SWAP | PTE_MIGRATION | PTE_SOFT_DIRTY == 127


def create(
    *,
    pages: int,
    frames: int,
    slots: int = 0,
    processes: int = 1,
    scripts: Sequence[Sequence[tuple[int, ...]]] = (),
    orders: Sequence[tuple[int, ...]] = (),
    blocks: Sequence[Block] = (),
    inside: bool = True,
    span: int = 0,
    lines: int = 0,
    mode: int = MODE_EXACT,
    keep: bool = True,
    kind: int = KIND_HCA,
    lists: bool = False,
    loops: int = 0,
    region: tuple[int, int] | None = None,
) -> Block:
    """Make a world in which nothing is mapped yet (machine.map_pages does that).

    Args:
        pages, frames, slots, processes: the machine. Pages per process.
        scripts: for each CPU or kernel thread its lines ``(op, start, end, arg, process)``.
        orders: for each wire request ``(op, start, end, device, value, repeat)``.
        blocks: a paging block per device; its pages are the process's (one page of it is one page here).
        inside: copy them into the world (a snapshot is one block); else the world refers to them by address, and
            the caller keeps them alive.
        span: pages of the longest request or chunk of a fault; 0: as many as there are pages.
        lines: room for so many lines per thread (0: as many as the longest script has).
        mode, keep, kind, lists, loops: see W_MODE, W_KEEP, W_KIND, W_LISTS, W_LOOPS.
        region: its pages; all of them.

    Raises:
        ValueError: a geometry that cannot be, naming the argument.
    """
    devices, cpus = len(blocks), len(scripts)
    span = span or pages
    lines = max(lines, max((len(script) for script in scripts), default=0), 1)
    limits = {
        "pages": (pages, 1, 1 << 24), "frames": (frames, 1, 1 << 24), "slots": (slots, 0, 1 << 24),
        "processes": (processes, 1, 2), "devices": (devices, 0, 8), "threads": (cpus, 0, 16),
        "requests": (len(orders), 0, 16), "span": (span, 1, pages),
    }  # fmt: skip
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise ValueError(f"{name}={value}: must be between {least} and {most}")
    frame_words = F_HOLD + devices
    thread_words = THREAD_WORDS + 2 * devices
    request_words = REQUEST_WORDS + span
    device_words = DEVICE_WORDS + 2 * span
    block_words = max((len(block) for block in blocks), default=0)
    parts = (
        (W_SCRIPT, cpus * lines * LINE_WORDS), (W_ORDER, len(orders) * ORDER_WORDS), (W_STATE, X_WORDS),
        (W_FRAME, (frames + 1) * frame_words), (W_SLOT, (slots + 1) * SLOT_WORDS),
        (W_VMA, processes * pages * VMA_WORDS), (W_PTE, processes * pages), (W_TRUTH, processes * pages),
        (W_THREAD, (cpus + devices) * thread_words), (W_REQUEST, len(orders) * request_words),
        (W_DEVICE, devices * device_words), (W_TLB, devices * pages),
        (W_BLOCKS, devices * block_words if inside else 0), (W_SCRATCH, block_words if inside else 0),
    )  # fmt: skip
    w = np.zeros(HEADER_WORDS + sum(words for _, words in parts), np.int64)
    at = HEADER_WORDS
    for word, words in parts:
        w[word] = at
        at += words
    w[W_MAGIC], w[W_WORDS], w[W_BLOCK_WORDS] = MAGIC, len(w), block_words
    w[W_PAGES], w[W_FRAMES], w[W_SLOTS], w[W_PROCESSES] = pages, frames, slots, processes
    w[W_THREADS], w[W_CPUS], w[W_DEVICES], w[W_REQUESTS] = cpus + devices, cpus, devices, len(orders)
    w[W_SPAN], w[W_LINES], w[W_FRAME_WORDS], w[W_THREAD_WORDS] = span, lines, frame_words, thread_words
    w[W_REQUEST_WORDS], w[W_DEVICE_WORDS] = request_words, device_words
    w[W_MODE], w[W_KEEP], w[W_KIND], w[W_LISTS] = mode, int(keep), kind, int(lists)
    w[W_LOOPS], w[W_REGION] = loops, (region or (0, pages))[0] << 32 | (region or (0, pages))[1]
    for t, script in enumerate(scripts):
        for i, line in enumerate(script):
            at = int(w[W_SCRIPT]) + (t * lines + i) * LINE_WORDS
            w[at : at + len(line)] = line
    for r, order in enumerate(orders):
        at = int(w[W_ORDER]) + r * ORDER_WORDS
        w[at : at + len(order)] = order
        w[w[W_REQUEST] + r * request_words + Q_CURSOR] = order[R_START]
    for d, block in enumerate(blocks):
        at = int(w[W_DEVICE]) + d * device_words
        w[at + D_LENGTH] = len(block)
        if inside:
            w[at + D_OFFSET] = w[W_BLOCKS] + d * block_words
            w[w[at + D_OFFSET] : w[at + D_OFFSET] + len(block)] = block
        else:
            w[at + D_ADDRESS] = block.ctypes.data
    x = w[W_STATE]
    w[x + X_ALIVE] = 1
    if lists:
        w[x + X_FREE_FRAME], w[x + X_FREE_SLOT], w[x + X_FREE_FRAMES] = 1, int(slots > 0), frames
        w[w[W_FRAME] + frame_words + F_NEXT : w[W_SLOT] : frame_words] = [*range(2, frames + 1), 0]
        if slots:
            w[w[W_SLOT] + SLOT_WORDS + S_NEXT : w[W_VMA] : SLOT_WORDS] = [*range(2, slots + 1), 0]
    return w
