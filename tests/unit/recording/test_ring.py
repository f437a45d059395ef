"""The bounded ring: order, room, and several writers at once."""

import threading

import numpy as np
import pytest

from unpinned.compiled import INTERPRETED
from unpinned.recording import layout as R
from unpinned.recording.ring import put, take


def fill(r, first, count, kind=R.ACCESS):
    return [put(r, kind, i, i, 0, 0, 0, 0) for i in range(first, first + count)]


def test_records_come_out_in_order_and_once():
    r = R.create(8)
    assert fill(r, 0, 5) == [1] * 5
    assert take(r)[:, R.A].tolist() == [0, 1, 2, 3, 4]
    assert len(take(r)) == 0
    fill(r, 5, 6)
    assert take(r)[:, R.A].tolist() == [5, 6, 7, 8, 9, 10]


def test_a_full_ring_loses_the_new_and_counts_them():
    r = R.create(4)
    assert fill(r, 0, 6) == [1, 1, 1, 1, 0, 0]
    assert r[R.RING_LOST] == 2
    assert take(r)[:, R.A].tolist() == [0, 1, 2, 3]
    assert fill(r, 6, 1) == [1]


def test_a_record_that_is_not_complete_ends_what_is_taken():
    r = R.create(4)
    fill(r, 0, 3)
    r[R.RING_RECORDS + 1 * R.WORDS + R.STAMP] = 0  # its writer has not finished
    assert take(r)[:, R.A].tolist() == [0]
    r[R.RING_RECORDS + 1 * R.WORDS + R.STAMP] = 2
    assert take(r)[:, R.A].tolist() == [1, 2]


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_a_capacity_that_is_no_power_of_two_is_refused(capacity):
    with pytest.raises(ValueError, match="power of two"):
        R.create(capacity)


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are for one thread")
def test_nothing_is_lost_or_doubled_between_writers():
    r, writers, each = R.create(1 << 15), 4, 4_000
    put(r, R.CLOSE, 0, 0, 0, 0, 0, 0)  # compiled before the threads begin
    take(r)

    def write(which):
        for i in range(each):
            put(r, R.ACCESS, i, which, i, 0, 0, 0)

    threads = [threading.Thread(target=write, args=(w,)) for w in range(writers)]
    for thread in threads:
        thread.start()
    got = []
    while any(thread.is_alive() for thread in threads):
        got.append(take(r))
    for thread in threads:
        thread.join()
    rows = np.concatenate([*got, take(r)])
    assert r[R.RING_LOST] == 0
    for w in range(writers):
        assert rows[rows[:, R.A] == w, R.B].tolist() == list(range(each))
