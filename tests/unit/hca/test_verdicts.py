"""Answers that are owed: what takes whose place."""

import pytest

from support.ends import End
from support.peer import Peer, peer_of
from unpinned.hca import layout as L
from unpinned.hca.verdicts import reply
from unpinned.wire import opcodes as O

ACK, NAK, ATOMIC = L.REPLY_ACK, L.REPLY_NAK, L.REPLY_ATOMIC


@pytest.mark.parametrize(
    ("before", "after", "owed"),
    [
        ((ACK, 5), (ACK, 6), (ACK, 6)),
        ((ACK, 6), (ACK, 5), (ACK, 6)),  # of a duplicate
        ((NAK, 7), (ACK, 5), (NAK, 7)),
        ((NAK, 7), (ACK, 7), (ACK, 7)),  # what was missing came
        ((ACK, 5), (NAK, 6), (NAK, 6)),
        ((ACK, 5), (ATOMIC, 6), (ATOMIC, 6)),
        ((NAK, 7), (NAK, 6), (NAK, 6)),
    ],
)
def test_the_last_word(before: tuple[int, int], after: tuple[int, int], owed: tuple[int, int]) -> None:
    end = End(1)
    q = peer_of(end).q
    for msn, (kind, psn) in enumerate((before, after)):
        reply(end.h, q, kind, psn, 0, msn)
    assert (end.h[q + L.QP_REPLY], end.h[q + L.QP_REPLY_PSN]) == owed
    assert end.h[q + L.QP_REPLY_MSN] == (1 if owed == after else 0)
    assert end.h[q + L.QP_QUEUED]


NOT_READY = L.SYNDROME_RNR | 12


def not_ready_at(psn: int) -> Peer:
    """A peer that is owed an RNR NAK."""
    peer = peer_of(End(2))
    reply(peer.end.h, peer.q, NAK, psn, NOT_READY, 1)
    return peer


@pytest.mark.parametrize(
    ("kind", "syndrome"),
    [(ACK, L.SYNDROME_ACK), (ATOMIC, L.SYNDROME_ACK), (NAK, L.NAK_SEQUENCE), (NAK, L.NAK_ACCESS)],
    ids=["an acknowledgement", "an atomic response", "a gap", "the end"],
)
def test_not_ready_goes_out_before_what_is_later(kind: int, syndrome: int) -> None:
    """It is of a READ that was repeated and parked too long, while later requests were served (I9; found by the swarm)."""
    peer = not_ready_at(98)
    reply(peer.end.h, peer.q, kind, 99, syndrome, 2)
    assert [(a["psn"], a["aeth"][0]) for a in peer.give()] == [(98, NOT_READY), (99, syndrome)]


def test_not_ready_goes_out_behind_what_is_earlier() -> None:
    peer = not_ready_at(98)
    reply(peer.end.h, peer.q, ATOMIC, 97, L.SYNDROME_ACK, 2)
    assert [a["psn"] for a in peer.give()] == [97, 98]


@pytest.mark.parametrize("psns", [(98, 97), (97, 98)])
def test_of_two_that_are_not_ready_the_older_is_said(psns: tuple[int, int]) -> None:
    peer = not_ready_at(psns[0])
    reply(peer.end.h, peer.q, NAK, psns[1], NOT_READY + 1, 1)
    (answer,) = peer.give()
    assert answer["psn"] == 97 and answer["aeth"][0] == (NOT_READY if psns[0] == 97 else NOT_READY + 1)


def test_not_ready_stands_for_an_acknowledgement_of_what_is_before_it() -> None:
    peer = peer_of(End(2))
    reply(peer.end.h, peer.q, ACK, 97, L.SYNDROME_ACK, 1)
    reply(peer.end.h, peer.q, NAK, 98, NOT_READY, 1)
    assert [a["psn"] for a in peer.give()] == [98]


def test_an_atomic_is_answered_beside_an_older_one_that_is_not_ready() -> None:
    """The NAK goes first; an atomic asked for again is answered again, and adds once (I9; found by the swarm with 64 QPs)."""
    end = End(2)
    cell = end.buffer(64)
    peer = peer_of(end)
    add = peer.packet(O.RC_FETCH_ADD, 100, atomiceth=(cell.va, cell.key, 5, 0))

    def not_ready() -> None:
        end.before_copies = None
        reply(end.h, peer.q, NAK, 99, NOT_READY, 1)

    end.before_copies = not_ready
    assert [(a["psn"], a["opcode"]) for a in peer.give(add)] == [(99, O.RC_ACK), (100, O.RC_ATOMIC_ACK)]
    assert [(a["psn"], a["opcode"]) for a in peer.give(add)] == [(100, O.RC_ATOMIC_ACK)]
    assert cell.array[:8].view("i8")[0] == 5
    end.quiet()
