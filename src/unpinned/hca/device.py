"""One burst of the device: finish what was copied, judge what arrived, let every QP have its turn.

A world drives these steps, under the device lock, with the copies between them::

    packets from the wire -> verify their ICRC                        (no lock)
    finish    the actions of the last batch: acknowledge, complete, fail
    receive   judge packets: describe copies, note actions            (until the batch is full)
    turns     answers, READ responses, waiting packets, own requests  (until the burst is full)
    timers    retransmission, RNR, longest parks
    execute the DMA batch; drop packets whose copies failed, seal and send the others   (no lock)

``finish`` comes first in the next round, so a batch's actions and its descriptors live exactly one round.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.admission import admit_request, identify
from unpinned.hca.completions import owe
from unpinned.hca.fetches import stop_repetition, stopped
from unpinned.hca.outgoing import can_send
from unpinned.hca.parking import feed, give_back, release_unless_used, state, unlink
from unpinned.hca.qp import complete_receive, complete_send, fail_qp, flush, sends, wqe
from unpinned.hca.reads import answer, give_up_park, owed, stream
from unpinned.hca.ready import make_ready, set_deadline
from unpinned.hca.regions import forget
from unpinned.hca.requester import break_request, send, settle_error, tell_drained
from unpinned.hca.responder import request
from unpinned.hca.responses import admit_response, go_back, land, retry
from unpinned.hca.verdicts import AGAIN, TAKEN, answer_later, nak_sequence, reply
from unpinned.paging import layout as P
from unpinned.paging.dma import dma_reset
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be24

NEVER = 1 << 62


# ---- finish --------------------------------------------------------------------------------------------------------


@kernel
def copied(p, first, end):
    """Whether all of the batch's descriptors [first, end) were executed without an error."""
    for i in range(first, end):
        if p[p[P.DMA] + i * P.DMA_WORDS + P.DMA_STATE] != P.DMA_DONE:
            return False
    return True


@kernel
def finish(h, p, now):
    """Carry out the batch's actions in order, then empty the batch: a step begins."""
    forget(h)
    for i in range(h[L.H_ACT_COUNT]):
        a = h[L.H_ACT_BASE] + i * L.ACT_WORDS
        q = h[a + L.A_QP]
        if q and h[q + L.QP_ERROR] == 0:
            finish_action(h, p, q, a)
        if h[a + L.A_POOL]:
            give_back(h, h[a + L.A_POOL] - 1)
    for i in range(h[L.H_TX_COUNT]):
        t = h[L.H_TX_BASE] + i * L.TX_WORDS
        q = h[t + L.T_QP]
        if h[q + L.QP_ERROR] == 0 and h[t + L.T_SIDE] < 2 and not copied(p, h[t + L.T_FIRST], h[t + L.T_END]):
            finish_unsent(h, p, q, t, now)
    h[L.H_ACT_COUNT] = 0
    h[L.H_TX_COUNT] = 0
    h[L.H_TX_BYTES] = 0
    dma_reset(p)
    return 0


@kernel
def finish_unsent(h, p, q, t, now):
    """Memory that was to be sent could not be read: the range is gone.

    Where that stops a response that was sent before, nothing ends (``fetches.stop_repetition``). What lies behind it in the batch
    was not tried, and is as if it had not been there.
    """
    psn = h[t + L.T_PSN]
    untried = stopped(h, q)
    if h[t + L.T_SIDE] == 1:
        if not untried and h[t + L.T_AGAIN] == 0:
            return deny(h, p, q, psn, L.NAK_ACCESS)
        if not untried:
            return stop_repetition(h, q, psn, h[t + L.T_AGAIN])
        if h[t + L.T_AGAIN] == 0:
            h[q + L.QP_ANSWERED] = min(h[q + L.QP_ANSWERED], psn)
        return 0
    if h[q + L.QP_UNA] <= psn < h[q + L.QP_SEND_PSN] and sends(h, q):
        go_back(h, q, psn)  # as if it had not been tried: what came before may still succeed
        if h[q + L.QP_UNA] < psn and h[q + L.QP_TIMEOUT_NS]:  # or may have been lost, and nothing else is sent any more
            set_deadline(h, q, L.QP_DEADLINE, now + h[q + L.QP_TIMEOUT_NS])
        if not untried:
            break_request(h, p, q, L.WC_LOC_PROT_ERR)
    return 0


@kernel
def deny(h, p, q, psn, syndrome):
    """The end of a QP by a copy or completion that failed; the peer is told."""
    if syndrome == L.NAK_ACCESS:
        h[L.C_NAK_ACCESS] += 1
    else:
        h[L.C_NAK_OPERATION] += 1
    fail_qp(h, p, q, syndrome)
    owe(h, q + L.QP_EVENT, asynchronous(syndrome))
    return reply(h, q, L.REPLY_NAK, psn, syndrome, h[q + L.QP_MSN])


