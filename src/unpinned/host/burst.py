"""One burst on a real wire: receive, the device's steps under the lock, copies without it, send.

Only the driver runs this (E_DRIVING). Nothing received is judged before its ICRC is verified, nothing sent is
sealed before its payload is there.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.atomics import fetch_add, store_release
from unpinned.compiled.crc32 import combine_constant
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.libc import futex_wake, monotonic_ns
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.hca.device import copied, finish, receive, timers, turns, wake_fault
from unpinned.hca.qp import find_qp, is_peer
from unpinned.host import engine_words as E
from unpinned.host import layout as H
from unpinned.host.copies import execute
from unpinned.host.datagrams import receive_many, send
from unpinned.host.events import tell_descriptors
from unpinned.host.holes import cut, remember
from unpinned.host.lock import ALL, executed, lock_for_step, unlock
from unpinned.host.nearby import hole_after, nearby
from unpinned.host.pagemap import scan
from unpinned.host.recorder import nobody_waits, note, note_copies, note_faults, number
from unpinned.host.trust import looked, took
from unpinned.host.zeros import note_untouched
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_scanned, fault_take
from unpinned.paging.regions import is_revoked
from unpinned.recording import layout as R
from unpinned.wire import headers as W
from unpinned.wire.bytes import be24
from unpinned.wire.icrc import put_icrc, put_icrc_of, template4, template6, verify

ICRC = 4
EMSGSIZE = 90
EAGAIN = 11
MAPPED = 0xFFFF
LOW32 = 0xFFFFFFFF


@kernel
def template(e, b, t, src_hi, src_lo, dst_hi, dst_lo, ports):
    """The ICRC's pseudo header from one address to another; ports = source << 16 | destination. Its length."""
    if src_hi == 0 and src_lo >> 32 == MAPPED:
        return template4(b, t, src_lo & LOW32, dst_lo & LOW32, ports >> 16, ports & 0xFFFF)
    return template6(b, t, src_hi, src_lo, dst_hi, dst_lo, ports >> 16, ports & 0xFFFF)


@kernel
def take_datagrams(e, h, b, u, solver):
    """Receive what waits, and list the packets whose ICRC holds; how many datagrams came."""
    h[L.H_PACKET_NEXT] = 0
    h[L.H_PACKET_COUNT] = 0
    bursts = receive_many(u, b, h[L.H_RX_ARENA], L.RECV_BURSTS)
    seen = 0
    for i in range(bursts):
        r = H.U_RX + H.RX_WORDS * i
        left = u[r + H.RX_BYTES]
        step = u[r + H.RX_SEGMENT]
        if left == 0:
            h[L.C_TRUNCATED] += 1
        known = u[r + H.RX_HI] == e[E.E_RX_HI] and u[r + H.RX_LO] == e[E.E_RX_LO] and u[r + H.RX_PORT] == e[E.E_RX_PORT]
        if not known or e[E.E_RX_TEMPLATE] == 0:
            e[E.E_RX_HI] = u[r + H.RX_HI]
            e[E.E_RX_LO] = u[r + H.RX_LO]
            e[E.E_RX_PORT] = u[r + H.RX_PORT]
            e[E.E_RX_TEMPLATE] = template(e, b, h[L.H_RX_TEMPLATE], e[E.E_RX_HI], e[E.E_RX_LO], e[E.E_LOCAL_HI], e[E.E_LOCAL_LO],
                                          e[E.E_RX_PORT] << 16 | e[E.E_LOCAL_PORT])
        o = h[L.H_RX_ARENA] + i * L.BURST_BYTES
        k = 0
        while left > 0:
            n = min(left, step)
            seen += 1
            take_packet(e, h, b, solver, o, n - ICRC, k)
            o += n
            left -= n
            k += 1
    return seen


@kernel
def take_packet(e, h, b, solver, o, n, k):
    """List one datagram for ``receive``, if it is long enough, its ICRC holds and there is room."""
    if n < 12 or n > L.PACKET_BYTES:
        h[L.C_BAD_LENGTH] += 1
        return 0
    if h[L.H_PACKET_COUNT] >= h[L.H_PACKET_DEPTH]:
        h[L.C_TRUNCATED] += 1
        return 0
    q = find_qp(h, be24(b, o + W.BTH_DQPN))
    if q and not is_peer(h, q, e[E.E_RX_HI], e[E.E_RX_LO]):
        q = 0  # a stranger's: it says nothing about the peer's identifications
    last = h[q + L.QP_LAST_ID] if q else -1
    ident = verify(b, h[L.H_RX_TEMPLATE], e[E.E_RX_TEMPLATE], o, n, k, last, solver)
    if ident < 0:
        h[L.C_BAD_ICRC] += 1
        if q and ident < -1:
            h[q + L.QP_LAST_ID] = -1  # a flow that was quiet for long: its repetition starts afresh
        return 0
    if q:
        h[q + L.QP_LAST_ID] = ident
    record = h[L.H_PACKET_BASE] + h[L.H_PACKET_COUNT] * L.PACKET_WORDS
    h[record + L.K_OFFSET] = o
    h[record + L.K_LENGTH] = n
    h[record + L.K_SRC_HI] = e[E.E_RX_HI]
    h[record + L.K_SRC_LO] = e[E.E_RX_LO]
    h[record + L.K_PORT] = e[E.E_RX_PORT]
    h[L.H_PACKET_COUNT] += 1
    return 1


