"""A burst of the device: full batches, turns, timers, and when there is something to do."""

import pytest

from support.ends import MS, PAGE, End
from support.peer import peer_of
from unpinned.hca import device, setup
from unpinned.hca import layout as L
from unpinned.hca.ready import make_ready
from unpinned.paging import layout as P
from unpinned.wire import opcodes as O


def test_a_full_batch_of_actions_is_finished_and_the_rest_judged_after_it() -> None:
    end = End(2, {"packets": 256})
    end.h[L.H_ACT_DEPTH] = 5
    target = end.buffer(64)
    peer = peer_of(end)
    answers = peer.give(
        *[peer.packet(O.RC_WRITE_ONLY, 100 + i, bytes([i]), reth=(target.va, target.key, 1)) for i in range(24)]
    )
    assert answers[-1]["psn"] == 123 and target.array[0] == 23 and end.counter("rx_packets") == 24


def test_a_full_batch_of_descriptors_too() -> None:
    end = End(2)
    end.p[P.DMA_CAPACITY] = L.SGE_MAX + 3
    target = end.buffer(64)
    peer = peer_of(end)
    answers = peer.give(
        *[peer.packet(O.RC_WRITE_ONLY, 100 + i, bytes([i]), reth=(target.va, target.key, 1)) for i in range(24)]
    )
    assert answers[-1]["psn"] == 123 and target.array[0] == 23


def test_many_queue_pairs_that_time_out_at_once_do_not_overflow_the_batch() -> None:
    end = End(1, {"qps": 64})
    end.h[L.H_ACT_DEPTH] = 5
    source = end.buffer(64)
    peers = [peer_of(end, timeout=10, retry_cnt=0, depth=2) for _ in range(30)]
    for peer in peers:
        peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    before = end.h[end.h[L.H_POOL_BASE] : end.h[L.H_POOL_BASE] + 64].copy()
    peers[0].wait(5 * MS)
    assert [end.statuses(peer.q) for peer in peers] == [[(1, L.WC_RETRY_EXC_ERR)]] * 30
    assert (end.h[end.h[L.H_POOL_BASE] : end.h[L.H_POOL_BASE] + 64] == before).all()
    end.quiet()


def test_what_lies_behind_the_actions_is_never_written(seed: int) -> None:
    """The table of actions is followed by the pool's records; a full batch must stop in time, whoever fills it."""
    end = End(2, {"waiting": 64})
    end.h[L.H_ACT_DEPTH] = 4
    guard = int(end.h[L.H_ACT_BASE]) + 4 * L.ACT_WORDS
    end.h[guard : guard + 8 * L.ACT_WORDS] = 77
    end.fault_after = MS
    missing, there = end.buffer(64 * PAGE, pinned=False), end.buffer(64)
    peers = [peer_of(end, park_ns=2 * MS) for _ in range(6)]
    for i in range(8):
        for k, peer in enumerate(peers):
            at = PAGE * ((7 * i + k) % 64)
            peer.give(
                peer.packet(O.RC_WRITE_ONLY, 100 + 3 * i, b"1234", reth=(missing.va + at, missing.key, 4)),
                peer.packet(O.RC_READ_REQUEST, 101 + 3 * i, reth=(there.va, there.key, 4)),
                peer.packet(O.RC_SEND_ONLY, 102 + 3 * i),
            )
        peers[0].wait(3 * MS)
    assert (end.h[guard : guard + 8 * L.ACT_WORDS] == 77).all()


def test_nothing_to_do_means_nothing_to_do() -> None:
    end = End(1)
    peer = peer_of(end)
    peer.give()
    assert device.next_turn(end.h, 0) == end.h[L.H_NEXT_TIMER] == device.NEVER
    source = end.buffer(64)
    peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    assert device.next_turn(end.h, 0) == peer.now + setup.timeout_ns(14)
    make_ready(end.h, peer.q)
    assert device.next_turn(end.h, 0) == 0


def test_a_batch_in_flight_wants_to_be_finished() -> None:
    end = End(1)
    gone = end.buffer(PAGE)
    end.gone |= set(gone.pages())
    peer = peer_of(end)
    setup.post_send(end.h, peer.q, wr_id=1, opcode=L.WR_RDMA_WRITE, flags=0, sges=[gone.sge()])
    make_ready(end.h, peer.q)
    end.deliver([], MS)
    assert end.out == [] and device.next_turn(end.h, 0) == 0, "the packet that was not sent has to be seen to"


def test_timers_look_only_when_one_is_due() -> None:
    end = End(1)
    peer = peer_of(end, timeout=10)
    source = end.buffer(64)
    peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    assert device.timers(end.h, end.p, peer.now + 4 * MS) == 0
    assert device.timers(end.h, end.p, peer.now + 5 * MS) == 1
    assert end.counter("timeouts") == 1


