"""Answers that are owed: what takes whose place."""

import pytest

from support.ends import End
from support.peer import peer_of
from unpinned.hca import layout as L
from unpinned.hca.verdicts import reply

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


def test_not_ready_is_not_lost_behind_an_acknowledgement() -> None:
    """Of a READ that was repeated and parked too long, while later requests were served (I9; found by the swarm)."""
    end = End(1)
    q = peer_of(end).q
    reply(end.h, q, NAK, 5, L.SYNDROME_RNR | 12, 1)
    reply(end.h, q, ACK, 9, L.SYNDROME_ACK, 2)
    assert (end.h[q + L.QP_REPLY], end.h[q + L.QP_REPLY_PSN], end.h[q + L.QP_REPLY_SYNDROME]) == (NAK, 5, 0x2C)
