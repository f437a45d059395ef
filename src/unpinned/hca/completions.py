"""Completion queues: rings that the device fills and pollers empty.

Producers and consumers both hold the device lock; an unlocked look at CQ_TAIL only tells a poller that taking
the lock is worth it.
A full ring is an overrun: the queue is marked, nothing is overwritten, and the QP that overran it goes to error
(IBTA vol. 1, 11.6.3.2: CQ overrun is an affiliated asynchronous error).

What the engine has to tell a descriptor, of a completion or of an asynchronous error, stands in the record, a bit each, so
nothing overflows however much goes wrong.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L


@kernel
def owe(h, at, what):
    """The engine owes a descriptor ``what``; ``at``: the CQ_EVENT or QP_EVENT of a record."""
    if h[at] == 0:
        h[L.H_EVENTS] += 1
    h[at] |= what
    return 0


@kernel
def paid(h, at):
    """What was owed, and is not from here on: before the descriptor is written, for who reads it then looks."""
    owed = h[at]
    if owed:
        h[at] = 0
        h[L.H_EVENTS] -= 1
    return owed


@kernel
def push(h, cq, wr_id, status, opcode, length, qpn, imm, flags, solicited):
    """Append a completion to the queue whose record is ``cq``: 0, or -1 when it overran."""
    tail = h[cq + L.CQ_TAIL]
    if tail - h[cq + L.CQ_HEAD] > h[cq + L.CQ_MASK]:
        if h[cq + L.CQ_STATE] != 2:
            owe(h, cq + L.CQ_EVENT, L.TELL_OVERRUN)
        h[cq + L.CQ_STATE] = 2
        h[L.C_CQ_OVERRUN] += 1
        return -1
    e = h[cq + L.CQ_RING] + (tail & h[cq + L.CQ_MASK]) * L.CQE_WORDS
    h[e + L.E_ID] = wr_id
    h[e + L.E_STATUS] = status
    h[e + L.E_OPCODE] = opcode
    h[e + L.E_LENGTH] = length
    h[e + L.E_QPN] = qpn
    h[e + L.E_IMM] = imm
    h[e + L.E_FLAGS] = flags
    h[e + L.E_SRC_QP] = 0
    h[cq + L.CQ_TAIL] = tail + 1
    h[L.H_COMPLETIONS] += 1
    armed = h[cq + L.CQ_ARMED]
    if armed == 1 or (armed == 2 and (solicited or status != L.WC_SUCCESS)):
        h[cq + L.CQ_ARMED] = 0
        owe(h, cq + L.CQ_EVENT, L.TELL_COMPLETION)
    return 0


@kernel
def take(h, cq, out, limit):
    """Move up to ``limit`` completions into ``out`` (int64, CQE_WORDS each); how many. Lock held."""
    head = h[cq + L.CQ_HEAD]
    count = min(h[cq + L.CQ_TAIL] - head, limit)
    for i in range(count):
        e = h[cq + L.CQ_RING] + ((head + i) & h[cq + L.CQ_MASK]) * L.CQE_WORDS
        for k in range(L.CQE_WORDS):
            out[i * L.CQE_WORDS + k] = h[e + k]
    h[cq + L.CQ_HEAD] = head + count
    return count
