"""Memory that is replaced under fire, that comes late, or of which there is little: slow pages, a small cgroup."""

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from support import Missing, mmu
from support.file_server import PIECE, FileServer, write_uncached
from support.mmu import Filler
from support.mmu_actions import (
    wait_for,
)
from support.mmu_owner import link
from support.slow_pages import SlowPages, slow_pages
from support.verbs import ALL, PATIENCE, End, connect, nonzero
from unpinned import verbs as v
from unpinned.host.owned import empty
from unpinned.host.trust import HORIZON_NS

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
PAGE, SIZE = mmu.PAGE, mmu.SIZE
STRAY_SECONDS = float(os.environ.get("UNPINNED_STRAY_SECONDS", "1"))
"""How long each kind of memory is replaced under fire."""
HELD_SECONDS = 0.5
"""How long a slow page is slow."""
HORIZON_SECONDS = 1.5e-9 * HORIZON_NS
"""After so long the device looks again whether a page is there."""


# ---- replaced under fire ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["owned", "sealed", "memfd", "file"])
def test_no_byte_lands_in_what_replaces_memory(kind, tmp_path):
    """Unmapped and mapped anew, or replaced in one call, while WRITEs land: round after round, at one address."""
    a, b = End.open(mmu.SIZE // 4), End.open(4096)
    a.mr.write(bytes([0x11]) * a.mr.length)
    rounds = under_way = 0
    deadline = time.monotonic() + STRAY_SECONDS
    try:
        while rounds < 4 or time.monotonic() < deadline:
            under_way += replace_under_fire(kind, a, b, tmp_path, rounds % 2)
            rounds += 1
    finally:
        a.context.close()
        b.context.close()
    assert under_way > 0, f"in none of {rounds} rounds a WRITE was under way"


def replace_under_fire(kind: str, a: End, b: End, folder: Path, at_once: int) -> bool:
    """One round; whether some requests came before the end of the memory and some after it."""
    for end in (a, b):
        end.qp.modify(v.QPAttr(qp_state=v.IBV_QPS_RESET), v.IBV_QP_STATE)
    connect(a, b)
    with mmu.memory(kind, b.pd, folder) as memory:
        other = Filler()
        words = memory.read(0, mmu.SIZE) if kind == "owned" else mmu.words_at(memory.base, mmu.SIZE)
        for i in range(16):
            a.remote(v.IBV_WR_RDMA_WRITE, memory.mr, 0, i % 4 * a.mr.length, a.mr.length, wr_id=i)
        wait_for(lambda: words[0] == 0x1111111111111111, lambda: nonzero(b.context.counters()).__repr__())
        if not at_once:
            mmu.unmap(memory.base, mmu.SIZE)
        other.put(memory.base, mmu.SIZE, mmu.MAP_FIXED)
        statuses: list[int] = []
        while len(statuses) < 16:
            got, wcs = a.cq.wait(16, PATIENCE)
            assert got, f"no completion: {nonzero(a.context.counters())}"
            statuses += [wc.status for wc in wcs]
        assert other.strays() == 0, f"{other.strays()} words of another mapping changed"
        assert set(statuses) <= {v.IBV_WC_SUCCESS, v.IBV_WC_REM_ACCESS_ERR, v.IBV_WC_WR_FLUSH_ERR}
        other.close()
        return statuses[0] == 0 and statuses[-1] != 0


# ---- slow pages ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[list[End]]:
    """Three ends, each with a device of its own: two requesters and a responder."""
    opened = [End.open() for _ in range(3)]
    yield opened
    for end in opened:
        end.context.close()


@pytest.fixture
def place(ends) -> Iterator[Callable[[End], tuple[v.MR, SlowPages]]]:
    """Call with an end for eight slow pages of 0x33 and a region over them."""
    with ExitStack() as stack:

        def make(end: End) -> tuple[v.MR, SlowPages]:
            base = mmu.map_anew(8 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            stack.callback(mmu.unmap, base, 8 * PAGE)
            try:
                slow = stack.enter_context(slow_pages(base, 8 * PAGE, 0x33))
            except Missing as missing:
                pytest.skip(str(missing))
            mr = stack.enter_context(v.MR(end.pd, 8 * PAGE, ALL, address=base))
            assert "another userfaultfd" in mr.unnotified
            stack.callback(slow.release)  # or a test that failed would wait for the fault under way
            return mr, slow

        yield make


def keep_going(quick: End, peer: End, until_s: float, over: Callable[[], bool]) -> None:
    """WRITEs, READs and page faults of another queue pair, for so long and until it is *over*; not one may be disturbed."""
    fresh = v.MR(peer.pd, empty(64 << 20, "u1"), ALL)
    deadline = time.monotonic() + until_s
    rounds = 0
    while rounds < 10 or time.monotonic() < deadline or not over():
        assert time.monotonic() < deadline + PATIENCE, "it is never over"
        quick.remote(v.IBV_WR_RDMA_WRITE, peer.mr, 0, 32_768, 16_384)
        quick.remote(v.IBV_WR_RDMA_READ, peer.mr, 16_384, 32_768, 16_384)
        quick.remote(v.IBV_WR_RDMA_READ, fresh, 32_768, rounds * PAGE % fresh.length, 8)
        for _ in range(3):
            quick.wait()
        rounds += 1
    fresh.close()


def undisturbed(counters: dict[str, int], *but: str) -> None:
    for name in ("timeouts", "retransmitted", "rnr_received", "nak_received", "implied_nak", "out_of_sequence"):
        assert name in but or counters[name] == 0, f"{name}: {nonzero(counters)}"


def test_a_slow_page_of_the_responder_delays_nobody_else(ends, place):
    """Half a second for one page: all that wait for it are told to come again and do, without one timeout."""
    a, quick_end, b = ends
    mr, slow = place(b)
    quick, quick_peer = link(quick_end, b)
    slowed = [link(a, b) for _ in range(4)]
    (write, _), (read, _), (send, receiver), (atomic, _) = slowed
    a.mr.write(b"w" * 100)
    write.remote(v.IBV_WR_RDMA_WRITE, mr, 0, PAGE - 50, 100)
    wait_for(slow.touched.is_set, lambda: "touched")
    receiver.qp.post_recv(v.RecvWR(sg=v.SGE(mr.buf + 200, 100, mr.lkey)))
    send.send(0, 100)
    read.remote(v.IBV_WR_RDMA_READ, mr, 1000, 1000, 3000)
    atomic.atomic(mr, 512, add=1, here=8000)
    keep_going(quick, quick_peer, HELD_SECONDS, lambda: True)
    slow.release()
    for one, _ in slowed:
        one.wait()
    assert a.mr.read(3000, 1000) == b"\x33" * 3000 and a.mr.read(8, 8000) == b"\x33" * 8
    content = mr.read(2 * PAGE)
    assert (
        content[PAGE - 50 : PAGE + 50] == b"w" * 100 and content[200:300] == b"w" * 100 and content[512:513] == b"\x34"
    )
    undisturbed(quick_end.context.counters())
    counters = a.context.counters()
    assert counters["rnr_received"] > 0
    undisturbed(counters, "rnr_received", "retransmitted")


def test_slow_pages_of_the_requester_delay_nobody_else(ends, place):
    """Data to be sent and memory to land in: what waits for it is not sent before, so nothing is sent again."""
    a, _, b = ends
    mr, slow = place(a)
    quick, quick_peer = link(a, b)
    slowed = [link(a, b) for _ in range(4)]
    (write, _), (read, _), (send, receiver), (atomic, _) = slowed
    b.mr.write(b"r" * 1000)
    b.mr.write(b"\x44" * 8, offset=4000)
    receiver.receive(3000, 1000)
    for one, opcode, at in (
        (read, v.IBV_WR_RDMA_READ, 0),
        (write, v.IBV_WR_RDMA_WRITE, 1000),
        (send, v.IBV_WR_SEND, 2000),
    ):
        wr = v.SendWR(opcode=opcode, sg=v.SGE(mr.buf + at, 1000, mr.lkey))
        wr.set_wr_rdma(b.mr.rkey, b.mr.buf + at)
        one.qp.post_send(wr)
    wr = v.SendWR(opcode=v.IBV_WR_ATOMIC_FETCH_AND_ADD, sg=v.SGE(mr.buf + 3200, 8, mr.lkey))
    wr.set_wr_atomic(b.mr.rkey, b.mr.buf + 4000, 1)
    atomic.qp.post_send(wr)
    wait_for(slow.touched.is_set, lambda: "touched")
    keep_going(quick, quick_peer, HELD_SECONDS, lambda: True)
    slow.release()
    for one, _ in slowed:
        one.wait()
    assert mr.read(1000) == b"r" * 1000 and mr.read(8, 3200) == b"\x44" * 8
    assert b.mr.read(1000, 1000) == b.mr.read(1000, 3000) == b"\x33" * 1000
    assert int.from_bytes(b.mr.read(8, 4000), "little") == 0x4444444444444445
    undisturbed(a.context.counters())


def test_memory_to_land_in_that_left_after_the_request(ends, place):
    """The answers are there and their page is not: they wait, and the requester's timer with them."""
    a, _, b = ends
    source, slow = place(b)
    target, landing = place(a)
    landing.release()
    target.write(bytes(2 * PAGE))
    landing.hold()
    quick, quick_peer = link(a, b)
    read, read_peer = link(a, b)
    wr = v.SendWR(opcode=v.IBV_WR_RDMA_READ, sg=v.SGE(target.buf, 2 * PAGE, target.lkey))
    wr.set_wr_rdma(source.rkey, source.buf)
    read.qp.post_send(wr)
    wait_for(slow.touched.is_set, lambda: "the source touched")
    mmu.advise(target.buf, 2 * PAGE, mmu.MADV_DONTNEED)
    keep_going(quick, quick_peer, HORIZON_SECONDS, lambda: True)
    slow.release()
    keep_going(quick, quick_peer, HELD_SECONDS, landing.touched.is_set)
    landing.release()
    read.wait()
    assert target.read(2 * PAGE) == b"\x33" * (2 * PAGE)
    undisturbed(a.context.counters())


def test_a_request_that_joined_a_fault_does_not_share_its_failure(ends, place):
    """A long WRITE waits at a slow page and ends at one that may not be written; a short one in between is not refused."""
    a, _, b = ends
    mr, slow = place(b)
    fails, fails_peer = link(a, b)
    short, short_peer = link(a, b)
    mmu.protect(mr.buf + 7 * PAGE, PAGE, mmap.PROT_READ)
    fails.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 0, 8 * PAGE)
    wait_for(slow.touched.is_set, lambda: "touched")
    short.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 3 * PAGE, 100)
    wait_for(lambda: mr.counters["faults_joined"] or mr.counters["faults_write"] > 1, lambda: "the second fault")
    slow.release()
    fails.wait(v.IBV_WC_REM_ACCESS_ERR)
    short.wait()


# ---- a small cgroup --------------------------------------------------------------------------------------------------

LIMIT, FILE = 32 << 20, 128 << 20


def test_a_file_four_times_the_memory_of_its_server(memory_cgroup, tmp_path):
    """Random pieces and all of it, read from a process that may use a quarter of it: nothing is locked, nobody is killed."""
    group = memory_cgroup(LIMIT)
    path = tmp_path / "large"
    write_uncached(path, FILE)
    server = FileServer(path, group.path)
    try:
        end = server.client()
        for start in range(0, FILE, PIECE):
            server.check(end, start, PIECE)
        for page in np.random.default_rng(1).integers(0, FILE // PAGE, 64).tolist():
            server.check(end, page * PAGE, PAGE)
        end.context.close()
        assert LIMIT // 2 < group.usage_bytes() <= LIMIT and group.oom_kills() == 0
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
        )
        assert status["VmLck"].split()[0] == status["VmPin"].split()[0] == "0"
        assert server.process.pid in group.pids()
    finally:
        server.close()
