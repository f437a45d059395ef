"""Selections against NumPy itself: the same items, shapes, and errors, for C and Fortran order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unpinned.remote.indexing import select


@st.composite
def arrays_and_indices(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0 if draw(st.booleans()) else 1, max_side=6))
    array = np.arange(np.prod(shape)).astype(draw(st.sampled_from(["i2", "f8", "S3"]))).reshape(shape)
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    return array, draw(indices(shape))


@st.composite
def indices(draw, shape):
    """Slices, integers, None, one ellipsis, integer arrays and masks; sometimes out of bounds."""
    if draw(st.integers(0, 2)) == 0:
        return draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    entries = []
    axis = 0
    while axis < len(shape):
        n = shape[axis]
        kind = draw(st.sampled_from(["slice", "int", "array", "array", "mask", "none", "dots", "stop"]))
        if kind == "none":
            entries.append(None)
            continue
        if kind == "dots":
            if Ellipsis not in [e for e in entries if not isinstance(e, np.ndarray)]:
                entries.append(Ellipsis)
                axis += draw(st.integers(0, len(shape) - axis))
            continue
        if kind == "stop":
            break
        if kind == "slice":
            entries.append(draw(st.slices(n)))
        elif kind == "int":
            entries.append(draw(st.integers(-n - 1, n)))
        elif kind == "array":
            side = draw(st.sampled_from([(), (1,), (3,), (2, 3), (2, 1), (0,)]))
            high = max(n - 1, 0)
            entries.append(draw(hnp.arrays(np.int64, side, elements=st.integers(-n, high))))
        else:
            entries.append(draw(hnp.arrays(bool, (n,))))
        axis += 1
    return tuple(entries)


@pytest.mark.parametrize("index", [10**30, -(10**30), (slice(None), 1 << 63), np.uint64(1 << 63), [3, 10**30], [[-(10**30)]]])
def test_an_index_beyond_64_bits_is_out_of_bounds(index):
    with pytest.raises(IndexError, match=r"index -?\d{19,} is out of bounds"):
        select(index, (4, 5), (40, 8), 8)


def read(array, selection, bytes_max=1 << 30, blocks_max=1 << 30):
    """What the transfers do, on local memory."""
    raw = array.ravel(order="K").view("u1")
    landed = np.zeros(selection.counts, array.dtype)
    for place, part in selection.parts(bytes_max, blocks_max):
        offsets, run = part.blocks()
        assert offsets.size <= max(1, blocks_max) and offsets.size * run <= max(bytes_max, array.itemsize)
        got = np.concatenate([raw[at : at + run] for at in offsets]).view(array.dtype)
        landed[place] = got.reshape(part.counts)
    return selection.finish(landed)


def outcome(function):
    try:
        return function(), None
    except IndexError as error:
        return None, error


@given(arrays_and_indices(), st.integers(1, 64), st.integers(1, 8))
@example((np.zeros((2, 3)), (np.array([0]), Ellipsis, 1)), 8, 8)
@example((np.zeros((2, 3)), (np.array([0]), 1, Ellipsis)), 8, 8)
@example((np.zeros((2, 3)), (np.array([0]), None, 1)), 8, 8)
def test_every_index_selects_what_numpy_selects(case, bytes_max, blocks_max):
    array, index = case
    expected, wrong = outcome(lambda: array[index])
    got, error = outcome(lambda: read(array, select(index, array.shape, array.strides, array.itemsize), bytes_max, blocks_max))
    if error is not None and wrong is None:
        # NumPy lets an index out of bounds pass when nothing is selected anyway; we do not.
        assert expected.size == 0 and "out of bounds" in str(error)
        return
    assert (wrong is None) == (error is None), (wrong, error)
    if wrong is None:
        assert np.shape(expected) == got.shape
        np.testing.assert_array_equal(got, expected)


@given(arrays_and_indices(), st.data())
def test_arranged_values_land_where_numpy_puts_them(case, data):
    array, index = case
    expected = array.copy(order="K")
    try:
        shape = array[index].shape
        values = np.arange(np.prod(shape) + 1, dtype="i2")[1:].reshape(shape).astype(array.dtype)
        expected[index] = values
    except IndexError:
        return
    selection, keep = select(index, array.shape, array.strides, array.itemsize).without_repeats()
    whole = select(index, array.shape, array.strides, array.itemsize)
    values = whole.arrange(values)
    values = values[keep] if keep else values
    got = array.copy(order="K")
    raw = got.ravel(order="K").view("u1")
    assert np.shares_memory(raw, got) or got.size == 0
    for place, part in selection.parts(40, 5):
        offsets, run = part.blocks()
        source = np.ascontiguousarray(values[(*place, ...)]).reshape(-1).view("u1").reshape(-1, run)
        assert np.unique(offsets).size == offsets.size
        for at, row in zip(offsets, source):
            raw[at : at + run] = row
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "index",
    [7, -6, (0, 4), [0, 9], [-6], (0, 0, 0), (..., ...), 1.5, [1.5], "name", True, np.zeros(4, bool), ([0, 1], [0, 1, 2])],
)
def test_errors_are_index_errors_like_numpys(index):
    array = np.zeros((5, 4))
    with pytest.raises(IndexError) as ours:
        select(index, array.shape, array.strides, 8)
    if index not in ("name", True) if not isinstance(index, np.ndarray) else True:
        with pytest.raises(IndexError) as numpys:
            array[index]
        assert str(ours.value).strip() == str(numpys.value).strip()


@given(arrays_and_indices())
@example((np.arange(12).reshape(3, 4), (slice(None), [3, 0, 0, 2])))
def test_a_gather_in_order_lands_where_the_caller_asked(case):
    array, index = case
    try:
        selection = select(index, array.shape, array.strides, array.itemsize)
    except IndexError:
        return
    ordered, axis, ranks = selection.ascending()
    if ranks is None:
        assert ordered is selection
        return
    offsets = ordered.dims[axis].offsets
    assert (np.diff(offsets) >= 0).all() and np.array_equal(offsets, selection.dims[axis].offsets[ranks])
    raw, landing = array.ravel(order="K").view("u1"), np.zeros(selection.counts, array.dtype)
    for place, part in ordered.parts(40, 5):
        starts, run = part.blocks()
        got = np.concatenate([raw[at : at + run] for at in starts]).view(array.dtype)
        landing[(*place[:axis], ranks[place[axis]], *place[axis + 1 :])] = got.reshape(part.counts)
    np.testing.assert_array_equal(selection.finish(landing), array[index])


def test_a_row_gather_is_one_block_a_row():
    offsets, run = select([3, 17, -1], (1000, 128), (512, 4), 4).blocks()
    assert run == 512
    assert offsets.tolist() == [3 * 512, 17 * 512, 999 * 512]


def test_a_terabyte_is_selected_without_memory():
    shape, strides = (1 << 31, 128), (512, 4)
    selection = select(slice(5, None, 2), shape, strides, 4)
    assert selection.shape == ((1 << 30) - 2, 128)
    _, part = next(iter(selection.parts(1 << 20, 1 << 16)))
    assert part.nbytes <= 1 << 20
    assert part.blocks()[0][:2].tolist() == [5 * 512, 7 * 512]


def test_fortran_order_and_backwards_stay_contiguous():
    array = np.asfortranarray(np.zeros((6, 5), "f8"))
    assert select((slice(None, None, -1),), array.shape, array.strides, 8).run() == (240, 0)


@given(arrays_and_indices(), st.sampled_from([0, 1, 8, 40, 1000]))
def test_a_hint_takes_along_short_gaps_only(case, gap):
    array, index = case
    selection = outcome(lambda: select(index, array.shape, array.strides, array.itemsize))[0]
    if selection is None or not selection.size:
        return
    wanted, covered = (bytes_of(*chosen.blocks()) for chosen in (selection, selection.without_gaps(gap)))
    assert np.isin(wanted, covered).all()
    between = np.setdiff1d(covered, wanted)
    after = np.searchsorted(wanted, between)
    assert (wanted[after] - wanted[after - 1] - 1 <= gap).all() and (after > 0).all()


def bytes_of(blocks, run):
    return np.unique(blocks[:, None] + np.arange(run))


def test_a_hint_of_millions_of_steps_is_one_block():
    selection = select(np.s_[0 : 10**8 : 3], (10**9,), (8,), 8)
    assert selection.size == 33_333_334
    blocks, run = selection.without_gaps(64).blocks()
    assert (blocks.tolist(), run) == ([0], 33_333_333 * 24 + 8)
