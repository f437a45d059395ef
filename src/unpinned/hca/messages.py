"""The peer's SEND and WRITE packets: where their bytes go, and what follows.

Rules (IBTA vol. 1, 9.7.4.1, 9.9.3): full packets but the last; the lengths add up to what RETH announced, or fit the receive.
A SEND, or a WRITE with immediate at its last packet, needs a posted receive.  Every byte of the packet has a page and a
right before the first is described.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.parking import FAILED, ask
from unpinned.hca.qp import rqe
from unpinned.hca.regions import DENIED, HIT, MISS, authorize, describe, find_key, lookup
from unpinned.hca.verdicts import PARKED, TAKEN, act, move_on, park, refuse, rnr, start_park
from unpinned.paging import layout as P
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be32, be64

RETH_VA = O.BTH_BYTES + W.RETH_VA
RETH_RKEY = O.BTH_BYTES + W.RETH_RKEY
RETH_LENGTH = O.BTH_BYTES + W.RETH_LENGTH


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
    move_on(h, q, 1)
    h[q + L.QP_RESP_LENGTH] += size
    parked = h[q + L.QP_PARK_UNTIL] != 0
    what = L.AF_ACK if flags & O.END or parked or b[o + W.BTH_ACKREQ] & W.BTH_ACKREQ_BIT else 0
    if flags & O.END:
        h[q + L.QP_RESP_OP] = 0
        h[q + L.QP_MSN] += 1
        if flags & (O.SEND | O.IMMDT):
            what |= L.AF_CQE
            h[q + L.QP_RQ_NEXT] += 1
        if flags & O.WRITE:
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
    return TAKEN


@kernel
def write_packet(h, p, b, q, o, n, pool, now):
    opcode = b[o]
    flags = O.OPCODE[opcode]
    psn = h[q + L.QP_EPSN]
    header = O.HEADER_LENGTH[opcode]
    size = n - header - W.bth_pad(b, o)
    va = h[q + L.QP_RESP_VA]
    length = h[q + L.QP_RESP_LEFT]
    key = h[q + L.QP_RESP_KEY]
    if flags & O.START:
        va = be64(b, o + RETH_VA)
        length = be32(b, o + RETH_LENGTH)
        key = be32(b, o + RETH_RKEY)
    elif h[q + L.QP_RESP_OP] != 2:
        return refuse(h, p, q, psn, L.NAK_INVALID)
    ends = flags & O.END
    if length > L.LENGTH_MAX or not payload_fits(h, q, flags, size) or (size != length if ends else size >= length):
        return refuse(h, p, q, psn, L.NAK_INVALID)
    # For each packet anew: between two of them the region may have gone, and another may have got its record.
    mr = authorize(h, h[q + L.QP_PD], key, va, length, L.ACCESS_REMOTE_WRITE) if length > 0 else 0
    if length > 0 and (mr == 0 or not h[q + L.QP_ACCESS] & L.ACCESS_REMOTE_WRITE):
        return refuse(h, p, q, psn, L.NAK_ACCESS)
    if flags & O.IMMDT and h[q + L.QP_RQ_NEXT] == h[q + L.QP_RQ_TAIL]:
        h[L.C_RNR_NAK] += 1
        return rnr(h, p, q, psn, h[q + L.QP_MIN_RNR])
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
        h[q + L.QP_RESP_KEY] = key
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
    if h[q + L.QP_RQ_NEXT] == h[q + L.QP_RQ_TAIL]:
        h[L.C_RNR_NAK] += 1
        return rnr(h, p, q, psn, h[q + L.QP_MIN_RNR])
    r = rqe(h, q, h[q + L.QP_RQ_NEXT])
    at = 0 if flags & O.START else h[q + L.QP_RESP_LENGTH]
    if at + size > h[r + L.R_LENGTH]:
        return receive_error(h, p, q, psn, L.WC_LOC_LEN_ERR, L.NAK_INVALID)
    closes = 0
    if flags & O.IETH:
        closes = closable(h, q, be32(b, o + O.BTH_BYTES))
        if closes == 0:
            return receive_error(h, p, q, psn, L.WC_LOC_QP_OP_ERR, L.NAK_ACCESS)
    first = p[P.DMA_COUNT]
    found = scatter(h, p, q, r + L.R_SGE, h[r + L.R_NSGE], at, size, o + O.HEADER_LENGTH[opcode], now)
    if found == DENIED:
        return receive_error(h, p, q, psn, L.WC_LOC_PROT_ERR, L.NAK_OPERATION)
    if found == MISS:
        return PARKED
    if closes:
        h[closes + L.MR_STATE] = 2  # now: what follows in this burst must find the key closed
    if flags & O.START:
        h[q + L.QP_RESP_OP] = 1
        h[q + L.QP_RESP_LENGTH] = 0
    return accepted(h, p, b, q, o, flags, first, size, pool)


@kernel
def closable(h, q, key):
    """The region that the peer may close by SEND with invalidate, or 0."""
    mr = find_key(h, key)
    allowed = mr and h[mr + L.MR_PD] == h[q + L.QP_PD] and h[mr + L.MR_ACCESS] & L.ACCESS_REMOTE_INVALIDATE
    return mr if allowed else 0


@kernel
def receive_error(h, p, q, psn, status, syndrome):
    """The receive that the SEND goes to cannot take it: it completes in error, the peer gets a NAK."""
    refuse(h, p, q, psn, syndrome)
    h[h[L.H_ACT_BASE] + (h[L.H_ACT_COUNT] - 1) * L.ACT_WORDS + L.A_LENGTH] = status
    return TAKEN


@kernel
def scatter(h, p, q, sge, count, at, size, offset, now):
    """Describe the copy of ``size`` bytes into a scatter list from byte ``at`` on: HIT, MISS (parked) or DENIED.

    Two passes: all pieces are looked up before the first is described.  Only what this packet needs is asked for, as nobody
    knows yet how much of the receive the message takes; ``paging`` reads ahead.
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
                    if ask(h, p, q, L.QP_PARK_FAULT, mr, va, part, 1, now) == FAILED:
                        return DENIED
                    start_park(h, q, now)
                if found != HIT:
                    return found
            done += part
            left -= part
    return HIT
