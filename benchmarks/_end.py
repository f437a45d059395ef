"""One end of a benchmark, in a child: a device, memory to serve or to read into, queue pairs, and loops that measure.

Every function here can be named by the parent. Objects stay in the child; the parent holds their names and the few numbers
that the other end needs (addresses, keys, queue pair numbers), as any two hosts would exchange them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from _common import p99, status_kb
from numpy.typing import NDArray

from unpinned.hca import layout as L
from unpinned.host import owned, system
from unpinned.verbs import CQ, MR, PD, QP, SGE, Context, FileMR, PeerInfo, QPCap, QPInitAttr, SendWR
from unpinned.verbs import enums as e

REMOTE = e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_ATOMIC
ACCESS = e.IBV_ACCESS_LOCAL_WRITE | REMOTE
OPCODES = {"read": e.IBV_WR_RDMA_READ, "write": e.IBV_WR_RDMA_WRITE, "add": e.IBV_WR_ATOMIC_FETCH_AND_ADD}
MAP_NORESERVE = 0x4000
ANSWER_SECONDS = 20.0

held_gil = ctypes.PyDLL(None, use_errno=True)
"""libc, called with the GIL held, as NumPy's own munmap is."""
held_gil.munmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t]

_domains: dict[str, PD] = {}
_memories: dict[str, Memory] = {}
_queues: dict[str, Queue] = {}
_fleets: dict[str, Fleet] = {}


# --- memory ------------------------------------------------------------------------------


@dataclass
class Memory:
    """Some bytes, and their registrations."""

    bytes: NDArray[np.uint8]
    keeper: Any
    regions: dict[str, MR]

    @property
    def address(self) -> int:
        return int(self.bytes.ctypes.data)


