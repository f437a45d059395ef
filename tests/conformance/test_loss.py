"""Go-back-N: each packet of a conversation lost, doubled or late, one at a time, at every place of the PSN circle.

The conversation holds every operation, so each kind of request, response and acknowledgement is hit in turn. Every byte must be
right, atomics happen once, completions come once and in order, and a loss in the middle costs no timeout.
"""

import numpy as np
import pytest

from support.ends import End
from support.wire_world import Middleware, World
from unpinned.hca import layout as L

OPERATIONS = 9
PSNS = {"plain": (100, 200), "wraps": (0xFFFFFB, 0xFFFFFE), "half": (0x7FFFFB, 0x7FFFFE)}


class Conversation:
    def __init__(
        self, middleware: Middleware | None = None, psn: tuple[int, int] = PSNS["plain"], **geometry: int
    ) -> None:
        self.world = world = World(mtu=256, geometry=geometry)
        self.qa, self.qz = qa, qz = world.connect(psn=psn, timeout=10)
        self.source, self.target = world.a.buffer(8192), world.z.buffer(8192)
        self.into, self.cells = world.a.buffer(8192), world.z.buffer(64)
        self.source.array[:] = np.random.default_rng(1).integers(0, 256, 8192, dtype=np.uint8)
        self.target.array[4096:] = np.random.default_rng(2).integers(0, 256, 4096, dtype=np.uint8)
        world.middleware = middleware
        world.recv(qz, [self.target.sge(2048, 1000)], wr_id=100)
        world.recv(qz, [], wr_id=101)
        world.write(qa, self.source, self.target, 1000, wr_id=0)
        world.atomic(qa, self.into, self.cells, add=3, wr_id=1)
        world.read(qa, self.into, self.target, 1200, wr_id=2, at=1000, to=4096)
        world.send(qa, [self.source.sge(5000, 900)], wr_id=3)
        world.atomic(qa, self.into, self.cells, add=4, wr_id=4, at=8)
        world.write(
            qa, self.source, self.target, 300, wr_id=5, at=2000, to=1024, opcode=L.WR_RDMA_WRITE_WITH_IMM, imm=5
        )
        world.read(qa, self.into, self.target, 700, wr_id=6, at=3000, to=6000)
        world.read(qa, self.into, self.target, 300, wr_id=7, at=4000, to=7000)
        world.atomic(qa, self.into, self.cells, compare=7, swap=9, wr_id=8, at=16)

    def run(self) -> None:
        self.world.run()
        a, z = self.world.ends
        assert a.statuses(self.qa) == [(i, 0) for i in range(OPERATIONS)]
        assert z.statuses(self.qz) == [(100, 0), (101, 0)]
        source, target, into = self.source.array, self.target.array, self.into.array
        assert (target[:1000] == source[:1000]).all() and (target[2048:2948] == source[5000:5900]).all()
        assert (target[1024:1324] == source[2000:2300]).all()
        for at, to, n in ((1000, 4096, 1200), (3000, 6000, 700), (4000, 7000, 300)):
            assert (into[at : at + n] == target[to : to + n]).all()
        assert list(into[:24].view(np.int64)) == [0, 3, 7] and self.cells.array.view(np.int64)[0] == 9
        self.world.quiet()


def packets() -> list[tuple[int, int]]:
    """(sender, number) of every packet of the undisturbed conversation."""
    talk = Conversation()
    talk.run()
    return [(end.address, i) for end in talk.world.ends for i in range(len(talk.world.sent(end)))]


PACKETS = packets()


class Nth:
    """Does something to the n-th packet of one sender."""

    def __init__(self, sender: int, number: int, times: int) -> None:
        self.sender, self.number, self.times, self.seen, self.late = sender, number, times, 0, [[], []]

    def __call__(self, wire: list[bytes], end: End) -> list[bytes]:
        if end.address != self.sender:
            return wire
        arrived = self.late.pop(0)
        self.late.append([])
        for data in wire:
            arrived += [data] * (self.times if self.seen == self.number else 1)
            if self.seen == self.number and self.times == 0:
                self.hit(data)
            self.seen += 1
        return arrived

    def hit(self, data: bytes) -> None: ...


class Late(Nth):
    def hit(self, data: bytes) -> None:
        self.late[-1].append(data)


