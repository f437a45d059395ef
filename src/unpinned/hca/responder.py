"""The responder: the peer's SEND, WRITE, READ and atomic requests, judged one at a time.

Rules (IBTA vol. 1, 9.7.4 and 9.9; Linux rxe_resp.c for what peers rely on):

* A request whose PSN is the expected one is executed; one ahead is answered once with NAK "PSN sequence error" and
  everything ahead is dropped until the expected one comes; one behind is a duplicate: SEND and WRITE are
  acknowledged again, READ is executed again, an atomic gets the answer that was kept.
* FIRST MIDDLE* LAST or ONLY, never mixed; full packets but the last; the lengths add up to what RETH announced.
* A SEND, or a WRITE with immediate at its last packet, needs a posted receive; without one: RNR NAK.
* A denied access is NAKed and ends the connection; so is a malformed message.
* Nothing changes before every byte of the packet has a page.  A page that is missing parks the QP (see ``parking``):
  the packet goes to the head of the waiting queue and whatever follows lines up behind it.  The responder is
  strictly serial, so a request behind a parked one, or behind a READ that still streams, is never executed early,
  and exactly-once needs no undo.
* The acknowledgement follows the copy: the packet leaves an *action* in the burst, carried out by ``device.finish`` after
  its descriptors were executed.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.parking import ask
from unpinned.hca.qp import rqe
from unpinned.hca.ready import make_ready, set_deadline
from unpinned.hca.regions import DENIED, HIT, MISS, authorize, describe, lookup, room
from unpinned.paging import layout as P
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be24, be32, be64

RETH_VA = O.BTH_BYTES + W.RETH_VA
RETH_RKEY = O.BTH_BYTES + W.RETH_RKEY
RETH_LENGTH = O.BTH_BYTES + W.RETH_LENGTH
ATOMIC_VA = O.BTH_BYTES + W.ATOMICETH_VA
ATOMIC_RKEY = O.BTH_BYTES + W.ATOMICETH_RKEY
ATOMIC_SWAP = O.BTH_BYTES + W.ATOMICETH_SWAP
ATOMIC_COMPARE = O.BTH_BYTES + W.ATOMICETH_COMPARE

# What became of a packet
TAKEN = 0
AGAIN = 1  # the batch is full: execute it, then judge this packet again
PARKED = 2  # its page is missing: it must be kept


@kernel
def reply(h, q, kind, psn, syndrome):
    """Owe the peer an answer; a later acknowledgement takes an earlier one's place."""
    h[q + L.QP_REPLY] = kind
    h[q + L.QP_REPLY_PSN] = psn
    h[q + L.QP_REPLY_SYNDROME] = syndrome
    make_ready(h, q)
    return 0


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
    a = act(h, p, q, L.ACT_FAIL, p[P.DMA_COUNT], psn, syndrome, 0)
    h[a + L.A_LENGTH] = 0
    return TAKEN


@kernel
def rnr(h, q, psn, timer):
    """Receiver not ready: the peer waits as long as the timer code says and sends from ``psn`` again."""
    h[q + L.QP_NAKED] = 1
    reply(h, q, L.REPLY_NAK, psn, L.SYNDROME_RNR | timer)
    return TAKEN


@kernel
def park(h, p, q, mr, va, length, write, now):
    """Wait for [va, va + length) of a region."""
    ask(h, p, q, L.QP_PARK_FAULT, mr, va, length, write, now)
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
    return a


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
        h[L.C_DUPLICATE] += 1
        return duplicate(h, p, b, q, o, n, h[q + L.QP_EPSN] + distance, now)
    if distance > 0:
        h[L.C_OUT_OF_SEQUENCE] += 1
        if h[q + L.QP_NAKED] == 0:
            h[q + L.QP_NAKED] = 1
            h[L.C_NAK_SEQUENCE] += 1
            reply(h, q, L.REPLY_NAK, h[q + L.QP_EPSN], L.NAK_SEQUENCE)
        return TAKEN
    starts = flags & O.START
    under_way = h[q + L.QP_RESP_OP]
    if (under_way != 0) == (starts != 0):
        return refuse(h, p, q, h[q + L.QP_EPSN], L.NAK_INVALID)
    if flags & O.SEND:
        return send_packet(h, p, b, q, o, n, pool, now)
    if flags & O.WRITE:
        return write_packet(h, p, b, q, o, n, pool, now)
    if flags & O.READ:
        return read_request(h, p, b, q, o, n, now)
    if flags & O.ATOMIC:
        return atomic_request(h, p, b, q, o, pool, now)
    return refuse(h, p, q, h[q + L.QP_EPSN], L.NAK_INVALID)


