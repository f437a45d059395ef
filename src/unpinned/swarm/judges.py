"""Whether what comes of the workload is right.

At every copy (``executed``): bytes of SENDs and WRITEs reach the target once, in ascending order, in the order of posting (I5,
I7); answers land the same way; atomics are executed once, in order. At completions: their order, their status, that what is
acknowledged is in memory (I4), and the data. What memory must hold is kept beside it, byte by byte (the *shadow*): it changes
when a copy is made, when the CPU writes, and when contents are thrown away.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import copy_bytes, store8, store64
from unpinned.hca import layout as L
from unpinned.paging import layout as P
from unpinned.swarm import layout as S
from unpinned.swarm.chance import pattern
from unpinned.swarm.events import fail, trace
from unpinned.swarm.memory import (
    contents,
    differs,
    host_at,
    lost_since,
    page_at,
    shadow_bytes,
)
from unpinned.swarm.workload import (
    ATOMICS,
    LANDS,
    RECEIVES,
    SENDS,
    STORES,
    after_atomic,
    direction_at,
    is_one_of,
    occupy,
    op_at,
    slot_at,
)

# ---- copies ----------------------------------------------------------------------------------------------------------


@kernel
def executed(w, b, p, host, i):
    """A copy was made: was it its turn?"""
    x = p[P.DMA] + i * P.DMA_WORDS
    op = p[x + P.DMA_OP]
    if op == P.OP_READ:
        return 0
    va = p[x + P.DMA_VA]
    index = w[page_at(w, host, va >> S.PAGE_SHIFT) + S.PG_SLOT] - 1
    if index < 0 or op != P.OP_WRITE:
        return executed_atomic(w, p, host, x, va)
    s = slot_at(w, index)
    d = w[s + S.SL_DIRECTION]
    at = direction_at(w, d)
    if w[at + S.DR_BROKEN]:
        return 0
    landing = w[s + S.SL_ROLE] == S.ROLE_LOCAL
    pointer = at + (S.DR_LANDED if landing else S.DR_EXECUTED)
    kinds = LANDS if landing else STORES
    done = S.OP_LANDED if landing else S.OP_EXECUTED
    while w[pointer] < w[at + S.DR_NEXT]:
        o = op_at(w, d, w[pointer])
        if w[o + S.OP_STATE] != S.LEFT_OUT and is_one_of(w, o, kinds) and w[o + done] < w[o + S.OP_LENGTH]:
            base = w[o + S.OP_LOCAL] if landing else w[o + S.OP_REMOTE]
            if va != base + w[o + done] or w[o + done] + p[x + P.DMA_LENGTH] > w[o + S.OP_LENGTH]:
                return fail(w, S.VIOLATION_I5 if va > base else S.VIOLATION_I7, host, w[o + S.OP_TAG], va - base)
            if not landing:
                expect(w, b, host, o, p[x + P.DMA_LENGTH])
            elif w[o + S.OP_KIND] == L.WR_RDMA_READ:  # now: a write behind a fence may follow at once
                source = shadow_bytes(w, b, w[at + S.DR_TO], w[o + S.OP_REMOTE] + w[o + done])
                copy_bytes(shadow_bytes(w, b, host, va), source, p[x + P.DMA_LENGTH])
            w[o + done] += p[x + P.DMA_LENGTH]
            return 0
        w[pointer] += 1
    return fail(w, S.VIOLATION_I7, host, -1, va)


@kernel
def expect(w, b, host, o, length):
    """The next ``length`` bytes of a SEND or WRITE are at the target: what memory must hold from now on."""
    at = w[o + S.OP_EXECUTED]
    source = w[direction_at(w, (w[o + S.OP_TAG] - 1) // S.OPS) + S.DR_FROM]
    if lost_since(w, source, w[o + S.OP_LOCAL], w[o + S.OP_LENGTH], w[o + S.OP_SINCE]):
        w[S.W_SKIPPED] += length
        return adopt(w, b, host, w[o + S.OP_REMOTE] + at, length)
    shadow = shadow_bytes(w, b, host, w[o + S.OP_REMOTE] + at)
    for i in range(length):
        store8(shadow + i, pattern(w[o + S.OP_TAG], at + i))
    return 0


@kernel
def executed_atomic(w, p, host, x, va):
    """An atomic was executed: it must be the direction's next, and find what the ones before it left."""
    if p[x + P.DMA_OP] == P.OP_WRITE:
        return fail(w, S.VIOLATION_I7, host, -2, va)
    q = p[x + P.DMA_TOKEN] & 0xFFFFFFFF
    for d in range(w[S.W_DIRECTIONS]):
        at = direction_at(w, d)
        if w[at + S.DR_TO] == host and w[at + S.DR_PEER] == q:
            if w[at + S.DR_BROKEN]:
                return 0
            while w[at + S.DR_EXECUTED] < w[at + S.DR_NEXT]:
                o = op_at(w, d, w[at + S.DR_EXECUTED])
                busy = w[o + S.OP_STATE] == S.POSTED and w[o + S.OP_EXECUTED] < w[o + S.OP_LENGTH]
                if busy and is_one_of(w, o, STORES | ATOMICS):
                    break
                w[at + S.DR_EXECUTED] += 1
            o = op_at(w, d, w[at + S.DR_EXECUTED])
            if w[at + S.DR_EXECUTED] >= w[at + S.DR_NEXT] or not is_one_of(w, o, ATOMICS) or w[o + S.OP_REMOTE] != va:
                return fail(w, S.VIOLATION_I7, host, -3, va)
            w[o + S.OP_EXECUTED] = 8
            w[o + S.OP_VALUE] = p[x + P.DMA_RESULT]
            return 0
    return fail(w, S.VIOLATION_WORLD, host, 5, q)


