"""SQD: a send queue finishes what it has begun, whatever the wire loses, and begins nothing (IBTA vol. 1, 10.3.1.5)."""

import random

import pytest

from support.wire_world import Weather, World
from unpinned.hca import layout as L
from unpinned.hca.qp import drained
from unpinned.hca.ready import make_ready

MESSAGES = 24
SIZE = 1000  # four packets each


class Draining:
    """WRITEs and READs of which *begun* have completed when the queue pair goes to SQD."""

    def __init__(self, begun: int, weather: Weather | None = None) -> None:
        self.world = world = World(mtu=256)
        self.qa, self.qz = world.connect(timeout=10, retry_cnt=7)
        self.h = world.a.h
        self.h[self.qa + L.QP_CWND] = self.h[self.qa + L.QP_CWND_MAX] = 6
        self.mine, self.theirs = world.a.buffer(2 * MESSAGES * SIZE), world.z.buffer(2 * MESSAGES * SIZE)
        self.mine.array[:] = 1
        self.theirs.array[:] = 2
        for i in range(MESSAGES):
            post = world.read if i % 3 == 2 else world.write
            post(self.qa, self.mine, self.theirs, SIZE, wr_id=i, at=i * SIZE, to=i * SIZE)
        world.middleware = weather
        self.done: list[tuple[int, int]] = []
        world.run(lambda: self.completed() >= begun)
        self.h[self.qa + L.QP_STATE] = L.QPS_SQD
        self.h[self.qa + L.QP_DRAIN] = 1
        self.began = int(self.h[self.qa + L.QP_SQ_NEXT]) + (int(self.h[self.qa + L.QP_SQ_PACKET]) > 0)
        make_ready(self.h, self.qa)

    def completed(self) -> int:
        self.done += self.world.a.statuses(self.qa)
        return len(self.done)

    def told(self) -> bool:
        return bool(self.h[self.qa + L.QP_EVENT] & L.EVENT_DRAINED)

    def right(self, count: int) -> None:
        """The first *count* messages have had their effect, and no other."""
        for i in range(MESSAGES):
            moved, still = (self.mine.array, 2 if i < count else 1) if i % 3 == 2 else (self.theirs.array, 1 if i < count else 2)
            assert (moved[i * SIZE : (i + 1) * SIZE] == still).all(), f"message {i} of {count}"


@pytest.mark.parametrize("begun", range(0, MESSAGES, 3))
def test_what_has_begun_is_finished_and_nothing_else_begins(begun: int) -> None:
    queue = Draining(begun)
    queue.world.run(queue.told)
    assert queue.completed() == queue.began < MESSAGES and drained(queue.h, queue.qa)
    queue.right(queue.began)
    queue.world.run()
    assert queue.completed() == queue.began, "it stays so"
    queue.h[queue.qa + L.QP_STATE] = L.QPS_RTS
    make_ready(queue.h, queue.qa)
    queue.world.run()
    assert queue.completed() == MESSAGES
    assert queue.done == [(i, L.WC_SUCCESS) for i in range(MESSAGES)]
    queue.right(MESSAGES)
    queue.world.quiet()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_wire_loses(seed: int) -> None:
    rng = random.Random(seed)
    weather = Weather(rng, loss=0.1, duplication=0.05, reordering=0.1)
    queue = Draining(rng.randrange(MESSAGES - 6), weather)
    queue.world.run(queue.told)
    finished = queue.completed()
    # What the transport had gone back behind had begun as well.
    assert queue.began <= finished < MESSAGES and drained(queue.h, queue.qa)
    queue.right(finished)
    queue.h[queue.qa + L.QP_STATE] = L.QPS_RTS
    make_ready(queue.h, queue.qa)
    weather.calm()
    queue.world.run()
    assert queue.completed() == MESSAGES and queue.done == [(i, L.WC_SUCCESS) for i in range(MESSAGES)]
    queue.right(MESSAGES)


def test_the_responder_of_a_draining_queue_pair_works_on() -> None:
    queue = Draining(3)
    queue.world.run(queue.told)
    world = queue.world
    for i in range(3):
        world.write(queue.qz, queue.theirs, queue.mine, SIZE, wr_id=100 + i, at=i * SIZE, to=(MESSAGES + i) * SIZE, end=world.z)
    world.run()
    assert world.z.statuses(queue.qz) == [(100 + i, L.WC_SUCCESS) for i in range(3)]
    assert (queue.mine.array[MESSAGES * SIZE : (MESSAGES + 3) * SIZE] == queue.theirs.array[: 3 * SIZE]).all()
    assert queue.completed() == queue.began


def test_a_queue_that_cannot_drain_ends_with_its_error() -> None:
    """The peer is gone: what had begun fails, what had not is flushed, and nothing is told of a drained queue."""
    queue = Draining(3)
    queue.world.middleware = lambda wire, sender: []
    queue.world.run()
    assert queue.completed() == MESSAGES and queue.h[queue.qa + L.QP_STATE] == L.QPS_ERR
    statuses = [status for _, status in queue.done]
    first = statuses.index(L.WC_RETRY_EXC_ERR)
    assert first >= 3 and statuses[first + 1 :] == [L.WC_WR_FLUSH_ERR] * (MESSAGES - first - 1)
    assert not queue.told()