@pytest.mark.parametrize("psn", PSNS)
@pytest.mark.parametrize("sender", [1, 2])
def test_each_packet_lost(sender: int, psn: str) -> None:
    numbers = [number for who, number in PACKETS if who == sender]
    for number in numbers:
        talk = Conversation(Nth(sender, number, 0), PSNS[psn])
        talk.run()
        if number < numbers[-1]:
            assert talk.world.a.counter("timeouts") <= 1


@pytest.mark.parametrize("psn", PSNS)
@pytest.mark.parametrize("sender", [1, 2])
def test_each_packet_doubled(sender: int, psn: str) -> None:
    for number in (n for who, n in PACKETS if who == sender):
        Conversation(Nth(sender, number, 2), PSNS[psn]).run()


@pytest.mark.parametrize("psn", PSNS)
@pytest.mark.parametrize("sender", [1, 2])
def test_each_packet_late(sender: int, psn: str) -> None:
    for number in (n for who, n in PACKETS if who == sender):
        Conversation(Late(sender, number, 0), PSNS[psn]).run()


@pytest.mark.parametrize("sender", [1, 2])
def test_each_pair_of_packets_lost(sender: int) -> None:
    """What is sent again may be lost again."""
    for number in (n for who, n in PACKETS if who == sender):
        second = Nth(sender, number + 1, 0)
        first = Nth(sender, number, 0)
        Conversation(
            lambda wire, end, a=first, b=second: a(b(wire, end), end), PSNS["plain"], read_chunk_bytes=512
        ).run()


def test_a_lost_request_is_nak_ed_and_sent_again_with_all_after_it() -> None:
    world = World(mtu=256)
    qa, _ = world.connect()
    source, target = world.a.buffer(4096), world.z.buffer(4096)
    world.middleware = Nth(1, 5, 0)
    world.write(qa, source, target)
    world.run()
    assert world.a.statuses(qa) == [(1, 0)]
    assert world.z.counter("nak_sequence") == 1 and world.a.counter("timeouts") == 0
    psns = [int.from_bytes(data[9:12], "big") - 100 for data in world.sent(world.a)]
    assert psns == [*range(16), *range(5, 16)] and world.a.counter("retransmitted") == 11


def test_a_lost_read_response_costs_no_timeout_with_many_reads_outstanding() -> None:
    """The responder follows a requester that goes back, also while it serves a later READ."""
    for number in range(2, 120, 9):
        world = World(mtu=256)
        qa, _ = world.connect(max_rd_atomic=16)
        into, source = world.a.buffer(1 << 15), world.z.buffer(1 << 15)
        source.array[:] = np.random.default_rng(1).integers(0, 256, 1 << 15, dtype=np.uint8)
        world.middleware = Nth(2, number, 0)
        for i in range(16):
            world.read(qa, into, source, 2048, wr_id=i, at=2048 * i, to=2048 * i)
        world.run()
        assert world.a.statuses(qa) == [(i, 0) for i in range(16)] and (into.array == source.array).all()
        assert world.a.counter("timeouts") == 0
        world.quiet()


def test_the_peer_dies_in_the_middle_of_a_message() -> None:
    world = World(mtu=256)
    qa, _ = world.connect(timeout=10, retry_cnt=3)
    other, _ = world.connect()
    source, target = world.a.buffer(8192), world.z.buffer(8192)
    dead, seen = world.a.h[qa + L.QP_DEST], []

    def middleware(wire: list[bytes], end: End) -> list[bytes]:
        mine = [data for data in wire if int.from_bytes(data[5:8], "big") == dead]
        seen.extend(mine)
        return [data for data in wire if data not in mine or data in seen[:5]]

    world.middleware = middleware
    for i in range(3):
        world.write(qa, source, target, wr_id=i)
        world.write(other, source, target, wr_id=i)
    world.run()
    assert world.a.statuses(qa) == [(0, L.WC_RETRY_EXC_ERR), (1, L.WC_WR_FLUSH_ERR), (2, L.WC_WR_FLUSH_ERR)]
    assert world.a.statuses(other) == [(i, 0) for i in range(3)], "the rest goes on"
    assert world.a.counter("timeouts") == 4
    assert (target.array[: 5 * 256] == source.array[: 5 * 256]).all()
    world.quiet()