# ---- completions -----------------------------------------------------------------------------------------------------


@kernel
def completions(w, b, h, host):
    """Take what the device has completed, and judge it."""
    cq = w[host_at(w, host) + S.HO_CQ]
    while h[cq + L.CQ_HEAD] < h[cq + L.CQ_TAIL]:
        e = h[cq + L.CQ_RING] + (h[cq + L.CQ_HEAD] & h[cq + L.CQ_MASK]) * L.CQE_WORDS
        h[cq + L.CQ_HEAD] += 1
        d = h[e + L.E_ID] // S.OPS
        k = h[e + L.E_ID] % S.OPS
        if h[e + L.E_OPCODE] >= L.WC_RECV:
            received(w, b, h, e, d, k)
        else:
            ended(w, b, h, e, d, k)
    return 0


@kernel
def received(w, b, h, e, d, k):
    at = direction_at(w, d)
    o = op_at(w, d, k)
    host = w[at + S.DR_TO]
    if h[e + L.E_STATUS] != L.WC_SUCCESS:
        return 0  # flushed; whether the QP had a reason to end is judged where it sends
    if w[at + S.DR_BROKEN]:
        return 0
    if w[o + S.OP_RECEIVED]:
        return fail(w, S.VIOLATION_I7, host, w[o + S.OP_TAG], -4)
    while w[at + S.DR_RECV_DONE] < k:
        skipped = op_at(w, d, w[at + S.DR_RECV_DONE])
        if w[skipped + S.OP_STATE] != S.LEFT_OUT and is_one_of(w, skipped, RECEIVES):
            return fail(w, S.VIOLATION_ORDER, host, w[o + S.OP_TAG], w[skipped + S.OP_TAG])
        w[at + S.DR_RECV_DONE] += 1
    w[at + S.DR_RECV_DONE] = k + 1
    w[o + S.OP_RECEIVED] = 1
    has_imm = w[o + S.OP_KIND] == L.WR_SEND_WITH_IMM or w[o + S.OP_KIND] == L.WR_RDMA_WRITE_WITH_IMM
    if h[e + L.E_LENGTH] != w[o + S.OP_LENGTH] or (has_imm and h[e + L.E_IMM] != w[o + S.OP_TAG]):
        return fail(w, S.VIOLATION_DATA, host, w[o + S.OP_TAG], h[e + L.E_LENGTH])
    return judge_stored(w, b, host, o)


