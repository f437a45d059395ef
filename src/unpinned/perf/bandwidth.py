"""Bandwidth: as many messages under way as the depth allows, on every queue pair, until enough have ended."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from unpinned import verbs as v
from unpinned.perf.control import Control
from unpinned.perf.endpoint import Endpoint

MIB = 1 << 20
STALL_S = 30.0
EVERY_MAX = 16
"""At most so many messages share a completion (perftest's CQ moderation)."""


def measure(end: Endpoint, size: int) -> dict[str, Any]:
    """Messages of *size* from this end; perftest's figures. OSError when one fails or nothing moves any more."""
    run = _Run(end, size)
    run.go()
    elapsed = run.stamps[-1][0] - run.stamps[0][0]
    count = run.stamps[-1][1]
    average = count * size / elapsed
    peak = max(_peak(run.stamps, end.options.depth * end.options.qps) * size, average)
    return {
        "MsgSize": size,
        "n_iterations": count,
        "BW_peak": peak / MIB,
        "BW_average": average / MIB,
        "MsgRate": count / elapsed / 1e6,
    }


class _Run:
    """One size: what is under way and when what had ended."""

    def __init__(self, end: Endpoint, size: int) -> None:
        options = end.options
        self.end, self.options, self.depth = end, options, options.depth
        most = min(EVERY_MAX, max(options.depth // 4, 1))
        self.every = next(every for every in range(most, 0, -1) if options.depth % every == 0)
        self.rings = [end.requests(index, size, self.every) for index in range(options.qps)]
        self.posted = [0] * options.qps
        self.done = [0] * options.qps
        self.total = options.iterations if not options.duration else 1 << 62
        self.left = self.total
        self.stamps: list[tuple[float, int]] = []
        self.out = np.zeros(256, v.WC_DTYPE)

    def go(self) -> None:
        began = time.perf_counter()
        deadline = began + self.options.duration if self.options.duration else float("inf")
        self.stamps.append((began, 0))
        ended = 0
        while True:
            if time.perf_counter() >= deadline and ended:  # some figure there must be, however short the time
                self.left = 0
            for index in range(self.options.qps):
                self._post(index)
            if self.left <= 0 and self.posted == self.done:
                return
            ended += self._take()
            self.stamps.append((time.perf_counter(), ended))

    def _post(self, index: int) -> None:
        """Fill the queue: whole groups that share a completion, except at the very end."""
        room = self.depth - (self.posted[index] - self.done[index])
        room = min(room - room % self.every, self.left)
        while room > 0:
            start = self.posted[index] % self.depth
            count = min(room, self.depth - start)
            rows = self.rings[index][start : start + count]
            if count % self.every:  # the end: the last one stands for the rest of its group
                rows = rows.copy()
                rows["wr_id"][-1] = (count % self.every) << 32 | index
                rows["flags"][-1] = v.IBV_SEND_SIGNALED
            if self.end.qps[index].post_send_many(rows) != count:
                raise OSError("the send queue does not take what it has room for")
            self.posted[index] += count
            self.left -= count
            room -= count

    def _take(self) -> int:
        got = self.end.cq.poll_into(self.out, STALL_S)
        if not got:
            raise TimeoutError(f"no completion in {STALL_S:g} s")
        ended = 0
        for number, status in zip(self.out["wr_id"][:got].tolist(), self.out["status"][:got].tolist()):
            if status:
                raise v.CompletionError(status, what=self.options.test)
            self.done[number & 0xFFFFFFFF] += number >> 32
            ended += number >> 32
        return ended


def _peak(stamps: list[tuple[float, int]], window: int) -> float:
    """Messages a second over the best stretch of at least *window* messages."""
    times, counts = np.array([time for time, _ in stamps]), np.array([count for _, count in stamps])
    ends = np.searchsorted(counts, counts + window)
    inside = ends < len(counts)
    if not inside.any():
        return 0.0
    starts = np.flatnonzero(inside)
    ends = ends[inside]
    return float(((counts[ends] - counts[starts]) / np.maximum(times[ends] - times[starts], 1e-9)).max())


def absorb(end: Endpoint, control: Control) -> None:
    """The other side of send_bw: receive until the client says that it is done."""
    rings = [end.receives(index) for index in range(end.options.qps)]
    waiting = [0] * end.options.qps
    out = np.zeros(256, v.WC_DTYPE)
    for qp, ring in zip(end.qps, rings):
        qp.post_recv_many(ring)
    control.send({"ready": True})
    while not control.pending():
        got = end.cq.poll_into(out, 0.05)
        for index, status in zip(out["wr_id"][:got].tolist(), out["status"][:got].tolist()):
            if status:
                raise v.CompletionError(status, what="receiving")
            waiting[index] += 1
        for index, count in enumerate(waiting):
            if count >= max(end.options.depth // 4, 1):
                end.qps[index].post_recv_many(rings[index], count)
                waiting[index] = 0