@kernel
def payload_fits(h, q, flags, size):
    """Full packets but the last; ONLY may be empty, LAST may not (IBTA vol. 1, 9.7.4.1.6)."""
    mtu = h[q + L.QP_MTU]
    if not flags & O.END:
        return size == mtu
    return size <= mtu and (size > 0 or flags & O.START != 0)


@kernel
def accepted(h, p, b, q, o, flags, first, size, pool):
    """A SEND or WRITE packet whose copies are described: move on, and say what follows the copies."""
    psn = h[q + L.QP_EPSN]
    h[q + L.QP_EPSN] = psn + 1
    h[q + L.QP_NAKED] = 0
    h[q + L.QP_RESP_LENGTH] += size
    what = L.AF_ACK if flags & O.END or b[o + W.BTH_ACKREQ] & W.BTH_ACKREQ_BIT else 0
    ends = flags & O.END
    takes_receive = ends and (flags & O.SEND or flags & O.IMMDT)
    if takes_receive:
        what |= L.AF_CQE
    if ends and flags & O.WRITE:
        what |= L.AF_RDMA
    if flags & O.IMMDT:
        what |= L.AF_IMM
    if flags & O.IETH:
        what |= L.AF_INV
    if b[o + W.BTH_FLAGS] & W.BTH_SE_BIT:
        what |= L.AF_SOLICITED
    a = act(h, p, q, L.ACT_REQUEST, first, psn, what, pool)
    h[a + L.A_LENGTH] = h[q + L.QP_RESP_LENGTH]
    if flags & (O.IMMDT | O.IETH):
        h[a + L.A_IMM] = be32(b, o + O.HEADER_LENGTH[b[o]] - 4)
    if takes_receive:
        h[a + L.A_WR] = h[rqe(h, q, h[q + L.QP_RQ_HEAD]) + L.R_ID]
        h[q + L.QP_RQ_HEAD] += 1
        h[q + L.QP_RECV_BUSY] = 0
    if ends:
        h[q + L.QP_RESP_OP] = 0
        h[q + L.QP_MSN] += 1
    return TAKEN


@kernel
def write_packet(h, p, b, q, o, n, pool, now):
    opcode = b[o]
    flags = O.OPCODE[opcode]
    psn = h[q + L.QP_EPSN]
    header = O.HEADER_LENGTH[opcode]
    size = n - header - W.bth_pad(b, o)
    if flags & O.START:
        length = be32(b, o + RETH_LENGTH)
        va = be64(b, o + RETH_VA)
        mr = 0
        if length > 0:
            mr = authorize(h, h[q + L.QP_PD], be32(b, o + RETH_RKEY), va, length, L.ACCESS_REMOTE_WRITE)
            if mr == 0 or not h[q + L.QP_ACCESS] & L.ACCESS_REMOTE_WRITE:
                return refuse(h, p, q, psn, L.NAK_ACCESS)
    elif h[q + L.QP_RESP_OP] != 2:
        return refuse(h, p, q, psn, L.NAK_INVALID)
    else:
        va = h[q + L.QP_RESP_VA]
        length = h[q + L.QP_RESP_LEFT]
        mr = h[q + L.QP_RESP_MR]
    ends = flags & O.END
    if not payload_fits(h, q, flags, size) or (size != length if ends else size >= length):
        return refuse(h, p, q, psn, L.NAK_INVALID)
    if flags & O.IMMDT and h[q + L.QP_RQ_HEAD] == h[q + L.QP_RQ_TAIL]:
        h[L.C_RNR_NAK] += 1
        return rnr(h, q, psn, h[q + L.QP_MIN_RNR])
    first = p[P.DMA_COUNT]
    if size > 0:
        found = lookup(h, p, mr, va, size, 1, now)
        if found == DENIED:
            return refuse(h, p, q, psn, L.NAK_ACCESS)
        if found == MISS:
            return park(h, p, q, mr, va, length, 1, now)
        describe(h, p, mr, va, size, P.OP_WRITE, o + header, q)
    if flags & O.START:
        h[q + L.QP_RESP_OP] = 2
        h[q + L.QP_RESP_LENGTH] = 0
        h[q + L.QP_RESP_MR] = mr
    h[q + L.QP_RESP_VA] = va + size
    h[q + L.QP_RESP_LEFT] = length - size
    return accepted(h, p, b, q, o, flags, first, size, pool)


