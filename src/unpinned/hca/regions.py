"""Memory regions: which key opens which bytes, for whom.

Rules (IBTA vol. 1, 10.6 and 9.7.4.1.3): a key must exist, its protection domain must be the QP's, the
whole of [va, va + length) must lie in the region, and the region must grant the access.  A request of zero
bytes names no memory, and its key is not looked at.

A key is a random 32-bit number found through an open-addressed table of (key, record) pairs; the record's own
copy of the key is compared again, so a stale slot of the table opens nothing.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.paging import layout as P
from unpinned.paging.dma import dma_issue
from unpinned.paging.regions import is_revoked
from unpinned.paging.table import translate

PROBES = 16  # as in block.insert_key

AHEAD = 1 << 16  # bytes that one walk of the table looks at

HIT = 0
MISS = 1
DENIED = 2


@kernel
def find_key(h, key):
    """Index of the valid region record that ``key`` opens, or 0."""
    mask = h[L.H_KEY_MASK]
    at = (key * 40503 + (key >> 16)) & mask
    for probe in range(PROBES):
        slot = h[L.H_KEY_BASE] + 2 * ((at + probe) & mask)
        if h[slot + 1] == 0:
            return 0
        if h[slot] == key:
            mr = h[slot + 1]
            if mr > 0 and h[mr + L.MR_STATE] == 1 and h[mr + L.MR_KEY] == key:
                return mr
    return 0


@kernel
def authorize(h, pd, key, va, length, access):
    """The region record that grants ``access`` (all its bits) to [va, va + length), or 0."""
    mr = find_key(h, key)
    if mr == 0 or h[mr + L.MR_PD] != pd or (h[mr + L.MR_ACCESS] & access) != access:
        return 0
    start = h[mr + L.MR_START]
    # Two subtractions instead of a sum: va and length come from the wire and va + length may wrap.
    if va < start or length < 0 or length > h[mr + L.MR_LENGTH] or va - start > h[mr + L.MR_LENGTH] - length:
        return 0
    return mr


@kernel
def lookup(h, p, mr, va, length, write, now):
    """HIT, MISS or DENIED for [va, va + length) of a region that ``authorize`` already granted."""
    if h[mr + L.MR_STATE] != 1:
        return DENIED
    table_va = va + h[mr + L.MR_DELTA]
    if h[mr + L.MR_HOLES] and is_revoked(p, h[mr + L.MR_REGION], table_va, table_va + length):
        return DENIED
    if h[mr + L.MR_PINNED]:
        return HIT
    if h[L.H_SEEN] == mr and write <= h[L.H_SEEN_WRITE] and h[L.H_SEEN_START] <= table_va and table_va + length <= h[L.H_SEEN_END]:
        return HIT
    return HIT if look(h, p, mr, table_va, length, write, now) >= length else MISS


@kernel
def look(h, p, mr, table_va, length, write, now):
    """``translate``, and of whole pages what follows them, too: the packets of a message come one after another.

    What was found holds as long as the lock does, so the step remembers it (H_SEEN) and the next must `forget`. Not where the
    table records what was used: that is told of what was asked for only.
    """
    ahead = length
    if length >> p[P.PAGE_SHIFT] and p[P.TRACK] == 0:
        ahead = min(max(length, AHEAD), h[mr + L.MR_START] + h[mr + L.MR_LENGTH] + h[mr + L.MR_DELTA] - table_va)
    found = translate(p, table_va, ahead, write, now)
    h[L.H_SEEN] = mr
    h[L.H_SEEN_START] = table_va
    h[L.H_SEEN_END] = table_va + found
    h[L.H_SEEN_WRITE] = write
    return found


@kernel
def forget(h):
    """A step begins: what the one before has found in the table may have left since."""
    h[L.H_SEEN] = 0
    return 0


@kernel
def describe(h, p, mr, va, length, op, offset, token):
    """Issue the copy of [va, va + length) of a region that ``lookup`` found; the descriptor or -1."""
    return dma_issue(p, va + h[mr + L.MR_DELTA], length, op, offset, h[mr + L.MR_PATH], token)


@kernel
def room(p, descriptors):
    """Whether the batch takes that many more descriptors."""
    return p[P.DMA_COUNT] + descriptors <= p[P.DMA_CAPACITY]
