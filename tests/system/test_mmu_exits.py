"""Forks, exits and deaths, while the wire is busy with the memory of whoever goes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import mmu
from support.forked import Forked, Line
from support.mmu import Filler
from support.mmu_owner import link
from support.python import SOURCES
from support.verbs import PATIENCE, REMOTE, End, nonzero, pair
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
