"""What a seed decides before the first step: rates, times, limits, depths.

Small buffers and short queues are drawn as often as roomy ones: what happens when something is full is where mistakes live.
What the caller wants otherwise is in ``c``: a word for each of W_CONFIG .. HEADER_WORDS, NEVER where the seed decides.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.paging import layout as P
from unpinned.swarm import layout as S
from unpinned.swarm.chance import CONFIG, DEATH, STORES, begin, between, draw, left_out
from unpinned.swarm.events import push
from unpinned.swarm.memory import device_at, device_words, host_at, paging_at, paging_words
from unpinned.swarm.settings import PARK_PART
from unpinned.swarm.workload import MIX_READ, direction_at, slot_at, write_pattern


@kernel
def configure(w, b, c):
    """Draw the schedule's settings and write them where they belong."""
    begin(w, CONFIG, 0)
    w[S.C_MTU] = 256 << draw(w, 3)
    w[S.C_TIMEOUT] = between(w, 8, 12)  # 1 to 17 ms
    part = PARK_PART + draw(w, 2) * draw(w, 60)
    weather = draw(w, 4)  # calm, a few mishaps, a few mishaps, a storm
    w[S.C_LOSS] = 0 if weather == 0 else draw(w, 2600) if weather < 3 else draw(w, 9000)
    w[S.C_REPEAT] = 0 if weather == 0 else draw(w, 1300)
    w[S.C_LATE] = 0 if weather == 0 else draw(w, 2600)
    w[S.C_TOUCH_LIMIT] = between(w, 1, 6) if weather < 3 else S.MASK_BITS
    w[S.C_STRICT] = 1 if weather < 3 else 0
    w[S.C_DELAY_NS] = between(w, 300, 12_000)
    w[S.C_JITTER_NS] = draw(w, 3_000)
    w[S.C_ROUND_NS] = between(w, 100, 2_000)
    w[S.C_COPY_NS] = between(w, 100, 4_000)
    w[S.C_MINOR_NS] = between(w, 1_000, 12_000)
    w[S.C_MAJOR_NS] = between(w, 20_000, 300_000)
    w[S.C_SLOW] = draw(w, 3) * draw(w, 50)
    w[S.C_SLOW_NS] = between(w, 100_000, 40_000_000)
    w[S.C_FLUSH_NS] = between(w, 1_000, 20_000) if draw(w, 4) else between(w, 20_000, 3_000_000)
    w[S.C_POLICY] = draw(w, w[S.W_POLICY_COUNT])
    w[S.C_OPS] = between(w, 3, 14)
    w[S.C_MIX] = draw(w, 7)
    w[S.C_GAP] = 0 if draw(w, 6) == 0 else between(w, 4, 60)
    w[S.C_STORE_GAP] = 0 if draw(w, 3) == 0 else between(w, 10, 80)
    w[S.C_UNMAPS] = 1 if draw(w, 8) == 0 else 0
    w[S.C_BY_SCAN] = 1 if draw(w, 4) == 0 else 0
    w[S.C_WORKERS] = between(w, 1, 4)
    w[S.C_PROFILE] = S.PROFILE_OURS
    w[S.C_RNR_TIMER] = 0
    w[S.C_REREAD_NS] = 0
    w[S.C_THINK_NS] = between(w, 100, 20_000)
    w[S.C_LENGTH] = between(w, 64, 2_800)
    w[S.C_RETRY] = 7
    w[S.C_RNR_RETRY] = 7
    w[S.C_SERIAL] = 0
    w[S.C_FIXED] = 0
    for i in range(S.W_CONFIG, S.HEADER_WORDS):
        if c[i - S.W_CONFIG] != S.NEVER:
            w[i] = c[i - S.W_CONFIG]
    if c[S.C_PARK_NS - S.W_CONFIG] == S.NEVER:  # of the timeout there is, whoever decided it
        w[S.C_PARK_NS] = (4096 << w[S.C_TIMEOUT]) // part
    for host in range(w[S.W_HOSTS]):
        set_host(w, host)
    psn = draw(w, 1 << 24) if draw(w, 2) else (1 << 24) - 1 - draw(w, 40)
    for d in range(w[S.W_DIRECTIONS]):
        set_queue_pair(w, d, psn)
    start(w, b)
    return 0


