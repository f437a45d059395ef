"""What waits for a page: a bounded pool of packets, and the two places where a QP parks.

A request whose memory is not there parks its QP's responder: the packet and all that follow it wait in order
in the pool (QP_PEND_*), and nothing of them is executed before its turn.  Responses whose landing memory is not
there wait the same way on the requester's side (QP_LAND_*).  Both queues are bounded by H_POOL_LIMIT per QP and by
the pool as a whole; a packet that finds no place is dropped and the transport's own rules (NAK, go-back-N) bring
it again.  The last quarter of the pool, or one slot for each QP, is for the first packet of a queue: who has many waiting leaves
the others the one by which they park at all.

Faults: a QP owns at most one fault per side; ``QP_*_FAULT`` holds slot + 1.  ``ask`` begins it, ``state`` looks at
it.  The slot stays with the QP until the fault has ended, so a retry after an RNR NAK meets the same fault instead of
a second one; it is let go of at the QP's next turn then, whoever still waits for it.  A fault that failed leaves its
range behind: what comes next looks its page up once more (the fault may have failed further on), and only if that is
still missing, and in this range, the request fails.  The fault may have been another request's: a stray copy's that was
given up, or one that found its page by somebody else's fault.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of, copy_bytes
from unpinned.hca import layout as L
from unpinned.hca.ready import make_ready, set_deadline
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_begin, fault_end

NONE = 0
WAITING = 1
READY = 2
FAILED = 3

SPAN_BITS = 16  # of the word that a failed fault leaves behind: how many pages it was to bring in; above them, from which on


@kernel
def keep(h, b, offset, length, head, limit):
    """Append a packet of the arena to the queue whose head word is ``head``: 1, or 0 when there is no room.

    The queue's words are HEAD, TAIL, COUNT in that order, as QP_PEND_* and QP_LAND_* are.
    """
    slot = h[L.H_POOL_FREE]
    spare = min(h[L.H_POOL_COUNT] >> 2, h[L.H_QP_LIVE]) if h[head + 2] else 0
    if slot < 0 or h[L.H_POOL_COUNT] - h[L.H_POOL_USED] <= spare or h[head + 2] >= limit or length > L.PACKET_BYTES:
        h[L.C_POOL_DROPS] += 1
        return 0
    record = h[L.H_POOL_BASE] + slot * L.POOL_WORDS
    h[L.H_POOL_FREE] = h[record + L.POOL_NEXT]
    h[L.H_POOL_USED] += 1
    h[record + L.POOL_NEXT] = -1
    h[record + L.POOL_LENGTH] = length
    h[record + L.POOL_AHEAD] = 0
    place = h[L.H_POOL_ARENA] + slot * L.PACKET_BYTES
    base = address_of(b)
    copy_bytes(base + place, base + offset, length)
    if h[head + 2] == 0:
        h[head] = slot
    else:
        h[h[L.H_POOL_BASE] + h[head + 1] * L.POOL_WORDS + L.POOL_NEXT] = slot
    h[head + 1] = slot
    h[head + 2] += 1
    return 1


@kernel
def unlink(h, head):
    """Take the first packet off a queue; its pool slot stays in use until ``give_back``."""
    slot = h[head]
    h[head] = h[h[L.H_POOL_BASE] + slot * L.POOL_WORDS + L.POOL_NEXT]
    h[head + 2] -= 1
    return slot


@kernel
def give_back(h, slot):
    h[h[L.H_POOL_BASE] + slot * L.POOL_WORDS + L.POOL_NEXT] = h[L.H_POOL_FREE]
    h[L.H_POOL_FREE] = slot
    h[L.H_POOL_USED] -= 1
    return 0


@kernel
def release_unless_used(h, acts, slot):
    """Free a judged packet's slot, unless an action made since ``acts`` frees it after the copies."""
    for i in range(acts, h[L.H_ACT_COUNT]):
        if h[h[L.H_ACT_BASE] + i * L.ACT_WORDS + L.A_POOL] == slot + 1:
            return 0
    return give_back(h, slot)


