"""The requester's listening half: acknowledgements, NAKs, READ and atomic responses.

Rules (IBTA vol. 1, 9.7.5.1.3, 9.7.5.2, 9.7.6; 9.9.2):

* An acknowledgement of PSN p acknowledges every request up to p, also when we went back below p meanwhile; but a READ or
  atomic among them whose response has not come was lost: an implied NAK, and the requester goes back to it.  It does so
  again only once an answer to the repetition has come (QP_RECOVERING): what else is on its way was sent before.
* A READ response is taken in PSN order only, with the opcode and length that its place demands, and lands at the
  byte its PSN says.  It acknowledges what precedes it.
* NAK "PSN sequence error" p: everything before p arrived, p is sent again.  RNR NAK p: the same, after the time it names,
  and counted apart.  The other NAKs end the request at p with a status, and the QP with it; the peer answers nothing any
  more, so an unanswered READ before p ends with that status in its place.
* No answer for QP_TIMEOUT_NS: go back to the oldest unacknowledged PSN, QP_RETRY_MAX times without progress.
* An answer outside [oldest unacknowledged, highest PSN sent] is stale: dropped.

A response whose landing memory has gone waits in the landing queue, all later answers of the QP behind it; when that is
full they are dropped and asked for again.  Copies complete before completions: what a packet acknowledges becomes an
action of the burst.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.parking import WAITING, keep, release_unless_used, state, unlink
from unpinned.hca.qp import sends, set_inflight, wqe
from unpinned.hca.ready import make_ready, set_deadline
from unpinned.hca.regions import DENIED, MISS, room
from unpinned.hca.requester import gather, takes_read_slot
from unpinned.hca.verdicts import AGAIN, PARKED, TAKEN, act
from unpinned.paging import layout as P
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be24, be64, put64

CWND_MIN = 16  # packets


@kernel
def go_back(h, q, psn):
    """Send again from ``psn`` on: find its request, drop what was outstanding behind it."""
    w = 0
    index = h[q + L.QP_SQ_HEAD]
    while index < h[q + L.QP_SQ_NEXT] or (index == h[q + L.QP_SQ_NEXT] and h[q + L.QP_SQ_PACKET] > 0):
        w = wqe(h, q, index)
        if psn < h[w + L.W_FIRST] + h[w + L.W_PACKETS]:
            h[q + L.QP_SQ_NEXT] = index
            h[q + L.QP_SQ_PACKET] = psn - h[w + L.W_FIRST]
            break
        index += 1
    while h[q + L.QP_RD_TAIL] > h[q + L.QP_RD_HEAD]:
        slot = (h[q + L.QP_RD_TAIL] - 1) & (L.READ_RING - 1)
        if h[q + L.QP_RD_END + slot] <= psn:
            break
        h[q + L.QP_RD_TAIL] -= 1
    set_inflight(h, q, psn, h[q + L.QP_UNA])
    h[q + L.QP_ASKED] = psn - 1
    h[q + L.QP_SEND_ERROR] = 0  # found again when its turn comes
    h[q + L.QP_RECOVERING] = psn + 1
    h[q + L.QP_DEADLINE] = 0
    h[q + L.QP_EXCUSED] = 0
    make_ready(h, q)
    return 0


@kernel
def skip_ahead(h, q, psn):
    """What lies below ``psn`` arrived, although we went back to before it: do not send it again. A READ or atomic stops this:
    its answer is what counts.
    """
    while h[q + L.QP_SEND_PSN] < psn and h[q + L.QP_SEND_ERROR] == 0:
        w = wqe(h, q, h[q + L.QP_SQ_NEXT])
        if takes_read_slot(h[w + L.W_OPCODE]):
            break
        packets = min(h[w + L.W_PACKETS] - h[q + L.QP_SQ_PACKET], psn - h[q + L.QP_SEND_PSN])
        set_inflight(h, q, h[q + L.QP_SEND_PSN] + packets, h[q + L.QP_UNA])
        h[q + L.QP_SQ_PACKET] += packets
        if h[q + L.QP_SQ_PACKET] == h[w + L.W_PACKETS]:
            h[q + L.QP_SQ_NEXT] += 1
            h[q + L.QP_SQ_PACKET] = 0
    return 0


@kernel
def shrink(h, q):
    """A loss: half the window."""
    h[q + L.QP_CWND] = min(h[q + L.QP_CWND_MAX], max(CWND_MIN, h[q + L.QP_CWND] >> 1))
    h[q + L.QP_ACKED] = 0
    return 0


@kernel
def progress(h, p, q, una, now):
    """Everything below ``una`` is acknowledged: slide, re-arm, and complete once the copies before it are done."""
    moved = una - h[q + L.QP_UNA]
    if moved <= 0:
        return 0
    set_inflight(h, q, h[q + L.QP_SEND_PSN], una)
    h[q + L.QP_RETRIES] = h[q + L.QP_RETRY_MAX]
    h[q + L.QP_RNR_RETRIES] = h[q + L.QP_RNR_MAX]
    h[q + L.QP_EXCUSED] = 0
    h[q + L.QP_ACKED] += moved
    if h[q + L.QP_ACKED] >= h[q + L.QP_CWND]:
        h[q + L.QP_ACKED] = 0
        h[q + L.QP_CWND] = min(h[q + L.QP_CWND] + 16, h[q + L.QP_CWND_MAX])
    flying = h[q + L.QP_SEND_PSN] > una
    set_deadline(h, q, L.QP_DEADLINE, now + h[q + L.QP_TIMEOUT_NS] if flying and h[q + L.QP_TIMEOUT_NS] else 0)
    while h[q + L.QP_RD_HEAD] < h[q + L.QP_RD_TAIL]:
        slot = h[q + L.QP_RD_HEAD] & (L.READ_RING - 1)
        if h[q + L.QP_RD_END + slot] > una:
            break
        h[q + L.QP_RD_HEAD] += 1
    make_ready(h, q)
    return moved


@kernel
def first_read_gap(h, q, psn):
    """PSN of the oldest outstanding READ or atomic response at or below ``psn``, or -1."""
    if h[q + L.QP_RD_HEAD] == h[q + L.QP_RD_TAIL]:
        return -1
    slot = h[q + L.QP_RD_HEAD] & (L.READ_RING - 1)
    start = max(h[q + L.QP_RD_START + slot], h[q + L.QP_UNA])
    return start if start <= psn else -1


@kernel
def implied_nak(h, q, psn):
    """The answer to ``psn`` was lost: go back, once per loss."""
    h[L.C_IMPLIED_NAK] += 1
    if psn >= h[q + L.QP_RECOVERING]:
        shrink(h, q)
        go_back(h, q, psn)
    return TAKEN


@kernel
def acknowledge(h, p, q, psn, now):
    """Everything below ``psn`` is acknowledged, unless a READ among it got no answer; the PSN below which that holds."""
    lost = first_read_gap(h, q, psn - 1)
    if lost < 0:  # else what this vouches for would be neither acknowledged nor sent again
        skip_ahead(h, q, psn)
    psn = min(psn, h[q + L.QP_SEND_PSN])
    if lost >= 0:
        psn = lost
    if progress(h, p, q, psn, now) > 0:
        act(h, p, q, L.ACT_RESPONSE, p[P.DMA_COUNT], psn, 0, 0)
    if lost >= 0:
        implied_nak(h, q, lost)
    return psn


@kernel
def response(h, p, b, q, o, n, pool, now):
    """Judge one answer at arena offset ``o`` of ``n`` bytes. Returns TAKEN, AGAIN or PARKED."""
    if h[L.H_ACT_COUNT] + 2 >= h[L.H_ACT_DEPTH] or not room(p, L.SGE_MAX + 1):
        return AGAIN
    una = h[q + L.QP_UNA]
    psn = una + W.psn_distance(be24(b, o + W.BTH_PSN), una)
    flags = O.OPCODE[b[o]]
    if psn < una or psn >= (h[q + L.QP_MAX_PSN] if flags & O.ACK else h[q + L.QP_SEND_PSN]):
        h[L.C_DUPLICATE] += 1  # stale, or to something sent before going back
        return TAKEN
    if flags & O.ACK:
        return ack_or_nak(h, p, q, b[o + O.BTH_BYTES], psn, now)
    slot = h[q + L.QP_RD_HEAD] & (L.READ_RING - 1)
    start = h[q + L.QP_RD_START + slot]
    refused = flags & O.AETH and b[o + O.BTH_BYTES] & W.SYNDROME_KIND_MASK != W.SYNDROME_ACK
    if h[q + L.QP_RD_HEAD] == h[q + L.QP_RD_TAIL] or psn < start or refused:
        h[L.C_BAD_RESPONSE] += 1
        return TAKEN
    if psn > max(start, una):
        acknowledge(h, p, q, psn, now)  # finds the gap
        return TAKEN
    if flags & O.READ:
        return read_response(h, p, b, q, o, n, psn, pool, now)
    return atomic_response(h, p, b, q, o, psn, pool, now)


@kernel
def ack_or_nak(h, p, q, syndrome, psn, now):
    kind = syndrome & W.SYNDROME_KIND_MASK
    if kind == W.SYNDROME_ACK:
        acknowledge(h, p, q, psn + 1, now)
        return TAKEN
    if (kind != W.SYNDROME_RNR and kind != W.SYNDROME_NAK) or syndrome > W.NAK_INVALID_RD_REQUEST:
        h[L.C_BAD_RESPONSE] += 1
        return TAKEN
    ahead = psn >= h[q + L.QP_SEND_PSN]  # of a place we went back to meanwhile
    reached = acknowledge(h, p, q, psn, now)
    if kind == W.SYNDROME_NAK and syndrome != L.NAK_SEQUENCE:
        h[L.C_NAK_RECEIVED] += 1
        status = L.WC_REM_OP_ERR
        if syndrome == L.NAK_INVALID:
            status = L.WC_REM_INV_REQ_ERR
        elif syndrome == L.NAK_ACCESS:
            status = L.WC_REM_ACCESS_ERR
        return fail_request(h, p, q, reached, status)
    if reached < psn or ahead:  # an answer before it was lost, or it will be NAKed again: that first
        return TAKEN
    if kind == W.SYNDROME_RNR:
        return rnr_nak(h, p, q, psn, syndrome, now)
    h[L.C_NAK_RECEIVED] += 1
    return retry(h, p, q, psn)


@kernel
def fail_request(h, p, q, psn, status):
    """The request at ``psn`` ends with ``status``, and the QP with it, after the burst's copies."""
    h[q + L.QP_STATE] = L.QPS_ERR
    act(h, p, q, L.ACT_FAIL, p[P.DMA_COUNT], psn, -status, 0)
    return TAKEN