@kernel
def seal(e, h, p, b, c, t, ident):
    """Put the ICRC behind the packet of the line at *t*; its payload may have been summed when it was copied."""
    o = h[t + L.T_OFFSET]
    n = h[t + L.T_LENGTH] - ICRC
    first = h[t + L.T_FIRST]
    if h[t + L.T_END] == first + 1 and first < H.SUMS and c[H.COPY_SUMS + first] >= 0:
        d = p[P.DMA] + first * P.DMA_WORDS
        length = p[d + P.DMA_LENGTH]
        if p[d + P.DMA_OFFSET] + length == o + n:  # no pad behind it
            if e[E.E_SUM_LENGTH] != length:
                e[E.E_SUM_LENGTH] = length
                e[E.E_SUM_CONSTANT] = combine_constant(length)
            return put_icrc_of(b, h[L.H_TX_TEMPLATE], e[E.E_TX_TEMPLATE], o, n, ident, length, c[H.COPY_SUMS + first], e[E.E_SUM_CONSTANT])
    return put_icrc(b, h[L.H_TX_TEMPLATE], e[E.E_TX_TEMPLATE], o, n, ident)


@kernel
def send_packets(e, h, p, b, u, c):
    """Seal and send the burst's packets, equal neighbours to one peer in one segmented send."""
    i = 0
    count = h[L.H_TX_COUNT]
    while i < count:
        t = h[L.H_TX_BASE] + i * L.TX_WORDS
        if not copied(p, h[t + L.T_FIRST], h[t + L.T_END]):
            i += 1
            continue
        q = h[t + L.T_QP]
        known = h[q + L.QP_PEER_HI] == e[E.E_TX_HI] and h[q + L.QP_PEER_LO] == e[E.E_TX_LO] and h[q + L.QP_PEER_PORT] == e[E.E_TX_PORT]
        if not known or e[E.E_TX_TEMPLATE] == 0:
            e[E.E_TX_HI] = h[q + L.QP_PEER_HI]
            e[E.E_TX_LO] = h[q + L.QP_PEER_LO]
            e[E.E_TX_PORT] = h[q + L.QP_PEER_PORT]
            e[E.E_TX_TEMPLATE] = template(e, b, h[L.H_TX_TEMPLATE], e[E.E_LOCAL_HI], e[E.E_LOCAL_LO], e[E.E_TX_HI], e[E.E_TX_LO],
                                          e[E.E_LOCAL_PORT] << 16 | e[E.E_TX_PORT])
        step = h[t + L.T_LENGTH]
        start = h[t + L.T_OFFSET]
        length = 0
        k = 0
        while i < count and length + step <= H.BURST_SEND_MAX and k < H.SEGMENTS_MAX:
            t = h[L.H_TX_BASE] + i * L.TX_WORDS
            n = h[t + L.T_LENGTH]
            if h[t + L.T_QP] != q or n > step or not copied(p, h[t + L.T_FIRST], h[t + L.T_END]):
                break
            seal(e, h, p, b, c, t, k if u[H.U_GSO] else 0)
            length += n
            k += 1
            i += 1
            if n < step:
                break
        send_run(e, h, b, u, start, length, step if k > 1 else 0, k)
    return 0


@kernel
def send_run(e, h, b, u, start, length, step, packets):
    """One run of equal packets onto the wire; what the socket refuses is lost, and the transport repairs it."""
    sent = send(u, b, start, length, step, e[E.E_TX_HI], e[E.E_TX_LO], e[E.E_TX_PORT])
    if sent == length:
        h[L.C_TX_PACKETS] += packets
        h[L.C_TX_BYTES] += length
        return 0
    h[L.C_SEND_ERRORS] += 1
    if sent < 0:
        e[E.E_TX_ERRNO] = -sent
        if sent == -EMSGSIZE:
            e[E.E_MTU_ERRORS] += 1
    return 0


