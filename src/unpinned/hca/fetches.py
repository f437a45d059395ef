"""The peer's READ and atomic requests, and requests that it sends again.

Rules (IBTA vol. 1, 9.7.4.1, 9.7.5.1.2): a READ of at most 2^31 bytes takes as many PSNs as it has responses; an atomic's address
is aligned.  A duplicate READ is executed again, from wherever it asks (NAKed, where its region has gone since: the peer may have
waited to ask again); a duplicate atomic gets the answer that was kept for it; a duplicate SEND or WRITE is acknowledged, up to
itself: what follows it may be a READ whose responses were lost.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.ready import make_ready
from unpinned.hca.regions import DENIED, MISS, authorize, describe, lookup
from unpinned.hca.verdicts import AGAIN, TAKEN, act, answer_later, move_on, park, refuse, reply, to_be_answered
from unpinned.paging import layout as P
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be32, be64

RETH_VA = O.BTH_BYTES + W.RETH_VA
RETH_RKEY = O.BTH_BYTES + W.RETH_RKEY
RETH_LENGTH = O.BTH_BYTES + W.RETH_LENGTH
ATOMIC_VA = O.BTH_BYTES + W.ATOMICETH_VA
ATOMIC_RKEY = O.BTH_BYTES + W.ATOMICETH_RKEY
ATOMIC_SWAP = O.BTH_BYTES + W.ATOMICETH_SWAP
ATOMIC_COMPARE = O.BTH_BYTES + W.ATOMICETH_COMPARE
NO_KEY = 0  # no region's


@kernel
def read_request(h, p, b, q, o):
    """Accept a READ: its responses are made by ``reads``, a few each turn."""
    psn = h[q + L.QP_EPSN]
    va = be64(b, o + RETH_VA)
    length = be32(b, o + RETH_LENGTH)
    if length > L.LENGTH_MAX:
        return refuse(h, p, q, psn, L.NAK_INVALID)
    if not readable(h, q, be32(b, o + RETH_RKEY), va, length):
        return refuse(h, p, q, psn, L.NAK_ACCESS)
    packets = max(1, (length + h[q + L.QP_MTU] - 1) // h[q + L.QP_MTU])
    move_on(h, q, packets)
    h[q + L.QP_MSN] += 1
    return start_read(h, q, psn, packets, va, length, be32(b, o + RETH_RKEY), 0)


@kernel
def readable(h, q, key, va, length):
    if length == 0:
        return True
    if not h[q + L.QP_ACCESS] & L.ACCESS_REMOTE_READ:
        return False
    return authorize(h, h[q + L.QP_PD], key, va, length, L.ACCESS_REMOTE_READ) != 0


@kernel
def start_read(h, q, psn, packets, va, length, key, again):
    h[q + L.QP_BUSY] = L.BUSY_READ
    h[q + L.QP_READ_PSN] = psn
    h[q + L.QP_READ_FIRST] = psn
    h[q + L.QP_READ_END] = psn + packets
    h[q + L.QP_READ_VA] = va
    h[q + L.QP_READ_LEFT] = length
    h[q + L.QP_READ_KEY] = key
    h[q + L.QP_READ_AGAIN] = again
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
    move_on(h, q, 1)
    h[q + L.QP_MSN] += 1
    start_atomic(h, q, psn)
    act(h, p, q, L.ACT_ATOMIC, first, psn, 0, pool)
    return TAKEN


@kernel
def start_atomic(h, q, psn):
    """Nothing else is judged until the answer is out."""
    h[q + L.QP_BUSY] = L.BUSY_ATOMIC
    h[q + L.QP_READ_FIRST] = psn
    h[q + L.QP_READ_END] = psn + 1
    return 0


@kernel
def put_aside(h, q, end):
    """Something repeated, up to PSN ``end``, interrupts a later READ, or itself: that goes on afterwards (``reads.carry_on``).

    The peer may have gone back, and then it will ask for that READ again too, which ends the interrupted one; or the wire has
    repeated the packet, and then nobody will.  A READ that is repeated while it is answered may find a page gone that it had
    sent: the peer, which has that response, waits for the rest.
    """
    if h[q + L.QP_KEPT_END]:
        if end > h[q + L.QP_KEPT_FIRST]:
            h[q + L.QP_KEPT_END] = 0
        if end <= h[q + L.QP_READ_FIRST]:
            h[q + L.QP_PARK_UNTIL] = 0  # it was another's that is dropped
    elif h[q + L.QP_BUSY] == L.BUSY_READ and (end <= h[q + L.QP_READ_FIRST] or h[q + L.QP_READ_PSN] > h[q + L.QP_READ_FIRST]):
        keep_read(h, q)
        h[q + L.QP_PARK_UNTIL] = 0  # what comes now has its own time
    return 0


@kernel
def keep_read(h, q):
    """The READ under way will go on where it is (``reads.carry_on``)."""
    h[q + L.QP_KEPT_FIRST] = h[q + L.QP_READ_FIRST]
    h[q + L.QP_KEPT_PSN] = h[q + L.QP_READ_PSN]
    h[q + L.QP_KEPT_END] = h[q + L.QP_READ_END]
    h[q + L.QP_KEPT_VA] = h[q + L.QP_READ_VA]
    h[q + L.QP_KEPT_LEFT] = h[q + L.QP_READ_LEFT]
    h[q + L.QP_KEPT_KEY] = h[q + L.QP_READ_KEY]
    h[q + L.QP_KEPT_AGAIN] = h[q + L.QP_READ_AGAIN]
    return 0


@kernel
def stop_repetition(h, q, psn, end):
    """A READ that is answered again, up to PSN ``end``, stops at ``psn``, whose memory could not be read.

    As one that meets a page which is gone (``reads.turn_down``): what is left of it is a READ that nobody may have. What it had
    interrupted goes on afterwards, and may go on already.
    """
    if h[q + L.QP_BUSY] == L.BUSY_READ and h[q + L.QP_READ_END] != end:
        keep_read(h, q)
    return start_read(h, q, psn, 1, 0, 1, NO_KEY, 1)


@kernel
def stopped(h, q):
    """Whether that has happened, and the peer not been told yet."""
    return h[q + L.QP_BUSY] == L.BUSY_READ and h[q + L.QP_READ_KEY] == NO_KEY and h[q + L.QP_READ_LEFT] > 0


@kernel
def duplicate(h, p, b, q, o, psn):
    """A request that was executed before (IBTA vol. 1, 9.7.5.1.2)."""
    flags = O.OPCODE[b[o]]
    if flags & O.READ:
        length = be32(b, o + RETH_LENGTH)
        packets = max(1, (length + h[q + L.QP_MTU] - 1) // h[q + L.QP_MTU])
        key = be32(b, o + RETH_RKEY)
        va = be64(b, o + RETH_VA)
        if length > L.LENGTH_MAX:
            return TAKEN
        if readable(h, q, key, va, length):
            # The rest of a READ may be asked for together with one that was lost.
            h[q + L.QP_EPSN] = max(h[q + L.QP_EPSN], psn + packets)
            h[q + L.QP_NAKED] = 0
        else:
            packets = 1  # of a region that has gone since: a NAK (``reads.turn_down``)
        put_aside(h, q, psn + packets)
        return start_read(h, q, psn, packets, va, length, key, 1)
    if flags & O.ATOMIC:
        for i in range(min(h[q + L.QP_AT_TAIL], L.READ_RING)):
            if h[q + L.QP_AT_PSN + i] == psn:
                if h[q + L.QP_REPLY]:  # owed before this one
                    return AGAIN if h[q + L.QP_BUSY] == 0 else TAKEN
                if to_be_answered(h, q):  # in the next round it would take this one's place, and the QP wait for ever to send it
                    return AGAIN
                h[L.C_DUPLICATE_ATOMIC] += 1
                put_aside(h, q, psn + 1)
                start_atomic(h, q, psn)
                h[q + L.QP_ATOMIC_VALUE] = h[q + L.QP_AT_VALUE + i]
                return reply(h, q, L.REPLY_ATOMIC, psn, L.SYNDROME_ACK, h[q + L.QP_MSN])
        return TAKEN
    return answer_later(h, p, q, psn, L.SYNDROME_ACK)
