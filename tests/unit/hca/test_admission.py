"""Who may come in, and the line in which requests wait for the responder."""

from collections.abc import Callable

import pytest

from support.ends import MS, PAGE, End
from support.peer import Peer, peer_of
from unpinned.hca import layout as L
from unpinned.hca.qp import fail_qp
from unpinned.wire import opcodes as O


@pytest.fixture
def peer() -> Peer:
    return peer_of(End(2))


def patched(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def ack(peer: Peer) -> bytes:
    return peer.ack(500)


BAD: list[tuple[str, Callable[[Peer], bytes]]] = [
    ("bad_length", lambda p: ack(p)[:11]),
    ("bad_length", lambda p: ack(p)[:12]),  # no AETH
    ("bad_length", lambda p: ack(p) + bytes(4)),  # a payload where none belongs
    ("bad_length", lambda p: p.packet(O.RC_SEND_ONLY, 100, bytes(1025))),  # more than the MTU
    ("bad_length", lambda p: p.packet(O.RC_SEND_ONLY, 100, bytes(8))[:-1]),  # not whole words
    ("bad_length", lambda p: patched(p.packet(O.RC_SEND_ONLY, 100), 1, 3 << 4)),  # pad without payload
    ("bad_length", lambda p: p.packet(O.RC_READ_REQUEST, 100, bytes(4), reth=(0, 0, 0))),
    ("bad_header", lambda p: patched(ack(p), 1, 1)),  # header version
    ("bad_header", lambda p: patched(ack(p), 2, 0x12)),  # P_Key
    ("bad_qpn", lambda p: patched(ack(p), 5, 0xEE)),
    ("bad_qpn", lambda p: patched(ack(p), 7, 0x01)),
    ("bad_qpn", lambda p: patched(patched(patched(ack(p), 5, 0), 6, 0), 7, 0)),  # that of a free record
    ("bad_opcode", lambda p: patched(ack(p), 0, 0x15)),
    ("bad_opcode", lambda p: patched(p.packet(O.RC_SEND_ONLY, 100), 0, O.UC_SEND_ONLY)),
    ("bad_opcode", lambda p: patched(p.packet(O.RC_SEND_ONLY, 100, bytes(8)), 0, O.UD_SEND_ONLY)),
]


@pytest.mark.parametrize(("reason", "make"), BAD, ids=[f"{reason}-{i}" for i, (reason, _) in enumerate(BAD)])
def test_a_bad_packet_is_dropped_and_counted(peer: Peer, reason: str, make: Callable[[Peer], bytes]) -> None:
    assert peer.give(make(peer)) == []
    assert peer.end.counters() == {reason: 1}


def test_a_stranger_is_dropped(peer: Peer) -> None:
    assert peer.give(peer.packet(O.RC_SEND_ONLY, 100), address=3) == []
    assert peer.end.counters() == {"bad_address": 1}


def test_a_partial_p_key_is_the_same_partition(peer: Peer) -> None:
    target = peer.end.buffer(64)
    write = peer.packet(O.RC_WRITE_ONLY, 100, bytes(4), reth=(target.va, target.key, 4))
    assert len(peer.give(patched(write, 2, 0x7F))) == 1


@pytest.mark.parametrize("state", [L.QPS_RESET, L.QPS_INIT, L.QPS_SQE])
def test_a_queue_pair_that_does_not_receive(peer: Peer, state: int) -> None:
    peer.end.h[peer.q + L.QP_STATE] = state
    assert peer.give(peer.packet(O.RC_SEND_ONLY, 100)) == [] and peer.end.counters() == {"bad_state": 1}


def test_ready_to_receive_takes_requests_but_no_answers() -> None:
    peer = peer_of(End(2), rts=False)
    target = peer.end.buffer(64)
    assert peer.give(peer.ack(500)) == [] and peer.end.counter("bad_state") == 1
    assert len(peer.give(peer.packet(O.RC_WRITE_ONLY, 100, reth=(target.va, target.key, 0)))) == 1


def test_an_ended_queue_pair_is_silent(peer: Peer) -> None:
    fail_qp(peer.end.h, peer.end.p, peer.q, L.WC_FATAL_ERR)
    peer.give()
    assert peer.give(peer.packet(O.RC_SEND_ONLY, 100), peer.ack(500)) == []
    assert peer.end.counter("bad_state") == 2


# ---- the line -------------------------------------------------------------------------------------------------------


def parked(pages: int = 64, **geometry: int) -> tuple[Peer, object]:
    """A peer whose WRITE waits for a page (PSN 100), and pinned memory beside it."""
    end = End(2, geometry)
    end.fault_after = 3 * MS
    missing = end.buffer(pages * PAGE, pinned=False)
    peer = peer_of(end, park_ns=100 * MS, max_dest_rd_atomic=2)
    assert peer.give(peer.packet(O.RC_WRITE_ONLY, 100, bytes(8), reth=(missing.va, missing.key, 8))) == []
    return peer, end.buffer(pages * PAGE)


def test_requests_behind_a_parked_one_wait_their_turn_in_order() -> None:
    peer, there = parked()
    writes = [
        peer.packet(O.RC_WRITE_ONLY, 101 + i, bytes([i + 1]) * 4, reth=(there.va, there.key, 4)) for i in range(5)
    ]
    assert peer.give(*writes) == [] and peer.end.h[L.H_POOL_USED] == 6 and not there.array.any()
    answers = peer.wait(3 * MS)
    assert answers[-1]["psn"] == 105 and answers[-1]["aeth"] == (0x1F, 6)
    assert there.array[0] == 5, "the last one last"
    peer.end.quiet()


def test_a_duplicate_of_what_waits_is_dropped_in_silence() -> None:
    peer, there = parked()
    write = peer.packet(O.RC_WRITE_ONLY, 101, bytes(4), reth=(there.va, there.key, 4))
    first = peer.packet(O.RC_WRITE_ONLY, 100, bytes(8), reth=(there.va, there.key, 8))
    assert peer.give(write, write, first) == []
    assert peer.end.counter("duplicate_parked") == 2 and peer.end.h[L.H_POOL_USED] == 2


def test_a_gap_behind_what_waits_is_told_once_it_is_served() -> None:
    peer, there = parked()
    assert peer.give(peer.packet(O.RC_WRITE_ONLY, 102, bytes(4), reth=(there.va, there.key, 4))) == []
    assert [(a["psn"], a["aeth"][0]) for a in peer.wait(3 * MS)][-1] == (101, L.NAK_SEQUENCE)


def test_a_full_line_is_a_gap() -> None:
    peer, there = parked(waiting_per_qp=3)
    peer.give(*[peer.packet(O.RC_WRITE_ONLY, 101 + i, bytes(4), reth=(there.va, there.key, 4)) for i in range(4)])
    assert peer.end.counter("pool_drops") == 1  # the next one after it is out of sequence
    assert [(a["psn"], a["aeth"][0]) for a in peer.wait(3 * MS)][-1] == (103, L.NAK_SEQUENCE)
    peer.end.quiet()


def test_without_any_place_the_peer_is_told_at_once() -> None:
    """The pool is used up by others: the request that would park gets an RNR NAK, not silence."""
    peer, _ = parked(waiting=1, waiting_per_qp=1)
    other = peer_of(peer.end)
    missing = peer.end.buffer(PAGE, pinned=False)
    (answer,) = other.give(other.packet(O.RC_WRITE_ONLY, 100, bytes(8), reth=(missing.va, missing.key, 8)))
    assert answer["psn"] == 100 and answer["aeth"][0] & 0xE0 == L.SYNDROME_RNR


def test_one_read_more_than_was_agreed_is_refused_in_its_turn() -> None:
    peer, there = parked()
    reads = [peer.packet(O.RC_READ_REQUEST, 101 + i, reth=(there.va, there.key, 4)) for i in range(3)]
    assert peer.give(*reads) == []
    answers = peer.wait(3 * MS)
    assert [a["psn"] for a in answers if a["opcode"] == O.RC_READ_RESPONSE_ONLY] == [101, 102]
    assert (
        answers[-1]["psn"] == 103
        and answers[-1]["aeth"][0] == L.NAK_INVALID
        and peer.end.h[peer.q + L.QP_STATE] == L.QPS_ERR
    )
    peer.end.quiet()


def test_the_number_of_reads_that_wait_is_kept_right() -> None:
    peer, there = parked()
    for round_ in range(4):
        psn = 101 + 2 * round_
        peer.give(*[peer.packet(O.RC_READ_REQUEST, psn + i, reth=(there.va, there.key, 4)) for i in range(2)])
        peer.wait(3 * MS)
    assert peer.end.h[peer.q + L.QP_READ_LIVE] == 0 and peer.end.h[peer.q + L.QP_STATE] == L.QPS_RTS


def test_an_atomic_that_parks_counts_as_one_that_waits() -> None:
    """Else the number goes below zero, and more READs and atomics may wait than were agreed (found by the swarm)."""
    end = End(2)
    end.fault_after = 3 * MS
    missing = end.buffer(PAGE, pinned=False)
    peer = peer_of(end, park_ns=100 * MS, max_dest_rd_atomic=2)
    assert peer.give(peer.packet(O.RC_FETCH_ADD, 100, atomiceth=(missing.va, missing.key, 1, 0))) == []
    assert end.h[peer.q + L.QP_READ_LIVE] == 1
    assert [a["psn"] for a in peer.wait(3 * MS)] == [100]
    assert end.h[peer.q + L.QP_READ_LIVE] == 0


def test_an_atomic_dropped_behind_a_request_that_is_not_ready_no_longer_waits() -> None:
    """Else each such drop is one READ less for the peer, until one too many is refused (found by the swarm)."""
    peer, there = parked()
    send = peer.packet(O.RC_SEND_ONLY, 101, bytes(4))
    assert peer.give(send, peer.packet(O.RC_FETCH_ADD, 102, atomiceth=(there.va, there.key, 1, 0))) == []
    assert peer.wait(3 * MS)[-1]["aeth"][0] & 0xE0 == L.SYNDROME_RNR, "no receive is posted"
    assert peer.end.h[peer.q + L.QP_READ_LIVE] == 0


# ---- a peer that goes back while the responder is busy ---------------------------------------------------------------


def streaming() -> tuple[Peer, object]:
    """A peer whose READ (PSN 164..227) waits for its first page, behind one (100..163) that was served."""
    end = End(2)
    end.fault_after = 3 * MS
    there, missing = end.buffer(1 << 16), end.buffer(1 << 16, pinned=False)
    peer = peer_of(end, park_ns=100 * MS)
    assert len(peer.give(peer.packet(O.RC_READ_REQUEST, 100, reth=(there.va, there.key, 65536)))) == 64
    assert peer.give(peer.packet(O.RC_READ_REQUEST, 164, reth=(missing.va, missing.key, 65536))) == []
    return peer, there


def psns(answers: list) -> list[int]:
    return [a["psn"] for a in answers]


def test_a_read_asked_for_again_during_a_later_one_is_followed() -> None:
    """One lost response must not cost a timeout for each READ behind it."""
    peer, there = streaming()
    again = [
        peer.packet(O.RC_READ_REQUEST, 110, reth=(there.va + 10240, there.key, 65536 - 10240)),
        peer.packet(O.RC_READ_REQUEST, 164, reth=(there.va, there.key, 65536)),
        peer.packet(O.RC_WRITE_ONLY, 228, bytes(4), reth=(there.va, there.key, 4)),
    ]
    answers = peer.give(*again)
    assert psns(answers) == [*range(110, 228), 228]
    assert answers[0]["opcode"] == O.RC_READ_RESPONSE_FIRST and answers[-1]["opcode"] == O.RC_ACK
    peer.wait(3 * MS)
    peer.end.quiet()


def test_what_waits_behind_a_read_is_executed_once_when_the_peer_goes_back_before_it() -> None:
    peer, there = streaming()
    write = peer.packet(O.RC_WRITE_ONLY, 228, b"new!", reth=(there.va, there.key, 4))
    assert peer.give(write) == []
    assert psns(peer.give(peer.packet(O.RC_READ_REQUEST, 163, reth=(there.va, there.key, 4)))) == [163]
    assert peer.end.h[L.H_POOL_USED] == 1 and not there.array.any()
    assert psns(peer.give(peer.packet(O.RC_READ_REQUEST, 164, reth=(there.va, there.key, 65536)), write))[-1] == 228
    assert there.array[:4].tobytes() == b"new!" and peer.end.h[peer.q + L.QP_MSN] == 3


@pytest.mark.parametrize("atomic", [False, True])
def test_a_stray_copy_of_something_older_does_not_end_a_parked_read(atomic: bool) -> None:
    """The wire repeats packets, and nobody asks for that READ a second time (I9; found by the swarm)."""
    end = End(2)
    end.fault_after = 3 * MS
    there, missing = end.buffer(1 << 16), end.buffer(4096, pinned=False)
    peer = peer_of(end, park_ns=100 * MS)
    older = peer.packet(O.RC_READ_REQUEST, 100, reth=(there.va, there.key, 64))
    if atomic:
        older = peer.packet(O.RC_FETCH_ADD, 100, atomiceth=(there.va, there.key, 1, 0))
    write = peer.packet(O.RC_WRITE_ONLY, 105, b"new!", reth=(there.va, there.key, 4))
    assert psns(peer.give(older)) == [100]
    assert peer.give(peer.packet(O.RC_READ_REQUEST, 101, reth=(missing.va, missing.key, 4096)), write) == []
    assert psns(peer.give(older)) == [100], "it may have been lost the first time"
    assert psns(peer.wait(3 * MS)) == [101, 102, 103, 104, 105]
    assert there.array[:4].tobytes() == b"new!"
    end.quiet()


def test_a_stray_copy_that_parks_too_long_costs_nothing_of_what_came_since() -> None:
    """Its RNR NAK is stale to the peer, which waits for an answer to its WRITE (I9; found by the swarm)."""
    end = End(2)
    there, gone = end.buffer(64), end.buffer(4096, pinned=False)
    peer = peer_of(end, park_ns=2 * MS)
    read = peer.packet(O.RC_READ_REQUEST, 100, reth=(gone.va, gone.key, 64))
    assert psns(peer.give(read)) == [100]
    end.discard(gone.pages())
    end.fault_after = 50 * MS
    assert peer.give(read, peer.packet(O.RC_WRITE_ONLY, 101, b"new!", reth=(there.va, there.key, 4))) == []
    assert peer.wait(2 * MS)[-1]["psn"] == 101 and there.array[:4].tobytes() == b"new!"
    assert peer.heard[-1]["aeth"][0] == 0x1F


def test_a_second_copy_of_what_waits_behind_a_repeated_read_is_dropped() -> None:
    """Else what came behind it for the first time would be forgotten with it (I9; found by the swarm)."""
    end = End(2)
    there, gone = end.buffer(64), end.buffer(4096, pinned=False)
    peer = peer_of(end, park_ns=100 * MS)
    first = peer.packet(O.RC_READ_REQUEST, 100, reth=(gone.va, gone.key, 64))
    second = peer.packet(O.RC_READ_REQUEST, 101, reth=(there.va, there.key, 64))
    assert psns(peer.give(first, second)) == [100, 101]
    end.discard(gone.pages())
    end.fault_after = 3 * MS
    write = peer.packet(O.RC_WRITE_ONLY, 102, b"new!", reth=(there.va, there.key, 4))
    assert peer.give(first, second, write, second) == []
    assert psns(peer.wait(3 * MS)) == [100, 101, 102] and there.array[:4].tobytes() == b"new!"


def test_what_is_sent_again_and_finds_no_place_is_asked_for() -> None:
    """A NAK of the expected PSN, which the peer has never sent, would say nothing to it (I9; found by the swarm with 128 QPs)."""
    end = End(2, {"waiting_per_qp": 1})
    there, gone = end.buffer(64), end.buffer(4096, pinned=False)
    peer = peer_of(end, park_ns=100 * MS)
    requests = [
        peer.packet(O.RC_READ_REQUEST, 100, reth=(gone.va, gone.key, 64)),
        *[peer.packet(O.RC_WRITE_ONLY, psn, b"new!", reth=(there.va, there.key, 4)) for psn in (101, 102)],
    ]
    assert [psns(peer.give(request)) for request in requests] == [[100], [101], [102]]
    end.discard(gone.pages())
    end.fault_after = 3 * MS
    assert peer.give(*requests) == [] and end.counter("pool_drops") == 1
    assert [(a["psn"], a["aeth"][0]) for a in peer.wait(3 * MS)][-2:] == [(100, 0x1F), (102, L.NAK_SEQUENCE)]
    assert [(a["psn"], a["aeth"][0]) for a in peer.give(requests[2])] == [(102, 0x1F)]
    end.quiet()


def test_what_was_dropped_and_came_once_more_in_its_turn_is_not_asked_for() -> None:
    """A NAK of the PSN behind it, which the peer has never sent, took the place of its acknowledgement (I9; found by the swarm)."""
    end = End(2)
    gone = end.buffer(4096, pinned=False)
    peer = peer_of(end, park_ns=100 * MS)
    first, second, third = (peer.packet(O.RC_WRITE_ONLY, psn, b"new!", reth=(gone.va, gone.key, 4)) for psn in (100, 101, 102))
    end.fault_after = 3 * MS
    assert peer.give(first, third, second, third) == [] and end.counter("out_of_sequence") == 1
    assert [(a["psn"], a["aeth"][0]) for a in peer.wait(3 * MS)][-1] == (102, 0x1F)
    assert end.counter("nak_sequence") == 0
    end.quiet()


def test_what_was_dropped_behind_such_a_copy_is_asked_for() -> None:
    end = End(2)
    gone = end.buffer(4096, pinned=False)
    peer = peer_of(end, park_ns=100 * MS)
    first, second, third, fifth = (
        peer.packet(O.RC_WRITE_ONLY, psn, b"new!", reth=(gone.va, gone.key, 4)) for psn in (100, 101, 102, 104)
    )
    end.fault_after = 3 * MS
    assert peer.give(first, third, fifth, second, third) == []
    assert [(a["psn"], a["aeth"][0]) for a in peer.wait(3 * MS)][-1] == (103, L.NAK_SEQUENCE)
    end.quiet()


def test_a_read_that_comes_again_during_a_later_atomic_is_answered_after_it() -> None:
    """The peer that came again after "not ready" does so only once (I9; found by the swarm, seed 995423)."""
    end = End(2)
    there = end.buffer(64)
    peer = peer_of(end)
    again = peer.packet(O.RC_READ_REQUEST, 100, reth=(there.va, there.key, 8))
    assert psns(peer.give(again)) == [100]
    add = peer.packet(O.RC_FETCH_ADD, 101, atomiceth=(there.va, there.key, 5, 0))
    assert psns(peer.give(add, again, add)) == [101, 100, 101]
    assert there.array[:8].view("i8")[0] == 5
    end.quiet()


def test_a_parked_read_may_be_asked_for_again_from_a_later_place() -> None:
    peer, there = streaming()
    assert peer.give(peer.packet(O.RC_READ_REQUEST, 170, reth=(there.va, there.key, 58 * 1024)))[0]["psn"] == 170


def test_a_duplicate_write_during_a_read_says_nothing() -> None:
    """Its acknowledgement would vouch for responses that have not been sent."""
    peer, there = streaming()
    assert peer.give(peer.packet(O.RC_WRITE_ONLY, 99, bytes(4), reth=(there.va, there.key, 4))) == []


def test_a_duplicate_is_answered_ahead_of_what_is_parked() -> None:
    peer, there = parked()
    (answer,) = peer.give(peer.packet(O.RC_WRITE_ONLY, 99, bytes(4), reth=(there.va, there.key, 4)))
    assert (answer["psn"], answer["aeth"][0]) == (99, 0x1F)
    assert psns(peer.give(peer.packet(O.RC_READ_REQUEST, 98, reth=(there.va, there.key, 4)))) == [98]
    assert psns(peer.wait(3 * MS)) == [100]


def test_requests_that_are_sent_again_do_not_count_against_the_peers_limit() -> None:
    """Found on a wire that loses and reorders: the answers came late, so the peer had gone back and had as many new ones out."""
    end = End(2)
    cell = end.buffer(64)
    peer = peer_of(end, max_dest_rd_atomic=4)

    def add(psn: int) -> bytes:
        return peer.packet(O.RC_FETCH_ADD, psn, atomiceth=(cell.va, cell.key, 1, 0))

    assert len(peer.give(*map(add, range(100, 104)))) == 4
    again, new = [add(psn) for psn in range(101, 104)], [add(psn) for psn in range(104, 108)]
    answers = peer.give(*again, *new)
    assert [a["psn"] for a in answers] == list(range(101, 108)) and end.counter("nak_invalid") == 0
    assert int(cell.array[:8].view("i8")[0]) == 8, "each once"
    assert end.h[peer.q + L.QP_READ_LIVE] == 0
