"""Requests cover the blocks asked for, each byte where it belongs, in as few requests as it is worth."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unpinned.remote.pieces import Pieces, cover, cut, join

MEMORY = np.random.default_rng(3).integers(0, 255, 1 << 16, np.uint8)

blocks_of = st.one_of(
    st.lists(st.integers(0, 4000), min_size=1, max_size=60),
    st.builds(lambda start, step, count: [start + i * step for i in range(count)],
              st.integers(0, 500), st.integers(0, 90), st.integers(1, 40)),
)  # fmt: skip


def carry_out(pieces: Pieces, size: int) -> np.ndarray:
    landed = np.zeros(size, np.uint8)
    for at, length, to in zip(pieces.remote, pieces.length, pieces.local):
        landed[to : to + length] = MEMORY[at : at + length]
    return landed


def expected(blocks, run):
    return np.stack([MEMORY[at : at + run] for at in blocks])


@given(blocks_of, st.integers(1, 80), st.sampled_from([1 << 20, 64, 7]))
def test_joined_blocks_land_side_by_side(blocks, run, piece_max):
    blocks = np.array(blocks, np.int64)
    pieces = join(blocks, run, piece_max)
    assert pieces.nbytes == blocks.size * run and pieces.length.max() <= piece_max
    landed = carry_out(pieces, blocks.size * run)
    np.testing.assert_array_equal(landed.reshape(-1, run), expected(blocks, run))


@given(blocks_of, st.sampled_from([2, 4, 16, 40]), st.sampled_from([8, 64, 1024]))
def test_covered_blocks_are_picked_out_of_what_was_read(blocks, run, gap):
    blocks = np.array(blocks, np.int64)
    covered = cover(blocks, run, gap)
    if covered is None:
        return
    assert covered.pieces.count < blocks.size
    landed = carry_out(covered.pieces, covered.nbytes)
    rows = covered.pick(landed, np.dtype(np.int16), run // 2, run)
    np.testing.assert_array_equal(rows.view(np.uint8).reshape(-1, run), expected(blocks, run))


def test_neighbours_are_one_request():
    assert join(np.arange(100) * 512, 512).count == 1
    assert join(np.array([3, 4, 9, 10, 11]) * 512, 512).length.tolist() == [1024, 1536]


def test_near_neighbours_are_one_request_when_that_pays():
    assert cover(np.arange(1000) * 64, 8).pieces.count == 1
    assert cover(np.arange(1000) * 64, 64) is None  # `join` does it
    assert cover(np.arange(0, 1 << 30, 1 << 20), 512) is None
    assert cover(np.random.default_rng(1).integers(0, 1 << 20, 1000) * 512, 512) is None


def test_a_long_piece_is_cut():
    pieces = cut(Pieces(np.array([10, 99]), np.array([25, 3]), np.array([0, 25])), 10)
    assert pieces.remote.tolist() == [10, 20, 30, 99]
    assert pieces.length.tolist() == [10, 10, 5, 3]
    assert pieces.local.tolist() == [0, 10, 20, 25]
