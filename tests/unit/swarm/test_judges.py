"""The judges judge what happened, and whose it was."""

import numpy as np
import pytest

from unpinned.hca import layout as L
from unpinned.paging import layout as P
from unpinned.swarm import hosts, image
from unpinned.swarm import layout as S

NOW = 1_000_000


class World:
    """Two hosts and two connections, before the first step; timers as the test sets them."""

    def __init__(self) -> None:
        self.made = image.build(image.Shape(2, 2))
        self.w = self.made.w
        self.w[: self.made.template.size] = self.made.template
        self.w[S.W_NOW] = NOW
        self.w[S.C_PROFILE] = S.PROFILE_OURS

    def host(self, host: int) -> tuple[np.ndarray, np.ndarray]:
        """The device and paging blocks of a host."""
        at = self.w[S.W_HOST] + host * S.HOST_WORDS
        h, n, p, m = (int(self.w[at + word]) for word in (S.HO_H, S.HO_H_WORDS, S.HO_P, S.HO_P_WORDS))
        return self.w[h : h + n], self.w[p : p + m]

    def direction(self, d: int) -> np.ndarray:
        at = int(self.w[S.W_DIRECTION]) + d * S.DIRECTION_WORDS
        return self.w[at : at + S.DIRECTION_WORDS]

    def arm(self, d: int) -> int:
        """The timer of a direction's requester is due; its queue pair."""
        h, _ = self.host(int(self.direction(d)[S.DR_FROM]))
        q = int(self.direction(d)[S.DR_QP])
        h[q + L.QP_TIMEOUT_NS] = 4_000
        h[q + L.QP_RETRIES] = 7
        h[q + L.QP_DEADLINE] = NOW - 1
        return q

    def timers(self, host: int) -> int:
        """Look at the deadlines of a host; the verdict."""
        h, p = self.host(host)
        h[L.H_NEXT_TIMER] = 0
        hosts.run_timers(self.w, h, p, host)
        return int(self.w[S.W_VERDICT])


def test_a_timeout_is_charged_to_the_queue_pair_that_had_it() -> None:
    """Found by the swarm (seed 838213): a neighbour whose peer had ended timed out while this one waited for its own page."""
    world = World()
    mine, neighbour = world.arm(1), world.arm(2)
    h, _ = world.host(1)
    h[mine + L.QP_LAND_COUNT] = 1
    other, _ = world.host(0)
    other[int(world.direction(2)[S.DR_PEER]) + L.QP_STATE] = L.QPS_ERR
    assert world.timers(1) == 0
    assert world.w[S.W_TIMEOUTS] == 1 and h[neighbour + L.QP_DEADLINE] == 0 and h[mine + L.QP_DEADLINE] > NOW


@pytest.mark.parametrize("lost", [0, 1])
def test_a_timeout_needs_a_loss(lost: int) -> None:
    world = World()
    world.arm(1)
    world.w[S.W_HARMED] = lost
    assert world.timers(1) == (0 if lost else S.VIOLATION_I9)


@pytest.mark.parametrize("waits", ["parked", "no free fault slot", "RNR"])
def test_a_loss_excuses_no_timeout_of_what_waits_for_a_page(waits: str) -> None:
    world = World()
    q = world.arm(1)
    world.w[S.W_HARMED] = 1
    h, _ = world.host(1)
    o, p = world.host(0)
    r = int(world.direction(1)[S.DR_PEER])
    if waits == "RNR":
        h[q + L.QP_RNR_UNTIL] = NOW + 5
    else:
        o[r + L.QP_PARK_UNTIL] = NOW + 5
        o[r + (L.QP_PARK_FAULT if waits == "parked" else L.QP_STARVED)] = p[P.FAULTS] + 1
    o[r + L.QP_EPSN] = h[q + L.QP_UNA]
    assert world.timers(1) == S.VIOLATION_I9
