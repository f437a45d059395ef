"""The responder's order: the expected PSN, what is ahead of it, what is behind."""

import pytest

from support.ends import MS, PAGE, End
from support.peer import Peer, peer_of
from unpinned.hca import layout as L
from unpinned.wire import opcodes as O

HALF = 1 << 23


def write(peer: Peer, psn: int, buffer, data: bytes = b"data") -> bytes:
    return peer.packet(O.RC_WRITE_ONLY, psn, data, reth=(buffer.va, buffer.key, len(data)))


@pytest.mark.parametrize("first", [0, 100, HALF - 1, HALF, (1 << 24) - 1])
@pytest.mark.parametrize(
    ("distance", "answer"),
    [(0, 0x1F), (1, L.NAK_SEQUENCE), (HALF - 1, L.NAK_SEQUENCE), (-1, 0x1F), (-HALF, 0x1F)],
)
def test_psn_arithmetic(first: int, distance: int, answer: int) -> None:
    """Half the PSNs are ahead, half behind, wherever the counting stands."""
    peer = peer_of(End(2), psn=first)
    target = peer.end.buffer(64)
    (got,) = peer.give(write(peer, first + distance, target))
    assert got["aeth"][0] == answer
    assert got["psn"] == (first if distance > 0 else first + distance) & 0xFFFFFF
    assert bool(target.array.any()) == (distance == 0)


def test_a_gap_is_nak_ed_once_until_the_missing_request_comes() -> None:
    peer = peer_of(End(2))
    target = peer.end.buffer(64)
    ahead = [write(peer, 101 + i, target) for i in range(5)]
    (nak,) = peer.give(*ahead)
    assert (nak["psn"], nak["aeth"]) == (100, (L.NAK_SEQUENCE, 0))
    assert peer.give(*ahead) == [], "once"
    assert [a["psn"] for a in peer.give(write(peer, 100, target), *ahead)] == [105]
    (nak,) = peer.give(write(peer, 108, target))
    assert (nak["psn"], nak["aeth"]) == (106, (L.NAK_SEQUENCE, 6)), "and again for the next gap"
    assert peer.end.counter("nak_sequence") == 2 and peer.end.counter("out_of_sequence") == 11


def test_one_acknowledgement_for_a_burst() -> None:
    peer = peer_of(End(2))
    target = peer.end.buffer(64)
    (ack,) = peer.give(*[write(peer, 100 + i, target) for i in range(40)])
    assert (ack["psn"], ack["aeth"]) == (139, (0x1F, 40))


def test_no_acknowledgement_unless_asked_or_at_the_end_of_a_message() -> None:
    peer = peer_of(End(2))
    target = peer.end.buffer(4096)
    first = peer.packet(O.RC_WRITE_FIRST, 100, bytes(1024), reth=(target.va, target.key, 3072), ackreq=0)
    assert peer.give(first) == []
    (ack,) = peer.give(peer.packet(O.RC_WRITE_MIDDLE, 101, bytes(1024), ackreq=1))
    assert (ack["psn"], ack["aeth"]) == (101, (0x1F, 0)), "the message is not complete: MSN 0"
    (ack,) = peer.give(peer.packet(O.RC_WRITE_LAST, 102, bytes(1024), ackreq=0))
    assert (ack["psn"], ack["aeth"]) == (102, (0x1F, 1))


def test_a_nak_waits_for_the_copies_it_vouches_for() -> None:
    """NAK 101 says that 100 arrived. Should its copy fail, the peer must hear that instead."""
    peer = peer_of(End(2))
    target = peer.end.buffer(PAGE)
    peer.end.gone |= set(target.pages())
    (nak,) = peer.give(write(peer, 100, target), write(peer, 102, target))
    assert (nak["psn"], nak["aeth"][0]) == (100, L.NAK_ACCESS)


def test_a_duplicate_s_acknowledgement_waits_too() -> None:
    peer = peer_of(End(2))
    target = peer.end.buffer(PAGE)
    peer.end.gone |= set(target.pages())
    (nak,) = peer.give(write(peer, 100, target), write(peer, 100, target))
    assert (nak["psn"], nak["aeth"][0]) == (100, L.NAK_ACCESS)


def test_an_empty_read_behind_a_write_waits_for_it() -> None:
    peer = peer_of(End(2))
    target = peer.end.buffer(PAGE)
    peer.end.gone |= set(target.pages())
    answers = peer.give(write(peer, 100, target), peer.packet(O.RC_READ_REQUEST, 101, reth=(0, 0, 0)))
    assert [(a["opcode"], a["psn"], a["aeth"][0]) for a in answers] == [(O.RC_ACK, 100, L.NAK_ACCESS)]


def test_the_end_of_a_connection_is_told_once_and_nothing_after() -> None:
    peer = peer_of(End(2))
    target = peer.end.buffer(64)
    bad = peer.packet(O.RC_WRITE_ONLY, 101, b"data", reth=(target.va, target.key + 1, 4))
    answers = peer.give(write(peer, 100, target), bad, write(peer, 102, target, b"no!!"))
    assert [(a["psn"], a["aeth"]) for a in answers] == [(101, (L.NAK_ACCESS, 1))]
    assert target.array[:4].tobytes() == b"data" and peer.end.counter("bad_state") == 1
    assert peer.give(write(peer, 102, target)) == []
    peer.end.quiet()


def test_a_message_that_parks_again_and_again_never_lets_the_peer_time_out() -> None:
    """Each packet that waited is acknowledged although it did not ask: the peer's timer starts anew."""
    end = End(2)
    target = end.buffer(1 << 16, pinned=False)
    end.fault_after = 2 * MS
    peer = peer_of(end, park_ns=16 * MS)
    peer.give(peer.packet(O.RC_WRITE_FIRST, 100, bytes(1024), reth=(target.va, target.key, 65536), ackreq=0))
    assert [a["psn"] for a in peer.wait(2 * MS)] == [100]
    for psn in range(101, 105):
        end.discard(target.pages())
        assert peer.give(peer.packet(O.RC_WRITE_MIDDLE, psn, bytes(1024), ackreq=0)) == []
        assert [a["psn"] for a in peer.wait(2 * MS)] == [psn]
