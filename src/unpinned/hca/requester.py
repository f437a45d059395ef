"""The requester's sending half: work requests become packets, in order, as far as the window allows.

Rules (IBTA vol. 1, 9.7.2, 9.7.3; C9-*): every request packet takes one PSN, a READ takes as many as it will have
responses.  FIRST MIDDLE* LAST, or ONLY.  At most QP_RD_MAX READs and atomics are outstanding; a fenced request
waits for all of them.  The last packet of a message asks for an acknowledgement, and so does one every quarter of
the window, so that the window slides before it closes.

* A request of more than H_READ_CHUNK bytes is read in several READ requests whose boundaries are multiples of the chunk (a
  power of two of packets, halved until two fit the window), so a retransmission asks for the rest of a chunk and never
  across one; nor across a smaller one that was asked for meanwhile (QP_CHUNK).
* Packet k of a request carries PSN first + k and starts at byte k * MTU, for WRITE, SEND and READ alike: going back
  is arithmetic.
* Bytes in flight are bounded twice: by the QP's window, which halves on loss and grows with every window acknowledged
  (go-back-N loses a whole window per lost packet), and by the device's, which keeps a socket buffer from overflowing.  Each QP
  has a share of that to itself, whatever the others have in flight (their peers may be dead, or wait for pages): all together
  have two windows at most, and a packet each.  READs of QPs that have nothing in flight may take what is spare besides.
  A QP that finds the device's window full always has an answer coming that will wake it (QP_ASKED): failing that, it may
  send one packet more, which asks.
* Memory that is not there parks the sending half only (QP_SEND_FAULT).  A READ is not asked for before the pages it lands on
  were there a moment ago; should they leave again, the responses wait (see ``responses``).
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.completions import owe
from unpinned.hca.outgoing import ASK, SOLICITED, add_packet, can_send, next_offset
from unpinned.hca.parking import FAILED, NONE, WAITING, ask, settled, state
from unpinned.hca.qp import complete_send, drained, fail_qp, sends, wqe
from unpinned.hca.ready import set_deadline
from unpinned.hca.regions import DENIED, HIT, MISS, authorize, describe, lookup
from unpinned.paging import layout as P
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import put32

SPARE_MAX = 1 << 16  # bytes that one READ may take of what is spare
SHARES_MIN = 4  # of a device with fewer QPs than that, too, no QP has a larger share of the window

SENT = 0
STOP = 1  # window, fence, burst or fault: not now
BROKEN = 2  # local error: the request at the head fails once everything before it is done


@kernel
def takes_read_slot(opcode):
    return opcode == L.WR_RDMA_READ or opcode == L.WR_ATOMIC_CMP_AND_SWP or opcode == L.WR_ATOMIC_FETCH_AND_ADD


@kernel
def packets_of(length, mtu):
    return max(1, (length + mtu - 1) // mtu)


@kernel
def gather(h, p, q, w, at, size, op, offset, access, now, length):
    """Describe the copy between bytes [at, at + size) of a request's gather list and the arena at ``offset``.

    ``op`` 0 only looks the pages up.  Two passes, as for the responder's scatter list; on a miss a fault over ``length`` bytes
    from there is begun.  Returns HIT, MISS or DENIED.
    """
    write = 1 if access != 0 else 0
    field = L.QP_LAND_FAULT if write == 1 and op != 0 else L.QP_SEND_FAULT
    for make in range(2 if op else 1):
        skip = at
        left = size
        done = 0
        for i in range(h[w + L.W_NSGE]):
            s = w + L.W_SGE + i * L.SGE_WORDS
            here = h[s + 1] - skip
            if here <= 0:
                skip -= h[s + 1]
                continue
            if left == 0:
                break
            part = min(left, here)
            va = h[s] + skip
            skip = 0
            mr = authorize(h, h[q + L.QP_PD], h[s + 2], h[s], h[s + 1], access)  # all of the piece: what cannot end does not begin
            if mr == 0:
                return DENIED
            if make:
                describe(h, p, mr, va, part, op, offset + done, q)
            else:
                found = lookup(h, p, mr, va, part, write, now)
                if found == MISS and ask(h, p, q, field, mr, va, min(here, max(length - done, part)), write, now) == FAILED:
                    return DENIED
                if found != HIT:
                    return found
                if op and part == size:  # all of it lies in one piece, as it mostly does
                    describe(h, p, mr, va, part, op, offset, q)
                    settled(h, q, field)
                    return HIT
            done += part
            left -= part
    settled(h, q, field)
    return HIT


@kernel
def send(h, p, b, q, budget, now):
    """Send up to ``budget`` packets of the QP's requests; how many went into the burst."""
    fault = state(h, p, q, L.QP_SEND_FAULT, now)
    if fault != NONE and fault != WAITING and h[q + L.QP_DEADLINE]:
        set_deadline(h, q, L.QP_DEADLINE, now + h[q + L.QP_TIMEOUT_NS])  # the peer could not answer what we held back
    sent = 0
    while sent < budget and sends(h, q) and h[q + L.QP_SEND_ERROR] == 0:
        if h[q + L.QP_SQ_NEXT] == h[q + L.QP_SQ_TAIL] or h[q + L.QP_RNR_UNTIL] > now or not can_send(h, p):
            break
        if send_packet(h, p, b, q, now) != SENT:
            break
        sent += 1
    return sent


