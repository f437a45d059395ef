"""The wire: every packet takes its time, keeps its flow's order, and now and then meets a fate of its own.

A flow is a pair of hosts. Without a fate its packets arrive in order, as on one path; a *late* one is overtaken, a *repeated*
one comes twice, a *lost* one never. At most C_TOUCH_LIMIT packets of a schedule have a fate, so that with few of them nothing
may fail: seven retries are more than that. Fates are numbered, so that each can be left out.

Sources: the InfiniBand Architecture's RoCEv2 annex (a queue pair's packets share a flow, so that a network may keep their order;
UDP promises neither order nor delivery, nor that a packet comes once); what the transport then owes is hca's rules.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of, copy_bytes
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.swarm import layout as S
from unpinned.swarm.chance import PACKETS, begin, draw, left_out
from unpinned.swarm.events import fail, push, trace, wake
from unpinned.swarm.memory import device_at, device_words, host_at
from unpinned.wire import headers as W
from unpinned.wire.bytes import be24, get8

ICRC = 4
DELIVERED = 0
LOST = 1
REPEATED = 2
LATE = 3


@kernel
def fate(w):
    """What becomes of the next packet."""
    begin(w, PACKETS, w[S.W_PACKETS])
    w[S.W_PACKETS] += 1
    x = draw(w, 65536)
    what = DELIVERED
    if x < w[S.C_LOSS]:
        what = LOST
    elif x < w[S.C_LOSS] + w[S.C_REPEAT]:
        what = REPEATED
    elif x < w[S.C_LOSS] + w[S.C_REPEAT] + w[S.C_LATE]:
        what = LATE
    if what == DELIVERED or w[S.W_TOUCHED] >= w[S.C_TOUCH_LIMIT]:
        return DELIVERED
    index = w[S.W_TOUCHED]
    w[S.W_TOUCHED] += 1
    return DELIVERED if left_out(w, S.MASK_TOUCHES, index) else what


@kernel
def transmit(w, a, source, target, offset, length):
    """Put ``length`` bytes (without the ICRC) at arena ``a``'s ``offset`` on the wire."""
    what = fate(w)
    detail = get8(a, offset) | (be24(a, offset + W.BTH_PSN) << 8)
    trace(w, S.EV_PACKET, source, target, what, detail, be24(a, offset + W.BTH_DQPN))
    if what == LOST or what == LATE:
        w[S.W_HARMED] += 1
    if what == LOST:
        w[S.W_LOST] += 1
        return 0
    flow = w[S.W_FLOWS] + source * w[S.W_HOSTS] + target
    when = w[S.W_NOW] + w[S.C_DELAY_NS] + draw(w, max(1, w[S.C_JITTER_NS]))
    if what == LATE:
        return carry(w, a, source, target, offset, length, when + w[S.C_DELAY_NS] + draw(w, 8 * w[S.C_DELAY_NS]))
    when = max(when, w[flow] + 20)
    w[flow] = when
    carry(w, a, source, target, offset, length, when)
    if what == REPEATED:
        carry(w, a, source, target, offset, length, when + draw(w, 8 * w[S.C_DELAY_NS]))
    return 0


@kernel
def carry(w, a, source, target, offset, length, when):
    """Keep a copy of the packet until it arrives."""
    slot = w[S.W_NET_FREE]
    if slot < 0 or length > S.PACKET:
        return fail(w, S.VIOLATION_WORLD, source, 3, length)
    n = w[S.W_NET] + slot * S.NET_WORDS
    w[S.W_NET_FREE] = w[n + S.NT_NEXT]
    w[n + S.NT_LENGTH] = length
    w[n + S.NT_FROM] = source
    copy_bytes(w[S.W_NET_BYTES] + slot * S.PACKET, address_of(a) + offset, length)
    return push(w, when, S.EV_PACKET, target, slot)


@kernel
def release(w, slot):
    w[w[S.W_NET] + slot * S.NET_WORDS + S.NT_NEXT] = w[S.W_NET_FREE]
    w[S.W_NET_FREE] = slot
    return 0


@kernel
def arrive(w, host, slot):
    """A packet is in the host's socket buffer."""
    at = host_at(w, host)
    if w[at + S.HO_ALIVE] == 0:
        return release(w, slot)
    tail = w[at + S.HO_INBOX_TAIL]
    if tail - w[at + S.HO_INBOX_HEAD] > w[at + S.HO_INBOX_MASK]:
        return fail(w, S.VIOLATION_WORLD, host, 4, tail)
    w[w[at + S.HO_INBOX] + (tail & w[at + S.HO_INBOX_MASK])] = slot
    w[at + S.HO_INBOX_TAIL] = tail + 1
    return wake(w, host, w[S.W_NOW] + w[S.C_ROUND_NS])


@kernel
def take_in(w, a, host):
    """Fill the device's receive burst from the socket buffer."""
    at = host_at(w, host)
    h = words_at(device_at(w, host), device_words(w, host))
    h[L.H_PACKET_NEXT] = 0
    h[L.H_PACKET_COUNT] = 0
    offset = h[L.H_RX_ARENA]
    while h[L.H_PACKET_COUNT] < h[L.H_PACKET_DEPTH] and w[at + S.HO_INBOX_HEAD] < w[at + S.HO_INBOX_TAIL]:
        slot = w[w[at + S.HO_INBOX] + (w[at + S.HO_INBOX_HEAD] & w[at + S.HO_INBOX_MASK])]
        w[at + S.HO_INBOX_HEAD] += 1
        n = w[S.W_NET] + slot * S.NET_WORDS
        length = w[n + S.NT_LENGTH]
        copy_bytes(address_of(a) + offset, w[S.W_NET_BYTES] + slot * S.PACKET, length)
        k = h[L.H_PACKET_BASE] + h[L.H_PACKET_COUNT] * L.PACKET_WORDS
        h[k + L.K_OFFSET] = offset
        h[k + L.K_LENGTH] = length
        h[k + L.K_SRC_HI] = 0
        h[k + L.K_SRC_LO] = w[n + S.NT_FROM] + 1
        h[k + L.K_PORT] = 4791
        h[L.H_PACKET_COUNT] += 1
        release(w, slot)
        offset += S.PACKET
    return h[L.H_PACKET_COUNT]