@kernel
def retry(h, p, q, psn):
    """Go back after a loss; too many in a row end the request."""
    if h[q + L.QP_RETRIES] == 0:
        return fail_request(h, p, q, h[q + L.QP_UNA], L.WC_RETRY_EXC_ERR)
    h[q + L.QP_RETRIES] -= 1
    shrink(h, q)
    go_back(h, q, psn)
    return TAKEN


@kernel
def rnr_nak(h, p, q, psn, syndrome, now):
    h[L.C_RNR_RECEIVED] += 1
    if h[q + L.QP_RNR_UNTIL] > now:
        return TAKEN
    if h[q + L.QP_RNR_MAX] < 7:
        if h[q + L.QP_RNR_RETRIES] == 0:
            return fail_request(h, p, q, psn, L.WC_RNR_RETRY_EXC_ERR)
        h[q + L.QP_RNR_RETRIES] -= 1
    go_back(h, q, psn)
    set_deadline(h, q, L.QP_RNR_UNTIL, now + W.rnr_ns(syndrome))
    return TAKEN


@kernel
def request_of(h, q, psn):
    """The work request that ``psn``, which was sent, belongs to."""
    index = h[q + L.QP_SQ_HEAD]
    w = wqe(h, q, index)
    while h[w + L.W_FIRST] + h[w + L.W_PACKETS] <= psn:
        index += 1
        w = wqe(h, q, index)
    return w


