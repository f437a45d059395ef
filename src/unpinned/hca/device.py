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
from unpinned.hca.completions import push
from unpinned.hca.outgoing import can_send
from unpinned.hca.parking import FAILED, give_back, keep, release_unless_used, state, unlink
from unpinned.hca.qp import complete_send, fail_qp, find_qp, wqe
from unpinned.hca.reads import answer, give_up_park, stream
from unpinned.hca.ready import make_ready, set_deadline
from unpinned.hca.regions import find_key
from unpinned.hca.requester import send, settle_error
from unpinned.hca.responder import AGAIN, PARKED, TAKEN, refuse, reply, request
from unpinned.hca.responses import admit_response, land, retry
from unpinned.paging import layout as P
from unpinned.paging.dma import dma_reset
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be16, be24, be32

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
    """Carry out the batch's actions in order, then empty the batch."""
    for i in range(h[L.H_ACT_COUNT]):
        a = h[L.H_ACT_BASE] + i * L.ACT_WORDS
        q = h[a + L.A_QP]
        if h[q + L.QP_ERROR] == 0 and h[q + L.QP_STATE] != L.QPS_FREE:
            finish_action(h, p, q, a, now)
        if h[a + L.A_POOL]:
            give_back(h, h[a + L.A_POOL] - 1)
    for i in range(h[L.H_TX_COUNT]):
        t = h[L.H_TX_BASE] + i * L.TX_WORDS
        q = h[t + L.T_QP]
        if h[q + L.QP_ERROR] == 0 and not copied(p, h[t + L.T_FIRST], h[t + L.T_END]):
            finish_unsent(h, p, q, t)
    h[L.H_ACT_COUNT] = 0
    h[L.H_TX_COUNT] = 0
    h[L.H_TX_BYTES] = 0
    dma_reset(p)
    return 0


@kernel
def finish_unsent(h, p, q, t):
    """Memory that was to be sent could not be read: the range is gone."""
    if h[t + L.T_SIDE] == 1:
        h[L.C_NAK_ACCESS] += 1
        fail_qp(h, p, q, L.NAK_ACCESS)
        reply(h, q, L.REPLY_NAK, h[t + L.T_PSN], L.NAK_ACCESS)
        return 0
    while h[q + L.QP_SQ_HEAD] < h[q + L.QP_SQ_TAIL]:
        w = wqe(h, q, h[q + L.QP_SQ_HEAD])
        if h[w + L.W_FIRST] + h[w + L.W_PACKETS] > h[t + L.T_PSN]:
            complete_send(h, q, L.WC_LOC_PROT_ERR)
            break
        complete_send(h, q, L.WC_WR_FLUSH_ERR)
    return fail_qp(h, p, q, L.WC_LOC_PROT_ERR)


@kernel
def finish_action(h, p, q, a, now):
    kind = h[a + L.A_KIND]
    if kind == L.ACT_FAIL:
        return finish_failure(h, p, q, a)
    done = copied(p, h[a + L.A_FIRST], h[a + L.A_END])
    if kind == L.ACT_RESPONSE:
        if not done:
            complete_send(h, q, L.WC_LOC_PROT_ERR)
            return fail_qp(h, p, q, L.WC_LOC_PROT_ERR)
        return finish_requests(h, p, q, h[a + L.A_PSN])
    if not done:
        h[L.C_NAK_ACCESS] += 1
        fail_qp(h, p, q, L.NAK_ACCESS)
        return reply(h, q, L.REPLY_NAK, h[a + L.A_PSN], L.NAK_ACCESS)
    if kind == L.ACT_ATOMIC:
        value = p[p[P.DMA] + h[a + L.A_FIRST] * P.DMA_WORDS + P.DMA_RESULT]
        slot = h[q + L.QP_AT_TAIL] & (L.READ_RING - 1)
        h[q + L.QP_AT_TAIL] += 1
        h[q + L.QP_AT_PSN + slot] = h[a + L.A_PSN]
        h[q + L.QP_AT_VALUE + slot] = value
        h[q + L.QP_ATOMIC_VALUE] = value
        return reply(h, q, L.REPLY_ATOMIC, h[a + L.A_PSN], L.SYNDROME_ACK)
    return finish_request(h, p, q, a)


