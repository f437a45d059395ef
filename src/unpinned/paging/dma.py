"""Descriptors of copies between memory and the packet arena.

The transport never touches memory. It translates a range and describes the copy here, in one step; the world executes
the batch, without the device's lock; a later step completes it. So "translated", "copied" and "completed" are three
moments::

    holder of the lock           the world                       notifier
    ------------------           ---------                       --------
    translate -> usable
    dma_issue -> ISSUED
                                 copies  (no lock)               invalidate_start: zaps; the range collides -> WAIT
                                 sets DMA_DONE / DMA_FAILED
    dma_complete -> FREE                                         invalidate_poll -> DONE

A descriptor collides with invalidations exactly while it is ISSUED: that is what an invalidation waits for, and what
keeps a frame from being reused under a copy. Between issue and the copy nothing looks at the table again: a
descriptor is a promise that the range stays.

A batch is the indices 0 .. p[DMA_COUNT]-1, in the order of issue as long as the world completes a batch before the
next one is issued to (else holes are filled, lowest first, and only the table's bound and the collision test hold).
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.layout import Block


@kernel
def dma_at(p: Block, index: int) -> int:
    """The word where descriptor `index` begins: ``p[dma_at(p, i) + P.DMA_STATUS]``."""
    return p[P.DMA] + index * P.DMA_WORDS


@kernel
def dma_issue(p: Block, va: int, length: int, op: int, offset: int, path: int, token: int) -> int:
    """Describe a copy of `length` bytes at table address `va`; -> its index, or NONE when the table is full.

    The caller has translated the range in this same step. Atomics: fill DMA_X0 and DMA_X1 in the record afterwards; the
    world puts the value it found into DMA_RESULT.
    """
    index = p[P.DMA_COUNT]
    if p[P.DMA_LIVE] < index:  # a hole
        index = 0
        while p[dma_at(p, index) + P.DMA_STATE] != P.DMA_FREE:
            index += 1
    elif index == p[P.DMA_CAPACITY]:
        return P.NONE
    else:
        p[P.DMA_COUNT] = index + 1
    p[P.DMA_LIVE] += 1
    at = dma_at(p, index)
    p[at + P.DMA_STATE] = P.DMA_ISSUED
    p[at + P.DMA_VA] = va
    p[at + P.DMA_LENGTH] = length
    p[at + P.DMA_OP] = op
    p[at + P.DMA_OFFSET] = offset
    p[at + P.DMA_PATH] = path
    p[at + P.DMA_TOKEN] = token
    return index


@kernel
def dma_complete(p: Block, index: int) -> int:
    """Free a descriptor that the world has set to DMA_DONE or DMA_FAILED; -> that state, or PROTOCOL (still ISSUED,
    or free).
    """
    at = dma_at(p, index)
    if index < 0 or index >= p[P.DMA_COUNT] or p[at + P.DMA_STATE] < P.DMA_DONE:
        p[p[P.TOTALS] + P.COUNT_VIOLATIONS] += 1
        return P.PROTOCOL
    state = p[at + P.DMA_STATE]
    for i in range(at, at + P.DMA_WORDS):
        p[i] = 0
    p[P.DMA_LIVE] -= 1
    while p[P.DMA_COUNT] > 0 and p[dma_at(p, p[P.DMA_COUNT] - 1) + P.DMA_STATE] == P.DMA_FREE:
        p[P.DMA_COUNT] -= 1
    return state


@kernel
def dma_reset(p: Block) -> int:
    """Free every descriptor, whatever its state; -> how many had still been ISSUED (their copies are nobody's now).

    After a batch whose results the caller has read. A nonzero answer means that a copy was never executed; the world
    must be sure that it never will be.
    """
    lost = 0
    for index in range(p[P.DMA_COUNT]):
        at = dma_at(p, index)
        lost += p[at + P.DMA_STATE] == P.DMA_ISSUED
        for i in range(at, at + P.DMA_WORDS):
            p[i] = 0
    p[P.DMA_COUNT] = 0
    p[P.DMA_LIVE] = 0
    return lost


@kernel
def dma_collides(p: Block, start: int, end: int, writes_only: int) -> int:
    """1 when an ISSUED descriptor touches ``[start, end)`` (writes_only: one that may write memory, atomics included)."""
    for index in range(p[P.DMA_COUNT]):
        at = dma_at(p, index)
        if (
            p[at + P.DMA_STATE] == P.DMA_ISSUED
            and p[at + P.DMA_VA] < end
            and p[at + P.DMA_VA] + p[at + P.DMA_LENGTH] > start
        ):
            if not writes_only or p[at + P.DMA_OP] != P.OP_READ:
                return 1
    return 0
