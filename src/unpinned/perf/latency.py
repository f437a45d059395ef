"""Latency: one message at a time. READ and atomics: there and back. WRITE and SEND: half of a ping-pong, as perftest has it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from unpinned import verbs as v
from unpinned.perf.control import Control
from unpinned.perf.endpoint import OPCODES, Endpoint

STALL_S = 30.0
WARM_UP = 100
LOOK_EVERY = 256
"""Turns of the responder's loop between looks at the control connection."""


def measure(end: Endpoint, size: int) -> dict[str, Any]:
    """Messages of *size* from this end, one after the other; perftest's figures, in microseconds."""
    options = end.options
    once = {"write": _write_ping, "send": _send_ping}.get(options.verb, _fetch)(end, size)
    half = 2 if options.verb in ("write", "send") else 1
    for _ in range(min(WARM_UP, options.iterations)):
        once()
    times: list[int] = []
    clock = time.perf_counter_ns
    deadline = clock() + int(options.duration * 1e9) if options.duration else 1 << 62
    count = 1 << 62 if options.duration else options.iterations
    while len(times) < count and (clock() < deadline or not times):
        began = clock()
        once()
        times.append(clock() - began)
    return {"MsgSize": size, "n_iterations": len(times), **_figures(np.array(times) / 1e3 / half)}


def _figures(times: np.ndarray) -> dict[str, float]:
    ordered = np.sort(times)

    def percentile(part: float) -> float:
        return float(ordered[max(math.ceil(part * len(ordered)) - 1, 0)])

    return {
        "t_min": float(ordered[0]),
        "t_max": float(ordered[-1]),
        "t_typical": percentile(0.5),
        "t_avg": float(ordered.mean()),
        "t_stdev": float(ordered.std()),
        "percentile_99": percentile(0.99),
        "percentile_99.9": percentile(0.999),
    }


def _request(end: Endpoint, size: int, slot: int) -> v.SendWR:
    """A request between the first slot here and *slot* there."""
    request = v.SendWR(1, OPCODES[end.options.verb], sg=v.SGE(end.base, size, end.mr.lkey))
    there = end.remote_address + slot * end.options.stride
    if end.options.verb == "atomic":
        request.set_wr_atomic(end.remote_key, there, 1)
    elif end.options.verb != "send":
        request.set_wr_rdma(end.remote_key, there)
    return request


def _fetch(end: Endpoint, size: int) -> Callable[[], None]:
    """A READ or an atomic, and its completion."""
    qp, cq, request, out = end.qps[0], end.cq, _request(end, size, 0), np.zeros(1, v.WC_DTYPE)
    status = out["status"]

    def once() -> None:
        qp.post_send(request)
        if not cq.poll_into(out, STALL_S):
            raise TimeoutError(f"no completion in {STALL_S:g} s")
        if status[0]:
            raise v.CompletionError(int(status[0]), what=end.options.test)

    return once


class _Pong:
    """What a WRITE ping-pong looks at: the last byte that the other end writes, in the second slot.

    Nobody waits in the queue for a completion of the other end's WRITE: it has none. `look` polls both, the queue (which also
    drives the device) and the memory.
    """

    def __init__(self, end: Endpoint, size: int) -> None:
        self.end, self.cq, self.out = end, end.cq, np.zeros(16, v.WC_DTYPE)
        self.mine = end.memory.data[size - 1 : size]
        self.theirs = end.memory.data[end.options.stride + size - 1 : end.options.stride + size]
        self.theirs[0] = 0
        self.request = _request(end, size, 1)
        self.turn = 0

    def next(self) -> int:
        """The value of this turn: never that of the one before, never zero."""
        self.turn = self.turn % 127 + 1
        return self.turn

    def look(self) -> None:
        got = self.cq.poll_into(self.out, 0.0)
        if got and self.out["status"][:got].any():
            raise v.CompletionError(int(self.out["status"][:got].max()), what=self.end.options.test)

    def write(self, value: int) -> None:
        self.mine[0] = value
        self.end.qps[0].post_send(self.request)


def _write_ping(end: Endpoint, size: int) -> Callable[[], None]:
    pong = _Pong(end, size)

    def once() -> None:
        value = pong.next()
        pong.write(value)
        deadline = time.monotonic() + STALL_S
        while pong.theirs[0] != value:
            pong.look()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer in {STALL_S:g} s")

    return once


def answer_writes(end: Endpoint, size: int, control: Control) -> None:
    """The other side of write_lat: write back each value that comes, until the client says that it is done."""
    pong = _Pong(end, size)
    control.send({"ready": True})
    expected, turns = pong.next(), 0
    while True:
        if pong.theirs[0] == expected:
            pong.write(expected)
            expected = pong.next()
        pong.look()
        turns += 1
        if turns % LOOK_EVERY == 0 and control.pending():
            return


class _Mailbox:
    """SENDs both ways: receives are always posted."""

    def __init__(self, end: Endpoint, size: int) -> None:
        self.end, self.request = end, _request(end, size, 0)
        self.receive = v.RecvWR(2, sg=v.SGE(end.base + end.options.stride, end.options.stride, end.mr.lkey))
        self.out = np.zeros(1, v.WC_DTYPE)
        # It takes what it has room for: those of the size before are still there.
        end.qps[0].post_recv_many(end.receives(0))

    def send(self) -> None:
        self.end.qps[0].post_send(self.request)

    def take(self, timeout: float) -> bool:
        """Wait for a message of the other end; the completions of our own come in between."""
        while self.end.cq.poll_into(self.out, timeout):
            if self.out["status"][0]:
                raise v.CompletionError(int(self.out["status"][0]), what=self.end.options.test)
            if self.out["opcode"][0] & v.IBV_WC_RECV:
                self.end.qps[0].post_recv(self.receive)
                return True
        return False


def _send_ping(end: Endpoint, size: int) -> Callable[[], None]:
    box = _Mailbox(end, size)

    def once() -> None:
        box.send()
        if not box.take(STALL_S):
            raise TimeoutError(f"no answer in {STALL_S:g} s")

    return once


def answer_sends(end: Endpoint, size: int, control: Control) -> None:
    """The other side of send_lat."""
    box = _Mailbox(end, size)
    control.send({"ready": True})
    while not control.pending():
        if box.take(0.05):
            box.send()