@kernel
def break_request(h, p, q, status):
    """A local error: the request whose packets go out fails, once everything before it is done (or sent again)."""
    h[q + L.QP_SEND_ERROR] = status
    settle_error(h, p, q)
    return BROKEN


@kernel
def settle_error(h, p, q):
    """Fail the broken request once everything before it is complete; the QP ends with it."""
    if h[q + L.QP_SEND_ERROR] and h[q + L.QP_SQ_HEAD] == h[q + L.QP_SQ_NEXT] and sends(h, q):
        complete_send(h, q, h[q + L.QP_SEND_ERROR])
        fail_qp(h, p, q, h[q + L.QP_SEND_ERROR])
    return 0


@kernel
def tell_drained(h, q):
    """Whoever asked for it is told that a send queue in SQD has drained (IBTA vol. 1, 10.3.1.5)."""
    if h[q + L.QP_DRAIN] and drained(h, q):
        h[q + L.QP_DRAIN] = 0
        owe(h, q + L.QP_EVENT, L.EVENT_DRAINED)
    return 0


@kernel
def window_allows(h, q, packets):
    """Whether that many more packets may be in flight; one request always may when nothing is (``read_packets`` bounds it)."""
    flying = h[q + L.QP_SEND_PSN] - h[q + L.QP_UNA]
    if flying == 0:
        return True
    if flying + packets > h[q + L.QP_CWND]:
        return False
    if h[L.H_INFLIGHT] + packets * h[q + L.QP_MTU] <= h[L.H_WINDOW] or flying + packets <= share(h, q):
        return True
    return h[q + L.QP_ASKED] < h[q + L.QP_UNA]