@kernel
def finish_failure(h, p, q, a):
    """The end of a QP that was decided while packets were judged."""
    what = h[a + L.A_FLAGS]
    if what < 0:  # our own request failed
        complete_send(h, q, -what)
        return fail_qp(h, p, q, -what)
    if h[a + L.A_LENGTH]:
        push(h, h[q + L.QP_RECV_CQ], h[a + L.A_WR], h[a + L.A_LENGTH], L.WC_RECV, 0, h[q + L.QP_NUMBER], 0, 0, 1)
    fail_qp(h, p, q, what)
    return reply(h, q, L.REPLY_NAK, h[a + L.A_PSN], what)


@kernel
def finish_requests(h, p, q, done):
    """Complete our requests whose PSNs all lie below ``done``."""
    h[q + L.QP_DONE] = max(h[q + L.QP_DONE], done)
    while h[q + L.QP_SQ_HEAD] < h[q + L.QP_SQ_TAIL]:
        index = h[q + L.QP_SQ_HEAD]
        w = wqe(h, q, index)
        if index >= h[q + L.QP_SQ_NEXT] or h[w + L.W_FIRST] + h[w + L.W_PACKETS] > h[q + L.QP_DONE]:
            break
        if complete_send(h, q, L.WC_SUCCESS) < 0:
            return fail_qp(h, p, q, L.WC_FATAL_ERR)
    settle_error(h, p, q)
    return make_ready(h, q)


@kernel
def finish_request(h, p, q, a):
    """A SEND or WRITE packet is in memory: acknowledge it, complete the receive it ends."""
    flags = h[a + L.A_FLAGS]
    if flags & L.AF_INV:
        mr = find_key(h, h[a + L.A_IMM])
        allowed = mr and h[mr + L.MR_PD] == h[q + L.QP_PD] and h[mr + L.MR_ACCESS] & L.ACCESS_REMOTE_INVALIDATE
        if not allowed:
            h[L.C_NAK_ACCESS] += 1
            push(h, h[q + L.QP_RECV_CQ], h[a + L.A_WR], L.WC_LOC_QP_OP_ERR, L.WC_RECV, 0, h[q + L.QP_NUMBER], 0, 0, 1)
            fail_qp(h, p, q, L.NAK_ACCESS)
            return reply(h, q, L.REPLY_NAK, h[a + L.A_PSN], L.NAK_ACCESS)
        h[mr + L.MR_STATE] = 2
    if flags & L.AF_CQE:
        wc_flags = 0
        if flags & L.AF_IMM:
            wc_flags = L.WC_WITH_IMM
        elif flags & L.AF_INV:
            wc_flags = L.WC_WITH_INV
        opcode = L.WC_RECV_RDMA_WITH_IMM if flags & L.AF_RDMA else L.WC_RECV
        overran = push(h, h[q + L.QP_RECV_CQ], h[a + L.A_WR], L.WC_SUCCESS, opcode, h[a + L.A_LENGTH], h[q + L.QP_NUMBER],
                       h[a + L.A_IMM] if wc_flags else 0, wc_flags, flags & L.AF_SOLICITED)
        if overran:
            fail_qp(h, p, q, L.WC_FATAL_ERR)
            return reply(h, q, L.REPLY_NAK, h[a + L.A_PSN], L.NAK_OPERATION)
    if flags & L.AF_ACK:
        reply(h, q, L.REPLY_ACK, h[a + L.A_PSN], L.SYNDROME_ACK)
    return 0


# ---- receive -------------------------------------------------------------------------------------------------------


@kernel
def identify(h, b, k):
    """Check a packet's headers against its QP: the QP's record, or 0 when it must be dropped (and counted)."""
    o = h[k + L.K_OFFSET]
    n = h[k + L.K_LENGTH]
    if n < O.BTH_BYTES:
        h[L.C_BAD_LENGTH] += 1
        return 0
    opcode = b[o]
    if b[o + W.BTH_FLAGS] & W.BTH_VERSION_MASK or be16(b, o + W.BTH_PKEY) & 0x7FFF != 0x7FFF:
        h[L.C_BAD_HEADER] += 1
        return 0
    q = find_qp(h, be24(b, o + W.BTH_DQPN))
    if q == 0:
        h[L.C_BAD_QPN] += 1
        return 0
    flags = O.OPCODE[opcode]
    if flags == 0 or opcode & O.TRANSPORT_MASK != O.RC:
        h[L.C_BAD_OPCODE] += 1
        return 0
    if h[k + L.K_SRC_HI] != h[q + L.QP_PEER_HI] or h[k + L.K_SRC_LO] != h[q + L.QP_PEER_LO]:
        h[L.C_BAD_ADDRESS] += 1
        return 0
    payload = n - O.HEADER_LENGTH[opcode]
    pad = W.bth_pad(b, o)
    if payload < pad or payload & 3 or payload - pad > h[q + L.QP_MTU] or (payload and not flags & O.PAYLOAD):
        h[L.C_BAD_LENGTH] += 1
        return 0
    state_now = h[q + L.QP_STATE]
    if state_now != L.QPS_RTS and not (state_now == L.QPS_RTR and flags & O.REQUEST):
        h[L.C_BAD_STATE] += 1
        return 0
    return q