@kernel
def read_response(h, p, b, q, o, n, psn, pool, now):
    """The next READ response in order, or one in its place: its opcode and length must be those of its place."""
    slot = h[q + L.QP_RD_HEAD] & (L.READ_RING - 1)
    w = request_of(h, q, psn)
    opcode = b[o]
    flags = O.OPCODE[opcode]
    payload = o + O.HEADER_LENGTH[opcode]
    size = o + n - payload - W.bth_pad(b, o)
    at = (psn - h[w + L.W_FIRST]) * h[q + L.QP_MTU]
    last = psn + 1 == h[q + L.QP_RD_END + slot]
    if (flags & O.END != 0) != last or (flags & O.START != 0) != (psn == h[q + L.QP_RD_START + slot]):
        h[L.C_BAD_RESPONSE] += 1  # of the stream before going back, overtaken by its repetition
        return TAKEN
    if h[w + L.W_OPCODE] != L.WR_RDMA_READ or size != min(h[q + L.QP_MTU], h[w + L.W_LENGTH] - at):
        h[L.C_BAD_RESPONSE] += 1
        return fail_request(h, p, q, psn, L.WC_BAD_RESP_ERR)
    return place(h, p, q, w, at, size, payload, psn, pool, now)


@kernel
def place(h, p, q, w, at, size, offset, psn, pool, now):
    """Land the answer to ``psn``: ``size`` bytes of the arena at byte ``at`` of the request's memory."""
    first = p[P.DMA_COUNT]
    if size > 0:
        slot = h[q + L.QP_RD_HEAD] & (L.READ_RING - 1)
        ahead = (h[q + L.QP_RD_END + slot] - psn) * h[q + L.QP_MTU]
        found = gather(h, p, q, w, at, size, P.OP_WRITE, offset, L.ACCESS_LOCAL_WRITE, now, ahead)
        if found == DENIED:
            return fail_request(h, p, q, psn, L.WC_LOC_PROT_ERR)
        if found == MISS:
            return PARKED
    progress(h, p, q, psn + 1, now)
    act(h, p, q, L.ACT_RESPONSE, first, psn + 1, 0, pool)
    return TAKEN


