"""Words of a record, and of the ring that carries records from the device's threads to the file.

Times are ns of the monotonic clock, addresses table addresses (where the device's page table is keyed) in bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64]

# --- a record ----------------------------------------------------------------------------------------------------------
STAMP: Final = 0  #: in the ring: its number + 1, written last; in a file: 0
KIND: Final = 1
TIME: Final = 2
A: Final = 3
B: Final = 4
C: Final = 5
D: Final = 6
E: Final = 7
WORDS: Final = 8

#: a run of bytes of one message that one queue pair's copies touched within a millisecond (TIME: the first): A first address,
#: B length, C what is left of the message behind it, D direction (paging's OP_*), E queue pair
ACCESS: Final = 1
#: a fault began (TIME: when its request came): A start, B end of what was asked for, C its slot, D region or -1, E FAULT_* bits
FAULT: Final = 2
#: a worker has brought pages in, or could not: A start, B end, C errno, D the fault's slot, E CHUNK_* bits
CHUNK: Final = 3
#: A start, B end, C cause, D region or -1, E what came of it (never given to the model): pages zapped * 2 + flushed
INVALIDATE: Final = 4
#: for good: A start, B end, D region
REVOKE: Final = 5
#: A start, B end, C flags, D region, E 1 when it is pinned
OPEN: Final = 6
#: A start, B end, D region
CLOSE: Final = 7
#: the driver has looked at a fault's pages: A start, B end (with read-ahead), C up to where they were there or a hole, D the fault's
#: slot, E LOOKED_NOBODY, and LOOKED_HOLE times the pages of the hole at the end
LOOKED: Final = 8
#: a worker begins with pages that were not there: A start, B end, C the fault's slot
TAKEN: Final = 9
#: the driver begins to look at a fault's pages, later than when it began or once more: C the fault's slot
LISTED: Final = 10
#: the device believes what it has looked up for A ns from now on (host/trust.py); the first record says how it begins
HORIZON: Final = 11
KINDS: Final = ("", "access", "fault", "chunk", "invalidate", "revoke", "open", "close", "looked", "taken", "listed", "horizon")

FAULT_WRITE: Final = 1
FAULT_PREFETCH: Final = 2
FAULT_RESIDENT: Final = 4
FAULT_LATER: Final = 8  #: too many to look at: this one is LISTED later

LOOKED_NOBODY: Final = 1  #: waited for it any more
LOOKED_HOLE: Final = 2
CHUNK_NOBODY: Final = 1
CHUNK_HOLE: Final = 2  #: nothing is there: it is read through its file (host/holes.py)

# --- the ring: what its writers, its reader and nobody change lie in lines of their own ---------------------------------------
RING_CAPACITY: Final = 0  #: records, a power of two
RING_HEAD: Final = 8  #: number of the next record to be taken by a writer
RING_LOST: Final = 9  #: records that found no room
RING_TAIL: Final = 16  #: number of the next record to be read
RING_OPEN: Final = 24  #: OPEN_RUNS runs of copies that may go on, by queue pair; the driver's, or of one who has halted it
OPEN_RUNS: Final = 8
OPEN_QP: Final = 0  #: queue pair + 1, 0: none
OPEN_OP: Final = 1
OPEN_START: Final = 2
OPEN_END: Final = 3
OPEN_LEFT: Final = 4  #: of the message
OPEN_SINCE: Final = 5
OPEN_WORDS: Final = 8
RING_RECORDS: Final = RING_OPEN + OPEN_RUNS * OPEN_WORDS  #: first record


def create(capacity: int) -> Words:
    """An empty ring of `capacity` records (a power of two). ValueError otherwise."""
    if capacity < 2 or capacity & (capacity - 1):
        raise ValueError(f"capacity={capacity}: must be a power of two, at least 2")
    r = np.zeros(RING_RECORDS + capacity * WORDS, np.int64)
    r[RING_CAPACITY] = capacity
    return r