@kernel
def forget(h, head):
    """Drop every packet of a queue."""
    while h[head + 2] > 0:
        give_back(h, unlink(h, head))
    return 0


@kernel
def forget_requests(h, q):
    """Drop the peer's waiting requests; it will send them again."""
    forget(h, q + L.QP_PEND_HEAD)
    h[q + L.QP_PEND_GAP] = 0
    h[q + L.QP_PEND_LOST] = 0
    h[q + L.QP_READ_LIVE] = 0
    return 0


@kernel
def state(h, p, q, field, now):
    """NONE, WAITING, READY or FAILED for the fault in ``field``; an ended one is let go of."""
    slot = h[q + field] - 1
    if slot < 0:
        return FAILED if slot < -1 else NONE
    s = p[slot + P.FAULT_STATE]
    if s != P.FAULT_DONE and s != P.FAULT_FAILED:
        return WAITING
    h[q + field] = 0
    # EAGAIN: the fault lost too many races; its request starts it anew. So does one that had joined another's fault: that may
    # have failed at a page which only the one who began it needs.
    if p[slot + P.FAULT_ERRNO] != 0 and p[slot + P.FAULT_ERRNO] != P.EAGAIN and p[slot + P.FAULT_TOKEN] == q:
        h[q + field] = -failed_range(p, slot)
    h[L.H_FAULT_NS] += (now - p[slot + P.FAULT_SINCE] - h[L.H_FAULT_NS]) >> 3
    fault_end(p, slot)
    return READY if h[q + field] == 0 else FAILED


@kernel
def failed_range(p, slot):
    """The pages that a fault was asked for, in one word: never 0."""
    first = p[slot + P.FAULT_START] >> p[P.PAGE_SHIFT]
    pages = (p[slot + P.FAULT_DEMAND] >> p[P.PAGE_SHIFT]) - first
    return first << SPAN_BITS | min(pages, (1 << SPAN_BITS) - 1)


@kernel
def in_range(word, page):
    """Whether a page is one of those of `failed_range`."""
    first = word >> SPAN_BITS
    return first <= page and page < first + (word & ((1 << SPAN_BITS) - 1))


@kernel
def feed(h, p, now):
    """Fault slots are free again: who waits for one may ask. Its timer runs anew: until now the peer could not answer what it held back."""
    if h[L.H_STARVED] and p[P.FAULT_LIVE] < p[P.FAULT_CAPACITY]:
        h[L.H_STARVED] = 0
        for i in range(h[L.H_QP_LIVE]):
            q = h[L.H_QP_BASE] + i * L.QP_WORDS
            if h[q + L.QP_STARVED]:
                h[q + L.QP_STARVED] = 0
                if h[q + L.QP_DEADLINE]:
                    set_deadline(h, q, L.QP_DEADLINE, now + h[q + L.QP_TIMEOUT_NS])
                make_ready(h, q)
    return 0


@kernel
def settled(h, q, field):
    """A page was there: a fault that failed before it is no longer this request's."""
    h[q + field] = max(h[q + field], 0)
    return 0


@kernel
def ask(h, p, q, field, mr, va, length, write, now):
    """Begin (or stay with) a fault on [va, va + length) of a region.

    WAITING; NONE when there was no free slot: the QP has a turn when there is one (``feed``); FAILED when the range cannot
    be had.  A fault of another range is waited for first: the QP owns one a side.
    ``paging`` cuts the fault to its cap and to the region, and reads ahead on sequential use.
    """
    before = state(h, p, q, field, now)
    if before == WAITING:
        return WAITING
    failed = -h[q + field]
    h[q + field] = 0
    table_va = va + h[mr + L.MR_DELTA]
    if before == FAILED and in_range(failed, table_va >> p[P.PAGE_SHIFT]):
        return FAILED
    slot = fault_begin(p, table_va, table_va + length, write, q, h[mr + L.MR_REGION], now)
    if slot == P.OUTSIDE:
        return FAILED
    if slot < 0:
        h[q + L.QP_STARVED] = 1
        h[L.H_STARVED] = 1
        return NONE
    h[q + field] = slot + 1
    h[L.C_PARKED] += 1
    return WAITING