@kernel
def receive(h, p, b, now):
    """Judge the packets of the burst, in order, until none is left or the batch is full."""
    while h[L.H_PACKET_NEXT] < h[L.H_PACKET_COUNT]:
        k = h[L.H_PACKET_BASE] + h[L.H_PACKET_NEXT] * L.PACKET_WORDS
        q = identify(h, b, k)
        if q:
            h[L.C_RX_PACKETS] += 1
            h[L.C_RX_BYTES] += h[k + L.K_LENGTH]
            if O.OPCODE[b[h[k + L.K_OFFSET]]] & O.REQUEST:
                result = admit_request(h, p, b, q, h[k + L.K_OFFSET], h[k + L.K_LENGTH], now)
            else:
                result = admit_response(h, p, b, q, h[k + L.K_OFFSET], h[k + L.K_LENGTH], now)
            if result == AGAIN:
                return 1
        h[L.H_PACKET_NEXT] += 1
    return 0


@kernel
def psns_taken(h, b, q, o):
    """PSNs that a request packet takes: one, or a READ's number of responses."""
    if b[o] == O.RC_READ_REQUEST:
        return max(1, (be32(b, o + O.BTH_BYTES + W.RETH_LENGTH) + h[q + L.QP_MTU] - 1) // h[q + L.QP_MTU])
    return 1


@kernel
def admit_request(h, p, b, q, o, n, now):
    """A request from the wire: judged now, or kept behind what the responder is doing."""
    if h[q + L.QP_BUSY] == 0 and h[q + L.QP_PEND_COUNT] == 0:
        result = request(h, p, b, q, o, n, 0, now)
        if result != PARKED:
            return result
        h[q + L.QP_PEND_NEXT] = h[q + L.QP_EPSN] + 1
        if keep(h, b, o, n, q + L.QP_PEND_HEAD, h[L.H_POOL_LIMIT]) == 0:
            h[q + L.QP_PARK_UNTIL] = now  # no place even for this one: an RNR NAK at once
        return TAKEN
    if h[q + L.QP_PEND_COUNT] == 0:
        h[q + L.QP_PEND_NEXT] = h[q + L.QP_EPSN]
    psn = h[q + L.QP_EPSN] + W.psn_distance(be24(b, o + W.BTH_PSN), h[q + L.QP_EPSN])
    if psn == h[q + L.QP_PEND_NEXT]:
        if keep(h, b, o, n, q + L.QP_PEND_HEAD, h[L.H_POOL_LIMIT]):
            h[q + L.QP_PEND_NEXT] += psns_taken(h, b, q, o)
        else:
            h[q + L.QP_PEND_GAP] = 1
    elif psn > h[q + L.QP_PEND_NEXT]:
        h[q + L.QP_PEND_GAP] = 1
        h[L.C_OUT_OF_SEQUENCE] += 1
    elif again_from_here(h, b, q, o, psn):
        return request(h, p, b, q, o, n, 0, now)
    else:
        h[L.C_DUPLICATE_PARKED] += 1  # of what waits here: dropped in silence, it holds its PSN
    return TAKEN


@kernel
def again_from_here(h, b, q, o, psn):
    """A READ that streams (and is not parked), asked for again from a later place: start over from there."""
    return (
        b[o] == O.RC_READ_REQUEST
        and h[q + L.QP_BUSY] == L.BUSY_READ
        and h[q + L.QP_PARK_UNTIL] == 0
        and h[q + L.QP_READ_FIRST] <= psn < h[q + L.QP_READ_END]
    )


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
    return 0


@kernel
def turn(h, p, b, q, now):
    """Waiting packets, then what the peer is owed, then our own requests."""
    s = h[q + L.QP_STATE]
    if s == L.QPS_RTS:
        land(h, p, b, q, now)
    budget = h[L.H_TX_BURST]
    sent = 0
    if s == L.QPS_RTS or s == L.QPS_RTR:
        drain(h, p, b, q, now)
        if h[q + L.QP_BUSY] == L.BUSY_READ:
            sent = stream(h, p, b, q, budget, now)
            if h[q + L.QP_BUSY] == 0 and (h[q + L.QP_PEND_COUNT] > 0 or h[q + L.QP_PEND_GAP]):
                make_ready(h, q)
    if h[q + L.QP_BUSY] != L.BUSY_READ and can_send(h, p):
        sent += answer(h, p, b, q)
        if h[q + L.QP_PEND_COUNT] > 0 and h[q + L.QP_BUSY] == 0 and h[q + L.QP_PARK_UNTIL] == 0:
            make_ready(h, q)
    if s == L.QPS_RTS and sent < budget:
        sent += send(h, p, b, q, budget - sent, now)
    if sent >= budget or not can_send(h, p):
        make_ready(h, q)
    return sent


@kernel
def drain(h, p, b, q, now):
    """Judge the requests that waited, oldest first, until one makes the responder busy or parks again."""
    if h[q + L.QP_PEND_COUNT] and h[q + L.QP_BUSY] == 0 and state(h, p, q, L.QP_PARK_FAULT, now) == FAILED:
        return refuse(h, p, q, h[q + L.QP_EPSN], L.NAK_ACCESS)
    head = q + L.QP_PEND_HEAD
    while h[q + L.QP_PEND_COUNT] > 0 and h[q + L.QP_BUSY] == 0 and h[q + L.QP_STATE] != L.QPS_ERR:
        slot = h[head]
        n = h[h[L.H_POOL_BASE] + slot * L.POOL_WORDS + L.POOL_LENGTH]
        acts = h[L.H_ACT_COUNT]
        result = request(h, p, b, q, h[L.H_POOL_ARENA] + slot * L.PACKET_BYTES, n, slot + 1, now)
        if result == AGAIN:
            make_ready(h, q)
            return 0
        if result == PARKED:
            return 0
        h[q + L.QP_PARK_UNTIL] = 0
        unlink(h, head)
        release_unless_used(h, acts, slot)
    if h[q + L.QP_PEND_GAP] and h[q + L.QP_PEND_COUNT] == 0 and h[q + L.QP_BUSY] == 0:
        h[q + L.QP_PEND_GAP] = 0
        if h[q + L.QP_NAKED] == 0 and h[q + L.QP_STATE] != L.QPS_ERR:
            h[q + L.QP_NAKED] = 1
            h[L.C_NAK_SEQUENCE] += 1
            reply(h, q, L.REPLY_NAK, h[q + L.QP_EPSN], L.NAK_SEQUENCE)
    return 0


# ---- timers --------------------------------------------------------------------------------------------------------


@kernel
def timers(h, p, now):
    """Act on every deadline that has passed, and find the next one. A look at all QPs, only when one is due."""
    if now < h[L.H_NEXT_TIMER]:
        return 0
    h[L.H_NEXT_TIMER] = NEVER
    for i in range(h[L.H_QP_COUNT]):
        q = h[L.H_QP_BASE] + i * L.QP_WORDS
        if i >= h[L.H_QP_LIVE]:
            break
        s = h[q + L.QP_STATE]
        if s != L.QPS_RTR and s != L.QPS_RTS:
            continue
        if h[q + L.QP_PARK_UNTIL] and now >= h[q + L.QP_PARK_UNTIL]:
            give_up_park(h, p, q, now)
            make_ready(h, q)
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
    """The retransmission timer: a real timeout, unless the answers are here and wait for their landing memory."""
    if h[q + L.QP_LAND_COUNT] > 0:
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
    if h[L.H_READY_HEAD] < h[L.H_READY_TAIL] or h[L.H_ACT_COUNT] or h[L.H_PACKET_NEXT] < h[L.H_PACKET_COUNT]:
        return 0
    return h[L.H_NEXT_TIMER]