@kernel
def asynchronous(syndrome):
    """The event that tells the owner of a QP why a NAK ended it: no completion does (IBTA vol. 1, 11.6.3.2)."""
    if syndrome == L.NAK_INVALID:
        return L.EVENT_REQUEST
    return L.EVENT_ACCESS if syndrome == L.NAK_ACCESS else L.EVENT_FATAL


@kernel
def finish_action(h, p, q, a):
    kind = h[a + L.A_KIND]
    psn = h[a + L.A_PSN]
    what = h[a + L.A_FLAGS]
    if kind == L.ACT_FAIL:
        if what < 0:
            return lose(h, p, q, psn, -what)
        if h[a + L.A_LENGTH]:
            complete_receive(h, q, h[a + L.A_LENGTH], L.WC_RECV, 0, 0, 0, 1)
        else:
            owe(h, q + L.QP_EVENT, asynchronous(what))
        fail_qp(h, p, q, what)
        return reply(h, q, L.REPLY_NAK, psn, what, h[a + L.A_MSN])
    done = copied(p, h[a + L.A_FIRST], h[a + L.A_END])
    if kind == L.ACT_RESPONSE:
        return finish_requests(h, p, q, psn) if done else lose(h, p, q, psn - 1, L.WC_LOC_PROT_ERR)
    if not done:
        return deny(h, p, q, psn, L.NAK_ACCESS)
    if kind == L.ACT_REPLY:
        return reply(h, q, L.REPLY_ACK if what == L.SYNDROME_ACK else L.REPLY_NAK, psn, what, h[a + L.A_MSN])
    if kind == L.ACT_ATOMIC:
        return finish_atomic(h, p, q, a)
    return finish_request(h, p, q, a)


@kernel
def finish_atomic(h, p, q, a):
    """An atomic was executed: keep its result for duplicates, and answer."""
    value = p[p[P.DMA] + h[a + L.A_FIRST] * P.DMA_WORDS + P.DMA_RESULT]
    slot = h[q + L.QP_AT_TAIL] & (L.READ_RING - 1)
    h[q + L.QP_AT_TAIL] += 1
    h[q + L.QP_AT_PSN + slot] = h[a + L.A_PSN]
    h[q + L.QP_AT_VALUE + slot] = value
    h[q + L.QP_ATOMIC_VALUE] = value
    return reply(h, q, L.REPLY_ATOMIC, h[a + L.A_PSN], L.SYNDROME_ACK, h[a + L.A_MSN])


@kernel
def lose(h, p, q, psn, status):
    """Our own request at ``psn`` ends with ``status``, and the QP with it; what lies before has been answered."""
    finish_requests(h, p, q, psn)
    if h[q + L.QP_ERROR] == 0:
        complete_send(h, q, status)
        fail_qp(h, p, q, status)
    return 0


@kernel
def finish_requests(h, p, q, done):
    """Complete our requests whose PSNs all lie below ``done``."""
    h[q + L.QP_DONE] = max(h[q + L.QP_DONE], done)
    while h[q + L.QP_SQ_HEAD] < h[q + L.QP_SQ_NEXT]:
        w = wqe(h, q, h[q + L.QP_SQ_HEAD])
        if h[w + L.W_FIRST] + h[w + L.W_PACKETS] > h[q + L.QP_DONE]:
            break
        if complete_send(h, q, L.WC_SUCCESS) < 0:
            owe(h, q + L.QP_EVENT, L.EVENT_FATAL)
            return fail_qp(h, p, q, L.WC_FATAL_ERR)
    settle_error(h, p, q)
    return make_ready(h, q)


@kernel
def finish_request(h, p, q, a):
    """A SEND or WRITE packet is in memory: acknowledge it, complete the receive it ends."""
    flags = h[a + L.A_FLAGS]
    psn = h[a + L.A_PSN]
    if flags & L.AF_CQE:
        opcode = L.WC_RECV_RDMA_WITH_IMM if flags & L.AF_RDMA else L.WC_RECV
        wc_flags = L.WC_WITH_IMM if flags & L.AF_IMM else (L.WC_WITH_INV if flags & L.AF_INV else 0)
        if complete_receive(h, q, L.WC_SUCCESS, opcode, h[a + L.A_LENGTH], h[a + L.A_IMM], wc_flags, flags & L.AF_SOLICITED) < 0:
            return deny(h, p, q, psn, L.NAK_OPERATION)
    if flags & L.AF_ACK:
        reply(h, q, L.REPLY_ACK, psn, L.SYNDROME_ACK, h[a + L.A_MSN])
    return 0


