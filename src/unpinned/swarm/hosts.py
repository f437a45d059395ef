"""A host's driver, as `host.burst` is one: a round of the device's steps, then its copies, then its packets.

A round is one event: under the lock nothing comes between. The copies are events of their own, a few at a time, and whatever
else happens happens between them. The next round begins by finishing what the last one described.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.views import bytes_at, words_at
from unpinned.hca import layout as L
from unpinned.hca.device import copied, finish, next_turn, receive, timers, turns
from unpinned.paging import layout as P
from unpinned.swarm import layout as S
from unpinned.swarm.adapter import adapt_packet, adapt_receive
from unpinned.swarm.chance import TIMING, begin, draw
from unpinned.swarm.events import fail, push, trace, wake
from unpinned.swarm.judges import completions, executed
from unpinned.swarm.memory import capture, device_at, device_words, execute, host_at, paging_at, paging_words
from unpinned.swarm.network import ICRC, take_in, transmit
from unpinned.swarm.pagers import hire, list_scans


@kernel
def step_round(w, b, host):
    """One round of the device."""
    at = host_at(w, host)
    if w[at + S.HO_ROUND_AT] != w[S.W_NOW]:
        return 0  # it was brought forward
    w[at + S.HO_ROUND_AT] = 0
    if w[at + S.HO_ALIVE] == 0 or w[at + S.HO_PHASE]:
        return 0
    h = words_at(device_at(w, host), device_words(w, host))
    p = words_at(paging_at(w, host), paging_words(w, host))
    a = bytes_at(address_of(b) + w[at + S.HO_B], w[at + S.HO_B_BYTES])
    now = w[S.W_NOW]
    if h[L.H_PACKET_NEXT] >= h[L.H_PACKET_COUNT]:
        take_in(w, a, host)
    finish(h, p, now)
    completions(w, b, h, host)
    receive(h, p, a, now)
    if w[S.C_PROFILE] == S.PROFILE_ADAPTER:
        adapt_receive(w, h, host)
    turns(h, p, a, now)
    run_timers(w, h, p, host)
    completions(w, b, h, host)
    list_scans(w, p, host)
    hire(w, host)
    capture(w, p, host)
    begin(w, TIMING, w[S.W_EVENTS])
    if p[P.DMA_COUNT] or h[L.H_TX_COUNT] or h[L.H_ACT_COUNT]:
        w[at + S.HO_PHASE] = 1
        return push(w, now + 50 + draw(w, w[S.C_COPY_NS]), S.EV_COPY, host, 0)
    return rest(w, h, p, host)


@kernel
def rest(w, h, p, host):
    """When the next round is, if nothing comes from outside."""
    at = host_at(w, host)
    when = next_turn(h, w[S.W_NOW])
    if when == 0 or p[P.SCAN_LENGTH] > 0 or w[at + S.HO_INBOX_HEAD] < w[at + S.HO_INBOX_TAIL]:
        return wake(w, host, w[S.W_NOW] + w[S.C_ROUND_NS])
    if when < S.NEVER:
        return wake(w, host, when)
    return 0


@kernel
def step_copy(w, b, host):
    """Some of the batch's copies, perhaps all; after the last one the packets leave."""
    at = host_at(w, host)
    if w[at + S.HO_ALIVE] == 0:
        return 0
    h = words_at(device_at(w, host), device_words(w, host))
    p = words_at(paging_at(w, host), paging_words(w, host))
    begin(w, TIMING, w[S.W_EVENTS])
    upto = p[P.DMA_COUNT]
    if upto - w[at + S.HO_COPIED] > 1 and draw(w, 2):
        upto = w[at + S.HO_COPIED] + 1 + draw(w, upto - w[at + S.HO_COPIED] - 1)
    while w[at + S.HO_COPIED] < upto:
        i = w[at + S.HO_COPIED]
        w[at + S.HO_COPIED] = i + 1
        if p[p[P.DMA] + i * P.DMA_WORDS + P.DMA_STATE] == P.DMA_ISSUED and execute(w, b, p, host, i):
            executed(w, b, p, host, i)
    if upto < p[P.DMA_COUNT]:
        return push(w, w[S.W_NOW] + 50 + draw(w, w[S.C_COPY_NS]), S.EV_COPY, host, 0)
    send_burst(w, b, h, p, host)
    w[at + S.HO_PHASE] = 0
    return wake(w, host, w[S.W_NOW] + w[S.C_ROUND_NS])