@kernel
def scan_faults(e, h, p, c, m):
    """Look which pages of the listed faults are there; without the lock, then install them under it."""
    files = words_at(e[E.E_FILES], e[E.E_FILES + 1])
    for i in range(e[E.E_SCANS]):
        slot = e[E.E_SCAN_LIST + i]
        found = scan(p[slot + P.FAULT_CURSOR], p[slot + P.FAULT_END], m)
        there = nearby(p, slot, found, m)
        upto = hole_after(p, slot, there, files)
        e[E.E_NEARBY] += (upto - found) // H.PAGE
        lock_for_step(e)
        start = p[slot + P.FAULT_CURSOR]  # anew: both may have moved meanwhile
        end = p[slot + P.FAULT_END]
        token = p[slot + P.FAULT_TOKEN]  # before the step: it may free the slot
        now = monotonic_ns()
        looked(e, p, start, end, upto, p[slot + P.FAULT_WRITE], now)
        if e[E.E_RECORD]:
            how = nobody_waits(p, slot) | (upto - there) // H.PAGE * R.LOOKED_HOLE
            note(e, R.LOOKED, now, start, end, upto, number(p, slot), how)
        if m[H.SCAN_UNTOUCHED] and c[H.COPY_SCAN]:
            note_if_unchanged(p, c, slot, found & H.PAGE_MASK, m[H.SCAN_UNTOUCHED])
        if c[H.COPY_HOLED]:
            cut(c, p, start, there & H.PAGE_MASK)
        if upto > there:
            remember(c, p, files[p[slot + P.FAULT_REGION]], there, upto)
        fault_scanned(p, slot, upto, now)
        wake_fault(h, token, slot)
        unlock(e, E.E_LOCK)
    e[E.E_SCANS] = 0
    return 0


@kernel
def note_if_unchanged(p, c, slot, start, end):
    """Note what a fault's look has found untouched. Not where something was unmapped: it may be something else by now."""
    region = p[slot + P.FAULT_REGION]
    if p[slot + P.FAULT_HIT] == 0 and (region < 0 or is_revoked(p, region, start, end) == 0):
        note_untouched(c, start, end)
    return 0


@kernel
def list_scans(e, p, now):
    """Take fault slots that want a scan. Lock held."""
    if e[E.E_RECORD]:
        note_faults(e, p, now)
    while e[E.E_SCANS] < E.SCANS:
        slot = fault_take(p, P.FAULT_SCAN)
        if slot < 0:
            break
        e[E.E_SCAN_LIST + e[E.E_SCANS]] = slot
        e[E.E_SCANS] += 1
    e[E.E_SCANS_SEEN] = p[P.SCAN_LENGTH]
    return e[E.E_SCANS]


@kernel
def tell(e, h, p):
    """Wake who waits for what the burst did: fault workers, pollers, completion channels."""
    if p[P.RUN_LENGTH] > 0:
        fetch_add(e, E.E_WORK, 1)
        futex_wake(address_of(e) + 8 * E.E_WORK, p[P.RUN_LENGTH])
    if h[L.H_COMPLETIONS] != e[E.E_COMPLETIONS]:
        e[E.E_COMPLETIONS] = h[L.H_COMPLETIONS]
        fetch_add(e, E.E_PROGRESS, 1)
        if e[E.E_WAITING] > 0 or e[E.E_RESTERS] > 0:
            futex_wake(address_of(e) + 8 * E.E_PROGRESS, ALL)
    if h[L.H_EVENTS] > 0:
        tell_descriptors(e, h)
    return 0


@kernel
def burst(e, h, p, b, u, c, m, solver):
    """One round of the device. Returns what moved: datagrams, copies, packets, scans; 0 when it is idle."""
    e[E.E_ROUNDS] += 1
    moved = 0
    if h[L.H_PACKET_NEXT] >= h[L.H_PACKET_COUNT]:
        moved = take_datagrams(e, h, b, u, solver)
    now = monotonic_ns()
    lock_for_step(e)
    moved += h[L.H_ACT_COUNT]
    finish(h, p, now)
    receive(h, p, b, now)
    turns(h, p, b, now)
    timers(h, p, now)
    moved += h[L.H_ACT_COUNT] + h[L.H_TX_COUNT] + list_scans(e, p, now)
    copies = p[P.DMA_COUNT]
    if copies:
        store_release(e, E.E_EXECUTING, 1)
    unlock(e, E.E_LOCK)
    if copies:
        execute(p, b, c)
        if e[E.E_RECORD]:
            note_copies(e, h, p, now)
        took(e, p, c[H.COPY_SPENT], now)
        executed(e)
    if h[L.H_TX_COUNT]:
        send_packets(e, h, p, b, u, c)
    if e[E.E_SCANS]:
        scan_faults(e, h, p, c, m)
    tell(e, h, p)
    return moved
