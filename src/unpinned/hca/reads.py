"""What the responder sends: READ responses a few at a time, atomic responses, acknowledgements and NAKs.

Rules (IBTA vol. 1, 9.7.5): answers leave in the order of the requests.  The responder is serial, so at most one of
these is owed at a time; acknowledgements coalesce, one per turn, for the last PSN whose copies are done.  A READ whose
page is missing parks like any request; past the longest park it is given up with an RNR NAK that names the
next response, and the peer asks for the rest again.  The RNR timer is the time the fault has taken so far (or takes on
average), so a fault of any length costs a number of retries that grows with its logarithm only.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.ahead import look_ahead
from unpinned.hca.outgoing import add_packet, can_send, next_offset
from unpinned.hca.parking import FAILED, READY, ask, forget_requests, settled, state
from unpinned.hca.ready import make_ready
from unpinned.hca.regions import HIT, MISS, authorize, describe, lookup
from unpinned.hca.verdicts import answer_later, refuse, rnr, start_park
from unpinned.paging import layout as P
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import put64


@kernel
def not_ready_first(h, q):
    """Whether the RNR NAK is the next answer to go out: answers leave in the order of their PSNs."""
    if h[q + L.QP_NOT_READY] == 0:
        return False
    return h[q + L.QP_REPLY] == 0 or h[q + L.QP_NOT_READY_PSN] <= h[q + L.QP_REPLY_PSN]


@kernel
def owed(h, q):
    """Whether an answer may go out now: none overtakes the responses of the READ under way.

    A NAK of a PSN among these was owed before the wire brought a copy of that READ: behind the responses it would be stale, and what
    was dropped with it never asked for.
    """
    if h[q + L.QP_NOT_READY] == 0 and h[q + L.QP_REPLY] == 0:
        return False
    psn = h[q + L.QP_NOT_READY_PSN] if not_ready_first(h, q) else h[q + L.QP_REPLY_PSN]
    return h[q + L.QP_BUSY] != L.BUSY_READ or psn < h[q + L.QP_READ_END]


@kernel
def answer(h, p, b, q):
    """Send the oldest acknowledgement, NAK or atomic response that is owed."""
    o = next_offset(h)
    h[L.C_ACKS_SENT] += 1
    if not_ready_first(h, q):
        W.put_aeth(b, o + O.BTH_BYTES, h[q + L.QP_NOT_READY], h[q + L.QP_MSN] & L.PSN_MASK)
        h[q + L.QP_NOT_READY] = 0
        add_packet(h, p, b, q, O.RC_ACK, h[q + L.QP_NOT_READY_PSN], 0, p[P.DMA_COUNT], 1, 0)
        return 1
    kind = h[q + L.QP_REPLY]
    h[q + L.QP_REPLY] = 0
    opcode = O.RC_ACK
    if kind == L.REPLY_ATOMIC:
        opcode = O.RC_ATOMIC_ACK
        put64(b, o + O.BTH_BYTES + O.AETH_BYTES, h[q + L.QP_ATOMIC_VALUE])
        carry_on(h, q)
    W.put_aeth(b, o + O.BTH_BYTES, h[q + L.QP_REPLY_SYNDROME], h[q + L.QP_REPLY_MSN] & L.PSN_MASK)
    add_packet(h, p, b, q, opcode, h[q + L.QP_REPLY_PSN], 0, p[P.DMA_COUNT], 1, 0)
    return 1


@kernel
def carry_on(h, q):
    """What the responder was doing is done: a READ that it had interrupted goes on. 1 if there was one."""
    h[q + L.QP_BUSY] = 0
    if h[q + L.QP_KEPT_END] == 0:
        return 0
    h[q + L.QP_BUSY] = L.BUSY_READ
    h[q + L.QP_READ_FIRST] = h[q + L.QP_KEPT_FIRST]
    h[q + L.QP_READ_PSN] = h[q + L.QP_KEPT_PSN]
    h[q + L.QP_READ_END] = h[q + L.QP_KEPT_END]
    h[q + L.QP_READ_VA] = h[q + L.QP_KEPT_VA]
    h[q + L.QP_READ_LEFT] = h[q + L.QP_KEPT_LEFT]
    h[q + L.QP_READ_KEY] = h[q + L.QP_KEPT_KEY]
    h[q + L.QP_READ_AGAIN] = h[q + L.QP_KEPT_AGAIN]
    h[q + L.QP_KEPT_END] = 0
    make_ready(h, q)
    return 1


@kernel
def read_opcode(h, q, psn):
    if psn == h[q + L.QP_READ_FIRST]:
        return O.RC_READ_RESPONSE_ONLY if psn + 1 == h[q + L.QP_READ_END] else O.RC_READ_RESPONSE_FIRST
    return O.RC_READ_RESPONSE_LAST if psn + 1 == h[q + L.QP_READ_END] else O.RC_READ_RESPONSE_MIDDLE


@kernel
def copying(h, q):
    """Whether a SEND or WRITE of the peer's waits for the copies of this batch; ``device.finish`` completes it after them."""
    for i in range(h[L.H_ACT_COUNT]):
        a = h[L.H_ACT_BASE] + i * L.ACT_WORDS
        if h[a + L.A_QP] == q and h[a + L.A_KIND] == L.ACT_REQUEST:
            return True
    return False