@kernel
def set_host(w, host):
    """Depths and limits of one host's blocks."""
    h = words_at(device_at(w, host), device_words(w, host))
    p = words_at(paging_at(w, host), paging_words(w, host))
    h[L.H_FAULT_NS] = w[S.C_MINOR_NS]
    if w[S.C_FIXED]:
        return 0  # as it was made: roomy
    h[L.H_WINDOW] = between(w, 2_000, 60_000)
    h[L.H_SPARE] = h[L.H_WINDOW] // 2
    h[L.H_READ_CHUNK] = between(w, 300, 8_000)
    h[L.H_TX_BURST] = between(w, 1, 16)
    h[L.H_TX_DEPTH] = between(w, 2, h[L.H_TX_DEPTH])
    h[L.H_PACKET_DEPTH] = between(w, 1, h[L.H_PACKET_DEPTH])
    h[L.H_ACT_DEPTH] = between(w, 6, h[L.H_ACT_DEPTH])
    h[L.H_POOL_LIMIT] = between(w, 2, h[L.H_POOL_LIMIT])
    p[P.DMA_CAPACITY] = between(w, L.SGE_MAX + 2, p[P.DMA_CAPACITY])
    p[P.FAULT_CAPACITY] = between(w, 1, p[P.FAULT_CAPACITY])
    p[P.RETRIES_MAX] = between(w, 1, 16)
    p[P.TLB] = draw(w, 2)
    p[P.TRACK] = (P.ACCESSED | P.DIRTY) * draw(w, 2) | P.CACHED * p[P.TLB]
    p[P.READ_AHEAD_BYTES] = 0 if draw(w, 2) else 8 * S.PAGE
    p[P.CHUNK_BYTES] = S.PAGE << draw(w, 3)
    if draw(w, 4) == 0:  # a small table, with room for what is under way at once: two nodes a fault
        nodes = 2 + min(2 * p[P.FAULT_CAPACITY], w[S.W_DIRECTIONS])
        p[P.NODE_COUNT] = between(w, min(max(6, nodes), p[P.NODE_COUNT]), p[P.NODE_COUNT])
        p[P.NODE_FREE] = 1
    p[p[P.REGIONS] + P.REGION_FLAGS] = P.REGION_WRITE_BY_SCAN * w[S.C_BY_SCAN]
    row = w[S.W_POLICIES] + w[S.C_POLICY] * P.CAUSES * P.POLICY_WORDS
    for i in range(P.CAUSES * P.POLICY_WORDS):
        p[P.POLICY + i] = w[row + i]
    return 0