@kernel
def send_packet(h, p, b, q, o, n, pool, now):
    opcode = b[o]
    flags = O.OPCODE[opcode]
    psn = h[q + L.QP_EPSN]
    size = n - O.HEADER_LENGTH[opcode] - W.bth_pad(b, o)
    if not flags & O.START and h[q + L.QP_RESP_OP] != 1:
        return refuse(h, p, q, psn, L.NAK_INVALID)
    if not payload_fits(h, q, flags, size):
        return refuse(h, p, q, psn, L.NAK_INVALID)
    if h[q + L.QP_RQ_HEAD] == h[q + L.QP_RQ_TAIL]:
        h[L.C_RNR_NAK] += 1
        return rnr(h, q, psn, h[q + L.QP_MIN_RNR])
    r = rqe(h, q, h[q + L.QP_RQ_HEAD])
    at = 0 if flags & O.START else h[q + L.QP_RESP_LENGTH]
    if at + size > h[r + L.R_LENGTH]:
        return receive_error(h, p, q, psn, L.WC_LOC_LEN_ERR, L.NAK_INVALID)
    first = p[P.DMA_COUNT]
    found = scatter(h, p, q, r + L.R_SGE, h[r + L.R_NSGE], at, size, o + O.HEADER_LENGTH[opcode], now)
    if found == DENIED:
        return receive_error(h, p, q, psn, L.WC_LOC_PROT_ERR, L.NAK_OPERATION)
    if found == MISS:
        return PARKED
    if flags & O.START:
        h[q + L.QP_RESP_OP] = 1
        h[q + L.QP_RESP_LENGTH] = 0
        h[q + L.QP_RECV_BUSY] = 1
    return accepted(h, p, b, q, o, flags, first, size, pool)


@kernel
def receive_error(h, p, q, psn, status, syndrome):
    """The receive at the head cannot take the message: it completes in error, the peer gets a NAK."""
    r = rqe(h, q, h[q + L.QP_RQ_HEAD])
    h[q + L.QP_RQ_HEAD] += 1
    refuse(h, p, q, psn, syndrome)
    a = h[L.H_ACT_BASE] + (h[L.H_ACT_COUNT] - 1) * L.ACT_WORDS
    h[a + L.A_WR] = h[r + L.R_ID]
    h[a + L.A_LENGTH] = status
    return TAKEN


@kernel
def scatter(h, p, q, sge, count, at, size, offset, now):
    """Describe the copy of ``size`` bytes into a scatter list from byte ``at`` on: HIT, MISS (parked) or DENIED.

    Two passes: all pieces are looked up before the first is described.
    """
    for make in range(2):
        skip = at
        left = size
        done = 0
        for i in range(count):
            s = sge + i * L.SGE_WORDS
            room_here = h[s + 1] - skip
            if room_here <= 0:
                skip -= h[s + 1]
                continue
            if left == 0:
                break
            part = min(left, room_here)
            va = h[s] + skip
            skip = 0
            mr = authorize(h, h[q + L.QP_PD], h[s + 2], va, part, L.ACCESS_LOCAL_WRITE)
            if mr == 0:
                return DENIED
            if make:
                describe(h, p, mr, va, part, P.OP_WRITE, offset + done, q)
            else:
                found = lookup(h, p, mr, va, part, 1, now)
                if found == MISS:
                    park(h, p, q, mr, va, min(room_here, h[s + 1]), 1, now)
                if found != HIT:
                    return found
            done += part
            left -= part
    return HIT


