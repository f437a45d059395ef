"""The bounded ring: order, room, and several writers at once."""

import threading

import numpy as np
import pytest

from unpinned.compiled import INTERPRETED
from unpinned.recording import layout as R
from unpinned.recording.ring import MERGE_NS, end_runs, put, put_run, take


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


def copied(r, *runs, qp=7, op=2):
    """Runs (first, end, left, time) of one queue pair."""
    for first, end, left, now in runs:
        put_run(r, qp, op, first, end, left, now)


def accesses(r):
    """(first, length, left, time) of each that is in the ring."""
    return [tuple(row) for row in take(r)[:, [R.A, R.B, R.C, R.TIME]].tolist()]


def test_the_runs_of_a_message_are_one_record():
    r = R.create(16)
    copied(r, (0, 10, 20, 1), (10, 20, 10, 2))
    assert accesses(r) == []
    copied(r, (20, 30, 0, 3))
    assert accesses(r) == [(0, 30, 0, 1)]


def test_two_messages_are_two_records_even_where_they_touch():
    r = R.create(16)
    copied(r, (0, 10, 0, 1), (10, 20, 5, 2), (40, 50, 5, 3))
    put_run(r, 7, 1, 50, 55, 0, 4)  # the other direction
    assert accesses(r) == [(0, 10, 0, 1), (10, 10, 5, 2), (40, 10, 5, 3), (50, 5, 0, 4)]


def test_a_slow_message_is_a_record_a_millisecond():
    r = R.create(16)
    copied(r, (0, 10, 20, 0), (10, 20, 10, MERGE_NS), (20, 30, 0, MERGE_NS + 1))
    assert accesses(r) == [(0, 10, 20, 0), (10, 20, 0, MERGE_NS)]


def test_queue_pairs_do_not_end_each_others_runs_and_all_of_them_can_be_ended():
    r = R.create(256)
    for qp in range(100):
        copied(r, (qp * 100, qp * 100 + 10, 20, qp), qp=qp)
    end_runs(r)
    rows = take(r)
    assert sorted(rows[:, R.A].tolist()) == [qp * 100 for qp in range(100)]
    assert (rows[:, R.E] * 100 == rows[:, R.A]).all()
    end_runs(r)
    assert len(take(r)) == 0


def test_only_records_before_a_number_are_taken():
    r = R.create(8)
    fill(r, 0, 6)
    assert take(r, 4)[:, R.A].tolist() == [0, 1, 2, 3]
    fill(r, 6, 5)  # around the end of the ring
    assert take(r, 9)[:, R.A].tolist() == [4, 5, 6, 7, 8]
    assert take(r)[:, R.A].tolist() == [9, 10]


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