@kernel
def set_queue_pair(w, d, psn):
    """The requester's side of a direction, and the responder's at its peer."""
    at = direction_at(w, d)
    h = words_at(device_at(w, w[at + S.DR_FROM]), device_words(w, w[at + S.DR_FROM]))
    o = words_at(device_at(w, w[at + S.DR_TO]), device_words(w, w[at + S.DR_TO]))
    q = w[at + S.DR_QP]
    r = w[at + S.DR_PEER]
    first = (psn + d * 977) & L.PSN_MASK
    for word in (L.QP_SEND_PSN, L.QP_UNA, L.QP_DONE, L.QP_MAX_PSN):
        h[q + word] = first
    h[q + L.QP_ASKED] = first - 1
    o[r + L.QP_EPSN] = first
    h[q + L.QP_MTU] = w[S.C_MTU]
    h[q + L.QP_TIMEOUT_NS] = 4096 << w[S.C_TIMEOUT]
    h[q + L.QP_RETRY_MAX] = w[S.C_RETRY]
    h[q + L.QP_RETRIES] = w[S.C_RETRY]
    h[q + L.QP_RNR_MAX] = w[S.C_RNR_RETRY]
    h[q + L.QP_RNR_RETRIES] = w[S.C_RNR_RETRY]
    o[r + L.QP_PARK_NS] = w[S.C_PARK_NS]
    o[r + L.QP_MIN_RNR] = 1 + draw(w, 14)
    reads = L.READ_RING if w[S.C_FIXED] else between(w, 1, L.READ_RING)
    h[q + L.QP_RD_MAX] = reads
    o[r + L.QP_DEST_RD_MAX] = between(w, reads, L.READ_RING)
    window = h[L.H_WINDOW] // w[S.C_MTU]
    if w[S.C_FIXED] or draw(w, 4):  # else a peer that knows nothing of what we have room for
        window = min(window, o[L.H_POOL_LIMIT])
    window = max(1, window)
    h[q + L.QP_CWND] = window
    h[q + L.QP_CWND_MAX] = window
    count = w[S.C_OPS]
    if d & 1:
        count = 0 if w[S.C_FIXED] else draw(w, count + 1)
    w[at + S.DR_COUNT] = min(S.OPS, count)
    w[S.W_OPS_LEFT] += w[at + S.DR_COUNT]
    return 0


@kernel
def start(w, b):
    """First contents of memory, first events."""
    begin(w, CONFIG, 1)
    for i in range(w[S.W_DIRECTIONS] * 2 * S.SLOTS):
        s = slot_at(w, i)
        if w[S.C_FIXED] == 0 and draw(w, 2):
            write_pattern(w, b, w[s + S.SL_HOST], w[s + S.SL_VA], S.SLOT_BYTES // (1 + draw(w, 3)), 1000 + i)
        if w[S.C_FIXED] and w[s + S.SL_ROLE] == S.ROLE_TARGET and w[S.C_MIX] == MIX_READ:
            write_pattern(w, b, w[s + S.SL_HOST], w[s + S.SL_VA], S.SLOT_BYTES, 1000 + i)
    for d in range(w[S.W_DIRECTIONS]):
        push(w, 1_000 + (0 if w[S.C_FIXED] else draw(w, 5_000)), S.EV_POST, d, 0)
    w[S.W_NEXT_NOTICE] = 1 + draw(w, w[S.C_GAP]) if w[S.C_GAP] else S.NEVER
    w[S.W_NEXT_STORE] = 1 + draw(w, w[S.C_STORE_GAP]) if w[S.C_STORE_GAP] else S.NEVER
    begin(w, DEATH, 0)
    w[S.W_DEATH] = S.NEVER
    if draw(w, 16) == 0 and left_out(w, S.MASK_DEATH, 0) == 0 and w[S.C_FIXED] == 0:
        w[S.W_DEATH] = 50 + draw(w, 600)
    return 0


@kernel
def store_something(w, b):
    """The CPU of some host writes a place that nobody uses just now."""
    k = w[S.W_STORES]
    w[S.W_STORES] = k + 1
    begin(w, STORES, k)
    w[S.W_NEXT_STORE] = w[S.W_EVENTS] + between(w, 1, 2 * w[S.C_STORE_GAP])
    s = slot_at(w, draw(w, w[S.W_DIRECTIONS] * 2 * S.SLOTS))
    at = draw(w, S.SLOT_BYTES - 8)
    length = 1 + draw(w, S.SLOT_BYTES - at)
    idle = w[s + S.SL_WRITERS] + w[s + S.SL_READERS] + w[s + S.SL_UNKNOWN] == 0
    if not idle or left_out(w, S.MASK_STORES, k) or w[host_at(w, w[s + S.SL_HOST]) + S.HO_ALIVE] == 0:
        return 0
    return write_pattern(w, b, w[s + S.SL_HOST], w[s + S.SL_VA] + at, length, 2000 + k)
