"""What is posted: operations of every kind, to places in memory that no conflicting operation is using.

Each direction of a connection posts its operations in order, at most as many at a time as its queue takes. Several may write one
place when they are of one direction (RC keeps their order), a write behind a READ of the same place is fenced. Places are filled
with a pattern that names the operation, so a wrong byte says whose it is. Whether the answers are right is `judges`' to say.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import copy_bytes, store8
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.hca.ready import make_ready
from unpinned.swarm import layout as S
from unpinned.swarm.chance import OPS, begin, draw, left_out, pattern
from unpinned.swarm.events import push, trace, wake
from unpinned.swarm.memory import (
    bring_in,
    contents,
    device_at,
    device_words,
    host_at,
    shadow_bytes,
)

RETRY_NS = 3_000
MIX_WRITE = 7
MIX_READ = 8
SENDS = 1 << L.WR_SEND | 1 << L.WR_SEND_WITH_IMM
RECEIVES = SENDS | 1 << L.WR_RDMA_WRITE_WITH_IMM
WRITES = 1 << L.WR_RDMA_WRITE | 1 << L.WR_RDMA_WRITE_WITH_IMM
STORES = SENDS | WRITES
ATOMICS = 1 << L.WR_ATOMIC_CMP_AND_SWP | 1 << L.WR_ATOMIC_FETCH_AND_ADD
LANDS = ATOMICS | 1 << L.WR_RDMA_READ


@kernel
def direction_at(w, d):
    return w[S.W_DIRECTION] + d * S.DIRECTION_WORDS


@kernel
def op_at(w, d, k):
    return w[S.W_OP] + (d * S.OPS + k) * S.OP_WORDS


@kernel
def is_one_of(w, o, kinds):
    return (kinds >> w[o + S.OP_KIND]) & 1


@kernel
def slot_at(w, index):
    return w[S.W_SLOT] + index * S.SLOT_WORDS


# ---- posting ---------------------------------------------------------------------------------------------------------


@kernel
def kind_of(w):
    """A kind of operation, by the schedule's mix."""
    x = draw(w, 16)
    mix = w[S.C_MIX]
    if mix >= MIX_WRITE:
        return L.WR_RDMA_READ if mix == MIX_READ else L.WR_RDMA_WRITE
    if mix == 1:
        return L.WR_RDMA_READ if x < 11 else L.WR_RDMA_WRITE
    if mix == 2:
        return L.WR_RDMA_WRITE if x < 12 else L.WR_RDMA_READ
    if mix == 3:
        return L.WR_ATOMIC_FETCH_AND_ADD if x < 8 else (L.WR_ATOMIC_CMP_AND_SWP if x < 12 else L.WR_RDMA_READ)
    if mix == 4:
        return L.WR_SEND if x < 8 else L.WR_SEND_WITH_IMM
    if x < 5:
        return L.WR_RDMA_READ
    if x < 9:
        return L.WR_RDMA_WRITE
    if x < 13:
        return L.WR_SEND + (x & 1) if x < 12 else L.WR_RDMA_WRITE_WITH_IMM
    return L.WR_ATOMIC_CMP_AND_SWP if x == 13 else L.WR_ATOMIC_FETCH_AND_ADD


@kernel
def free_for(w, d, slot, writes):
    """Whether an operation of direction ``d`` may use a place: 0 no, 1 yes, 2 yes behind a fence."""
    s = slot_at(w, slot)
    if w[s + S.SL_WRITERS] and (w[s + S.SL_DIRECTION] != d or w[s + S.SL_ROLE] == S.ROLE_LOCAL):
        return 0
    if writes and w[s + S.SL_READERS]:
        return 2 if w[s + S.SL_ROLE] == S.ROLE_TARGET else 0
    return 1