@kernel
def judge_stored(w, b, host, o):
    """All bytes of a SEND or WRITE must be at the target now (I4)."""
    length = w[o + S.OP_LENGTH]
    if w[o + S.OP_EXECUTED] != length:
        return fail(w, S.VIOLATION_I4, host, w[o + S.OP_TAG], w[o + S.OP_EXECUTED])
    if length == 0:
        return 0
    wrong = differs(w, b, host, w[o + S.OP_REMOTE], length, w[o + S.OP_SINCE])
    return fail(w, S.VIOLATION_I4, host, w[o + S.OP_TAG], wrong) if wrong >= 0 else 0


@kernel
def ended(w, b, h, e, d, k):
    """A send completion."""
    at = direction_at(w, d)
    host = w[at + S.DR_FROM]
    o = op_at(w, d, k)
    while w[at + S.DR_DONE] < k and w[op_at(w, d, w[at + S.DR_DONE]) + S.OP_STATE] == S.LEFT_OUT:
        w[at + S.DR_DONE] += 1
    if w[at + S.DR_DONE] != k or w[o + S.OP_STATE] != S.POSTED:
        return fail(w, S.VIOLATION_ORDER, host, w[o + S.OP_TAG], w[at + S.DR_DONE])
    status = h[e + L.E_STATUS]
    w[at + S.DR_DONE] = k + 1
    w[o + S.OP_STATE] = S.ENDED
    w[o + S.OP_STATUS] = status
    w[o + S.OP_END] = w[S.W_NOW]
    w[S.W_OPS_LEFT] -= 1
    w[S.W_END] = w[S.W_NOW]
    occupy(w, o, -1)
    trace(w, S.EV_POST, host, d, k, -2, status)
    if status != L.WC_SUCCESS:
        return failed(w, d, o, status)
    if w[at + S.DR_BROKEN] == 1:
        return fail(w, S.VIOLATION_ORDER, host, w[o + S.OP_TAG], -5)
    if w[at + S.DR_BROKEN]:
        return 0  # its process is being killed
    return succeeded(w, b, at, o, d)


@kernel
def succeeded(w, b, at, o, d):
    host = w[at + S.DR_FROM]
    other = w[at + S.DR_TO]
    if is_one_of(w, o, RECEIVES) and w[o + S.OP_RECEIVED] == 0 and w[host_at(w, other) + S.HO_ALIVE]:
        return fail(w, S.VIOLATION_I4, host, w[o + S.OP_TAG], -6)
    if is_one_of(w, o, STORES):
        return judge_stored(w, b, other, o) if is_one_of(w, o, SENDS) == 0 else 0
    if w[o + S.OP_LANDED] != w[o + S.OP_LENGTH]:
        return fail(w, S.VIOLATION_I4, host, w[o + S.OP_TAG], w[o + S.OP_LANDED])
    if is_one_of(w, o, ATOMICS):
        return judge_atomic(w, b, host, other, at, o)
    return judge_read(w, b, host, other, o)


@kernel
def judge_read(w, b, host, other, o):
    """What a READ brought must be what the target held, unless either was thrown away meanwhile."""
    length = w[o + S.OP_LENGTH]
    if length == 0:
        return 0
    unknown = w[slot_at(w, w[o + S.OP_REMOTE_SLOT]) + S.SL_UNKNOWN]
    lost = lost_since(w, other, w[o + S.OP_REMOTE], length, w[o + S.OP_SINCE]) if unknown == 0 else 1
    if lost:
        adopt(w, b, host, w[o + S.OP_LOCAL], length)
        w[S.W_SKIPPED] += length
        return 0
    wrong = differs(w, b, host, w[o + S.OP_LOCAL], length, w[o + S.OP_SINCE])
    return fail(w, S.VIOLATION_DATA, host, w[o + S.OP_TAG], wrong) if wrong >= 0 else 0


