"""Every operation, every length that is special, every path MTU, pinned and pageable memory at either end."""

import numpy as np
import pytest

from support.ends import ALL_ACCESS
from support.wire_world import World
from unpinned.hca import layout as L

MTUS = (256, 512, 1024, 2048, 4096)
MEMORY = {
    "pinned": (True, True),
    "responder pageable": (True, False),
    "requester pageable": (False, True),
    "pageable": (False, False),
}


def lengths(mtu: int) -> list[int]:
    return [0, 1, 2, 3, mtu - 1, mtu, mtu + 1, 2 * mtu, 3 * mtu + 5]


def pattern(size: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@pytest.fixture(params=[(mtu, memory) for mtu in MTUS for memory in MEMORY], ids=lambda p: f"{p[0]}-{p[1]}")
def setting(request: pytest.FixtureRequest) -> tuple[World, bool, bool]:
    mtu, memory = request.param
    world = World(mtu=mtu)
    world.tracing = False
    return world, *MEMORY[memory]


def test_write(setting: tuple[World, bool, bool]) -> None:
    world, pinned_a, pinned_z = setting
    qa, qz = world.connect()
    source, target = world.a.buffer(1 << 16, pinned=pinned_a), world.z.buffer(1 << 16, pinned=pinned_z)
    source.array[:] = pattern(1 << 16)
    expected, at = np.zeros(1 << 16, np.uint8), 5
    for i, n in enumerate(lengths(world.mtu)):
        if i % 2:
            world.recv(qz, [], wr_id=100 + i)
        opcode = L.WR_RDMA_WRITE_WITH_IMM if i % 2 else L.WR_RDMA_WRITE
        world.write(qa, source, target, n, wr_id=i, at=3, to=at, opcode=opcode, imm=1 << i)
        expected[at : at + n] = source.array[3 : 3 + n]
        at += n + 7
    world.run()
    assert world.a.statuses(qa) == [(i, 0) for i in range(9)]
    assert [c[:4] + c[5:] for c in world.z.completions(qz)] == [
        (100 + i, 0, L.WC_RECV_RDMA_WITH_IMM, n, 1 << i, L.WC_WITH_IMM)
        for i, n in enumerate(lengths(world.mtu))
        if i % 2
    ]
    assert (target.array == expected).all()
    world.quiet()


def test_read(setting: tuple[World, bool, bool]) -> None:
    world, pinned_a, pinned_z = setting
    qa, _ = world.connect()
    into, source = world.a.buffer(1 << 16, pinned=pinned_a), world.z.buffer(1 << 16, pinned=pinned_z)
    source.array[:] = pattern(1 << 16)
    expected, at = np.zeros(1 << 16, np.uint8), 5
    for i, n in enumerate(lengths(world.mtu)):
        world.read(qa, into, source, n, wr_id=i, at=at, to=11)
        expected[at : at + n] = source.array[11 : 11 + n]
        at += n + 7
    world.run()
    assert [c[:4] for c in world.a.completions(qa)] == [
        (i, 0, L.WC_RDMA_READ, n) for i, n in enumerate(lengths(world.mtu))
    ]
    assert (into.array == expected).all()
    world.quiet()


def test_send(setting: tuple[World, bool, bool]) -> None:
    """Gathered from three pieces, scattered over three, both with an empty one among them."""
    world, pinned_a, pinned_z = setting
    qa, qz = world.connect()
    source, target = world.a.buffer(1 << 16, pinned=pinned_a), world.z.buffer(1 << 16, pinned=pinned_z)
    source.array[:] = pattern(1 << 16)
    for i, n in enumerate(lengths(world.mtu)):
        one, two = n // 3, n // 2
        world.recv(qz, [target.sge(0, one), target.sge(0, 0), target.sge(20_000, 1 << 14)], wr_id=100 + i)
        pieces = [source.sge(7, two), source.sge(9, 0), source.sge(30_001, n - two)]
        world.send(qa, pieces, wr_id=i, opcode=L.WR_SEND_WITH_IMM if i % 2 else L.WR_SEND, imm=0xFFFFFFFF)
        world.run()
        assert world.a.statuses(qa) == [(i, 0)]
        imm, flags = (0xFFFFFFFF, L.WC_WITH_IMM) if i % 2 else (0, 0)
        assert [c[:4] + c[5:] for c in world.z.completions(qz)] == [(100 + i, 0, L.WC_RECV, n, imm, flags)]
        message = np.concatenate([source.array[7 : 7 + two], source.array[30_001 : 30_001 + n - two]])
        assert (np.concatenate([target.array[:one], target.array[20_000 : 20_000 + n - one]]) == message).all()
        target.array[:] = 0
    world.quiet()


def test_atomics(setting: tuple[World, bool, bool]) -> None:
    world, pinned_a, pinned_z = setting
    qa, _ = world.connect()
    into, target = world.a.buffer(4096, pinned=pinned_a), world.z.buffer(4096, pinned=pinned_z)
    world.atomic(qa, into, target, add=40, wr_id=0, at=0, to=64)
    world.atomic(qa, into, target, add=2, wr_id=1, at=8, to=64)
    world.atomic(qa, into, target, compare=42, swap=-1, wr_id=2, at=16, to=64)
    world.atomic(qa, into, target, compare=42, swap=7, wr_id=3, at=24, to=64)
    world.run()
    assert [c[:4] for c in world.a.completions(qa)] == [
        (i, 0, L.WC_FETCH_ADD if i < 2 else L.WC_COMP_SWAP, 8) for i in range(4)
    ]
    assert list(into.array[:32].view(np.int64)) == [0, 40, 42, -1] and target.array.view(np.int64)[8] == -1
    world.quiet()


def test_a_read_longer_than_a_chunk() -> None:
    world = World(mtu=1024, geometry={"read_chunk_bytes": 1 << 14})
    qa, _ = world.connect()
    into, source = world.a.buffer(200_001, pinned=False), world.z.buffer(200_001, pinned=False)
    source.array[:] = pattern(200_001)
    world.read(qa, into, source)
    world.run()
    assert world.a.completions(qa)[0][:4] == (1, 0, L.WC_RDMA_READ, 200_001) and (into.array == source.array).all()
    requests = [data for data in world.sent(world.a) if data[0] == 0x0C]
    assert len(requests) == 13
    world.quiet()


def test_a_write_longer_than_every_window() -> None:
    world = World(mtu=4096, geometry={"window_bytes": 1 << 16, "waiting_per_qp": 8})
    qa, _ = world.connect()
    source, target = world.a.buffer(1 << 21, pinned=False), world.z.buffer(1 << 21, pinned=False)
    source.array[:] = pattern(1 << 21)
    most = 0

    def watch() -> bool:
        nonlocal most
        most = max(most, int(world.a.h[L.H_INFLIGHT]))
        return False

    world.write(qa, source, target)
    world.run(until=lambda: watch() or world.a.h[qa + L.QP_SQ_HEAD] == 1)
    assert (target.array == source.array).all() and most <= 8 * 4096


def test_both_ends_at_once() -> None:
    """One queue pair is requester and responder at the same time."""
    world = World()
    qa, qz = world.connect()
    mine, theirs = world.a.buffer(1 << 16, pinned=False), world.z.buffer(1 << 16, pinned=False)
    mine.array[:], theirs.array[:] = pattern(1 << 16, 1), pattern(1 << 16, 2)
    before = mine.array.copy(), theirs.array.copy()
    for i in range(4):
        world.write(qa, mine, theirs, 5000, wr_id=i, at=8192 * i, to=8192 * i + 32768)
        world.read(qz, theirs, mine, 5000, wr_id=i, at=8192 * i, to=8192 * i + 32768, end=world.z)
    world.run()
    assert world.a.statuses(qa) == world.z.statuses(qz) == [(i, 0) for i in range(4)]
    for i in range(4):
        at, to = 8192 * i, 8192 * i + 32768
        assert (theirs.array[to : to + 5000] == before[0][at : at + 5000]).all()
        assert (theirs.array[at : at + 5000] == before[0][to : to + 5000]).all()
    world.quiet()


def test_a_region_far_above_four_gigabytes() -> None:
    """Addresses and lengths are 64 bits wide: the application's addresses begin where no 32-bit sum reaches."""
    world = World()
    qa, _ = world.connect()
    start = (1 << 46) + 0xFFFF_F000
    target = world.z.buffer(1 << 16, ALL_ACCESS, start=start)
    source = world.a.buffer(1 << 16)
    source.array[:] = pattern(1 << 16)
    world.post(world.a, qa, wr_id=1, opcode=L.WR_RDMA_WRITE, flags=0, sges=[source.sge()], rva=start, rkey=target.key)
    world.run()
    assert world.a.statuses(qa) == [(1, 0)] and (target.array == source.array).all()
