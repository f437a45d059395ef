"""Batches: what the device would misread is refused before any of it is posted."""

import numpy as np
import pytest

from unpinned.hca import layout as L
from unpinned.verbs import batch
from unpinned.verbs import enums as e

PIECES, STRIDE = 3, 32


@pytest.fixture
def wrs():
    wrs = np.zeros(4, batch.send_dtype(PIECES, STRIDE))
    wrs["opcode"], wrs["num_sge"] = e.IBV_WR_RDMA_READ, [1, 2, 3, 0]
    wrs["sge"]["length"] = 100
    return wrs


def test_fields_are_the_words_of_the_queue(wrs):
    wrs["wr_id"], wrs["rkey"], wrs["remote_addr"] = [5, 6, 7, 8], 9, 10
    wrs["sge"]["lkey"][:, 2] = 77
    rows = batch.rows_of(wrs, None, STRIDE)
    assert rows.shape == (4, STRIDE) and np.shares_memory(rows, wrs)
    assert rows[:, L.W_ID].tolist() == [5, 6, 7, 8]
    assert (rows[:, L.W_RKEY] == 9).all() and (rows[:, L.W_RVA] == 10).all()
    assert (rows[:, L.W_SGE + 2 * L.SGE_WORDS + 2] == 77).all()


def test_lengths_are_summed_over_the_pieces_in_use(wrs):
    batch.check_sends(batch.rows_of(wrs, None, STRIDE), PIECES)
    assert wrs["length"].tolist() == [100, 200, 300, 0]


def test_receives_too():
    wrs = np.zeros(2, batch.recv_dtype(2, 16))
    wrs["num_sge"], wrs["sge"]["length"] = [1, 2], 50
    batch.check_receives(batch.rows_of(wrs, 2, 16), 2)
    assert wrs["length"].tolist() == [50, 100]


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("num_sge", 4, "num_sge"),
        ("num_sge", -1, "num_sge"),
        ("opcode", e.IBV_WR_LOCAL_INV, "opcode"),
        ("opcode", 64, "opcode"),
        ("opcode", -60, "opcode"),
        ("flags", e.IBV_SEND_INLINE, "flags"),
        ("opcode", e.IBV_WR_ATOMIC_FETCH_AND_ADD, "atomic"),
    ],
)
def test_a_bad_record_is_refused(wrs, field, value, what):
    wrs[field][1] = value
    with pytest.raises(OSError, match=what):
        batch.check_sends(batch.rows_of(wrs, None, STRIDE), PIECES)


@pytest.mark.parametrize("length", [-1, (1 << 31) + 1, 1 << 62])
def test_a_bad_length_is_refused(wrs, length):
    wrs["sge"]["length"][2, 1] = length
    with pytest.raises(OSError, match="length"):
        batch.check_sends(batch.rows_of(wrs, None, STRIDE), PIECES)


def test_lengths_of_pieces_that_are_not_used_do_not_matter(wrs):
    wrs["sge"]["length"][0, 1] = -5
    batch.check_sends(batch.rows_of(wrs, None, STRIDE), PIECES)


def test_no_records_no_pieces():
    batch.check_sends(np.zeros((0, STRIDE), np.int64), PIECES)
    rows = np.zeros((3, 16), np.int64)
    batch.check_sends(rows, 0)
    assert not rows.any()


def test_arrays_of_another_shape_are_refused(wrs):
    with pytest.raises(ValueError, match="wrs"):
        batch.rows_of(np.zeros(4, "i8"), None, STRIDE)
    with pytest.raises(ValueError, match="contiguous"):
        batch.rows_of(wrs[::2], None, STRIDE)
    with pytest.raises(ValueError, match="count"):
        batch.rows_of(wrs, 5, STRIDE)
    with pytest.raises(TypeError, match="wrs"):
        batch.rows_of([1], None, STRIDE)