# ---- receive -------------------------------------------------------------------------------------------------------


@kernel
def receive(h, p, b, now):
    """Judge the packets of the burst, in order, until none is left or the batch is full."""
    while h[L.H_PACKET_NEXT] < h[L.H_PACKET_COUNT]:
        k = h[L.H_PACKET_BASE] + h[L.H_PACKET_NEXT] * L.PACKET_WORDS
        q = identify(h, b, k)
        if q:
            if O.OPCODE[b[h[k + L.K_OFFSET]]] & O.REQUEST:
                result = admit_request(h, p, b, q, h[k + L.K_OFFSET], h[k + L.K_LENGTH], now)
            else:
                result = admit_response(h, p, b, q, h[k + L.K_OFFSET], h[k + L.K_LENGTH], now)
            if result == AGAIN:
                return 1
            h[L.C_RX_PACKETS] += 1
            h[L.C_RX_BYTES] += h[k + L.K_LENGTH]
        h[L.H_PACKET_NEXT] += 1
    return 0


# ---- turns ---------------------------------------------------------------------------------------------------------


@kernel
def turns(h, p, b, now):
    """Give every ready QP one turn, while the burst has room."""
    rounds = h[L.H_READY_TAIL] - h[L.H_READY_HEAD]
    while rounds > 0 and can_send(h, p):
        head = h[L.H_READY_HEAD]
        q = h[h[L.H_READY_BASE] + (head & h[L.H_READY_MASK])]
        h[L.H_READY_HEAD] = head + 1
        h[q + L.QP_QUEUED] = 0
        rounds -= 1
        turn(h, p, b, q, now)
    return feed(h, p, now)


@kernel
def turn(h, p, b, q, now):
    """Waiting packets, then what the peer is owed, then our own requests."""
    flush(h, q)  # what was posted after the QP's end
    asks = sends(h, q)
    serves = asks or h[q + L.QP_STATE] == L.QPS_RTR
    state(h, p, q, L.QP_PARK_FAULT, now)
    if asks:
        land(h, p, b, q, now)
    if serves:
        drain(h, p, b, q, now)
    budget = h[L.H_TX_BURST]
    sent = 0
    reading = h[q + L.QP_BUSY] == L.BUSY_READ
    while owed(h, q) and can_send(h, p):
        sent += answer(h, p, b, q)
    if reading and serves and can_send(h, p):
        sent += stream(h, p, b, q, budget - sent, now)
    if asks and sent < budget:
        sent += send(h, p, b, q, budget - sent, now)
    tell_drained(h, q)
    if sent >= budget or not can_send(h, p) or owes(h, q):
        make_ready(h, q)
    return sent


@kernel
def owes(h, q):
    """Whether the responder has something to do at once."""
    if h[q + L.QP_BUSY]:
        return False
    if h[q + L.QP_PEND_COUNT] > 0:
        return h[q + L.QP_PARK_UNTIL] == 0
    return h[q + L.QP_PEND_GAP] != 0 or owed(h, q)


@kernel
def drain(h, p, b, q, now):
    """Judge the requests that waited, oldest first, until one makes the responder busy or parks again."""
    head = q + L.QP_PEND_HEAD
    while h[q + L.QP_PEND_COUNT] > 0 and h[q + L.QP_BUSY] == 0 and h[q + L.QP_STATE] != L.QPS_ERR:
        slot = h[head]
        place = h[L.H_POOL_ARENA] + slot * L.PACKET_BYTES
        acts = h[L.H_ACT_COUNT]
        fresh = W.psn_distance(be24(b, place + W.BTH_PSN), h[q + L.QP_EPSN]) >= 0
        takes_slot = 1 if fresh and O.OPCODE[b[place]] & (O.READ | O.ATOMIC) else 0
        result = request(h, p, b, q, place, h[h[L.H_POOL_BASE] + slot * L.POOL_WORDS + L.POOL_LENGTH], slot + 1, now)
        if result == AGAIN:
            make_ready(h, q)
        if result != TAKEN:
            return 0
        h[q + L.QP_READ_LIVE] -= takes_slot
        h[q + L.QP_PARK_UNTIL] = 0
        unlink(h, head)
        release_unless_used(h, acts, slot)
        if h[q + L.QP_PEND_COUNT] == 0:  # whatever became a repetition while it waited
            h[q + L.QP_READ_LIVE] = 0
    if h[q + L.QP_PEND_GAP] and h[q + L.QP_PEND_COUNT] == 0 and h[q + L.QP_BUSY] == 0 and can_send(h, p):
        ask_for_dropped(h, p, q)
    return 0


