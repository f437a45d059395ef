"""Completion queues: order, overrun, and who asked to be told."""

import numpy as np

from support.ends import End
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.hca.completions import push, take


def queue(depth: int = 8) -> tuple[End, int]:
    end = End(1)
    return end, setup.add_cq(end.t, depth)


def taken(end: End, cq: int, limit: int = 64) -> list[int]:
    out = np.zeros(64 * L.CQE_WORDS, np.int64)
    return [int(out[i * L.CQE_WORDS + L.E_ID]) for i in range(take(end.h, cq, out, limit))]


def test_first_in_first_out_around_the_ring() -> None:
    end, cq = queue()
    pushed, popped = 0, []
    for count in (3, 8, 5, 1, 7):
        while pushed - len(popped) < count:
            assert push(end.h, cq, pushed, 0, 0, 0, 0, 0, 0, 0) == 0
            pushed += 1
        popped += taken(end, cq, count)
    assert popped == list(range(pushed)) and end.h[L.H_COMPLETIONS] == pushed


def test_every_field_arrives() -> None:
    end, cq = queue()
    push(end.h, cq, -5, 10, 129, 1 << 31, 0xABC, 0xFFFFFFFF, 2, 1)
    out = np.zeros(L.CQE_WORDS, np.int64)
    assert take(end.h, cq, out, 1) == 1
    assert list(out) == [-5, 10, 129, 1 << 31, 0xABC, 0xFFFFFFFF, 2, 0]


def test_an_overrun_is_marked_and_overwrites_nothing() -> None:
    end, cq = queue()
    for i in range(8):
        assert push(end.h, cq, i, 0, 0, 0, 0, 0, 0, 0) == 0
    assert push(end.h, cq, 8, 0, 0, 0, 0, 0, 0, 0) == -1
    assert end.h[cq + L.CQ_STATE] == 2 and end.counter("cq_overrun") == 1
    assert taken(end, cq) == list(range(8))


def test_an_event_is_owed_once_per_arming() -> None:
    end, cq = queue()
    push(end.h, cq, 0, 0, 0, 0, 0, 0, 0, 1)
    assert end.h[L.H_EVENTS] == 0, "nobody asked"
    end.h[cq + L.CQ_ARMED] = 1
    for i in range(2):
        push(end.h, cq, i, 0, 0, 0, 0, 0, 0, 0)
    assert end.h[L.H_EVENTS] == 1 and end.h[cq + L.CQ_EVENT] == 1 and end.h[cq + L.CQ_ARMED] == 0


def test_solicited_only_waits_for_solicited_or_an_error() -> None:
    end, cq = queue()
    end.h[cq + L.CQ_ARMED] = 2
    push(end.h, cq, 0, 0, 0, 0, 0, 0, 0, 0)
    assert end.h[L.H_EVENTS] == 0
    push(end.h, cq, 1, 0, 0, 0, 0, 0, 0, 1)
    assert end.h[L.H_EVENTS] == 1
    end.h[cq + L.CQ_EVENT], end.h[L.H_EVENTS], end.h[cq + L.CQ_ARMED] = 0, 0, 2
    push(end.h, cq, 2, L.WC_WR_FLUSH_ERR, 0, 0, 0, 0, 0, 0)
    assert end.h[L.H_EVENTS] == 1


def test_a_queue_closed_with_its_event_owed_takes_it_along() -> None:
    end, cq = queue()
    end.h[cq + L.CQ_ARMED] = 1
    push(end.h, cq, 0, 0, 0, 0, 0, 0, 0, 0)
    setup.remove_cq(end.t, cq)
    assert end.h[L.H_EVENTS] == 0 and not end.h[cq : cq + L.CQ_WORDS].any()
