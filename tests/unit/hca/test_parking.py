"""What waits for a page: the bounded pool, and the life of a queue pair's fault."""

import numpy as np
import pytest

from support.ends import MS, PAGE, End
from support.peer import Peer, peer_of
from unpinned.hca import device
from unpinned.hca import layout as L
from unpinned.hca.parking import (
    FAILED,
    NONE,
    READY,
    WAITING,
    ask,
    feed,
    forget,
    give_back,
    keep,
    release_unless_used,
    settled,
    state,
    unlink,
)
from unpinned.hca.ready import set_deadline
from unpinned.paging import faults
from unpinned.paging import layout as P
from unpinned.paging.regions import revoke
from unpinned.wire import opcodes as O

HEAD = L.QP_PEND_HEAD


@pytest.fixture
def end() -> End:
    return End(1, {"waiting": 4, "waiting_per_qp": 3})


def put(end: End, q: int, text: bytes, limit: int = 3) -> int:
    end.b[:64] = 0
    end.b[: len(text)] = np.frombuffer(text, np.uint8)
    return int(keep(end.h, end.b, 0, len(text), q + HEAD, limit))


def first(end: End, q: int) -> bytes:
    slot = int(unlink(end.h, q + HEAD))
    at = int(end.h[L.H_POOL_ARENA]) + slot * L.PACKET_BYTES
    text = end.b[at : at + int(end.h[end.h[L.H_POOL_BASE] + slot * L.POOL_WORDS + L.POOL_LENGTH])].tobytes()
    give_back(end.h, slot)
    return text


def test_packets_wait_in_order(end: End) -> None:
    q = peer_of(end).q
    for round_ in range(5):
        assert all(put(end, q, b"%d" % (round_ + i)) for i in range(3))
        assert [first(end, q) for _ in range(3)] == [b"%d" % (round_ + i) for i in range(3)]
    end.quiet()


def test_one_queue_pair_and_all_together_are_bounded(end: End) -> None:
    one, two = peer_of(end).q, peer_of(end).q
    assert [put(end, one, b"x") for _ in range(4)] == [1, 1, 1, 0]
    assert [put(end, two, b"y") for _ in range(2)] == [1, 0]
    assert end.counter("pool_drops") == 2 and end.h[L.H_POOL_USED] == 4
    forget(end.h, one + HEAD)
    forget(end.h, two + HEAD)
    end.quiet()


def test_who_has_many_waiting_leaves_the_others_a_place_to_park() -> None:
    """Else a stranger's short fault is an RNR NAK, which may end its connection."""
    end = End(2, {"waiting": 64, "waiting_per_qp": 48})
    end.fault_after = 8 * MS
    cold = end.buffer(3 * PAGE, pinned=False)
    hoarders, other = [peer_of(end, park_ns=16 * MS) for _ in range(2)], peer_of(end, park_ns=16 * MS)

    def write(peer: Peer, psn: int, page: int) -> bytes:
        return peer.packet(O.RC_WRITE_ONLY, psn, b"data", reth=(cold.va + page * PAGE, cold.key, 4))

    for page, hoarder in enumerate(hoarders):
        assert hoarder.give(*[write(hoarder, 100 + i, page) for i in range(48)]) == []
    assert end.counter("pool_drops") > 0, "the pool is full"
    assert other.give(write(other, 100, 2)) == []
    other.wait(8 * MS)
    assert end.h[other.q + L.QP_EPSN] == 101 and cold.array[2 * PAGE : 2 * PAGE + 4].tobytes() == b"data"
    assert end.counter("rnr_nak_fault") == 0


def test_a_packet_longer_than_a_slot_finds_no_place(end: End) -> None:
    q = peer_of(end).q
    assert keep(end.h, end.b, 0, L.PACKET_BYTES, q + HEAD, 3) == 1
    assert keep(end.h, end.b, 0, L.PACKET_BYTES + 1, q + HEAD, 3) == 0


def test_a_slot_that_an_action_needs_stays(end: End) -> None:
    q = peer_of(end).q
    put(end, q, b"x")
    slot = unlink(end.h, q + HEAD)
    a = int(end.h[L.H_ACT_BASE])
    end.h[a + L.A_POOL], end.h[L.H_ACT_COUNT] = slot + 1, 1
    release_unless_used(end.h, 0, slot)
    assert end.h[L.H_POOL_USED] == 1
    release_unless_used(end.h, 1, slot)
    assert end.h[L.H_POOL_USED] == 0
    end.h[L.H_ACT_COUNT] = 0


# ---- faults ---------------------------------------------------------------------------------------------------------


def begin(end: End, q: int, buffer, pages: int = 1) -> int:
    return int(ask(end.h, end.p, q, L.QP_PARK_FAULT, buffer.mr, buffer.va, pages * PAGE, 1, 0))


def seen(end: End, q: int, now: int = 0) -> int:
    return int(state(end.h, end.p, q, L.QP_PARK_FAULT, now))