@kernel
def turn_down(h, p, b, q):
    """The READ under way meets memory that is not the peer's (any more); how many packets went into the burst.

    That ends the connection where a response is due that was never sent. One that was may be asked for by a stray copy, and what
    it asks for have gone since: then the peer drops the NAK as stale. If it still waits, it learns why, and ends its side.
    """
    if h[q + L.QP_READ_PSN] >= h[q + L.QP_ANSWERED]:
        refuse(h, p, q, h[q + L.QP_READ_PSN], L.NAK_ACCESS)
        return 0
    h[L.C_NAK_ACCESS] += 1
    W.put_aeth(b, next_offset(h) + O.BTH_BYTES, L.NAK_ACCESS, h[q + L.QP_MSN] & L.PSN_MASK)
    add_packet(h, p, b, q, O.RC_ACK, h[q + L.QP_READ_PSN], 0, p[P.DMA_COUNT], 1, 0)
    h[q + L.QP_PARK_UNTIL] = 0
    carry_on(h, q)
    make_ready(h, q)
    return 1


@kernel
def stream(h, p, b, q, budget, now):
    """Send up to ``budget`` responses of the READ under way; how many went into the burst."""
    if h[q + L.QP_READ_PSN] == h[q + L.QP_READ_FIRST] and copying(h, q):
        make_ready(h, q)  # its first response acknowledges what came before it: that completes first, or fails
        return 0
    mr = 0
    if h[q + L.QP_READ_LEFT] > 0:
        if h[q + L.QP_ACCESS] & L.ACCESS_REMOTE_READ:
            mr = authorize(h, h[q + L.QP_PD], h[q + L.QP_READ_KEY], h[q + L.QP_READ_VA], h[q + L.QP_READ_LEFT],
                           L.ACCESS_REMOTE_READ)
        if mr == 0:  # deregistered, or revoked by the owner, since it was accepted
            return turn_down(h, p, b, q)
    sent = 0
    while sent < budget and h[q + L.QP_BUSY] == L.BUSY_READ and can_send(h, p):
        psn = h[q + L.QP_READ_PSN]
        size = min(h[q + L.QP_READ_LEFT], h[q + L.QP_MTU])
        va = h[q + L.QP_READ_VA]
        first = p[P.DMA_COUNT]
        opcode = read_opcode(h, q, psn)
        o = next_offset(h)
        if size > 0:
            found = lookup(h, p, mr, va, size, 0, now)
            if found == MISS:
                found = ask(h, p, q, L.QP_PARK_FAULT, mr, va, h[q + L.QP_READ_LEFT], 0, now)
                if found != FAILED:
                    start_park(h, q, now)
                    look_ahead(h, p, b, q, now)
                    return sent
            if found != HIT:
                return sent + turn_down(h, p, b, q)
            describe(h, p, mr, va, size, P.OP_READ, o + O.HEADER_LENGTH[opcode], q)
        if opcode != O.RC_READ_RESPONSE_MIDDLE:
            W.put_aeth(b, o + O.BTH_BYTES, L.SYNDROME_ACK, h[q + L.QP_MSN] & L.PSN_MASK)
        t = add_packet(h, p, b, q, opcode, psn, size, first, 1, 0)
        if psn < h[q + L.QP_ANSWERED]:
            h[t + L.T_AGAIN] = h[q + L.QP_READ_END]
        sent += 1
        settled(h, q, L.QP_PARK_FAULT)
        h[q + L.QP_PARK_UNTIL] = 0
        h[q + L.QP_READ_PSN] = psn + 1
        h[q + L.QP_ANSWERED] = max(h[q + L.QP_ANSWERED], psn + 1)
        h[q + L.QP_READ_VA] = va + size
        h[q + L.QP_READ_LEFT] -= size
        if psn >= h[q + L.QP_KEPT_PSN]:
            h[q + L.QP_KEPT_END] = 0  # the rest of the same READ: overtaken
        if psn + 1 == h[q + L.QP_READ_END] and carry_on(h, q):
            return sent  # its next turn begins with its own key
    return sent


@kernel
def oldest_fault(p, now):
    """Since when the oldest fault runs: who waits for a free slot waits for such a one."""
    since = now
    seen = 0
    slot = p[P.FAULTS]
    while seen < p[P.FAULT_LIVE]:
        if p[slot + P.FAULT_STATE]:
            seen += 1
            since = min(since, p[slot + P.FAULT_SINCE])
        slot += P.FAULT_WORDS
    return since


@kernel
def give_up_park(h, p, q, now):
    """The longest park is over: ask the peer to come again when the page is likely there."""
    h[q + L.QP_PARK_UNTIL] = 0
    reading = h[q + L.QP_BUSY] == L.BUSY_READ
    fault = state(h, p, q, L.QP_PARK_FAULT, now)
    if (fault == READY or fault == FAILED) and (reading or h[q + L.QP_PEND_COUNT] > 0):
        return make_ready(h, q)  # it has just ended: the next turn finds the page, or the error
    since = h[q + L.QP_PARK_SINCE]
    if h[q + L.QP_PARK_FAULT] > 0:
        since = p[h[q + L.QP_PARK_FAULT] - 1 + P.FAULT_SINCE]
    elif h[q + L.QP_STARVED]:
        since = min(since, oldest_fault(p, now))
    psn = h[q + L.QP_READ_PSN] if reading else h[q + L.QP_EPSN]
    timer = W.rnr_code(max(h[L.H_FAULT_NS], now - since))
    h[q + L.QP_BUSY] = 0
    h[L.C_RNR_NAK_FAULT] += 1
    if reading and h[q + L.QP_READ_AGAIN]:
        # A repetition, of which the peer may know nothing: what it has interrupted goes on, what came since stays.
        carry_on(h, q)
        make_ready(h, q)
        return answer_later(h, p, q, psn, L.SYNDROME_RNR | timer)
    forget_requests(h, q)
    return rnr(h, p, q, psn, timer)
