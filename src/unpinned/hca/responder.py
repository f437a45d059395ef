"""The responder: the peer's SEND, WRITE, READ and atomic requests, judged one at a time.

Rules (IBTA vol. 1, 9.7.4 and 9.9; Linux rxe_resp.c for what peers rely on):

* A request whose PSN is the expected one is executed; one ahead is answered once with NAK "PSN sequence error" and
  everything ahead is dropped until the expected one comes; one behind is a duplicate: SEND and WRITE are
  acknowledged again (up to the duplicate, not to the newest: what lies between may be a READ whose responses were
  lost), READ is executed again, an atomic gets the answer that was kept.
* FIRST MIDDLE* LAST or ONLY, never mixed; full packets but the last; the lengths add up to what RETH announced.
* A SEND, or a WRITE with immediate at its last packet, needs a posted receive; without one: RNR NAK.
* A denied access is NAKed and ends the connection; so is a malformed message.
* Nothing changes before every byte of the packet has a page.  A page that is missing parks the QP (see ``parking``):
  the packet goes to the head of the waiting queue and whatever follows lines up behind it.  The responder is
  strictly serial, so a request behind a parked one, or behind a READ that still streams, is never executed early,
  and exactly-once needs no undo.
* Every answer follows the copies of all that it acknowledges: the packet leaves an *action* in the burst, carried out in
  order by ``device.finish`` after its descriptors were executed.  That holds for NAKs and repeated acknowledgements too.
* A packet that had been parked is acknowledged at once, so the peer's timer starts anew however often a message parks.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.fetches import atomic_request, duplicate, read_request
from unpinned.hca.messages import send_packet, write_packet
from unpinned.hca.regions import room
from unpinned.hca.verdicts import AGAIN, nak_sequence, refuse
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be24


@kernel
def request(h, p, b, q, o, n, pool, now):
    """Judge one request packet at arena offset ``o`` of ``n`` bytes (BTH to payload and pad).

    ``pool`` is its waiting slot + 1, or 0 when it lies in the receive buffer.  Returns TAKEN, AGAIN or PARKED.
    """
    if h[L.H_ACT_COUNT] >= h[L.H_ACT_DEPTH] or not room(p, L.SGE_MAX + 1):
        return AGAIN
    opcode = b[o]
    flags = O.OPCODE[opcode]
    psn = be24(b, o + W.BTH_PSN)
    distance = W.psn_distance(psn, h[q + L.QP_EPSN])
    if distance < 0:
        result = duplicate(h, p, b, q, o, h[q + L.QP_EPSN] + distance)
        h[L.C_DUPLICATE] += result != AGAIN
        return result
    if distance > 0:
        h[L.C_OUT_OF_SEQUENCE] += 1
        return nak_sequence(h, p, q)
    starts = flags & O.START
    under_way = h[q + L.QP_RESP_OP]
    if (under_way != 0) == (starts != 0):
        return refuse(h, p, q, h[q + L.QP_EPSN], L.NAK_INVALID)
    if flags & O.SEND:
        return send_packet(h, p, b, q, o, n, pool, now)
    if flags & O.WRITE:
        return write_packet(h, p, b, q, o, n, pool, now)
    if flags & (O.READ | O.ATOMIC) and h[q + L.QP_DEST_RD_MAX] == 0:
        return refuse(h, p, q, h[q + L.QP_EPSN], L.NAK_INVALID)
    if flags & O.READ:
        return read_request(h, p, b, q, o)
    if flags & O.ATOMIC:
        return atomic_request(h, p, b, q, o, pool, now)
    return refuse(h, p, q, h[q + L.QP_EPSN], L.NAK_INVALID)