def test_a_fault_is_begun_once_and_let_go_of_when_it_ends(end: End) -> None:
    q, buffer = peer_of(end).q, end.buffer(4 * PAGE, pinned=False)
    assert seen(end, q) == NONE
    assert begin(end, q, buffer) == begin(end, q, buffer) == seen(end, q) == WAITING
    assert end.p[P.FAULT_LIVE] == 1 and end.counter("parked") == 1
    end._faults(0)
    assert seen(end, q) == READY and end.p[P.FAULT_LIVE] == 0
    assert seen(end, q) == NONE


def test_a_failure_stays_until_the_page_is_there_or_asked_for(end: End) -> None:
    q, buffer = peer_of(end).q, end.buffer(4 * PAGE, pinned=False)
    end.gone |= set(buffer.pages())
    for _ in range(2):
        begin(end, q, buffer)
        end._faults(0)
        assert seen(end, q) == seen(end, q) == FAILED and end.h[q + L.QP_PARK_FAULT] < 0
        assert end.p[P.FAULT_LIVE] == 0
        assert begin(end, q, buffer) == FAILED, "still missing: the request fails"
        assert seen(end, q) == NONE
    begin(end, q, buffer)
    end._faults(0)
    seen(end, q)
    settled(end.h, q, L.QP_PARK_FAULT)
    assert begin(end, q, buffer) == WAITING, "something else was missing"


@pytest.mark.parametrize(("page", "result"), [(1, WAITING), (2, FAILED), (3, FAILED), (4, WAITING)])
def test_a_failure_is_only_that_of_what_was_asked_for(end: End, page: int, result: int) -> None:
    q, buffer = peer_of(end).q, end.buffer(8 * PAGE, pinned=False)
    end.gone |= set(buffer.pages())
    ask(end.h, end.p, q, L.QP_PARK_FAULT, buffer.mr, buffer.va + 2 * PAGE, 2 * PAGE, 1, 0)
    end._faults(0)
    assert seen(end, q) == FAILED
    assert ask(end.h, end.p, q, L.QP_PARK_FAULT, buffer.mr, buffer.va + page * PAGE, PAGE, 1, 0) == result


def test_a_fault_that_lost_its_races_is_begun_anew(end: End) -> None:
    q, buffer = peer_of(end).q, end.buffer(4 * PAGE, pinned=False)
    begin(end, q, buffer)
    slot = int(end.h[q + L.QP_PARK_FAULT]) - 1
    assert faults.fault_take(end.p, P.FAULT_SCAN) == slot
    faults.fault_scanned(end.p, slot, buffer.va, 0)
    assert faults.fault_take(end.p, P.FAULT_QUEUED) == slot and faults.fault_chunk(end.p, slot)
    end.p[slot + P.FAULT_RETRIES] = end.p[P.RETRIES_MAX]
    assert faults.fault_commit(end.p, slot, P.EAGAIN, 0) == P.EXHAUSTED
    assert seen(end, q) == READY and begin(end, q, buffer) == WAITING


def test_outside_the_region_or_revoked_is_a_failure_at_once(end: End) -> None:
    q, buffer = peer_of(end).q, end.buffer(4 * PAGE, pinned=False)
    assert begin(end, q, buffer, pages=5) == FAILED
    revoke(end.p, buffer.region, buffer.va + 2 * PAGE, buffer.va + 3 * PAGE)
    assert begin(end, q, buffer, pages=3) == FAILED
    assert begin(end, q, buffer, pages=2) == WAITING


def test_who_finds_no_fault_slot_has_a_turn_when_one_is_free() -> None:
    end = End(1, fault_slots=1)
    one, two = peer_of(end).q, peer_of(end).q
    first_, second = end.buffer(PAGE, pinned=False), end.buffer(PAGE, pinned=False)
    assert begin(end, one, first_) == WAITING
    assert begin(end, two, second) == NONE
    feed(end.h, end.p, MS)
    assert not end.h[two + L.QP_QUEUED], "no slot is free yet"
    end._faults(0)
    seen(end, one)
    feed(end.h, end.p, MS)
    assert end.h[two + L.QP_QUEUED] and begin(end, two, second) == WAITING


def test_the_timer_of_who_waited_for_a_fault_slot_runs_anew() -> None:
    """Its turn may come after the timers' (I9; found by the swarm, seed 8000439 of 24 connections)."""
    end = End(1, fault_slots=1)
    one, two = peer_of(end).q, peer_of(end, timeout=1).q
    first_, second = end.buffer(PAGE, pinned=False), end.buffer(PAGE, pinned=False)
    assert begin(end, one, first_) == WAITING
    assert begin(end, two, second) == NONE
    set_deadline(end.h, two, L.QP_DEADLINE, MS)
    end._faults(0)
    seen(end, one)
    feed(end.h, end.p, MS)
    assert end.h[two + L.QP_DEADLINE] == MS + end.h[two + L.QP_TIMEOUT_NS]
    device.timers(end.h, end.p, MS)
    assert end.counter("timeouts") == end.counter("stood_still") == 0


def test_the_time_a_fault_takes_is_learnt(end: End) -> None:
    q, buffer = peer_of(end).q, end.buffer(64 * PAGE, pinned=False)
    end.h[L.H_FAULT_NS] = 0
    for _ in range(64):
        begin(end, q, buffer)
        end._faults(0)
        seen(end, q, now=800_000)
        end.discard(buffer.pages())
    assert 700_000 < end.h[L.H_FAULT_NS] <= 800_000