@kernel
def ask_for_dropped(h, p, q):
    """What found no place in the line is asked for: it may have been executed before, and its answer lost.

    Then a NAK of the expected PSN would say nothing to the peer, which perhaps never sent that PSN. Nor would it if the wire has
    repeated what was dropped, and the copy found its place: the NAK would only cost the peer its acknowledgement.
    """
    gap = h[q + L.QP_PEND_GAP]
    lost = h[q + L.QP_PEND_LOST]
    h[q + L.QP_PEND_GAP] = 0
    h[q + L.QP_PEND_LOST] = 0
    if gap & L.GAP_NEW and lost > h[q + L.QP_EPSN]:
        return nak_sequence(h, p, q)
    if gap & L.GAP_AGAIN and h[q + L.QP_PEND_NEXT] < h[q + L.QP_EPSN]:
        h[L.C_NAK_SEQUENCE] += 1
        answer_later(h, p, q, h[q + L.QP_PEND_NEXT], L.NAK_SEQUENCE)
    return 0


# ---- timers --------------------------------------------------------------------------------------------------------


@kernel
def timers(h, p, now):
    """Act on every deadline that has passed, and find the next one. A look at all QPs, only when one is due."""
    if now < h[L.H_NEXT_TIMER]:
        return 0
    h[L.H_NEXT_TIMER] = NEVER
    for i in range(h[L.H_QP_LIVE]):
        q = h[L.H_QP_BASE] + i * L.QP_WORDS
        if not sends(h, q) and h[q + L.QP_STATE] != L.QPS_RTR:
            continue
        if h[L.H_ACT_COUNT] + 2 > h[L.H_ACT_DEPTH]:
            h[L.H_NEXT_TIMER] = now  # no room to note what follows: the rest in the next round
            return 1
        if h[q + L.QP_PARK_UNTIL] and now >= h[q + L.QP_PARK_UNTIL]:
            give_up_park(h, p, q, now)
        if h[q + L.QP_RNR_UNTIL] and now >= h[q + L.QP_RNR_UNTIL]:
            h[q + L.QP_RNR_UNTIL] = 0
            make_ready(h, q)
        if h[q + L.QP_DEADLINE] and now >= h[q + L.QP_DEADLINE]:
            expired(h, p, q, now)
        for field in (L.QP_PARK_UNTIL, L.QP_RNR_UNTIL, L.QP_DEADLINE):
            if h[q + field]:
                h[L.H_NEXT_TIMER] = min(h[L.H_NEXT_TIMER], h[q + field])
    return 1


@kernel
def expired(h, p, q, now):
    """The retransmission timer: a real timeout, unless we ourselves keep the peer or its answers waiting for a page.

    Nor is it one where nobody looked at the timer when it ran out (the process was stopped, or its machine): who stood still has
    not listened, and a peer that stood still with it has not answered. It runs once more then, until the peer has been heard.
    """
    waits = h[q + L.QP_LAND_COUNT] > 0 or h[q + L.QP_LAND_FAULT] > 0 or h[q + L.QP_SEND_FAULT] > 0
    if waits or h[q + L.QP_STARVED]:  # for its page, or for a free slot to ask for it
        return set_deadline(h, q, L.QP_DEADLINE, now + h[q + L.QP_TIMEOUT_NS])
    if now - h[q + L.QP_DEADLINE] > h[q + L.QP_TIMEOUT_NS] >> 2 and h[q + L.QP_EXCUSED] == 0:
        h[q + L.QP_EXCUSED] = 1
        h[L.C_STOOD_STILL] += 1
        return set_deadline(h, q, L.QP_DEADLINE, now + h[q + L.QP_TIMEOUT_NS])
    h[q + L.QP_DEADLINE] = 0
    h[L.C_TIMEOUTS] += 1
    return retry(h, p, q, h[q + L.QP_UNA])


@kernel
def wake_fault(h, q, slot):
    """A fault moved on: the QP that began it has a turn, and so has every other that waits for the same slot."""
    if q > 0:
        make_ready(h, q)
    for i in range(h[L.H_QP_LIVE]):
        r = h[L.H_QP_BASE] + i * L.QP_WORDS
        if h[r + L.QP_PARK_FAULT] == slot + 1 or h[r + L.QP_SEND_FAULT] == slot + 1 or h[r + L.QP_LAND_FAULT] == slot + 1:
            make_ready(h, r)
    return 0


@kernel
def next_turn(h, now):
    """When the device next has something to do by itself: 0 now, else the next deadline."""
    if h[L.H_READY_HEAD] < h[L.H_READY_TAIL] or h[L.H_ACT_COUNT] or h[L.H_TX_COUNT] or h[L.H_PACKET_NEXT] < h[L.H_PACKET_COUNT]:
        return 0
    return h[L.H_NEXT_TIMER]
