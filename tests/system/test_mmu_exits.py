"""Forks, exits and deaths, while the wire is busy with the memory of whoever goes."""

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import mmu
from support.forked import Forked, Line
from support.mmu import Filler
from support.mmu_owner import link
from support.python import SOURCES
from support.verbs import ALL, PATIENCE, REMOTE, End, nonzero, pair
from unpinned import verbs as v

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
TESTS = Path(__file__).resolve().parents[1]


# ---- forks ---------------------------------------------------------------------------------------------------------


def test_a_forked_child_lives_on_while_the_parent_closes_and_unmaps(no_leaks, tmp_path):
    """The child holds copies of everything that was registered; the parent must not wait for it at any munmap."""
    with ExitStack() as stack:
        a, b = End.open(1 << 20), End.open(4096)
        stack.callback(a.context.close)
        stack.callback(b.context.close)
        memories = [stack.enter_context(mmu.memory(kind, b.pd, folder(tmp_path, kind))) for kind in mmu.KINDS]
        links = [link(a, b) for _ in memories]
        other = Filler()
        stack.callback(other.close)
        with child_of([memory.base for memory in memories]) as status:
            for memory, (one, _) in zip(memories, links):
                for i in range(8):
                    one.remote(v.IBV_WR_RDMA_WRITE, memory.mr, 0, i % 2 << 20, 1 << 20)
                mmu.unmap(memory.base, mmu.SIZE // 2)
                other.put(memory.base, mmu.SIZE // 2)
            a.context.close()
            b.context.close()
            for memory in memories:
                other.put(memory.base, mmu.SIZE, mmu.MAP_FIXED)
            with pair() as (c, d):
                c.remote(v.IBV_WR_RDMA_WRITE, d.mr, 0, 0, 4096)
                c.wait()
            assert status() == 0


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


class child_of:
    """A child that does nothing until its `status` is asked for: then it unmaps *places* and ends with 0."""

    def __init__(self, places: list[int]) -> None:
        self.go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.go[1])
                os.read(self.go[0], 1)
                for place in places:
                    mmu.unmap(place, mmu.SIZE)
                os._exit(0)
            finally:
                os._exit(1)

    def __enter__(self) -> Callable[[], int]:
        return self._status

    def _status(self) -> int:
        os.write(self.go[1], b"x")
        pid, self.pid = self.pid, 0
        return os.waitpid(pid, 0)[1]

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self._status()
        for fd in self.go:
            os.close(fd)


# ---- exits ---------------------------------------------------------------------------------------------------------

LEAVING = """
import gc, json, sys, threading
import numpy as np
from support.verbs import ALL, REMOTE, End, connect
from unpinned import verbs as v
from unpinned.host.owned import empty

a, b, other = End.open(1 << 20), End.open(1 << 20), End.open(1 << 20)
connect(a, b)
arrays = {"global": np.ones(1 << 22, "u1"), "owned": empty(1 << 22, "u1"), "cycle": np.ones(1 << 22, "u1")}
arrays["address"] = np.ones(1 << 22, "u1")
regions = [v.MR(b.pd, array, ALL) for name, array in arrays.items() if name != "address"]
regions.append(v.MR(b.pd, 1 << 22, ALL, address=arrays["address"].ctypes.data))
class Cycle: pass
cycle = Cycle()
cycle.me, cycle.array, cycle.region = cycle, arrays.pop("cycle"), regions.pop(2)
targets = [*regions, cycle.region]
wrs = np.zeros(32, a.qp.send_dtype)
wrs["opcode"], wrs["flags"], wrs["num_sge"] = v.IBV_WR_RDMA_WRITE, 2, 1
wrs["sge"]["addr"], wrs["sge"]["length"], wrs["sge"]["lkey"] = a.mr.buf, 1 << 18, a.mr.lkey
wrs["remote_addr"] = [targets[i % 4].buf for i in range(32)]
wrs["rkey"] = [targets[i % 4].rkey for i in range(32)]
del targets
sys.modules["keeper"] = arrays.pop("owned")
def hammer():
    out = np.zeros(64, v.WC_DTYPE)
    got = len(wrs)
    while True:
        a.qp.post_send_many(wrs, got)
        got = a.cq.poll_into(out, 10.0)
        assert got and not out["status"][:got].any(), out[:got]
threading.Thread(target=hammer, daemon=True).start()
print(json.dumps({"qp": other.qp.info().as_dict(), "region": [other.mr.buf, other.mr.rkey]}), flush=True)
other.qp.connect(v.PeerInfo(**json.loads(sys.stdin.readline())), REMOTE)
for i in range(32): other.receive(i * 4096, 4096)
print("connected", flush=True)
sys.stdin.read()
"""
ENDS = ("del cycle", "gc.disable(); del cycle; del arrays, regions, a, b, other")
"""Last lines: with all of it left to the interpreter's end, and with the collector's last run to free it."""


@pytest.fixture(scope="module")
def leaving() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Processes about to end, started together for the time that it takes."""
    path = os.pathsep.join((str(SOURCES), str(TESTS)))
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "env": {**os.environ, "PYTHONPATH": path},
    }
    started = {end: subprocess.Popen([sys.executable, "-c", LEAVING + end], **pipes) for end in ENDS}
    yield started
    for process in started.values():
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()


@pytest.mark.parametrize("end", ENDS)
def test_an_interpreter_ends_with_everything_registered_and_in_flight(leaving, end):
    """Arrays freed by the collector at shutdown while WRITEs land in them, and another process's requests: status 0, no hang."""
    process = leaving[end]
    info = json.loads(process.stdout.readline())
    with end_of(info) as requester:
        print(json.dumps(requester.qp.info().as_dict()), file=process.stdin, flush=True)
        assert process.stdout.readline() == "connected\n"
        ends_under_fire(requester, info["region"], process.stdin.close, CLOSED)
    assert process.wait(PATIENCE) == 0


def test_a_process_is_killed_with_everything_in_flight():
    victim = Forked(serve_one)
    info = victim.ask("open")
    with end_of(info) as requester:
        victim.ask("connect", requester.qp.info().as_dict())
        ends_under_fire(requester, info["region"], victim.kill)


def serve_one(line: Line) -> None:
    """An end that is there to be killed."""
    end = End.open(1 << 20)
    while (command := line.next()) is not None:
        if command[0] == "open":
            line.answer({"qp": end.qp.info().as_dict(), "region": [end.mr.buf, end.mr.rkey]})
        else:
            end.qp.connect(v.PeerInfo(**command[1]), REMOTE)
            for i in range(32):
                end.receive(i * 4096, 4096)
            line.answer("connected")


KINDS = ("private", "memfd", "file")
OPERATIONS = ("read", "write", "send", "atomic")
PIECE, PIECES = 65_536, 8
POSTS = 48
"""Requests of each lane; several for each piece, and fewer than its queue takes."""


def test_a_process_is_killed_whatever_is_in_flight_and_wherever(tmp_path):
    """Each operation on each kind of memory, a queue pair each: every one ends with a status, and what was acknowledged is in the
    memory that outlives the process."""
    fds = {"private": -1, "memfd": os.memfd_create("victim", os.MFD_CLOEXEC),
           "file": os.open(tmp_path / "victim", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)}  # fmt: skip
    for fd in (fds["memfd"], fds["file"]):
        os.ftruncate(fd, len(OPERATIONS) * PIECES * PIECE)
    victim = Forked(lambda line: serve_lanes(line, fds))
    end = End.open(POSTS * PIECE)
    try:
        words = np.frombuffer(end.mr.region.mapping.owner[0], np.int64).reshape(POSTS, -1)
        words[:] = np.arange(1, POSTS + 1)[:, None]
        sink = v.MR(end.pd, POSTS * PIECE)
        lanes = [VictimLane(end, sink, kind, op) for kind in KINDS for op in OPERATIONS]
        for lane, theirs in zip(lanes, victim.ask("open", [lane.qp.info().as_dict() for lane in lanes])):
            lane.connect(theirs)
        for i in range(POSTS // 2):
            for lane in lanes:
                lane.post(i)
        for lane in lanes:
            lane.take()
        for i in range(POSTS // 2, POSTS):
            for lane in lanes:
                lane.post(i)
        victim.kill()
        for lane in lanes:
            lane.finish()
            judge_lane(lane, fds[lane.kind])
    finally:
        end.context.close()
        if victim.pid:
            victim.kill()
        for fd in (fds["memfd"], fds["file"]):
            os.close(fd)


def serve_lanes(line: Line, fds: dict[str, int]) -> None:
    """The victim: a region of each kind and a queue pair for each lane."""
    end = End.open(4096)
    size = len(OPERATIONS) * PIECES * PIECE
    command = line.next()
    assert command
    infos = iter(command[1])
    answer, kept = [], []
    for kind in KINDS:
        shared = mmap.MAP_SHARED if fds[kind] >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        mr = v.MR(end.pd, size, ALL, address=mmu.map_anew(size, shared, fds[kind]))
        for number, op in enumerate(OPERATIONS):
            cap = v.QPCap(max_send_wr=1, max_recv_wr=2 * POSTS)
            qp = v.QP(end.pd, v.QPInitAttr(scq=end.cq, rcq=end.cq, cap=cap))
            start = mr.buf + number * PIECES * PIECE
            answer.append([qp.info().as_dict(), start, mr.rkey])
            kept.append((mr, qp))
            qp.connect(v.PeerInfo(**next(infos)), REMOTE)
            for i in range(2 * POSTS if op == "send" else 0):
                qp.post_recv(v.RecvWR(i, sg=v.SGE(start + i % PIECES * PIECE, PIECE, mr.lkey)))
    line.answer(answer)
    line.next()


class VictimLane:
    """One operation on one kind of the victim's memory: request i is for piece i % PIECES, and carries i + 1."""

    def __init__(self, end: End, sink: v.MR, kind: str, op: str) -> None:
        self.end, self.sink, self.kind, self.op = end, sink, kind, op
        self.cq = v.CQ(end.context, 2 * POSTS)
        self.qp = v.QP(end.pd, v.QPInitAttr(scq=self.cq, rcq=self.cq, cap=v.QPCap(max_send_wr=2 * POSTS), sq_sig_all=1))
        self.statuses: list[int] = []
        self.posted = 0

    def connect(self, theirs: list[Any]) -> None:
        info, self.start, self.key = theirs
        self.qp.connect(v.PeerInfo(**info))

    def post(self, i: int) -> None:
        place = self.start + i % PIECES * PIECE
        local = (self.sink if self.op in ("read", "atomic") else self.end.mr)
        wr = v.SendWR(opcode=CODES[self.op], sg=v.SGE(local.buf + i * PIECE, 8 if self.op == "atomic" else PIECE, local.lkey))
        if self.op == "atomic":
            wr.set_wr_atomic(self.key, place, 1, 0)
        elif self.op != "send":
            wr.set_wr_rdma(self.key, place)
        self.qp.post_send(wr)
        self.posted += 1

    def take(self) -> None:
        """At least one completion."""
        got, wcs = self.cq.wait(2 * POSTS, PATIENCE)
        assert got, f"{self.op} on {self.kind}: no status; {nonzero(self.end.context.counters())}"
        self.statuses += [wc.status for wc in wcs]

    def finish(self) -> None:
        """Until nobody answers any more and every request has its status."""
        while len(self.statuses) < self.posted or not any(self.statuses):
            if len(self.statuses) == self.posted:  # all were answered in time
                self.post(POSTS - 1)
            self.take()


CODES = {"read": v.IBV_WR_RDMA_READ, "write": v.IBV_WR_RDMA_WRITE, "send": v.IBV_WR_SEND,
         "atomic": v.IBV_WR_ATOMIC_FETCH_AND_ADD}  # fmt: skip


def judge_lane(lane: VictimLane, fd: int) -> None:
    """One request failed, those behind it were flushed; of what the memory holds no byte is lost and none is anybody else's."""
    acked = next(i for i, status in enumerate(lane.statuses) if status)
    about = f"{lane.op} on {lane.kind}: {lane.statuses}"
    assert acked and lane.statuses[acked] in SILENT and set(lane.statuses[acked + 1 :]) <= {v.IBV_WC_WR_FLUSH_ERR}, about
    if lane.op == "read":
        assert not any(lane.sink.read(POSTS * PIECE)[8:PIECE]), about  # it was never written
    elif fd >= 0:
        start = OPERATIONS.index(lane.op) * PIECES * PIECE
        there = np.frombuffer(os.pread(fd, PIECES * PIECE, start), np.int64).reshape(PIECES, -1)
        for piece in range(PIECES):
            posted = [i + 1 for i in range(POSTS) if i % PIECES == piece]
            done = sum(value <= acked for value in posted)
            if lane.op == "atomic":
                more = max(lane.posted - POSTS, 0) if piece == (POSTS - 1) % PIECES else 0
                assert done <= there[piece, 0] <= len(posted) + more and not there[piece, 1:].any(), about
            else:
                allowed = [*posted[max(done - 1, 0) :], *([0] if done == 0 else [])]
                assert np.isin(there[piece], allowed).all(), f"{about}: {np.unique(there[piece])}, not {allowed}"


@contextmanager
def end_of(info: dict[str, Any]) -> Iterator[End]:
    """A requester for the process that *info* is from."""
    opened = End.open(1 << 20)
    opened.qp.connect(v.PeerInfo(**info["qp"]), REMOTE)
    yield opened
    opened.context.close()


SILENT = (v.IBV_WC_RETRY_EXC_ERR,)
CLOSED = (*SILENT, v.IBV_WC_REM_ACCESS_ERR, v.IBV_WC_REM_OP_ERR)
"""What a request may end with: nobody answers any more; or the regions are closed already and their device not yet."""


def ends_under_fire(
    end: End, region: list[int], leave: Callable[[], object], failures: tuple[int, ...] = SILENT
) -> None:
    """Requests of every kind under way when the owner of *region* goes: those before that succeed, one fails, the others are
    flushed; and a pair of ends beside it has its answers all the while."""
    count = 60
    with pair() as (a, b):
        for i in range(count):
            post(end, region, i)
        end.wait()
        leave()
        statuses = [0]
        while len(statuses) < count or not any(statuses):
            a.remote(v.IBV_WR_RDMA_READ, b.mr, 0, 0, 60_000)
            a.wait()
            if len(statuses) == count:  # all were answered in time
                post(end, region, 0)
                count += 1
            got, wcs = end.cq.wait(64, PATIENCE)
            assert got, nonzero(end.context.counters())
            statuses += [wc.status for wc in wcs]
        failed = next(i for i, status in enumerate(statuses) if status)
        assert statuses[failed] in failures and set(statuses[failed + 1 :]) <= {v.IBV_WC_WR_FLUSH_ERR}, statuses


def post(end: End, region: list[int], i: int) -> None:
    """A request: one kind after the other."""
    address, key = region
    if i % 4 == 0:
        end.remote(v.IBV_WR_RDMA_WRITE, (address, key), 0, 0, 65_536)
    elif i % 4 == 1:
        end.remote(v.IBV_WR_RDMA_READ, (address, key), 1 << 19, 0, 65_536)
    elif i % 4 == 2:
        end.send(0, 4096)
    else:
        wr = v.SendWR(opcode=v.IBV_WR_ATOMIC_FETCH_AND_ADD, sg=end.piece(65_536, 8))
        wr.set_wr_atomic(key, address + 262_144, 1)
        end.qp.post_send(wr)
