"""What may become of a peer's request, and the answers that are owed for it.

A request is taken, judged again when the batch has room, or parked for a page.  A taken one leaves an *action* in the batch:
``device.finish`` carries it out, in order, after the copies described before it.  So no acknowledgement, NAK or
completion leaves before everything that it vouches for is in memory.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.completions import owe
from unpinned.hca.parking import FAILED, ask, settled
from unpinned.hca.ready import make_ready, set_deadline
from unpinned.paging import layout as P
from unpinned.wire import headers as W

# What became of a packet
TAKEN = 0
AGAIN = 1  # the batch is full: execute it, then judge this packet again
PARKED = 2  # its page is missing: it must be kept


@kernel
def act(h, p, q, kind, first, psn, flags, pool):
    """Note what to do once the descriptors [first, now) have been executed; the action's index."""
    a = h[L.H_ACT_BASE] + h[L.H_ACT_COUNT] * L.ACT_WORDS
    h[L.H_ACT_COUNT] += 1
    h[a + L.A_KIND] = kind
    h[a + L.A_QP] = q
    h[a + L.A_FIRST] = first
    h[a + L.A_END] = p[P.DMA_COUNT]
    h[a + L.A_PSN] = psn
    h[a + L.A_FLAGS] = flags
    h[a + L.A_POOL] = pool
    h[a + L.A_MSN] = h[q + L.QP_MSN]
    h[a + L.A_IMM] = 0
    h[a + L.A_LENGTH] = 0
    return a


@kernel
def reply(h, q, kind, psn, syndrome, msn):
    """Owe the peer an answer. A later one takes an earlier one's place; a repeated acknowledgement none of a later PSN.

    An RNR NAK has a place of its own, and the oldest keeps it.  It may be for a READ that was repeated while later requests were
    answered: without it the peer would never ask for that READ again.  Or the wire has repeated that READ and the peer drops
    the NAK as stale: then it needs the other answer.
    """
    make_ready(h, q)
    if kind == L.REPLY_NAK and syndrome & W.SYNDROME_KIND_MASK == L.SYNDROME_RNR:
        if h[q + L.QP_NOT_READY] == 0 or psn < h[q + L.QP_NOT_READY_PSN]:
            h[q + L.QP_NOT_READY] = syndrome
            h[q + L.QP_NOT_READY_PSN] = psn
        if h[q + L.QP_REPLY] == L.REPLY_ACK and h[q + L.QP_REPLY_PSN] < h[q + L.QP_NOT_READY_PSN]:
            h[q + L.QP_REPLY] = 0  # which the NAK says as well
        return 0
    if kind == L.REPLY_ACK and h[q + L.QP_REPLY] and h[q + L.QP_REPLY_PSN] > psn:
        return 0
    h[q + L.QP_REPLY] = kind
    h[q + L.QP_REPLY_MSN] = msn
    h[q + L.QP_REPLY_PSN] = psn
    h[q + L.QP_REPLY_SYNDROME] = syndrome
    return 0


@kernel
def to_be_answered(h, q):
    """Whether the batch holds something of the peer's that ``device.finish`` may answer after the copies."""
    for i in range(h[L.H_ACT_COUNT]):
        a = h[L.H_ACT_BASE] + i * L.ACT_WORDS
        if h[a + L.A_QP] == q and h[a + L.A_KIND] != L.ACT_RESPONSE:
            return True
    return False


@kernel
def refuse(h, p, q, psn, syndrome):
    """A NAK that ends the connection, once everything before it in the burst has been finished."""
    if syndrome == L.NAK_ACCESS:
        h[L.C_NAK_ACCESS] += 1
    elif syndrome == L.NAK_INVALID:
        h[L.C_NAK_INVALID] += 1
    else:
        h[L.C_NAK_OPERATION] += 1
    h[q + L.QP_STATE] = L.QPS_ERR
    act(h, p, q, L.ACT_FAIL, p[P.DMA_COUNT], psn, syndrome, 0)
    return TAKEN


@kernel
def answer_later(h, p, q, psn, syndrome):
    """An acknowledgement or NAK without a copy of its own, behind the copies described so far."""
    act(h, p, q, L.ACT_REPLY, p[P.DMA_COUNT], psn, syndrome, 0)
    return TAKEN


@kernel
def nak_sequence(h, p, q):
    """Something is missing before what came: say so once (IBTA vol. 1, 9.7.5.1.1)."""
    if h[q + L.QP_NAKED] == 0:
        h[q + L.QP_NAKED] = 1
        h[L.C_NAK_SEQUENCE] += 1
        answer_later(h, p, q, h[q + L.QP_EPSN], L.NAK_SEQUENCE)
    return TAKEN


@kernel
def rnr(h, p, q, psn, timer):
    """Receiver not ready: the peer waits as long as the timer code says and sends from ``psn`` again."""
    h[q + L.QP_NAKED] = 1
    return answer_later(h, p, q, psn, L.SYNDROME_RNR | timer)


@kernel
def park(h, p, q, mr, va, length, write, now):
    """Wait for [va, va + length) of a region; refuse it when that has failed."""
    if ask(h, p, q, L.QP_PARK_FAULT, mr, va, length, write, now) == FAILED:
        return refuse(h, p, q, h[q + L.QP_EPSN], L.NAK_ACCESS)
    start_park(h, q, now)
    return PARKED


@kernel
def start_park(h, q, now):
    """Start the clock of the longest park, once per request."""
    if h[q + L.QP_PARK_UNTIL] == 0:
        h[q + L.QP_PARK_SINCE] = now
        set_deadline(h, q, L.QP_PARK_UNTIL, now + h[q + L.QP_PARK_NS])
    return 0


@kernel
def move_on(h, q, packets):
    """The expected request was taken: expect the next."""
    h[q + L.QP_EPSN] += packets
    h[q + L.QP_NAKED] = 0
    if h[q + L.QP_STATE] == L.QPS_RTR and h[q + L.QP_ESTABLISHED] == 0:
        h[q + L.QP_ESTABLISHED] = 1
        owe(h, q + L.QP_EVENT, L.EVENT_ESTABLISHED)
    settled(h, q, L.QP_PARK_FAULT)
    return 0
