"""Descriptors: issued, copied, completed are three steps, and a copy in flight collides."""

from __future__ import annotations

from unpinned.paging import create, view
from unpinned.paging import layout as P
from unpinned.paging.audit import audit
from unpinned.paging.dma import dma_at, dma_collides, dma_complete, dma_issue, dma_reset


def make(count: int = 3) -> tuple[P.Block, list[int]]:
    p = create(levels=1, bits=2, leaves=1, regions=0, dma=3)
    return p, [dma_issue(p, 4096 * i, 100, P.OP_READ, 64 * i, P.PATH_DIRECT, 7) for i in range(count)]


def test_a_batch_is_in_order_and_bounded() -> None:
    p, indices = make(4)
    assert indices == [0, 1, 2, P.NONE]
    assert p[P.DMA_COUNT] == 3
    assert view(p, "dma")["va"].tolist() == [0, 4096, 8192]
    assert view(p, "dma")[1].tolist() == (P.DMA_ISSUED, 4096, 100, P.OP_READ, 64, P.PATH_DIRECT, 7, 0, 0, 0, 0)


def test_only_what_the_world_has_done_is_completed() -> None:
    p, _ = make()
    assert dma_complete(p, 1) == P.PROTOCOL and dma_complete(p, 3) == P.PROTOCOL and dma_complete(p, -1) == P.PROTOCOL
    p[dma_at(p, 1) + P.DMA_STATE] = P.DMA_FAILED
    assert dma_complete(p, 1) == P.DMA_FAILED
    assert dma_complete(p, 1) == P.PROTOCOL
    assert p[P.DMA_COUNT] == 3 and p[P.DMA_LIVE] == 2
    assert dma_issue(p, 0, 1, P.OP_WRITE, 0, 0, 0) == 1, "the lowest hole is filled"
    assert audit(p) == []


def test_completing_the_last_ones_shortens_the_batch() -> None:
    p, _ = make()
    for index in (1, 2, 0):
        p[dma_at(p, index) + P.DMA_STATE] = P.DMA_DONE
        assert dma_complete(p, index) == P.DMA_DONE
        assert audit(p) == []
    assert p[P.DMA_COUNT] == 0


def test_reset_empties_and_tells_what_was_lost() -> None:
    p, _ = make()
    p[dma_at(p, 0) + P.DMA_STATE] = P.DMA_DONE
    assert dma_reset(p) == 2
    assert p[P.DMA_COUNT] == 0 and audit(p) == []


def test_collisions_are_by_byte_and_by_direction() -> None:
    p, _ = make()
    assert dma_collides(p, 4196, 8192, 0) == 0
    assert dma_collides(p, 4195, 8192, 0) == 1
    assert dma_collides(p, 0, 1 << 40, 1) == 0, "reads"
    p[dma_at(p, 2) + P.DMA_OP] = P.OP_FETCH_ADD
    assert dma_collides(p, 8192, 8193, 1) == 1
    p[dma_at(p, 2) + P.DMA_STATE] = P.DMA_DONE
    assert dma_collides(p, 8192, 8193, 1) == 0, "a copy that is over touches nothing"