@kernel
def atomic_response(h, p, b, q, o, psn, pool, now):
    w = request_of(h, q, psn)
    kind = h[w + L.W_OPCODE]
    if kind != L.WR_ATOMIC_CMP_AND_SWP and kind != L.WR_ATOMIC_FETCH_AND_ADD:
        h[L.C_BAD_RESPONSE] += 1
        return fail_request(h, p, q, psn, L.WC_BAD_RESP_ERR)
    # The wire is big-endian, memory native (x86-64, aarch64: little): turn the eight bytes round in the packet.
    value = o + O.BTH_BYTES + O.AETH_BYTES
    original = be64(b, value)
    for i in range(8):
        b[value + i] = (original >> (8 * i)) & 0xFF
    result = place(h, p, q, w, 0, 8, value, psn, pool, now)
    if result == PARKED:
        put64(b, value, original)
    return result


@kernel
def admit_response(h, p, b, q, o, n, now):
    """An answer from the wire: behind others that wait for their landing memory, or judged now."""
    result = PARKED if h[q + L.QP_LAND_COUNT] > 0 else response(h, p, b, q, o, n, 0, now)
    if result != PARKED:
        return result
    if keep(h, b, o, n, q + L.QP_LAND_HEAD, h[L.H_POOL_LIMIT]) == 0:
        h[q + L.QP_LAND_GAP] = 1
    return TAKEN


@kernel
def land(h, p, b, q, now):
    """Judge the answers that waited for their landing memory, oldest first."""
    fault = state(h, p, q, L.QP_LAND_FAULT, now)
    while h[q + L.QP_LAND_COUNT] > 0 and sends(h, q):
        if from_queue(h, p, b, q, q + L.QP_LAND_HEAD, now) != TAKEN:
            return 0
    if h[q + L.QP_LAND_GAP] and fault != WAITING and sends(h, q):
        h[q + L.QP_LAND_GAP] = 0
        go_back(h, q, h[q + L.QP_UNA])  # what found no place is asked for again, without waiting for a timeout
    return 0


@kernel
def from_queue(h, p, b, q, head, now):
    """Judge the first packet of the landing queue; a taken one leaves it, and its slot is freed when nothing needs it."""
    slot = h[head]
    n = h[h[L.H_POOL_BASE] + slot * L.POOL_WORDS + L.POOL_LENGTH]
    acts = h[L.H_ACT_COUNT]
    result = response(h, p, b, q, h[L.H_POOL_ARENA] + slot * L.PACKET_BYTES, n, slot + 1, now)
    if result == TAKEN:
        unlink(h, head)
        release_unless_used(h, acts, slot)
    elif result == AGAIN:
        make_ready(h, q)
    return result