@pytest.mark.parametrize("retry_cnt", [0, 1, 7])
def test_without_an_answer_a_request_ends_after_its_retries(retry_cnt: int) -> None:
    end = End(1)
    peer = peer_of(end, timeout=10, retry_cnt=retry_cnt)
    source = end.buffer(64)
    peer.post(wr_id=1, opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    peer.post(wr_id=2, opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    for _ in range(retry_cnt):
        assert [p["psn"] for p in peer.wait(5 * MS)] == [500, 501]
    assert peer.wait(5 * MS) == []
    assert end.statuses(peer.q) == [(1, L.WC_RETRY_EXC_ERR), (2, L.WC_WR_FLUSH_ERR)]


def test_who_stood_still_listens_once_more_before_it_is_a_timeout() -> None:
    """A process that was stopped (or its machine) finds its timers long past: the peer has not been silent, nobody listened."""
    end = End(1)
    peer = peer_of(end, timeout=10, retry_cnt=1)
    source = end.buffer(64)
    peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    assert peer.wait(500 * MS) == [] and end.counter("stood_still") == 1
    peer.give(peer.ack(500))
    assert end.statuses(peer.q) == [(1, 0)] and end.counter("timeouts") == 0
    peer.post(wr_id=2, opcode=L.WR_RDMA_WRITE, sges=[source.sge()])  # the peer was heard: excused anew
    assert peer.wait(500 * MS) == [] and end.counter("stood_still") == 2


def test_standing_still_again_and_again_puts_nothing_off_for_ever() -> None:
    end = End(1)
    peer = peer_of(end, timeout=10, retry_cnt=2)
    source = end.buffer(64)
    peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    sent = [len(peer.wait(500 * MS)) for _ in range(6)]
    assert sent == [0, 1, 0, 1, 0, 0] and end.statuses(peer.q) == [(1, L.WC_RETRY_EXC_ERR)]
    assert end.counter("timeouts") == 3 and end.counter("stood_still") == 3


def test_a_timeout_of_zero_is_never() -> None:
    peer = peer_of(End(1), timeout=0)
    source = peer.end.buffer(64)
    peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    assert device.next_turn(peer.end.h, 0) == device.NEVER
    peer.give(peer.ack(500))
    assert peer.end.statuses(peer.q) == [(1, 0)]


def test_waiting_for_a_free_fault_slot_is_no_timeout() -> None:
    """The first packet is out, the next one's page is missing, and others hold all fault slots (I9; found by the swarm)."""
    end = End(1, fault_slots=1)
    end.fault_after = 50 * MS
    hoarder, peer = peer_of(end, timeout=10), peer_of(end, timeout=10)
    there, missing = end.buffer(1024), end.buffer(1 << 16, pinned=False)
    hoarder.post(opcode=L.WR_RDMA_WRITE, sges=[missing.sge(0, 64)])
    sent = peer.post(opcode=L.WR_RDMA_WRITE, sges=[there.sge(), missing.sge(1 << 15, 64)])
    assert [p["psn"] for p in sent] == [500] and end.h[peer.q + L.QP_STARVED] == 1
    for _ in range(8):
        assert peer.wait(5 * MS) == []
    assert end.counter("timeouts") == 0
    assert [p["psn"] for p in peer.wait(15 * MS)] == [500], "the other one's fault is over"
    hoarder.now = peer.now
    hoarder.give(hoarder.ack(500))
    assert [p["psn"] for p in peer.wait(50 * MS)] == [501]
    assert end.counter("timeouts") == 0


def test_progress_starts_the_timer_and_the_retries_anew() -> None:
    end = End(1)
    peer = peer_of(end, timeout=10, retry_cnt=1)
    source = end.buffer(64)
    for i in range(3):
        peer.post(wr_id=i, opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    for i in range(3):
        assert peer.wait(5 * MS)[0]["psn"] == 500 + i
        assert peer.wait(4 * MS) == []
        peer.give(peer.ack(500 + i))
    assert end.statuses(peer.q) == [(0, 0), (1, 0), (2, 0)]


def test_a_fault_wakes_all_that_wait_for_its_slot() -> None:
    end = End(2)
    end.fault_after = 2 * MS
    target = end.buffer(PAGE, pinned=False)
    peers = [peer_of(end, park_ns=16 * MS) for _ in range(3)]
    for i, peer in enumerate(peers):
        assert peer.give(peer.packet(O.RC_WRITE_ONLY, 100, bytes([i + 1]), reth=(target.va + i, target.key, 1))) == []
    assert end.p[P.FAULT_LIVE] == 1, "they share it"
    assert len(peers[0].wait(2 * MS)) == 3
    assert target.array[:3].tobytes() == b"\x01\x02\x03"
    end.quiet()
