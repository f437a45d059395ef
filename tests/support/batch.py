"""A batch of copies by hand, for `unpinned.host.copies.execute`."""

import numpy as np

from support.memory import PAGE
from unpinned.host.copies import copy_scratch, execute
from unpinned.paging import layout as P

PAGES = 64
"""Of the arena."""


class Batch:
    """A paging block, an arena and scratch; descriptors are written as `dma_issue` would."""

    def __init__(self) -> None:
        self.p = P.create(levels=1, bits=1, leaves=1, regions=0, dma=256, faults=0)
        self.b = np.zeros(PAGES * PAGE, np.uint8)
        self.s = copy_scratch()

    def add(self, va: int, length: int, op: int, offset: int = 0, path: int = 0, qp: int = 0, x0: int = 0, x1: int = 0) -> int:
        index = int(self.p[P.DMA_COUNT])
        self.p[P.DMA_COUNT] += 1
        at = self.p[P.DMA] + index * P.DMA_WORDS
        fields = {P.DMA_STATE: P.DMA_ISSUED, P.DMA_VA: va, P.DMA_LENGTH: length, P.DMA_OP: op, P.DMA_OFFSET: offset,
                  P.DMA_PATH: path, P.DMA_TOKEN: 7 << 32 | qp, P.DMA_STATUS: 0, P.DMA_X0: x0, P.DMA_X1: x1}  # fmt: skip
        for field, value in fields.items():
            self.p[at + field] = value
        return index

    def run(self) -> int:
        return execute(self.p, self.b, self.s)

    def get(self, index: int, field: int) -> int:
        return int(self.p[self.p[P.DMA] + index * P.DMA_WORDS + field])

    def outcomes(self) -> list[int]:
        """0 for each descriptor that is done, else its errno."""
        found = []
        for i in range(int(self.p[P.DMA_COUNT])):
            state = self.get(i, P.DMA_STATE)
            assert state in (P.DMA_DONE, P.DMA_FAILED)
            assert (state == P.DMA_FAILED) == (self.get(i, P.DMA_STATUS) != 0)
            found.append(self.get(i, P.DMA_STATUS))
        return found