def allocate(kind: str, length: int) -> tuple[NDArray[np.uint8], Any]:
    """Untouched memory of a kind (shared, owned, private), and what keeps it."""
    if kind == "owned":
        array = owned.empty(length, np.uint8)
        return array, array
    if kind == "shared":
        keeper = mmap.mmap(-1, length, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    else:
        keeper = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return np.frombuffer(keeper, np.uint8), keeper


def pattern(offset: int, length: int) -> NDArray[np.int64]:
    """What words [offset, offset + length) bytes hold: each its own offset, scrambled, never 0."""
    return (np.arange(offset, offset + length, 8, dtype=np.int64) * 0x9E3779B97F4A7C1) | 1


def make(name: str, kind: str, length: int, fill: bool = False) -> None:
    """Memory under a name; *fill*: with `pattern`, so it is all there."""
    array, keeper = allocate(kind, length)
    if fill:
        for at in range(0, length, 64 << 20):
            step = min(64 << 20, length - at)
            array[at : at + step].view(np.int64)[:] = pattern(at, step)
    _memories[name] = Memory(array, keeper, {})


def expose(name: str, how: str = "demand", address: str = "") -> dict[str, Any]:
    """Register a memory (demand or pinned): where and under which key the peer reaches it."""
    memory = _memories[name]
    memory.regions[how] = register(memory.bytes, how, address)
    return describe(memory.regions[how])


def register(buffer: Any, how: str = "demand", address: str = "") -> MR:
    """A region over a buffer, with all rights."""
    return MR(domain(address), buffer, ACCESS | (e.IBV_ACCESS_ON_DEMAND if how == "demand" else 0))


def expose_file(name: str, path: str) -> dict[str, Any]:
    """Register a file, for reading, through a mapping of the device's own."""
    mr = FileMR(domain(), path, e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_ON_DEMAND)
    _memories[name] = Memory(np.zeros(0, np.uint8), None, {"demand": mr})
    return describe(mr)


def describe(mr: MR) -> dict[str, Any]:
    """What the peer needs to reach a region, and how this end reaches it."""
    return {"va": mr.buf, "key": mr.rkey, "kind": mr.kind, "unnotified": mr.unnotified}


def withdraw(name: str, how: str = "demand") -> float:
    """Close a registration; seconds it took."""
    mr = _memories[name].regions.pop(how)
    began = time.perf_counter()
    mr.close()
    return time.perf_counter() - began


def drop(name: str) -> None:
    """Let a memory go."""
    memory = _memories.pop(name)
    while memory.regions:
        memory.regions.popitem()[1].close()


def local(name: str, how: str = "demand") -> tuple[int, int]:
    """Address and key of a memory of this end."""
    memory = _memories[name]
    return memory.address, memory.regions[how].lkey


def region_counters(name: str, how: str = "demand") -> dict[str, int]:
    return {key: value for key, value in _memories[name].regions[how].counters.items() if value}


def check(name: str, offset: int, length: int, at: int = 0) -> int:
    """Words of a memory, from *at* on, that differ from what `pattern` puts at *offset*."""
    return int((_memories[name].bytes[at : at + length].view(np.int64) != pattern(offset, length)).sum())


def discard(name: str) -> None:
    """Give a memory's pages back to the kernel; the next access finds them absent."""
    memory = _memories[name]
    system.advise(memory.address, memory.bytes.nbytes, system.MADV_DONTNEED)


# --- device and queue pairs --------------------------------------------------------------


def domain(address: str = "") -> PD:
    """The protection domain of this process's device at an address (empty: a free one of loopback)."""
    if address not in _domains:
        _domains[address] = PD(Context(address=address or None))
    return _domains[address]


def counters(address: str = "") -> dict[str, int]:
    """All counters of a device."""
    return domain(address).context.counters()


class Queue:
    """A queue pair, its completion queue, and requests prepared for it."""

    def __init__(self, pd: PD, depth: int, cq: CQ | None = None) -> None:
        self.pd = pd
        self.depth = depth
        self.cq = cq or CQ(pd.context, 2 * depth)
        self.qp = QP(pd, QPInitAttr(scq=self.cq, rcq=self.cq, cap=QPCap(max_send_wr=depth, max_recv_wr=1)))
        self.stride = self.qp.send_dtype.itemsize // 8
        self.out = np.zeros((256, L.CQE_WORDS), np.int64)

    def info(self) -> dict[str, Any]:
        """What the other end must know."""
        return self.qp.info().as_dict()

    def connect(self, peer: dict[str, Any], **attributes: Any) -> None:
        self.qp.connect(PeerInfo(**peer), REMOTE, **attributes)

    def close(self) -> None:
        self.qp.close()
        self.cq.close()

    def request(self, op: str, local: tuple[int, int], lo: int, remote: dict[str, Any], ro: int, length: int) -> SendWR:
        """One work request."""
        wr = SendWR(opcode=OPCODES[op], sg=SGE(local[0] + lo, length, local[1]))
        if op == "add":
            wr.set_wr_atomic(remote["key"], remote["va"] + ro, 1)
        else:
            wr.set_wr_rdma(remote["key"], remote["va"] + ro)
        return wr

    def stage(
        self, op: str, local: tuple[int, int], lo: Any, remote: dict[str, Any], ro: Any, length: int, count: int
    ) -> NDArray[np.int64]:
        """*count* work requests as rows for `post`; offsets are numbers or vectors."""
        work = np.zeros((count, self.stride), np.int64)
        work[:, L.W_ID] = np.arange(count)
        work[:, L.W_OPCODE], work[:, L.W_FLAGS] = OPCODES[op], e.IBV_SEND_SIGNALED
        work[:, L.W_RVA], work[:, L.W_RKEY] = remote["va"] + ro, remote["key"]
        work[:, L.W_COMPARE], work[:, L.W_NSGE] = 1, 1  # the addend of an atomic
        work[:, L.W_SGE], work[:, L.W_SGE + 1], work[:, L.W_SGE + 2] = local[0] + lo, length, local[1]
        return work

    def post(self, work: NDArray[np.int64]) -> int:
        return self.qp.post_send_many(work)

    def poll(self, timeout: float = ANSWER_SECONDS) -> NDArray[np.int64]:
        """What completed, a row each; RuntimeError where one failed."""
        got = self.cq.poll_into(self.out, timeout)
        rows = self.out[:got]
        if got and rows[:, L.E_STATUS].any():
            raise RuntimeError(f"work completion with status {int(rows[:, L.E_STATUS].max())}")
        return rows

    def must_poll(self) -> int:
        """How many completed; RuntimeError when none did in time."""
        got = len(self.poll())
        if not got:
            busy = {name: value for name, value in self.pd.context.counters().items() if value}
            raise RuntimeError(f"no completion in {ANSWER_SECONDS:.0f} s: {busy}")
        return got

    def run(self, work: NDArray[np.int64], window: int) -> None:
        """Post all of *work*, at most *window* at a time in flight, and wait for all of it."""
        posted = done = 0
        while done < len(work):
            room = min(window - (posted - done), len(work) - posted)
            if room:
                posted += self.post(work[posted : posted + room])
            done += self.must_poll()


def queue(name: str, depth: int = 64, address: str = "") -> dict[str, Any]:
    """A new queue pair under a name; what the peer must know of it."""
    _queues[name] = Queue(domain(address), depth)
    return _queues[name].info()


def connect(name: str, peer: dict[str, Any], **how: Any) -> None:
    _queues[name].connect(peer, **how)


def join(one: Any, other: Any, name: str = "main", depth: int = 64, other_address: str = "", **how: Any) -> None:
    """In the parent: a queue pair at each end under one name, connected."""
    ends = one.ask("queue", name=name, depth=depth), other.ask("queue", name=name, depth=depth, address=other_address)
    one.ask("connect", name=name, peer=ends[1], **how)
    other.ask("connect", name=name, peer=ends[0], **how)


class Fleet:
    """Many queue pairs that share a completion queue."""

    def __init__(self, pd: PD, count: int, depth: int) -> None:
        cq = CQ(pd.context, 2 * depth * count)
        self.queues = [Queue(pd, depth, cq) for _ in range(count)]
        self.number = {queue.qp.qp_num: queue for queue in self.queues}

    def run(self, work: NDArray[np.int64], active: int, each: int) -> None:
        """All of *work* over the first *active* queue pairs, *each* requests in flight on every one of them."""
        posted = done = 0
        for queue in self.queues[:active]:
            posted += queue.post(work[posted : posted + each])
        while done < len(work):
            rows = self.queues[0].poll()
            if not len(rows):
                raise RuntimeError(f"no completion in {ANSWER_SECONDS:.0f} s, {done} of {posted} done")
            done += len(rows)
            for qpn in rows[: len(work) - posted, L.E_QPN].tolist():
                posted += self.number[qpn].post(work[posted : posted + 1])


def fleet(name: str, count: int, depth: int = 64) -> list[dict[str, Any]]:
    """New queue pairs under a name; what the peer must know of each."""
    _fleets[name] = Fleet(domain(), count, depth)
    return [queue.info() for queue in _fleets[name].queues]


def connect_fleet(name: str, peers: list[dict[str, Any]]) -> float:
    """Connect them, one by one; seconds."""
    began = time.perf_counter()
    for queue, peer in zip(_fleets[name].queues, peers, strict=True):
        queue.connect(peer)
    return time.perf_counter() - began


def join_fleets(one: Any, other: Any, name: str, count: int, depth: int = 64) -> float:
    """In the parent: as `join`, for many; seconds that connecting took at both ends."""
    ends = [end.ask("fleet", name=name, count=count, depth=depth) for end in (one, other)]
    return one.ask("connect_fleet", name=name, peers=ends[1]) + other.ask("connect_fleet", name=name, peers=ends[0])


# --- loops that measure ------------------------------------------------------------------


def bandwidth(
    remote: dict[str, Any],
    op: str,
    length: int,
    depth: int,
    seconds: float,
    span: int,
    memory: str = "local",
    how: str = "demand",
    name: str = "main",
) -> float:
    """MiB/s of one-sided operations that walk through *span* bytes at both ends."""
    q, base = _queues[name], local(memory, how)
    work = [q.request(op, base, at, remote, at, length) for at in range(0, span, length)]
    posted = done = 0
    began = now = time.perf_counter()
    while done < posted or now < began + seconds:
        if now < began + seconds:
            for i in range(posted, done + depth):
                q.qp.post_send(work[i % len(work)])
            posted = done + depth
        done += q.must_poll()
        now = time.perf_counter()
    return done * length / (now - began) / (1 << 20)


def latencies(
    remote: dict[str, Any],
    op: str,
    length: int,
    count: int,
    step: int,
    span: int,
    memory: str = "local",
    how: str = "demand",
    name: str = "main",
    seconds: float = 60.0,
    warm: int = 16,
) -> list[float]:
    """Microseconds of single operations, *step* bytes apart modulo *span*, each posted and waited for from Python."""
    q, base = _queues[name], local(memory, how)
    places = range(0, span, step) if step < span else (0,)
    work = [q.request(op, base, 0, remote, at, length) for at in places]
    times = []
    end = time.perf_counter() + seconds
    for i in range(-warm, count):
        one = work[i % len(work)]
        began = time.perf_counter_ns()
        q.qp.post_send(one)
        q.must_poll()
        took = time.perf_counter_ns() - began
        if i >= 0:
            times.append(took / 1e3)
        if time.perf_counter() > end:
            break
    return times


def latency(**arguments: Any) -> dict[str, float]:
    """`latencies`, summed up."""
    times = latencies(**arguments)
    return {"median": float(np.median(times)), "p99": p99(times), "n": len(times)}


class _Enough(Exception):
    pass


def spin(seconds: float) -> float:
    """Never release the GIL of one's own will, for a while; when that ended, on the monotonic clock that all processes share."""

    def stop(*_: object) -> None:
        raise _Enough

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        while True:
            pass
    except _Enough:
        return time.monotonic()


def memory_of_process() -> dict[str, int]:
    """VmRSS and the like, KiB."""
    return status_kb(os.getpid())


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"still waiting after {seconds} s")
        time.sleep(0.0002)
