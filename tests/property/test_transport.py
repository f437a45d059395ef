"""Random workloads over several queue pairs, on a wire that loses, doubles and delays, with pages that come and go, from a seed.

Whatever happens: every byte is right, atomics happen exactly once, completions come exactly once and in order, nobody waits for
ever, and at the end everything is given back. On a wire that loses nothing no transport timer expires (I9), however long a
page takes. A failure names the seed of its case; `run_case(seed)` replays it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from support.ends import MS, PAGE, Buffer, End
from support.wire_world import STEP_NS, Weather, World
from unpinned.hca import layout as L
from unpinned.hca import setup

DEPTH = 16
SIZE = 1 << 16
STEPS_MAX = 300_000
RETRIES = 40
"""More than the wire can say: where every fifth packet is lost, seven timeouts in a row happen."""
KINDS = ("write", "write_imm", "read", "send", "add", "swap")


@dataclass
class Conversation:
    """One queue pair's requests, and what must come of them."""

    world: World
    rng: random.Random
    operations: int
    pinned: tuple[bool, bool]
    posted: int = 0
    done: int = 0
    received: int = 0
    receives: list[tuple[int, ...]] = field(default_factory=list)
    counter: int = 0
    checks: list[tuple[Buffer, int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng, (a, z) = self.rng, self.world.ends
        timeout = rng.choice([12, 14, 16])
        psn = rng.choice([0, 5, 0xFFFFF0, 0x7FFFFE, rng.randrange(1 << 24)])
        self.qa, self.qz = self.world.connect(
            psn=(psn, 100), depth=DEPTH, timeout=timeout, max_rd_atomic=rng.choice([1, 2, 16]), retry_cnt=RETRIES,
            park_ns=setup.timeout_ns(timeout) // 4,
        )  # fmt: skip
        self.here, self.landing, self.results = (a.buffer(SIZE, pinned=self.pinned[0]) for _ in range(3))
        self.there, self.source, self.cell = (z.buffer(n, pinned=self.pinned[1]) for n in (SIZE, SIZE, PAGE))
        self.here.array[:] = np.frombuffer(rng.randbytes(SIZE), np.uint8)

    @property
    def outstanding(self) -> int:
        return self.posted - self.done

    def finished(self) -> bool:
        return self.done == self.operations and self.received == len(self.receives)

    def post(self) -> None:
        """The next request. Each has memory of its own, so the order in which they are checked does not matter."""
        rng, world, i = self.rng, self.world, self.posted
        self.posted += 1
        unit, mtu = SIZE // self.operations, world.mtu
        at = i * unit
        length = min(unit, rng.choice([0, 1, mtu - 1, mtu, mtu + 1, rng.randrange(unit), unit]))
        fence = L.SEND_FENCE if rng.random() < 0.1 else 0
        kind = rng.choice(KINDS)
        if kind.startswith("write"):
            opcode = L.WR_RDMA_WRITE
            if kind == "write_imm":
                opcode = L.WR_RDMA_WRITE_WITH_IMM
                self.expect(i, [], L.WC_RECV_RDMA_WITH_IMM, length, i + 7)
            world.write(self.qa, self.here, self.there, length, wr_id=i, at=at, to=at, opcode=opcode, imm=i + 7, flags=fence)
            self.checks.append((self.there, at, self.here.array[at : at + length].tobytes()))
        elif kind == "read":
            data = rng.randbytes(length)
            self.source.array[at : at + length] = np.frombuffer(data, np.uint8)
            world.read(self.qa, self.landing, self.source, length, wr_id=i, at=at, to=at, flags=fence)
            self.checks.append((self.landing, at, data))
        elif kind == "send":
            cuts = sorted(rng.randrange(length + 1) for _ in range(rng.randrange(3)))
            pieces = [self.there.sge(at + s, e - s) for s, e in zip([0, *cuts], [*cuts, length])]
            self.expect(i, pieces, L.WC_RECV, length, i + 9)
            world.send(self.qa, [self.here.sge(at, length)], wr_id=i, opcode=L.WR_SEND_WITH_IMM, imm=i + 9, flags=fence)
            self.checks.append((self.there, at, self.here.array[at : at + length].tobytes()))
        else:
            self.checks.append((self.results, 8 * i, self.counter.to_bytes(8, "little", signed=True)))
            if kind == "add":
                world.atomic(self.qa, self.results, self.cell, add=3, wr_id=i, at=8 * i)
                self.counter += 3
            else:
                hit, new = rng.random() < 0.5, rng.randrange(1 << 60)
                world.atomic(self.qa, self.results, self.cell, compare=self.counter + (not hit), swap=new, wr_id=i, at=8 * i)
                self.counter = new if hit else self.counter

    def expect(self, i: int, pieces: list, opcode: int, length: int, imm: int) -> None:
        self.world.recv(self.qz, pieces, wr_id=1000 + i)
        self.receives.append((1000 + i, 0, opcode, length, imm))

    def collect(self) -> None:
        for completion in self.world.a.completions(self.qa):
            assert completion[:2] == (self.done, 0), "completions come once, in order, and succeed"
            self.done += 1
        for completion in self.world.z.completions(self.qz):
            assert completion[:4] + completion[5:6] == self.receives[self.received]
            self.received += 1

    def check(self) -> None:
        for buffer, at, data in self.checks:
            assert buffer.array[at : at + len(data)].tobytes() == data
        assert self.cell.array[:8].view(np.int64)[0] == self.counter, "each atomic happened exactly once"
        assert self.world.a.completions(self.qa) == self.world.z.completions(self.qz) == []


def zapper(world: World, end: End, rng: random.Random, chance: float) -> Callable[[], None]:
    """Takes pages away between the description of a batch and its copies: the worst moment there is."""

    def zap() -> None:
        if rng.random() < chance and len(end.tickets) < 8:
            buffer = rng.choice(end.buffers)
            pages = buffer.pages()
            start = rng.choice(pages)
            if not end.h[buffer.mr + L.MR_PINNED]:
                end.discard(range(start, min(pages.stop, start + rng.randrange(1, 5))), world.now)

    return zap


def run_case(seed: int) -> World:
    rng = random.Random(seed)
    geometry = {
        "window_bytes": rng.choice([1 << 14, 1 << 17, 1 << 20]),
        "read_chunk_bytes": rng.choice([1 << 12, 1 << 14, 1 << 19]),
        "waiting": rng.choice([8, 64, 512]),
        "waiting_per_qp": rng.choice([4, 16, 64]),
    }
    world = World(mtu=rng.choice([256, 1024, 4096]), geometry=geometry, fault_slots=rng.choice([1, 4, 32]))
    world.tracing = False
    weather = Weather(rng, rng.choice([0, 0, 0.01, 0.05, 0.2]), rng.choice([0, 0, 0.05]), rng.choice([0, 0, 0.05]))
    calm = not (weather.loss or weather.duplication or weather.reordering)
    world.middleware = weather
    slow, chance = rng.choice([0, 60_000, MS, 5 * MS, 50 * MS]), rng.choice([0, 0.02, 0.2])
    for end in world.ends:
        end.fault_after = (lambda: rng.randrange(2 * slow)) if slow else 0
        end.before_copies = zapper(world, end, rng, chance)
    pinned = rng.random() < 0.3, rng.random() < 0.3
    operations = rng.choice([10, 40])
    talks = [Conversation(world, rng, operations, pinned) for _ in range(rng.choice([1, 2, 4]))]
    drive(world, talks, weather)
    weather.calm()
    for end in world.ends:
        end.before_copies = None
    world.run()
    for talk in talks:
        talk.check()
    world.quiet()
    if calm:
        assert [end.counter("timeouts") for end in world.ends] == [0, 0], "I9: nothing was lost"
    return world


def drive(world: World, talks: list[Conversation], weather: Weather) -> None:
    idle = 0
    for _ in range(STEPS_MAX):
        for talk in talks:
            while talk.posted < talk.operations and talk.outstanding < DEPTH and talk.rng.random() < 0.5:
                talk.post()
            talk.collect()
        if all(talk.finished() for talk in talks):
            return
        room = any(talk.posted < talk.operations and talk.outstanding < DEPTH for talk in talks)
        if world.step() or weather.late or room:
            world.now += STEP_NS
        elif world.next_deadline() < 1 << 60:
            world.now, idle = max(world.now, world.next_deadline()), 0
        else:
            idle += 1
            assert idle < 3, "a deadlock: nothing will ever happen"
    raise AssertionError("no end")


CASES = 16


@pytest.mark.parametrize("case", range(CASES))
def test_random_workloads(seed: int, case: int) -> None:
    number = seed * CASES + case
    try:
        run_case(number)
    except AssertionError as error:
        raise AssertionError(f"run_case({number}): {error}") from error


def test_the_same_seed_is_the_same_run() -> None:
    first, second = run_case(77), run_case(77)
    assert first.now == second.now and [e.counters() for e in first.ends] == [e.counters() for e in second.ends]