@kernel
def choose(w, d, k):
    """Make up operation ``k`` of a direction: 1, or 0 when its places are in use."""
    at = direction_at(w, d)
    o = op_at(w, d, k)
    begin(w, OPS, d * S.OPS + k)
    kind = kind_of(w)
    length = draw(w, w[S.C_LENGTH] + 1)
    if draw(w, 4) == 0:
        length = (length // w[S.C_MTU]) * w[S.C_MTU]
    local = w[at + S.DR_SLOT] + draw(w, S.SLOTS)
    remote = w[at + S.DR_SLOT] + S.SLOTS + draw(w, S.SLOTS)
    room = S.SLOT_BYTES - length
    from_at = draw(w, min(room, 200) + 1)
    to_at = draw(w, min(room, 200) + 1)
    x0 = draw(w, 1000) + 1
    shared = draw(w, 3) == 0
    fenced = draw(w, 12) == 0
    if w[S.C_FIXED]:
        length = w[S.C_LENGTH]
        local = w[at + S.DR_SLOT] + k % (S.SLOTS - 1)
        remote = w[at + S.DR_SLOT] + S.SLOTS
        from_at = 0
        to_at = 0
        fenced = False
    w[o + S.OP_KIND] = kind
    atomic = is_one_of(w, o, ATOMICS)
    stores = is_one_of(w, o, STORES)
    if atomic:
        length = 8
        from_at = (from_at >> 3) << 3
        fence = 1
    else:
        fence = free_for(w, d, remote, stores)
    if free_for(w, d, local, 1 - stores) != 1 or (stores and w[slot_at(w, local) + S.SL_READERS]) or fence == 0:
        return 0
    w[o + S.OP_LENGTH] = length
    w[o + S.OP_LOCAL] = w[slot_at(w, local) + S.SL_VA] + from_at
    w[o + S.OP_LOCAL_SLOT] = local
    w[o + S.OP_REMOTE] = w[slot_at(w, remote) + S.SL_VA] + to_at
    w[o + S.OP_REMOTE_SLOT] = remote
    w[o + S.OP_X0] = x0
    w[o + S.OP_X1] = 0
    if atomic:
        w[o + S.OP_REMOTE] = w[at + S.DR_CELL]
        w[o + S.OP_REMOTE_SLOT] = -1
        if kind == L.WR_ATOMIC_FETCH_AND_ADD and shared:
            w[o + S.OP_REMOTE] = w[host_at(w, w[at + S.DR_TO]) + S.HO_SHARED]
            w[o + S.OP_REMOTE_SLOT] = -2
        elif kind == L.WR_ATOMIC_CMP_AND_SWP:
            w[o + S.OP_X1] = x0
            w[o + S.OP_X0] = 0  # what to compare with: posting knows
    w[o + S.OP_TAG] = d * S.OPS + k + 1
    w[o + S.OP_STATUS] = 1 if fence == 2 or fenced else 0
    return 1


@kernel
def post_next(w, b, d):
    """Post the direction's next operation, or try again a little later."""
    at = direction_at(w, d)
    host = w[at + S.DR_FROM]
    k = w[at + S.DR_NEXT]
    if w[at + S.DR_BROKEN] or k >= w[at + S.DR_COUNT] or w[host_at(w, host) + S.HO_ALIVE] == 0:
        return 0
    h = words_at(device_at(w, host), device_words(w, host))
    q = w[at + S.DR_QP]
    if left_out(w, S.MASK_OPS, d * S.OPS + k):
        w[op_at(w, d, k) + S.OP_STATE] = S.LEFT_OUT
        w[at + S.DR_NEXT] = k + 1
        w[S.W_OPS_LEFT] -= 1
        return push(w, w[S.W_NOW] + 1, S.EV_POST, d, 0)
    if h[q + L.QP_SQ_TAIL] - h[q + L.QP_SQ_HEAD] > h[q + L.QP_SQ_MASK] or choose(w, d, k) == 0:
        return post_later(w, d)
    o = op_at(w, d, k)
    occupy(w, o, 1)
    if (
        is_one_of(w, o, STORES)
        and write_pattern(w, b, host, w[o + S.OP_LOCAL], w[o + S.OP_LENGTH], w[o + S.OP_TAG]) == 0
    ):
        occupy(w, o, -1)
        return post_later(w, d)
    w[at + S.DR_TRIES] = 0
    w[o + S.OP_STATE] = S.POSTED
    w[o + S.OP_SINCE] = w[S.W_NOW]
    w[at + S.DR_NEXT] = k + 1
    if is_one_of(w, o, RECEIVES):
        w[at + S.DR_RECV_DUE] += 1
        push(w, w[S.W_NOW] + (draw(w, 30_000) if draw(w, 4) == 0 else 0), S.EV_RECEIVE, d, 0)
    fill_request(w, h, q, o, d, k)
    trace(w, S.EV_POST, host, d, k, w[o + S.OP_KIND], w[o + S.OP_LENGTH])
    make_ready(h, q)
    wake(w, host, w[S.W_NOW] + w[S.C_ROUND_NS])
    think = w[S.C_THINK_NS]
    return push(w, w[S.W_NOW] + (draw(w, think) if draw(w, 3) else 0), S.EV_POST, d, 0)


@kernel
def post_later(w, d):
    """Not now: again soon, then less and less soon."""
    tries = direction_at(w, d) + S.DR_TRIES
    w[tries] += 1
    return push(w, w[S.W_NOW] + (RETRY_NS << min(w[tries], 7)), S.EV_POST, d, 0)


@kernel
def occupy(w, o, step):
    """Enter an operation in its places, or take it out."""
    stores = is_one_of(w, o, STORES)
    local = slot_at(w, w[o + S.OP_LOCAL_SLOT])
    w[local + (S.SL_READERS if stores else S.SL_WRITERS)] += step
    if w[o + S.OP_REMOTE_SLOT] >= 0:
        remote = slot_at(w, w[o + S.OP_REMOTE_SLOT])
        w[remote + (S.SL_WRITERS if stores else S.SL_READERS)] += step
    return 0


@kernel
def fill_request(w, h, q, o, d, k):
    """Write the work request into the send queue; its gather list has one or two pieces."""
    kind = w[o + S.OP_KIND]
    host = host_at(w, w[direction_at(w, d) + S.DR_FROM])
    pinned = (w[o + S.OP_LOCAL_SLOT] - w[direction_at(w, d) + S.DR_SLOT]) == S.SLOTS - 1
    key = w[host + (S.HO_KEY_PINNED if pinned else S.HO_KEY)]
    x = h[q + L.QP_SQ_RING] + (h[q + L.QP_SQ_TAIL] & h[q + L.QP_SQ_MASK]) * h[q + L.QP_SQ_STRIDE]
    length = w[o + S.OP_LENGTH]
    h[x + L.W_ID] = d * S.OPS + k
    h[x + L.W_OPCODE] = kind
    h[x + L.W_FLAGS] = L.SEND_SIGNALED | (L.SEND_FENCE if w[o + S.OP_STATUS] else 0)
    h[x + L.W_LENGTH] = length
    h[x + L.W_RVA] = w[o + S.OP_REMOTE]
    h[x + L.W_RKEY] = w[host_at(w, w[direction_at(w, d) + S.DR_TO]) + S.HO_KEY]
    h[x + L.W_IMM] = w[o + S.OP_TAG]
    compare = w[o + S.OP_X0]
    if kind == L.WR_ATOMIC_CMP_AND_SWP:  # against what the ones before it will leave behind, mostly
        compare = last_swapped(w, d, k) + (1 if w[o + S.OP_X1] % 5 == 0 else 0)
        w[o + S.OP_X0] = compare
    h[x + L.W_COMPARE] = compare
    h[x + L.W_SWAP] = w[o + S.OP_X1]
    h[x + L.W_FIRST] = 0
    h[x + L.W_PACKETS] = 0
    cut = 0
    if is_one_of(w, o, ATOMICS) == 0 and length > 1 and draw(w, 3) == 0:
        cut = draw(w, length)
    pieces = 0
    start = 0
    for end in (cut, length):
        if end > start:
            s = x + L.W_SGE + pieces * L.SGE_WORDS
            h[s] = w[o + S.OP_LOCAL] + start
            h[s + 1] = end - start
            h[s + 2] = key
            pieces += 1
            start = end
    h[x + L.W_NSGE] = pieces
    w[o + S.OP_STATUS] = 0
    h[q + L.QP_SQ_TAIL] += 1
    return 0


@kernel
def last_swapped(w, d, k):
    """What the direction's own cell will hold when operation ``k`` reaches it."""
    value = 0
    for j in range(k):
        o = op_at(w, d, j)
        if w[o + S.OP_STATE] != S.LEFT_OUT and w[o + S.OP_REMOTE_SLOT] == -1:
            value = after_atomic(w, o, value)
    return value


@kernel
def after_atomic(w, o, value):
    if w[o + S.OP_KIND] == L.WR_ATOMIC_FETCH_AND_ADD:
        return value + w[o + S.OP_X0]
    return w[o + S.OP_X1] if value == w[o + S.OP_X0] else value


@kernel
def write_pattern(w, b, host, va, length, tag):
    """The CPU writes a message into memory: 1, or 0 when a page cannot be touched now."""
    if length == 0:
        return 1
    for page in range(va >> S.PAGE_SHIFT, ((va + length - 1) >> S.PAGE_SHIFT) + 1):
        if bring_in(w, b, host, page, 1):
            return 0
    shadow = shadow_bytes(w, b, host, va)
    for i in range(length):
        store8(shadow + i, pattern(tag, i))
    return settle(w, b, host, va, length)


@kernel
def settle(w, b, host, va, length):
    """Copy the shadow's bytes into present memory."""
    end = va + length
    while va < end:
        page = va >> S.PAGE_SHIFT
        n = min(end, (page + 1) << S.PAGE_SHIFT) - va
        copy_bytes(contents(w, b, host, page) + (va & (S.PAGE - 1)), shadow_bytes(w, b, host, va), n)
        va += n
    return 1


@kernel
def post_receives(w, b, d):
    """Post the receives that are due, in the order of the SENDs they are for."""
    at = direction_at(w, d)
    host = w[at + S.DR_TO]
    h = words_at(device_at(w, host), device_words(w, host))
    r = w[at + S.DR_PEER]
    while w[at + S.DR_RECV_DUE] > 0 and h[r + L.QP_STATE] != L.QPS_ERR:
        k = w[at + S.DR_RECV_NEXT]
        o = op_at(w, d, k)
        if k >= w[at + S.DR_NEXT]:
            return 0
        if w[o + S.OP_STATE] != S.LEFT_OUT and is_one_of(w, o, RECEIVES):
            if h[r + L.QP_RQ_TAIL] - h[r + L.QP_RQ_HEAD] > h[r + L.QP_RQ_MASK]:
                return push(w, w[S.W_NOW] + RETRY_NS, S.EV_RECEIVE, d, 0)
            x = h[r + L.QP_RQ_RING] + (h[r + L.QP_RQ_TAIL] & h[r + L.QP_RQ_MASK]) * h[r + L.QP_RQ_STRIDE]
            length = w[o + S.OP_LENGTH] if is_one_of(w, o, SENDS) else 0
            h[x + L.R_ID] = d * S.OPS + k
            h[x + L.R_LENGTH] = length
            h[x + L.R_NSGE] = 1 if length else 0
            h[x + L.R_SGE] = w[o + S.OP_REMOTE]
            h[x + L.R_SGE + 1] = length
            h[x + L.R_SGE + 2] = w[host_at(w, host) + S.HO_KEY]
            h[r + L.QP_RQ_TAIL] += 1
            w[at + S.DR_RECV_DUE] -= 1
        w[at + S.DR_RECV_NEXT] = k + 1
    return 0
