"""Who may come in: the checks that every packet passes, and the line in which requests wait for the responder.

Rules (IBTA vol. 1, 9.6, 9.7.1; annex A17): header version 0, the default P_Key, a QP that exists and is in a state to receive,
an opcode of its transport, the peer's own address, a payload that fits the opcode, the pad count and the path MTU.  What
fails one of them is dropped and counted by reason.

The responder is serial.  While it streams a READ, answers an atomic or waits for a page, requests line up behind it in the
order in which the peer sent them, up to max_dest_rd_atomic READs and atomics among them, and a bounded number of packets.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.parking import forget_requests, keep
from unpinned.hca.qp import find_qp, is_peer, sends
from unpinned.hca.ready import set_deadline
from unpinned.hca.responder import request
from unpinned.hca.verdicts import AGAIN, PARKED, TAKEN
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be16, be24, be32

NO_OPCODE = 0x15  # reserved: refused when its turn comes


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
    if not is_peer(h, q, h[k + L.K_SRC_HI], h[k + L.K_SRC_LO]):
        h[L.C_BAD_ADDRESS] += 1
        return 0
    payload = n - O.HEADER_LENGTH[opcode]
    pad = W.bth_pad(b, o)
    if payload < pad or payload & 3 or payload - pad > h[q + L.QP_MTU] or (payload and not flags & O.PAYLOAD):
        h[L.C_BAD_LENGTH] += 1
        return 0
    if not sends(h, q) and not (h[q + L.QP_STATE] == L.QPS_RTR and flags & O.REQUEST):
        h[L.C_BAD_STATE] += 1
        return 0
    return q


@kernel
def psns_taken(h, b, q, o):
    """PSNs that a request packet takes: one, or a READ's number of responses."""
    if b[o] == O.RC_READ_REQUEST:
        return max(1, (be32(b, o + O.BTH_BYTES + W.RETH_LENGTH) + h[q + L.QP_MTU] - 1) // h[q + L.QP_MTU])
    return 1


@kernel
def admit_request(h, p, b, q, o, n, now):
    """A request from the wire: judged now, or kept behind what the responder is doing.

    What waits is the peer's own order of sending, so a peer that went back is followed: QP_PEND_NEXT is the PSN that comes next
    in it (during a READ that is sent again, the one behind that READ), ``fresh`` the next that was never seen.
    """
    busy = h[q + L.QP_BUSY]
    waiting = h[q + L.QP_PEND_COUNT] > 0
    if busy == 0 and not waiting:
        result = request(h, p, b, q, o, n, 0, now)
        if result == PARKED:
            if keep(h, b, o, n, q + L.QP_PEND_HEAD, h[L.H_POOL_LIMIT]):
                h[q + L.QP_PEND_NEXT] = h[q + L.QP_EPSN] + 1
                if O.OPCODE[b[o]] & (O.READ | O.ATOMIC):  # `drain` takes it off again
                    h[q + L.QP_READ_LIVE] += 1
            else:
                set_deadline(h, q, L.QP_PARK_UNTIL, now)  # no place even for this one: an RNR NAK at once
            return TAKEN
        return result
    if not waiting:
        h[q + L.QP_PEND_NEXT] = h[q + L.QP_READ_END]
    epsn = h[q + L.QP_EPSN]
    psn = epsn + W.psn_distance(be24(b, o + W.BTH_PSN), epsn)
    fresh = max(epsn, h[q + L.QP_PEND_NEXT])
    if psn == fresh or psn == h[q + L.QP_PEND_NEXT]:
        return line_up(h, b, q, o, n, psn)
    if psn > fresh:
        h[L.C_OUT_OF_SEQUENCE] += 1
        return drop_new(h, b, q, o, psn)
    if psn < epsn and busy == 0:
        return request(h, p, b, q, o, n, 0, now)  # answered at once, ahead of what is parked
    if psn < epsn and busy == L.BUSY_READ:
        if psn == h[q + L.QP_READ_END] and not (waiting and first_waits(h, b, q, psn)):
            forget_requests(h, q)  # the peer sends again all that follows this READ
            return line_up(h, b, q, o, n, psn)
        if psn < h[q + L.QP_READ_END] and O.OPCODE[b[o]] & (O.READ | O.ATOMIC):
            return request(h, p, b, q, o, n, 0, now)
    if busy == L.BUSY_ATOMIC and psn < h[q + L.QP_READ_FIRST]:
        return AGAIN  # sent again, and nobody would ask for it: when the atomic's answer is out, at most a few rounds
    h[L.C_DUPLICATE_PARKED] += 1  # of what waits here: dropped in silence, it holds its PSN
    return TAKEN


@kernel
def drop_new(h, b, q, o, psn):
    """Drop a request that was never seen: it is asked for when the line is empty, unless it has come by then."""
    h[q + L.QP_PEND_GAP] |= L.GAP_NEW
    h[q + L.QP_PEND_LOST] = max(h[q + L.QP_PEND_LOST], psn + psns_taken(h, b, q, o))
    return TAKEN


@kernel
def first_waits(h, b, q, psn):
    """Whether the oldest request that waits is the one of this PSN."""
    place = h[L.H_POOL_ARENA] + h[q + L.QP_PEND_HEAD] * L.PACKET_BYTES
    return be24(b, place + W.BTH_PSN) == psn & L.PSN_MASK


@kernel
def line_up(h, b, q, o, n, psn):
    """Keep a request behind what the responder is doing; one READ or atomic too many will be refused in its turn.

    Only new ones count: those sent again may be of no interest to the peer any more, which then has as many others under way.
    """
    if keep(h, b, o, n, q + L.QP_PEND_HEAD, h[L.H_POOL_LIMIT]) == 0:
        if psn < h[q + L.QP_EPSN]:
            h[q + L.QP_PEND_GAP] |= L.GAP_AGAIN
            h[q + L.QP_PEND_NEXT] = psn
            return TAKEN
        return drop_new(h, b, q, o, psn)
    if psn < h[q + L.QP_EPSN]:  # the peer went back: it asks for all that follows
        h[q + L.QP_KEPT_END] = 0
    h[q + L.QP_PEND_NEXT] = psn + psns_taken(h, b, q, o)
    if O.OPCODE[b[o]] & (O.READ | O.ATOMIC) and psn >= h[q + L.QP_EPSN]:
        h[q + L.QP_READ_LIVE] += 1
        if h[q + L.QP_READ_LIVE] > h[q + L.QP_DEST_RD_MAX]:
            b[h[L.H_POOL_ARENA] + h[q + L.QP_PEND_TAIL] * L.PACKET_BYTES] = NO_OPCODE
    return TAKEN
