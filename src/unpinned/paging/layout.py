"""The block `p`: every word that the paging floor keeps, in one contiguous int64 array.

One block describes one process as its devices see it: a secondary page table, the active invalidations, the fault
slots and the DMA descriptors. It is made once by `create`, never grown, and passed to every kernel; geometry and depths
are data in its header, so that the live world (gigabytes of address space, thousands of nodes) and the model (three
pages, under 2 KiB) run the same compiled functions.

Order inside the block::

    header | regions | active | deferrals | provisional | revoked | dma | faults | scan queue | run queue
           | node records | table nodes | counters (TOTALS, then one record per region)

Everything before ``p[COUNTERS]`` is state: the model hashes exactly ``p[:p[COUNTERS]]``. Everything from there on is
counted, never read by a step. Free records are all zeros and the lowest free record is always the one taken, so equal
situations are equal blocks. Addresses are *table addresses* in bytes: where the region's memory is touched by us,
which is our own mapping's address for owned and aliased memory. Times are nanoseconds of the caller's clock (the
model passes ordinals).

Words are int64 throughout. Prefixes say what space a constant lives in: bare names are header words; ``REGION_``,
``ACTIVE_``, ``DEFERRAL_``, ``PROVISIONAL_``, ``REVOKED_``, ``DMA_``, ``FAULT_``, ``NODE_``, ``COUNT_``, ``POLICY_`` are
offsets inside a record (and its ``_WORDS`` is the record's length).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.int64]

# --- header: geometry (written by create, read-only afterwards) ------------------------------------------------------
MAGIC: Final = 0  #: LAYOUT_MAGIC
COUNTERS: Final = 1  #: first word of the counters: the end of the state
PAGE_SHIFT: Final = 2  #: log2 of the page size in bytes
LEVELS: Final = 3  #: levels of the radix tree, 1..5
BITS: Final = 4  #: log2 of the slots of a node
NODES: Final = 5  #: first word of the nodes; node 0 is the root
NODE_RECORDS: Final = 6  #: first word of the node records
NODE_COUNT: Final = 7
REGIONS: Final = 8
REGION_CAPACITY: Final = 9
ACTIVE: Final = 10
ACTIVE_CAPACITY: Final = 11
DEFERRALS: Final = 12
DEFERRAL_CAPACITY: Final = 13
PROVISIONAL: Final = 14
PROVISIONAL_CAPACITY: Final = 15
REVOKED: Final = 16
REVOKED_CAPACITY: Final = 17
DMA: Final = 18
DMA_CAPACITY: Final = 19
FAULTS: Final = 20
FAULT_CAPACITY: Final = 21
SCAN_QUEUE: Final = 22  #: fault slots in state FAULT_SCAN, oldest first
RUN_QUEUE: Final = 23  #: fault slots in state FAULT_QUEUED, oldest first
TOTALS: Final = 24  #: the counters record of the whole block (== p[COUNTERS] + 1)

# --- header: settings (the world may change them between steps) ------------------------------------------------------
HORIZON_NS: Final = 25  #: an entry older than this is not trusted; 0: entries never age
PROVISIONAL_NS: Final = 26  #: for how long a DISCARD makes new entries provisional; 0: never
PROVISIONAL_TRUST_NS: Final = 27  #: for how long a provisional entry is trusted
TLB: Final = 28  #: 1: the device caches translations and must be flushed (model); 0: the table is the only copy (live)
HUGE: Final = 29  #: 1: a full, aligned span of a last-level node is stored as one huge entry
TRACK: Final = 30  #: entry bits that translate() records: of ACCESSED, DIRTY, CACHED
FAULT_MAX_BYTES: Final = 31  #: a fault never covers more
CHUNK_BYTES: Final = 32  #: first chunk of a fault; each next one is four times larger
READ_AHEAD_BYTES: Final = 33  #: most that a sequential fault reads ahead; 0: no read-ahead
RETRIES_MAX: Final = 34  #: collisions that one fault survives

# --- header: live words ----------------------------------------------------------------------------------------------
NODES_LIVE: Final = 35  #: nodes in use, the root included
NODE_FREE: Final = 36  #: index of the lowest free node (== NODE_COUNT: none)
EVICT_HAND: Final = 37  #: node where the next eviction starts to look
EVICTED: Final = 38  #: with TLB: 0, 1 entries were evicted since the last flush, 2 a flush is taking care of it
PAGES: Final = 39  #: entries present, in pages
REGION_COUNT: Final = 40  #: one past the highest open region
ACTIVE_COUNT: Final = 41  #: invalidations between start and finish
TICKET: Final = 42  #: ticket of the last invalidate_start (or NONE)
OBLIGATION: Final = 43  #: token of the last DEFERRED verdict (or NONE)
DEFERRAL_COUNT: Final = 44
DEFERRED_PAGES: Final = 45  #: pages whose flush is owed, not yet started
FLUSHING: Final = 46  #: 1 between flush_begin and flush_end
FLUSH_WANTED: Final = 47  #: bits: 1 somebody waits for a flush: start one now; 2 and clear CACHED as it begins
FLUSH_SINCE: Final = 48  #: when the running flush began, ns
PROVISIONAL_COUNT: Final = 49
REVOKED_COUNT: Final = 50
DMA_COUNT: Final = 51  #: one past the highest descriptor in use: a batch is 0 .. DMA_COUNT-1
DMA_LIVE: Final = 52  #: descriptors in use
FAULT_LIVE: Final = 53  #: fault slots in use
FAULT_WAITING: Final = 54  #: of them, in state FAULT_WAIT
SCAN_LENGTH: Final = 55
RUN_LENGTH: Final = 56
HELD_PAGES: Final = 57  #: pages of all deferrals, until obligation_end: what the host may be holding
POLICY: Final = 58  #: CAUSES rows of POLICY_WORDS words (see causes.py, policy.py)

# --- causes: who changes the CPU's page table (documented in causes.py) ----------------------------------------------
CAUSE_UNKNOWN: Final = 0
CAUSE_UNMAP: Final = 1
CAUSE_REMAP: Final = 2
CAUSE_DISCARD: Final = 3
CAUSE_RECLAIM: Final = 4
CAUSE_MIGRATE: Final = 5
CAUSE_COW: Final = 6
CAUSE_PROTECT: Final = 7
CAUSE_SOFT_DIRTY: Final = 8
CAUSE_MERGE: Final = 9
CAUSE_RELEASE: Final = 10
CAUSES: Final = 11

# --- policy rows -----------------------------------------------------------------------------------------------------
POLICY_VERDICT: Final = 0  #: NOW, DOWNGRADE, DEFER or REFUSE_IF_BUSY
POLICY_MAX_PAGES: Final = 1  #: DEFER: never hold more pages; flush when half as many are owed
POLICY_MAX_NS: Final = 2  #: DEFER: flush when the oldest is so old
POLICY_POINT: Final = 3  #: POINT_*: past it, the old translation is never used (checked by the model, I3)
POLICY_WORDS: Final = 4

NOW: Final = 1
DOWNGRADE: Final = 2
DEFER: Final = 3
REFUSE_IF_BUSY: Final = 4

POINT_START: Final = 1  #: when invalidate_start or the poll after it said DONE
POINT_FINISH: Final = 2  #: when invalidate_finish returned
POINT_FLUSH: Final = 3  #: when the flush that names the obligation ended

HEADER_WORDS: Final = POLICY + CAUSES * POLICY_WORDS

# --- verdicts of invalidate_start, invalidate_poll and the flush -----------------------------------------------------
DONE: Final = 1  #: the device does not use the range any more
WAIT: Final = 2  #: poll until DONE before changing the page table
DEFERRED: Final = 3  #: the change may be made; the frame is held until the obligation p[OBLIGATION] is flushed
REFUSED: Final = 4  #: nothing changed: leave the page where it is
FULL: Final = -2  #: no free record: nothing changed, try again after a finish
PROTOCOL: Final = -1  #: the caller broke the protocol (counted in COUNT_VIOLATIONS)
NONE: Final = -1  #: no ticket, no slot, no index, no region, no token
ASKED: Final = -2  #: a prefetch's token, too: its pages have been asked for already, and copies will touch them soon

# --- table entries: the low FLAG_BITS are flags, the rest is the validation time (live) or the frame (model) ---------
PRESENT: Final = 1  #: the page was there, and readable, when the entry was installed
WRITE: Final = 2  #: and writable by the CPU
ACCESSED: Final = 4
DIRTY: Final = 8
STALE: Final = 16  #: an invalidation is owed: no new use, old uses end with the flush
HUGE_ENTRY: Final = 32  #: stands for a whole last-level node
CACHED: Final = 64  #: the device has translated it since a flush that cleared this: its cache may hold it
FLAG_BITS: Final = 12
FLAG_MASK: Final = (1 << FLAG_BITS) - 1
TIME_SHIFT: Final = 10  #: validation times are stored in units of 1,024 ns

# --- regions: what of a memory region the page table must know (hca/regions has the keys) ----------------------------
REGION_OPEN: Final = 0  #: 1 while in use
REGION_START: Final = 1  #: first table address, bytes
REGION_END: Final = 2  #: one past the last
REGION_FLAGS: Final = 3  #: REGION_WRITE_BY_SCAN, REGION_ALL_REVOKED
REGION_NEXT: Final = 4  #: where a sequential fault would start
REGION_RUN: Final = 5  #: where the run of sequential faults began
REGION_WORDS: Final = 6
REGION_WRITE_BY_SCAN: Final = 1  #: present means writable (our own mapping of a sealed memfd)
REGION_ALL_REVOKED: Final = 2  #: set by revoke when there is no record left to say what exactly
REGION_WORLD: Final = 256  #: from this bit on: the world's own flags, which paging leaves alone

# --- active invalidations: the record's index is the ticket ----------------------------------------------------------
ACTIVE_STATE: Final = 0  #: 0 free, 1 started
ACTIVE_START: Final = 1
ACTIVE_END: Final = 2
ACTIVE_CAUSE: Final = 3
ACTIVE_VERDICT: Final = 4  #: what was done: NOW, DOWNGRADE, DEFER
ACTIVE_FLUSH: Final = 5  #: FLUSH_*: where its flush stands
ACTIVE_SINCE: Final = 6
ACTIVE_WORDS: Final = 7

FLUSH_NONE: Final = 0
FLUSH_OWED: Final = 1  #: needs a flush that has not begun
FLUSH_RUNNING: Final = 2  #: covered by the running flush
FLUSH_OVER: Final = 3  #: flushed; the host may discharge the obligation

# --- deferrals: the record's index is the obligation's token ---------------------------------------------------------
DEFERRAL_FLUSH: Final = 0  #: 0 free, else FLUSH_OWED / FLUSH_RUNNING / FLUSH_OVER
DEFERRAL_START: Final = 1
DEFERRAL_END: Final = 2
DEFERRAL_CAUSE: Final = 3
DEFERRAL_SINCE: Final = 4
DEFERRAL_WORDS: Final = 5

# --- provisional ranges: where a DISCARD may still be going on -------------------------------------------------------
PROVISIONAL_START: Final = 0
PROVISIONAL_END: Final = 1
PROVISIONAL_UNTIL: Final = 2
PROVISIONAL_WORDS: Final = 3

# --- revoked extents -------------------------------------------------------------------------------------------------
REVOKED_REGION: Final = 0  #: region + 1 (0: free)
REVOKED_START: Final = 1
REVOKED_END: Final = 2
REVOKED_WORDS: Final = 3

# --- DMA descriptors -------------------------------------------------------------------------------------------------
DMA_STATE: Final = 0
DMA_VA: Final = 1  #: table address, bytes
DMA_LENGTH: Final = 2  #: bytes
DMA_OP: Final = 3
DMA_OFFSET: Final = 4  #: in the arena, bytes
DMA_PATH: Final = 5
DMA_TOKEN: Final = 6  #: the issuer's; its low 32 bits are the queue pair
DMA_STATUS: Final = 7  #: errno of a failed copy
DMA_X0: Final = 8  #: atomics: operand (add) or compare
DMA_X1: Final = 9  #: atomics: swap
DMA_RESULT: Final = 10  #: atomics: the value before
DMA_WORDS: Final = 11

DMA_FREE: Final = 0
DMA_ISSUED: Final = 1  #: described; the world may be copying: collides with invalidations
DMA_DONE: Final = 2  #: set by the world
DMA_FAILED: Final = 3  #: set by the world, with DMA_STATUS

OP_WRITE: Final = 1  #: memory <- buffer
OP_READ: Final = 2  #: buffer <- memory
OP_CMP_SWAP: Final = 3
OP_FETCH_ADD: Final = 4

PATH_PROCESS_VM: Final = 0
PATH_DIRECT: Final = 1
PATH_FOREIGN: Final = 2  #: as PATH_PROCESS_VM, at an address that the application may replace under fire

# --- fault slots: a slot is the word index of its record -------------------------------------------------------------
FAULT_STATE: Final = 0
FAULT_START: Final = 1  #: page-aligned
FAULT_END: Final = 2  #: page-aligned, read-ahead included
FAULT_DEMAND: Final = 3  #: page-aligned end of what was asked for
FAULT_CURSOR: Final = 4  #: everything below is installed (or was: translate() says)
FAULT_CHUNK_END: Final = 5  #: RUNNING: the world populates [FAULT_CURSOR, FAULT_CHUNK_END)
FAULT_CHUNK: Final = 6  #: length of the next chunk, bytes; 0: scan only, bring nothing in
FAULT_WRITE: Final = 7  #: 0: for read; else for write (2: and present means writable, see REGION_WRITE_BY_SCAN)
FAULT_TOKEN: Final = 8  #: the first waiter's; NONE, ASKED: a prefetch, whoever has joined it
FAULT_WAITERS: Final = 9  #: requests that will call fault_end; 0: free yourself when over
FAULT_REGION: Final = 10
FAULT_HIT: Final = 11  #: 1: a colliding invalidation started since the scan or chunk began
FAULT_RETRIES: Final = 12
FAULT_ERRNO: Final = 13  #: FAILED: why
FAULT_AFTER: Final = 14  #: WAIT: the state to go back to
FAULT_SINCE: Final = 15
FAULT_WORDS: Final = 16

WANT_WRITE: Final = 1  #: fault_begin's `want`: bits; 0 is a read fault
WANT_RESIDENT: Final = 2  #: install what is there, bring nothing in (prefetch without fault)
WANT_AHEAD: Final = 4  #: a prefetch that somebody waits for: counted as such

FAULT_FREE: Final = 0
FAULT_SCAN: Final = 1  #: waits for the driver to look which pages are there
FAULT_SCANNING: Final = 2  #: taken by the driver: fault_scanned ends it
FAULT_QUEUED: Final = 3  #: waits for a worker
FAULT_RUNNING: Final = 4  #: taken by a worker
FAULT_WAIT: Final = 5  #: a colliding invalidation is active or owed; re-armed when it ends
FAULT_DONE: Final = 6  #: the range was brought in
FAULT_FAILED: Final = 7  #: see FAULT_ERRNO

# --- what the fault steps return -------------------------------------------------------------------------------------
COMMITTED: Final = 1  #: the chunk (or the scan's part) is installed; there is more to do
RETRY: Final = 2  #: a collision: nothing installed; the slot is armed again
WAITING: Final = 3  #: a colliding invalidation is active: nothing installed, the slot is in FAULT_WAIT
FAILED: Final = 4  #: the world's errno is in the slot
EXHAUSTED: Final = 5  #: too many collisions; FAILED with EAGAIN
OVER: Final = 6  #: nobody waits any more: the slot is free
FINISHED: Final = 7  #: everything is installed; the slot is its waiters' now
BUSY: Final = 8  #: fault_end: the slot is being worked on; its worker frees it
OUTSIDE: Final = -3  #: fault_begin: not inside the region, or revoked

EAGAIN: Final = 11  #: the same on every Linux architecture

# --- node records ----------------------------------------------------------------------------------------------------
NODE_UP: Final = 0  #: word index of the slot that points here; 0 free; the root has NONE
NODE_LEVEL: Final = 1  #: 0: its slots are pages
NODE_FILLED: Final = 2  #: slots in use
NODE_CHILDREN: Final = 3  #: of them, pointers to nodes
NODE_WORDS: Final = 4

# --- counters: COUNTERS holds SEQUENCE, then the TOTALS record, then one record per region ---------------------------
#: offset from p[COUNTERS]; moves at the first start and the last finish: odd while ACTIVE_COUNT > 0
SEQUENCE: Final = 0

COUNT_FAULTS_READ: Final = 0
COUNT_FAULTS_WRITE: Final = 1
COUNT_FAULTS_MINOR: Final = 2  #: ended by the scan: every page was there
COUNT_FAULTS_MAJOR: Final = 3  #: needed a worker
COUNT_FAULTS_FAILED: Final = 4
COUNT_FAULTS_EXHAUSTED: Final = 5
COUNT_FAULTS_JOINED: Final = 6  #: shared the slot of an earlier one
COUNT_FAULTS_REJECTED: Final = 7  #: no free slot
COUNT_PREFETCHES: Final = 8
COUNT_READ_AHEAD: Final = 9  #: pages
COUNT_PAGES_IN: Final = 10  #: pages installed by faults
COUNT_FAULT_NS: Final = 11  #: begin to end, summed over faults that were DONE
COUNT_RETRIES: Final = 12
COUNT_WAITS: Final = 13  #: times a fault waited for a colliding invalidation
COUNT_PAGES_ZAPPED: Final = 14
COUNT_PAGES_DOWNGRADED: Final = 15
COUNT_PAGES_DEFERRED: Final = 16
COUNT_REFUSED: Final = 17
COUNT_FLUSHES: Final = 18
COUNT_FLUSH_NS: Final = 19
COUNT_REVOKED: Final = 20  #: extents revoked
COUNT_EVICTIONS: Final = 21  #: nodes (totals only)
COUNT_VIOLATIONS: Final = 22  #: steps refused as out of order (totals only)
COUNT_INVALIDATIONS: Final = 23  #: CAUSES words, by cause
COUNT_WORDS: Final = COUNT_INVALIDATIONS + CAUSES

LAYOUT_MAGIC: Final = 0x756E70696E6E0001

assert (ACTIVE_STATE, ACTIVE_START, ACTIVE_END) == (DEFERRAL_FLUSH, DEFERRAL_START, DEFERRAL_END) == (0, 1, 2), (
    "see flush_owed"
)
assert PRESENT | WRITE | ACCESSED | DIRTY | STALE | HUGE_ENTRY == 63 <= FLAG_MASK, "entry flags overlap"


def _record(prefix: str, words: int, repeat: dict[str, int] | None = None) -> np.dtype[Any]:
    """The NumPy view of a record: one '<i8' field per constant of `prefix`, in order, checked to fill it exactly."""
    names, offsets, formats, lengths = [], [], [], repeat or {}
    for key in _FIELDS[prefix]:
        names.append(key.lower())
        offsets.append(8 * globals()[f"{prefix}_{key}"])
        formats.append("<i8" if key not in lengths else f"({lengths[key]},)<i8")
    made = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": 8 * words})
    assert sum(int(np.dtype(f).itemsize) for f in formats) == 8 * words, f"{prefix}: a word has no name or two"
    assert offsets == sorted(set(offsets)), f"{prefix}: two fields share a word"
    return made


_FIELDS: Final = {
    "POLICY": "VERDICT MAX_PAGES MAX_NS POINT".split(),
    "REGION": "OPEN START END FLAGS NEXT RUN".split(),
    "ACTIVE": "STATE START END CAUSE VERDICT FLUSH SINCE".split(),
    "DEFERRAL": "FLUSH START END CAUSE SINCE".split(),
    "PROVISIONAL": "START END UNTIL".split(),
    "REVOKED": "REGION START END".split(),
    "DMA": "STATE VA LENGTH OP OFFSET PATH TOKEN STATUS X0 X1 RESULT".split(),
    "FAULT": "STATE START END DEMAND CURSOR CHUNK_END CHUNK WRITE TOKEN WAITERS REGION HIT RETRIES ERRNO AFTER SINCE".split(),
    "NODE": "UP LEVEL FILLED CHILDREN".split(),
    "COUNT": (
        "FAULTS_READ FAULTS_WRITE FAULTS_MINOR FAULTS_MAJOR FAULTS_FAILED FAULTS_EXHAUSTED FAULTS_JOINED FAULTS_REJECTED "
        "PREFETCHES READ_AHEAD PAGES_IN FAULT_NS RETRIES WAITS PAGES_ZAPPED PAGES_DOWNGRADED PAGES_DEFERRED REFUSED "
        "FLUSHES FLUSH_NS REVOKED EVICTIONS VIOLATIONS INVALIDATIONS"
    ).split(),
}

POLICY_DTYPE: Final = _record("POLICY", POLICY_WORDS)
REGION_DTYPE: Final = _record("REGION", REGION_WORDS)
ACTIVE_DTYPE: Final = _record("ACTIVE", ACTIVE_WORDS)
DEFERRAL_DTYPE: Final = _record("DEFERRAL", DEFERRAL_WORDS)
PROVISIONAL_DTYPE: Final = _record("PROVISIONAL", PROVISIONAL_WORDS)
REVOKED_DTYPE: Final = _record("REVOKED", REVOKED_WORDS)
DMA_DTYPE: Final = _record("DMA", DMA_WORDS)
FAULT_DTYPE: Final = _record("FAULT", FAULT_WORDS)
NODE_DTYPE: Final = _record("NODE", NODE_WORDS)
COUNT_DTYPE: Final = _record("COUNT", COUNT_WORDS, {"INVALIDATIONS": CAUSES})


def create(
    *,
    levels: int = 4,
    bits: int = 9,
    leaves: int = 16_384,
    page_shift: int = 12,
    regions: int = 1_024,
    active: int = 16,
    deferrals: int = 256,
    provisional: int = 8,
    revoked: int = 256,
    dma: int = 1_024,
    faults: int = 256,
) -> Block:
    """Make a block. Its memory is zeroed lazily by the system: a large table costs nothing until it is used.

    Args:
        levels, bits: geometry of the radix tree; it spans ``2 ** (levels * bits)`` pages.
        leaves: nodes of the table, interior ones included. The table is a cache: when all are in use, one is evicted.
        page_shift: log2 of the page size.
        regions, active, deferrals, provisional, revoked, dma, faults: capacities of the other records.

    Raises:
        ValueError: a geometry that cannot work, naming the argument.
    """
    limits = {
        "levels": (levels, 1, 5), "bits": (bits, 1, 12), "leaves": (leaves, levels, 1 << 24),
        "page_shift": (page_shift, 0, 16), "regions": (regions, 0, 1 << 20), "active": (active, 1, 1 << 10),
        "deferrals": (deferrals, 0, 1 << 12), "provisional": (provisional, 0, 64), "revoked": (revoked, 0, 1 << 16),
        "dma": (dma, 0, 1 << 16), "faults": (faults, 0, 1 << 16),
    }  # fmt: skip
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise ValueError(f"{name}={value}: must be between {least} and {most}")
    if levels * bits + page_shift > 62:
        raise ValueError(
            f"levels={levels}, bits={bits}, page_shift={page_shift}: the table would span more than 2**62 bytes"
        )
    parts = (
        (REGIONS, regions * REGION_WORDS), (ACTIVE, active * ACTIVE_WORDS), (DEFERRALS, deferrals * DEFERRAL_WORDS),
        (PROVISIONAL, provisional * PROVISIONAL_WORDS), (REVOKED, revoked * REVOKED_WORDS), (DMA, dma * DMA_WORDS),
        (FAULTS, faults * FAULT_WORDS), (SCAN_QUEUE, faults), (RUN_QUEUE, faults), (NODE_RECORDS, leaves * NODE_WORDS),
        (NODES, leaves << bits), (COUNTERS, 1 + (1 + regions) * COUNT_WORDS),
    )  # fmt: skip
    p = np.zeros(HEADER_WORDS + sum(words for _, words in parts), np.int64)
    at = HEADER_WORDS
    for word, words in parts:
        p[word] = at
        at += words
    p[MAGIC], p[LEVELS], p[BITS], p[PAGE_SHIFT], p[NODE_COUNT] = LAYOUT_MAGIC, levels, bits, page_shift, leaves
    p[REGION_CAPACITY], p[ACTIVE_CAPACITY], p[DEFERRAL_CAPACITY] = regions, active, deferrals
    p[PROVISIONAL_CAPACITY], p[REVOKED_CAPACITY], p[DMA_CAPACITY], p[FAULT_CAPACITY] = provisional, revoked, dma, faults
    p[TOTALS] = p[COUNTERS] + 1
    root = p[NODE_RECORDS]
    p[root + NODE_UP], p[root + NODE_LEVEL] = NONE, levels - 1
    p[NODES_LIVE], p[NODE_FREE], p[TICKET], p[OBLIGATION] = 1, 1, NONE, NONE
    p[HUGE] = int(levels > 1)
    p[PROVISIONAL_TRUST_NS] = 100_000  # longer than a waiter needs to wake up, or it would fault for ever
    p[FAULT_MAX_BYTES], p[CHUNK_BYTES], p[READ_AHEAD_BYTES], p[RETRIES_MAX] = 4 << 20, 256 << 10, 4 << 20, 16
    for cause in range(CAUSES):
        row = POLICY + cause * POLICY_WORDS
        p[row + POLICY_VERDICT], p[row + POLICY_POINT] = NOW, POINT_START
    return p


_VIEWS: Final = {
    "regions": (REGIONS, REGION_CAPACITY, REGION_DTYPE), "active": (ACTIVE, ACTIVE_CAPACITY, ACTIVE_DTYPE),
    "deferrals": (DEFERRALS, DEFERRAL_CAPACITY, DEFERRAL_DTYPE), "revoked": (REVOKED, REVOKED_CAPACITY, REVOKED_DTYPE),
    "provisional": (PROVISIONAL, PROVISIONAL_CAPACITY, PROVISIONAL_DTYPE), "dma": (DMA, DMA_CAPACITY, DMA_DTYPE),
    "faults": (FAULTS, FAULT_CAPACITY, FAULT_DTYPE), "nodes": (NODE_RECORDS, NODE_COUNT, NODE_DTYPE),
}  # fmt: skip


def view(p: Block, name: str) -> NDArray[Any]:
    """The records of one kind as a structured array that shares the block's memory.

    Args:
        name: regions, active, deferrals, provisional, revoked, dma, faults, nodes, policy, totals or counters (one
            record per region).
    """
    if name == "policy":
        start, count, dtype = POLICY, CAUSES, POLICY_DTYPE
    elif name == "totals":
        start, count, dtype = int(p[TOTALS]), 1, COUNT_DTYPE
    elif name == "counters":
        start, count, dtype = int(p[TOTALS]) + COUNT_WORDS, int(p[REGION_CAPACITY]), COUNT_DTYPE
    else:
        word, capacity, dtype = _VIEWS[name]
        start, count = int(p[word]), int(p[capacity])
    return p[start : start + count * (dtype.itemsize // 8)].view(dtype)
