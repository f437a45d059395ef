"""RNR: the timer table, the retry count, and who waits for whom."""

import pytest

from support.ends import MS
from support.wire_world import STEP_NS, World
from unpinned.hca import layout as L

TIMERS_MS = """
655.36 .01 .02 .03 .04 .06 .08 .12 .16 .24 .32 .48 .64 .96 1.28 1.92 2.56 3.84 5.12 7.68 10.24 15.36 20.48 30.72 40.96 61.44 81.92
122.88 163.84 245.76 327.68 491.52
"""
TIMER_NS = [round(float(ms) * MS) for ms in TIMERS_MS.split()]


@pytest.mark.parametrize("code", range(32))
def test_the_sender_waits_as_long_as_the_timer_says(code: int) -> None:
    world = World()
    qa, qz = world.connect(min_rnr_timer=code, timeout=10)
    source, target = world.a.buffer(64), world.z.buffer(64)
    world.send(qa, [source.sge()])
    world.run(until=lambda: world.a.counter("rnr_received") == 1)
    began = world.now
    world.recv(qz, [target.sge()])
    sent = len(world.sent(world.a))
    world.run(until=lambda: len(world.sent(world.a)) > sent)
    assert 0 <= world.now - began - TIMER_NS[code] <= 4 * STEP_NS
    world.run()
    assert world.a.statuses(qa) == [(1, 0)] and world.a.counter("timeouts") == 0
    world.quiet()


@pytest.mark.parametrize("rnr_retry", range(7))
def test_the_retry_count_ends_it(rnr_retry: int) -> None:
    world = World()
    qa, qz = world.connect(rnr_retry=rnr_retry)
    source = world.a.buffer(64)
    for i in range(2):
        world.send(qa, [source.sge()], wr_id=i)
    world.run()
    assert world.a.statuses(qa) == [(0, L.WC_RNR_RETRY_EXC_ERR), (1, L.WC_WR_FLUSH_ERR)]
    assert world.z.counter("rnr_nak") == world.a.counter("rnr_received") == rnr_retry + 1
    world.a.quiet()


def test_seven_is_for_ever() -> None:
    world = World()
    qa, qz = world.connect(rnr_retry=7, min_rnr_timer=1)
    source, target = world.a.buffer(64), world.z.buffer(64)
    world.send(qa, [source.sge()])
    world.run(until=lambda: world.a.counter("rnr_received") == 50)
    world.recv(qz, [target.sge()])
    world.run()
    assert world.a.statuses(qa) == [(1, 0)]


def test_progress_starts_the_count_anew() -> None:
    world = World()
    qa, qz = world.connect(rnr_retry=1, min_rnr_timer=1)
    source, target = world.a.buffer(64), world.z.buffer(64)
    for i in range(5):
        world.send(qa, [source.sge()], wr_id=i)
    for i in range(5):
        world.run(until=lambda i=i: world.a.counter("rnr_received") == i + 1)
        world.recv(qz, [target.sge()], wr_id=i)
    world.run()
    assert world.a.statuses(qa) == [(i, 0) for i in range(5)]


def test_what_was_sent_before_is_acknowledged_by_the_nak() -> None:
    world = World(mtu=256)
    qa, qz = world.connect(min_rnr_timer=20)
    source, target = world.a.buffer(2048), world.z.buffer(2048)
    world.write(qa, source, target, wr_id=0)
    world.recv(qz, [target.sge()])
    world.send(qa, [source.sge()], wr_id=1)
    world.send(qa, [source.sge()], wr_id=2)
    world.run(until=lambda: world.a.counter("rnr_received") == 1)
    world.step()
    assert world.a.statuses(qa) == [(0, 0), (1, 0)]
    world.recv(qz, [target.sge()])
    world.run()
    assert world.a.statuses(qa) == [(2, 0)]


def test_others_flow_while_one_waits() -> None:
    world = World()
    qa, qz = world.connect(min_rnr_timer=31)
    other, _ = world.connect()
    source, target = world.a.buffer(8192), world.z.buffer(8192)
    world.send(qa, [source.sge()])
    world.write(qa, source, target, wr_id=9)
    world.run(until=lambda: world.a.counter("rnr_received") == 1)
    began = world.now
    world.write(other, source, target)
    world.run(until=lambda: world.a.h[other + L.QP_SQ_HEAD] == 1)
    assert world.now - began < MS and world.a.statuses(qa) == []
    world.recv(qz, [target.sge()])
    world.run()
    assert world.a.statuses(qa) == [(1, 0), (9, 0)]