@kernel
def share(h, q):
    """The packets that the QP may have in flight though the device's window is full."""
    return max(1, h[L.H_WINDOW] // max(SHARES_MIN, h[L.H_QP_LIVE]) // h[q + L.QP_MTU])


@kernel
def read_packets(h, q, w, k):
    """How many packets of a READ to ask for, from packet ``k`` on."""
    chunk = max(1, h[L.H_READ_CHUNK] // h[q + L.QP_MTU])
    while chunk > 1 and 2 * chunk > h[q + L.QP_CWND]:
        chunk >>= 1
    if h[q + L.QP_SEND_PSN] == h[q + L.QP_UNA]:  # it may be asked for whatever the others have in flight
        room = h[L.H_WINDOW] - h[L.H_INFLIGHT]
        most = max(share(h, q), max(room, min(room + h[L.H_SPARE], SPARE_MAX)) // h[q + L.QP_MTU])
        while chunk > most:
            chunk >>= 1
    again = h[q + L.QP_MAX_PSN] - h[q + L.QP_SEND_PSN]
    if again > 0 and h[q + L.QP_CHUNK]:
        chunk = min(chunk, h[q + L.QP_CHUNK])
    packets = min(h[w + L.W_PACKETS], (k // chunk + 1) * chunk) - k
    return min(packets, again) if again > 0 else packets


@kernel
def repeats_alone(h, q, opcode):
    """Whether a READ waits for all before it: Linux's responder answers a repetition only from where the latest one of the same READ
    began, so of two that are under way the first could not be asked for once more.
    """
    return opcode == L.WR_RDMA_READ and h[q + L.QP_FOREIGN] == 1 and h[q + L.QP_SEND_PSN] < h[q + L.QP_MAX_PSN]


@kernel
def note_boundary(h, q, w, end):
    """A READ asks up to packet ``end`` of its request. Some responders answer no repetition that asks across such a place."""
    if h[q + L.QP_SEND_PSN] == h[q + L.QP_UNA] and h[q + L.QP_SEND_PSN] >= h[q + L.QP_MAX_PSN]:
        h[q + L.QP_CHUNK] = 0  # what came before will not be repeated
    if end < h[w + L.W_PACKETS]:
        chunk = end & -end
        h[q + L.QP_CHUNK] = min(h[q + L.QP_CHUNK], chunk) if h[q + L.QP_CHUNK] else chunk
    return 0


@kernel
def unsound(opcode, length):
    """The completion status of a request that cannot be sent at all, or 0."""
    if opcode > L.WR_ATOMIC_FETCH_AND_ADD and opcode != L.WR_SEND_WITH_INV:
        return L.WC_LOC_QP_OP_ERR
    atomic = opcode == L.WR_ATOMIC_CMP_AND_SWP or opcode == L.WR_ATOMIC_FETCH_AND_ADD
    return L.WC_LOC_LEN_ERR if length > L.LENGTH_MAX or (atomic and length != 8) else 0


@kernel
def send_packet(h, p, b, q, now):
    """Send the next packet of the request at SQ_NEXT: SENT, STOP or BROKEN."""
    w = wqe(h, q, h[q + L.QP_SQ_NEXT])
    opcode = h[w + L.W_OPCODE]
    k = h[q + L.QP_SQ_PACKET]
    if k == 0:
        if h[q + L.QP_STATE] == L.QPS_SQD and h[q + L.QP_SEND_PSN] == h[q + L.QP_MAX_PSN]:
            return STOP
        if h[w + L.W_FLAGS] & L.SEND_FENCE and h[q + L.QP_RD_HEAD] < h[q + L.QP_RD_TAIL]:
            return STOP
        status = unsound(opcode, h[w + L.W_LENGTH])
        if takes_read_slot(opcode) and h[q + L.QP_RD_MAX] == 0:  # none was agreed: it would wait for ever
            status = L.WC_LOC_QP_OP_ERR
        if status:
            return break_request(h, p, q, status)
        h[w + L.W_FIRST] = h[q + L.QP_SEND_PSN]
        h[w + L.W_PACKETS] = packets_of(h[w + L.W_LENGTH], h[q + L.QP_MTU])
    packets = 1
    reads = takes_read_slot(opcode)
    if reads:
        if opcode == L.WR_RDMA_READ:
            packets = read_packets(h, q, w, k)
        if h[q + L.QP_RD_TAIL] - h[q + L.QP_RD_HEAD] >= (1 if repeats_alone(h, q, opcode) else h[q + L.QP_RD_MAX]):
            return STOP
    if not window_allows(h, q, packets):
        return STOP
    if opcode == L.WR_RDMA_READ:
        result = send_read(h, p, b, q, w, k, packets, now)
    elif reads:
        result = send_atomic(h, p, b, q, w, now)
    else:
        result = send_data(h, p, b, q, w, k, now)
    if result == SENT:
        if opcode == L.WR_RDMA_READ:
            note_boundary(h, q, w, k + packets)
        advance(h, q, w, k + packets, packets, reads, now)
    return result


@kernel
def advance(h, q, w, k, packets, read_slot, now):
    """Account for ``packets`` PSNs sent, and arm the retransmission timer."""
    psn = h[q + L.QP_SEND_PSN]
    h[q + L.QP_SEND_PSN] = psn + packets
    h[L.H_INFLIGHT] += packets * h[q + L.QP_MTU]
    if read_slot:
        h[q + L.QP_ASKED] = psn + packets - 1
    if psn < h[q + L.QP_MAX_PSN]:
        h[L.C_RETRANSMITTED] += 1
    h[q + L.QP_MAX_PSN] = max(h[q + L.QP_MAX_PSN], psn + packets)
    if read_slot:
        slot = h[q + L.QP_RD_TAIL] & (L.READ_RING - 1)
        h[q + L.QP_RD_START + slot] = psn
        h[q + L.QP_RD_END + slot] = psn + packets
        h[q + L.QP_RD_TAIL] += 1
    h[q + L.QP_SQ_PACKET] = k
    if k == h[w + L.W_PACKETS]:
        h[q + L.QP_SQ_NEXT] += 1
        h[q + L.QP_SQ_PACKET] = 0
    if h[q + L.QP_DEADLINE] == 0 and h[q + L.QP_TIMEOUT_NS]:
        set_deadline(h, q, L.QP_DEADLINE, now + h[q + L.QP_TIMEOUT_NS])
    return 0


@kernel
def data_opcode(kind, first, last):
    """The wire opcode of a SEND or WRITE packet by its place in the message."""
    write = kind == L.WR_RDMA_WRITE or kind == L.WR_RDMA_WRITE_WITH_IMM
    base = O.RC_WRITE_FIRST if write else O.RC_SEND_FIRST
    if not last:
        return base if first else base + 1
    imm = 1 if kind == L.WR_RDMA_WRITE_WITH_IMM or kind == L.WR_SEND_WITH_IMM else 0
    if kind == L.WR_SEND_WITH_INV:
        return O.RC_SEND_ONLY_INV if first else O.RC_SEND_LAST_INV
    return base + (4 if first else 2) + imm


@kernel
def send_data(h, p, b, q, w, k, now):
    """One packet of a SEND or WRITE."""
    mtu = h[q + L.QP_MTU]
    at = k * mtu
    size = min(mtu, h[w + L.W_LENGTH] - at)
    last = k + 1 == h[w + L.W_PACKETS]
    opcode = data_opcode(h[w + L.W_OPCODE], k == 0, last)
    flags = O.OPCODE[opcode]
    o = next_offset(h)
    first = p[P.DMA_COUNT]
    if size > 0:
        found = gather(h, p, q, w, at, size, P.OP_READ, o + O.HEADER_LENGTH[opcode], 0, now, h[w + L.W_LENGTH] - at)
        if found == DENIED:
            return break_request(h, p, q, L.WC_LOC_PROT_ERR)
        if found == MISS:
            return STOP
    if flags & O.RETH:
        W.put_reth(b, o + O.BTH_BYTES, h[w + L.W_RVA], h[w + L.W_RKEY], h[w + L.W_LENGTH])
    if flags & (O.IMMDT | O.IETH):
        put32(b, o + O.HEADER_LENGTH[opcode] - 4, h[w + L.W_IMM])
    psn = h[q + L.QP_SEND_PSN]
    what = 0
    if last or psn % max(1, h[q + L.QP_CWND] >> 2) == 0 or h[L.H_INFLIGHT] + 2 * mtu > h[L.H_WINDOW]:
        what = ASK
        h[q + L.QP_ASKED] = psn
    if last and h[w + L.W_FLAGS] & L.SEND_SOLICITED:
        what |= SOLICITED
    add_packet(h, p, b, q, opcode, psn, size, first, 0, what)
    return SENT


@kernel
def send_read(h, p, b, q, w, k, packets, now):
    """A READ request for ``packets`` responses from packet ``k`` of the work request on."""
    at = k * h[q + L.QP_MTU]
    size = min(packets * h[q + L.QP_MTU], h[w + L.W_LENGTH] - at)
    if size > 0:
        found = gather(h, p, q, w, at, size, 0, 0, L.ACCESS_LOCAL_WRITE, now, h[w + L.W_LENGTH] - at)
        if found == DENIED:
            return break_request(h, p, q, L.WC_LOC_PROT_ERR)
        if found == MISS:
            return STOP
    W.put_reth(b, next_offset(h) + O.BTH_BYTES, h[w + L.W_RVA] + at, h[w + L.W_RKEY], size)
    add_packet(h, p, b, q, O.RC_READ_REQUEST, h[q + L.QP_SEND_PSN], 0, p[P.DMA_COUNT], 0, ASK)
    return SENT


@kernel
def send_atomic(h, p, b, q, w, now):
    found = gather(h, p, q, w, 0, 8, 0, 0, L.ACCESS_LOCAL_WRITE, now, 8)
    if found == DENIED:
        return break_request(h, p, q, L.WC_LOC_PROT_ERR)
    if found == MISS:
        return STOP
    cas = h[w + L.W_OPCODE] == L.WR_ATOMIC_CMP_AND_SWP
    swap = h[w + L.W_SWAP] if cas else h[w + L.W_COMPARE]
    compare = h[w + L.W_COMPARE] if cas else 0
    W.put_atomiceth(b, next_offset(h) + O.BTH_BYTES, h[w + L.W_RVA], h[w + L.W_RKEY], swap, compare)
    opcode = O.RC_CMP_SWAP if cas else O.RC_FETCH_ADD
    add_packet(h, p, b, q, opcode, h[q + L.QP_SEND_PSN], 0, p[P.DMA_COUNT], 0, ASK)
    return SENT
