"""The ready ring and the device's next deadline."""

from support.ends import End
from unpinned.hca import layout as L
from unpinned.hca.ready import make_ready, set_deadline


def test_a_queue_pair_stands_in_the_ring_once() -> None:
    end = End(1, {"qps": 8})
    records = [int(end.h[L.H_QP_BASE]) + i * L.QP_WORDS for i in range(8)]
    for _ in range(3):
        for q in records:
            make_ready(end.h, q)
    assert end.h[L.H_READY_TAIL] - end.h[L.H_READY_HEAD] == 8
    base = int(end.h[L.H_READY_BASE])
    assert list(end.h[base : base + 8]) == records


def test_the_next_timer_is_a_lower_bound() -> None:
    end = End(1)
    q = int(end.h[L.H_QP_BASE])
    for field, when in ((L.QP_DEADLINE, 500), (L.QP_RNR_UNTIL, 700), (L.QP_PARK_UNTIL, 300), (L.QP_DEADLINE, 0)):
        set_deadline(end.h, q, field, when)
        assert end.h[q + field] == when
    assert end.h[L.H_NEXT_TIMER] == 300