@kernel
def read_request(h, p, b, q, o, n, now):
    """Accept a READ: its responses are made by ``reads``, a few each turn."""
    psn = h[q + L.QP_EPSN]
    va = be64(b, o + RETH_VA)
    length = be32(b, o + RETH_LENGTH)
    if length > L.LENGTH_MAX or n != O.HEADER_LENGTH[b[o]]:
        return refuse(h, p, q, psn, L.NAK_INVALID)
    if not readable(h, q, be32(b, o + RETH_RKEY), va, length):
        return refuse(h, p, q, psn, L.NAK_ACCESS)
    packets = max(1, (length + h[q + L.QP_MTU] - 1) // h[q + L.QP_MTU])
    h[q + L.QP_EPSN] = psn + packets
    h[q + L.QP_NAKED] = 0
    h[q + L.QP_MSN] += 1
    h[q + L.QP_REPLY] = 0  # the first response acknowledges what came before
    return start_read(h, q, psn, packets, va, length, be32(b, o + RETH_RKEY))


@kernel
def readable(h, q, key, va, length):
    if length == 0:
        return True
    if not h[q + L.QP_ACCESS] & L.ACCESS_REMOTE_READ:
        return False
    return authorize(h, h[q + L.QP_PD], key, va, length, L.ACCESS_REMOTE_READ) != 0


@kernel
def start_read(h, q, psn, packets, va, length, key):
    h[q + L.QP_BUSY] = L.BUSY_READ
    h[q + L.QP_READ_PSN] = psn
    h[q + L.QP_READ_FIRST] = psn
    h[q + L.QP_READ_END] = psn + packets
    h[q + L.QP_READ_VA] = va
    h[q + L.QP_READ_LEFT] = length
    h[q + L.QP_READ_KEY] = key
    make_ready(h, q)
    return TAKEN


@kernel
def atomic_request(h, p, b, q, o, pool, now):
    opcode = b[o]
    psn = h[q + L.QP_EPSN]
    va = be64(b, o + ATOMIC_VA)
    if va & 7:
        return refuse(h, p, q, psn, L.NAK_INVALID)
    mr = authorize(h, h[q + L.QP_PD], be32(b, o + ATOMIC_RKEY), va, 8, L.ACCESS_REMOTE_ATOMIC)
    if mr == 0 or not h[q + L.QP_ACCESS] & L.ACCESS_REMOTE_ATOMIC:
        return refuse(h, p, q, psn, L.NAK_ACCESS)
    found = lookup(h, p, mr, va, 8, 1, now)
    if found == DENIED:
        return refuse(h, p, q, psn, L.NAK_ACCESS)
    if found == MISS:
        return park(h, p, q, mr, va, 8, 1, now)
    first = p[P.DMA_COUNT]
    cas = opcode == O.RC_CMP_SWAP
    d = describe(h, p, mr, va, 8, P.OP_CMP_SWAP if cas else P.OP_FETCH_ADD, o, q)
    record = p[P.DMA] + d * P.DMA_WORDS
    swap = be64(b, o + ATOMIC_SWAP)
    p[record + P.DMA_X0] = be64(b, o + ATOMIC_COMPARE) if cas else swap
    p[record + P.DMA_X1] = swap
    h[q + L.QP_EPSN] = psn + 1
    h[q + L.QP_NAKED] = 0
    h[q + L.QP_MSN] += 1
    h[q + L.QP_BUSY] = L.BUSY_ATOMIC
    act(h, p, q, L.ACT_ATOMIC, first, psn, 0, pool)
    return TAKEN


@kernel
def duplicate(h, p, b, q, o, n, psn, now):
    """A request that was executed before (IBTA vol. 1, 9.7.5.1.2)."""
    flags = O.OPCODE[b[o]]
    if flags & O.READ:
        length = be32(b, o + RETH_LENGTH)
        packets = max(1, (length + h[q + L.QP_MTU] - 1) // h[q + L.QP_MTU])
        key = be32(b, o + RETH_RKEY)
        va = be64(b, o + RETH_VA)
        if length > L.LENGTH_MAX or psn + packets > h[q + L.QP_EPSN] or n != O.HEADER_LENGTH[b[o]]:
            return TAKEN
        if not readable(h, q, key, va, length):
            return refuse(h, p, q, psn, L.NAK_ACCESS)
        h[q + L.QP_NAKED] = 0
        return start_read(h, q, psn, packets, va, length, key)
    if flags & O.ATOMIC:
        for i in range(L.READ_RING):
            if h[q + L.QP_AT_PSN + i] == psn:
                h[L.C_DUPLICATE_ATOMIC] += 1
                h[q + L.QP_BUSY] = L.BUSY_ATOMIC
                h[q + L.QP_ATOMIC_VALUE] = h[q + L.QP_AT_VALUE + i]
                return reply(h, q, L.REPLY_ATOMIC, psn, L.SYNDROME_ACK)
        return TAKEN
    if h[q + L.QP_REPLY] == 0:
        reply(h, q, L.REPLY_ACK, h[q + L.QP_EPSN] - 1, L.SYNDROME_ACK)
    return TAKEN
