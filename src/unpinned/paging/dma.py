"""stub"""
from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.layout import Block


@kernel
def dma_issue(p: Block, va: int, length: int, op: int, offset: int, path: int, token: int) -> int:
    """Describe a copy of `length` bytes at table address `va`; -> its index (record at dma_at(p, index)), or NONE when full.

    The caller has translated the range in this same step. Atomics: fill DMA_X0, DMA_X1 in the record afterwards.
    """
    return -1


@kernel
def dma_at(p: Block, index: int) -> int:
    """The word where descriptor `index` begins: ``p[dma_at(p, i) + P.DMA_STATUS]``."""
    return p[P.DMA] + index * P.DMA_WORDS


@kernel
def dma_complete(p: Block, index: int) -> int:
    """Free a descriptor that the world has set to DMA_DONE or DMA_FAILED; -> that state, or PROTOCOL."""
    return 0


@kernel
def dma_reset(p: Block) -> int:
    """Free every descriptor, whatever its state (the batch is over); -> how many had still been ISSUED."""
    return 0


@kernel
def dma_collides(p: Block, start: int, end: int, writes_only: int) -> int:
    """1 when an ISSUED descriptor touches ``[start, end)`` (writes_only: one that writes memory)."""
    return 0
