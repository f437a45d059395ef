"""Looking ahead: the pages of READ requests that wait behind one whose page is missing.

The responder is serial, so sixteen READs of sixteen cold pages would wait for the disk sixteen times, one after the
other. Their addresses are known: when a READ parks, faults begin for those that wait behind it, as prefetches, which
nobody owes anything. A hint, no more: nothing is executed early, every request is judged and looked up anew at its
turn, and only what its key opens for the peer is touched. Bounded by AHEAD_MAX requests, AHEAD_BYTES bytes and half of
the device's fault slots.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.fetches import RETH_LENGTH, RETH_RKEY, RETH_VA
from unpinned.hca.regions import MISS, authorize, lookup
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_begin
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be32, be64

AHEAD_MAX = 16
AHEAD_BYTES = 4 << 20


@kernel
def look_ahead(h, p, b, q, now):
    """Begin faults for the READ requests at the head of the waiting queue, each once."""
    slot = h[q + L.QP_PEND_HEAD]
    left = AHEAD_BYTES
    for _ in range(min(h[q + L.QP_PEND_COUNT], AHEAD_MAX)):
        record = h[L.H_POOL_BASE] + slot * L.POOL_WORDS
        place = h[L.H_POOL_ARENA] + slot * L.PACKET_BYTES
        if h[record + L.POOL_AHEAD] == 0 and O.OPCODE[b[place]] & O.READ and 2 * p[P.FAULT_LIVE] < p[P.FAULT_CAPACITY]:
            h[record + L.POOL_AHEAD] = 1
            length = be32(b, place + RETH_LENGTH)
            if 0 < length <= left:
                left -= length
                bring(h, p, q, be32(b, place + RETH_RKEY), be64(b, place + RETH_VA), length, now)
        slot = h[record + L.POOL_NEXT]
    return 0


@kernel
def bring(h, p, q, key, va, length, now):
    """A prefetch of what a READ will ask for, if the peer may read it and it is not there."""
    mr = authorize(h, h[q + L.QP_PD], key, va, length, L.ACCESS_REMOTE_READ)
    if mr and h[q + L.QP_ACCESS] & L.ACCESS_REMOTE_READ and lookup(h, p, mr, va, length, 0, now) == MISS:
        start = va + h[mr + L.MR_DELTA]
        if fault_begin(p, start, start + length, 0, P.ASKED, h[mr + L.MR_REGION], now) >= 0:
            h[L.C_AHEAD] += 1
    return 0
