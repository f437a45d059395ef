"""The invariants of the design, as they apply to a modelled world without a transport.

I1  no access to a frame after it is freed or reused                      at each copy (device.judge)
I2  no device write unless the CPU may write there now                    at each copy
I3  past the policy's point the old translation is never used             at each copy
I4  a page holds what was written to it last                              after each step, here (and at the CPU's reads)
I5  pages of a message are written in ascending order                     at each copy
I6  no cycle without progress, no deadlock                                the explorer: DEADLOCK, LIVELOCK
I8  no step returns with the sequence open, or a page busy without owner  after each step and at the end, here
I10 a refusing device changes nothing (but that it wants a flush)         at each start (adapter.start_one)
BOUND what a deferral holds back is never more than its policy allows     after each step, here

I7 and I9 belong to the transport: swarm's. I4 reads: at every moment each page of a living process that is mapped, in a frame, in
the swap or in its file contains the last value that the CPU or a device wrote to it. A discard, a truncation or the end of the
mapping starts anew. A device's write through a translation that may still be used counts for every page that its frame stands
for at that moment.
"""

from __future__ import annotations

from typing import Final

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import block_at, thread_at
from unpinned.model.device import order_at, request_at
from unpinned.model.layout import Block
from unpinned.model.machine import PROPERTY_BOUND, PROPERTY_I4, PROPERTY_I8, broken, content, frame_at, truth_at, vma_at
from unpinned.paging import layout as P
from unpinned.paging.table import entry

DEADLOCK: Final = 20
LIVELOCK: Final = 21

NAMES: Final = {
    1: "I1", 2: "I2", 3: "I3", 4: "I4", 5: "I5", 8: "I8", 10: "I10", 11: "BOUND", DEADLOCK: "DEADLOCK", LIVELOCK: "LIVELOCK",
}  # fmt: skip

MEANINGS: Final = {
    "I1": "a device touched a frame that had been freed or was somebody else's by then",
    "I2": "a device wrote to a page that the CPU may not write to",
    "I3": "a device used a translation past the point where the policy ends it",
    "I4": "a page does not hold what was written to it last",
    "I5": "pages of one message were written out of order",
    "I8": "a step left the sequence open, a page busy without an owner, or came out of order",
    "I10": "a device refused and changed something all the same",
    "BOUND": "more pages are held back than the policy's bound",
    "DEADLOCK": "nobody can go on, and somebody is not done",
    "LIVELOCK": "all may go on fairly for ever, and somebody is never done",
}


@kernel
def held_frames(w: Block, d: int) -> int:
    """Frames that the host holds for device d."""
    held = 0
    for frame in range(1, w[M.W_FRAMES] + 1):
        held += w[frame_at(w, frame) + M.F_HOLD + d] != 0
    return held


@kernel
def most_held(p: Block) -> int:
    """What the most generous row of the policy lets it hold."""
    most = 0
    for row in range(P.POLICY, P.HEADER_WORDS, P.POLICY_WORDS):
        most = max(most, p[row + P.POLICY_MAX_PAGES])
    return most


@kernel
def check(w: Block) -> int:
    """After a step: I4, I8 and BOUND; -> the number of the property that the step broke, or 0."""
    for d in range(w[M.W_DEVICES]):
        p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
        if p[p[P.TOTALS] + P.COUNT_VIOLATIONS]:
            broken(w, PROPERTY_I8, d)
        if (p[p[P.COUNTERS] + P.SEQUENCE] & 1) != (1 if p[P.ACTIVE_COUNT] > 0 else 0):
            broken(w, PROPERTY_I8, d)
        if p[P.DEFERRAL_COUNT] and held_frames(w, d) > most_held(p):
            broken(w, PROPERTY_BOUND, d)
        for i in range(p[P.FAULT_CAPACITY]):  # retries are bounded
            if p[p[P.FAULTS] + i * P.FAULT_WORDS + P.FAULT_RETRIES] > p[P.RETRIES_MAX] + 1:
                broken(w, PROPERTY_I8, d)
        for page in range(w[M.W_PAGES]):
            if page < w[M.W_REGION] >> 32 or page >= w[M.W_REGION] & 0xFFFFFFFF:
                if entry(p, page << p[P.PAGE_SHIFT]):
                    broken(w, PROPERTY_I8, page)  # no region owns it
    for process in range(w[M.W_PROCESSES]):
        for page in range(w[M.W_PAGES]):
            if w[vma_at(w, process, page) + M.V_FLAGS] & M.VMA_MAPPED:
                found = content(w, process, page)
                if found >= 0 and found != w[truth_at(w, process, page)]:
                    broken(w, PROPERTY_I4, page)
    for frame in range(1, w[M.W_FRAMES] + 1):
        f = frame_at(w, frame)
        if w[f + M.F_FLAGS] & M.FRAME_LOCKED and w[f + M.F_HAND] == 0:
            broken(w, PROPERTY_I8, frame)
    return w[M.W_BROKEN]


@kernel
def pending(w: Block) -> int:
    """Bits: who is not done (thread t: t, request r: W_THREADS + r). Workers are never done, and not counted."""
    found = 0
    for t in range(w[M.W_CPUS]):
        line = w[thread_at(w, t) + M.T_LINE]
        o = w[M.W_SCRIPT] + (t * w[M.W_LINES] + line) * M.LINE_WORDS
        if line < w[M.W_LINES] and w[o + M.O_OP]:
            if w[o + M.O_PROCESS] == 0 or w[w[M.W_STATE] + M.X_ALIVE] & 2:  # a child that was never born owes nothing
                found |= 1 << t
    for r in range(w[M.W_REQUESTS]):
        if w[request_at(w, r) + M.Q_STATE] < M.REQUEST_COMPLETE or w[order_at(w, r) + M.R_REPEAT] < 0:
            found |= 1 << (w[M.W_THREADS] + r)
    return found


@kernel
def at_rest(w: Block) -> int:
    """In a state where nobody can go on and everybody is done: 0, or I8 because something was left behind."""
    left = w[w[M.W_STATE] + M.X_LOCK]
    for d in range(w[M.W_DEVICES]):
        p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
        left |= p[P.ACTIVE_COUNT] | p[P.FAULT_LIVE] | p[P.DMA_LIVE] | p[P.DEFERRAL_COUNT] | p[P.FLUSHING]
    for frame in range(1, w[M.W_FRAMES] + 1):
        f = frame_at(w, frame)
        left |= w[f + M.F_HAND]
        for d in range(w[M.W_DEVICES]):
            left |= w[f + M.F_HOLD + d]
    return PROPERTY_I8 if left else 0