@kernel
def adopt(w, b, host, va, length):
    """Whatever memory holds is what it must hold from here on."""
    end = va + length
    while va < end:
        page = va >> S.PAGE_SHIFT
        n = min(end, (page + 1) << S.PAGE_SHIFT) - va
        base = contents(w, b, host, page)
        for i in range(n):
            store8(shadow_bytes(w, b, host, va + i), 0)
        if base:
            copy_bytes(shadow_bytes(w, b, host, va), base + (va & (S.PAGE - 1)), n)
        va += n
    return 0


@kernel
def judge_atomic(w, b, host, other, at, o):
    """The answer is what was found when it was executed, and that is what those before it left (I7)."""
    if w[o + S.OP_EXECUTED] != 8:
        return fail(w, S.VIOLATION_I7, other, w[o + S.OP_TAG], 0)
    store64(shadow_bytes(w, b, host, w[o + S.OP_LOCAL]), w[o + S.OP_VALUE])
    wrong = differs(w, b, host, w[o + S.OP_LOCAL], 8, w[o + S.OP_SINCE])
    if wrong >= 0:
        return fail(w, S.VIOLATION_DATA, host, w[o + S.OP_TAG], wrong)
    if w[o + S.OP_REMOTE_SLOT] == -2:
        w[host_at(w, other) + S.HO_SHARED_SUM] += w[o + S.OP_X0]
        return 0
    if w[at + S.DR_OPEN] == 0 and w[o + S.OP_VALUE] != w[at + S.DR_VALUE]:
        return fail(w, S.VIOLATION_I7, other, w[o + S.OP_TAG], w[o + S.OP_VALUE])
    w[at + S.DR_VALUE] = after_atomic(w, o, w[o + S.OP_VALUE])
    return 0


@kernel
def failed(w, d, o, status):
    """An error: it needs a reason, and leaves behind places of which nobody knows what they hold."""
    at = direction_at(w, d)
    if is_one_of(w, o, ATOMICS):
        w[at + S.DR_OPEN] = 1
        if w[o + S.OP_REMOTE_SLOT] == -2 and w[o + S.OP_EXECUTED] == 8:
            w[host_at(w, w[at + S.DR_TO]) + S.HO_SHARED_SUM] += w[o + S.OP_X0]
        if w[o + S.OP_REMOTE_SLOT] == -2 and w[o + S.OP_EXECUTED] != 8:
            w[host_at(w, w[at + S.DR_TO]) + S.HO_SHARED_OPEN] = 1
    for slot in (w[o + S.OP_LOCAL_SLOT], w[o + S.OP_REMOTE_SLOT]):
        if slot >= 0:
            w[slot_at(w, slot) + S.SL_UNKNOWN] = 1
    if w[at + S.DR_BROKEN] == 0 and status != L.WC_WR_FLUSH_ERR and excused(w, at) == 0:
        fail(w, S.VIOLATION_ERROR, w[at + S.DR_FROM], w[o + S.OP_TAG], status)
    if w[at + S.DR_BROKEN] == 0:
        w[at + S.DR_BROKEN] = 1
        other = direction_at(w, d ^ 1)
        if status == L.WC_WR_FLUSH_ERR and w[other + S.DR_BROKEN] == 0 and excused(w, at) == 0:
            fail(w, S.VIOLATION_ERROR, w[at + S.DR_FROM], w[o + S.OP_TAG], status)
        w[S.W_OPS_LEFT] -= w[at + S.DR_COUNT] - w[at + S.DR_NEXT]
        w[at + S.DR_COUNT] = w[at + S.DR_NEXT]
    return 0


@kernel
def excused(w, at):
    """Whether an operation of the direction may fail: its peer died, memory went, or the wire is too bad."""
    for host in (w[at + S.DR_FROM], w[at + S.DR_TO]):
        x = host_at(w, host)
        if w[x + S.HO_ALIVE] == 0 or w[x + S.HO_EXCUSED]:
            return 1
    return 1 - w[S.C_STRICT]