@kernel
def send_burst(w, b, h, p, host):
    """Put the packets on the wire whose copies succeeded."""
    at = host_at(w, host)
    a = bytes_at(address_of(b) + w[at + S.HO_B], w[at + S.HO_B_BYTES])
    for i in range(h[L.H_TX_COUNT]):
        t = h[L.H_TX_BASE] + i * L.TX_WORDS
        if copied(p, h[t + L.T_FIRST], h[t + L.T_END]):
            q = h[t + L.T_QP]
            h[L.C_TX_PACKETS] += 1
            length = h[t + L.T_LENGTH] - ICRC
            if w[S.C_PROFILE] == S.PROFILE_OURS or adapt_packet(w, h, a, h[t + L.T_OFFSET], host, q):
                transmit(w, a, host, h[q + L.QP_PEER_LO] - 1, h[t + L.T_OFFSET], length)
    return 0


# ---- timers (I9) -----------------------------------------------------------------------------------------------------


@kernel
def run_timers(w, h, p, host):
    """The device's deadlines; each transport timeout needs a loss, a dead peer, or what C_STRICT excuses."""
    if w[S.W_NOW] < h[L.H_NEXT_TIMER]:
        return 0
    for d in range(w[S.W_DIRECTIONS]):
        at = w[S.W_DIRECTION] + d * S.DIRECTION_WORDS
        if w[at + S.DR_FROM] == host:
            w[at + S.DR_DUE] = what_is_due(w, h, at)
    before = h[L.C_TIMEOUTS]
    timers(h, p, w[S.W_NOW])
    found = 0
    for d in range(w[S.W_DIRECTIONS]):
        at = w[S.W_DIRECTION] + d * S.DIRECTION_WORDS
        if w[at + S.DR_FROM] == host and w[at + S.DR_DUE] and h[w[at + S.DR_QP] + L.QP_DEADLINE] == 0:
            found += 1
            judge_timeout(w, h, host, d)
    if found != h[L.C_TIMEOUTS] - before:
        fail(w, S.VIOLATION_I9, host, -1, found)
    return 0


@kernel
def what_is_due(w, h, at):
    """0 unless the timer of the direction's queue pair is due; else one of S.DUE_*, as things stand before it runs."""
    q = w[at + S.DR_QP]
    now = w[S.W_NOW]
    if h[q + L.QP_DEADLINE] == 0 or now < h[q + L.QP_DEADLINE] or h[q + L.QP_STATE] != L.QPS_RTS:
        return 0
    if w[host_at(w, w[at + S.DR_TO]) + S.HO_ALIVE] == 0 or serves(w, at) == 0:
        return S.DUE_UNHEARD
    return S.DUE_HELD if held_back(w, h, q, at) else S.DUE_FREE


@kernel
def judge_timeout(w, h, host, d):
    """A timer that was due became a timeout: of this queue pair, whatever becomes of its neighbours."""
    at = w[S.W_DIRECTION] + d * S.DIRECTION_WORDS
    due = w[at + S.DR_DUE]
    w[S.W_TIMEOUTS] += 1
    w[at + S.DR_DAMMED] = 0
    trace(w, S.EV_POST, host, d, -1, 1, 0)
    if due == S.DUE_UNHEARD or w[S.C_PROFILE] != S.PROFILE_OURS:
        return 0
    # Nothing was lost, or overtaken behind a NAK (and then dropped in silence): a timeout would be the fault of a fault.
    if due == S.DUE_HELD or w[S.W_HARMED] == 0:
        fail(w, S.VIOLATION_I9, host, d, h[w[at + S.DR_QP] + L.QP_UNA] if due == S.DUE_HELD else -1)
    return 0


@kernel
def serves(w, at):
    """Whether the direction's peer still answers at all: its queue pair has not ended."""
    o = words_at(device_at(w, w[at + S.DR_TO]), device_words(w, w[at + S.DR_TO]))
    return o[w[at + S.DR_PEER] + L.QP_STATE] == L.QPS_RTS


@kernel
def held_back(w, h, q, at):
    """Whether the oldest request of the QP is parked at its peer, or waits for its RNR timer."""
    if h[q + L.QP_RNR_UNTIL] > w[S.W_NOW]:
        return 1
    o = words_at(device_at(w, w[at + S.DR_TO]), device_words(w, w[at + S.DR_TO]))
    r = w[at + S.DR_PEER]
    if o[r + L.QP_PARK_UNTIL] == 0 or (o[r + L.QP_PARK_FAULT] <= 0 and o[r + L.QP_STARVED] == 0):
        return 0
    if o[r + L.QP_BUSY] == L.BUSY_READ:
        return 1 if o[r + L.QP_READ_PSN] <= h[q + L.QP_UNA] < o[r + L.QP_READ_END] else 0
    return 1 if o[r + L.QP_EPSN] == h[q + L.QP_UNA] else 0
