"""A process that keeps the wire busy over the lanes of a region (see `mmu`), and judges every byte it gets.

Each lane has a queue pair and two batches of requests: while one is in flight the other is judged and made anew, so there is
always something on its way. It goes on until it is told to finish; then each block is visited once more, and what was seen is
reported.
"""

from __future__ import annotations

import select
import time
from typing import Any

import numpy as np

from unpinned import verbs as v
from unpinned.hca import layout as L
from unpinned.host.owned import empty

from .forked import Forked, Line
from .mmu import BLOCK, BLOCK_WORDS, CELL, GENERATION, GENERATIONS, LANES, OTHER, POISON, Lane, lanes, pattern
from .verbs import ALL, PATIENCE, REMOTE, nonzero

BATCH = 6
MESSAGE = 5
"""Blocks of the longest request."""
TIMEOUT = 20
"""Four seconds: whoever is silent that long was not merely waiting for a processor. What is lost is a timeout all the same."""
SENDS = 768
"""Messages that a lane may send: as many receives are posted, and some more for the end."""
SEND_BLOCKS = 4
CAP = {"max_send_wr": 2 * BATCH, "max_recv_wr": 1, "max_send_sge": 1, "max_recv_sge": 1}


def send_place(number: int, blocks: int) -> int:
    """First block of the buffer that takes message *number*."""
    return number % (blocks // SEND_BLOCKS) * SEND_BLOCKS


class Worker:
    """One lane's requests. `posted` and `acked` are the generations (atomics: counts) of each block."""

    def __init__(self, lane: Lane, local: v.MR, words: Any, pd: v.PD, cq: v.CQ, seed: int) -> None:
        self.lane, self.op, self.local, self.words = lane, lane.op, local, words
        self.qp = v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq, cap=v.QPCap(**CAP)))
        self.random = np.random.default_rng(seed)
        self.base = pattern(lane.index, lane.blocks)
        self.posted, self.acked = np.zeros(lane.blocks, np.int64), np.zeros(lane.blocks, np.int64)
        self.seen, self.may_vanish = np.zeros_like(self.base), np.zeros(self.base.shape, bool)
        self.newest = 0
        self.rows = np.zeros(BATCH, self.qp.send_dtype)
        self.jobs: list[list[tuple[int, int, int]]] = [[], []]
        self.status = np.zeros((2, BATCH), np.int64)
        self.pending = [0, 0]
        self.failed = 0
        self.done = self.generation = self.sent = self.turn = self.zeros = self.others = 0
        self.limit = SENDS
        self.plan: list[int] | None = None
        self.bad: list[str] = []

    def aim(self, address: int, rkey: int) -> None:
        """Work on the region that begins at *address*."""
        self.rows["flags"], self.rows["num_sge"], self.rows["rkey"] = v.IBV_SEND_SIGNALED, 1, rkey
        self.rows["sge"]["lkey"] = self.local.lkey
        self.address = address + self.lane.shift

    # ---- making requests

    def post(self, half: int) -> None:
        jobs = self.jobs[half] = []
        while not self.failed and len(jobs) < BATCH and (job := self._job(jobs)) is not None:
            jobs.append(job)
            self._row(half, len(jobs) - 1, *job)
        self.pending[half] = len(jobs)
        if jobs:
            assert self.qp.post_send_many(self.rows, len(jobs)) == len(jobs)

    def _job(self, jobs: list[tuple[int, int, int]]) -> tuple[int, int, int] | None:
        """(first block, blocks, generation) of the next request."""
        if self.op == "send":
            if self.sent >= self.limit:
                return None
            self.sent += 1
            self.generation += 1
            return send_place(self.sent - 1, self.lane.blocks), SEND_BLOCKS, self.generation
        if self.op == "bystander" and len(jobs) % 2:
            return jobs[-1]
        start, count = self._place()
        if count == 0:
            return None
        self.generation += self.op in ("write", "bystander")
        return start, count, self.generation

    def _place(self) -> tuple[int, int]:
        longest = 1 if self.op == "atomic" else MESSAGE
        if self.plan is not None:
            if not self.plan:
                return 0, 0
            start = self.plan.pop(0)
            return start, min(longest, self.lane.blocks - start)
        if self.op == "atomic":  # neighbours in time are different cells: a reply says exactly what must be there
            self.turn += 1
            return self.turn * 7 % self.lane.blocks, 1
        count = int(self.random.integers(1, longest + 1))
        return int(self.random.integers(0, self.lane.blocks - count + 1)), count

    def _row(self, half: int, i: int, start: int, count: int, generation: int) -> None:
        row, buffer = self.rows[i], self.words[half, i]
        reads = self.op == "read" or (self.op == "bystander" and i % 2)
        row["wr_id"] = self.lane.index << 8 | half << 7 | i
        row["sge"][0]["addr"] = buffer.ctypes.data
        row["sge"][0]["length"] = 8 if self.op == "atomic" else count * BLOCK
        row["remote_addr"] = self.address + start * BLOCK
        if self.op == "atomic":
            row["remote_addr"] += 8 * CELL
            row["opcode"] = (v.IBV_WR_ATOMIC_FETCH_AND_ADD, v.IBV_WR_ATOMIC_CMP_AND_SWP)[i % 2]
            expected = self.acked[start]
            row["compare_add"], row["swap"] = (expected, expected + 1) if i % 2 else (1, 0)
            self.posted[start] = expected + 1
        elif reads:
            row["opcode"] = v.IBV_WR_RDMA_READ
            buffer[:count] = POISON
        else:
            row["opcode"] = v.IBV_WR_SEND if self.op == "send" else v.IBV_WR_RDMA_WRITE
            buffer[:count] = self.base[start : start + count] + (generation << GENERATION)
            self.posted[start : start + count] = generation

    # ---- judging answers

    def take(self, half: int, i: int, status: int) -> None:
        self.status[half, i] = status
        self.pending[half] -= 1

    def judge(self, half: int) -> None:
        """Look at the answers of a batch that is complete."""
        for i, job in enumerate(self.jobs[half]):
            if self.status[half, i]:
                if not self.failed:
                    self.failed = int(self.status[half, i])
                continue
            self.done += 1
            start, count, generation = job
            if self.op == "atomic":
                self._count(half, i, start)
            elif self.op == "read":
                self._compare(self.words[half, i, :count], start, self.seen[start : start + count], self.newest)
            elif self.op == "bystander" and i % 2:
                self._compare(self.words[half, i, :count], start, generation, generation)
            else:
                self.acked[start : start + count] = generation
        self.jobs[half] = []

    def _compare(self, got: Any, start: int, least: Any, most: int) -> None:
        span = slice(start, start + len(got))
        generation = got >> GENERATION & GENERATIONS
        right = (got - (generation << GENERATION) == self.base[span]) & (generation >= least) & (generation <= most)
        gone = (got == 0) & self.may_vanish[span]
        self.zeros += int(gone.sum())
        other = got == OTHER
        self.others += int(other.sum())
        if self.op == "read":
            self.seen[span][right] = generation[right]
        known = right | gone | other
        if not known.all():
            block, word = np.argwhere(~known)[0]
            self._complain(f"block {start + block} word {word}: {int(got[block, word]):#x}, generation up to {most}")

    def _count(self, half: int, i: int, start: int) -> None:
        old, expected = int(self.words[half, i, 0, 0]), int(self.acked[start])
        if old == expected:
            self.acked[start] = expected + 1
        elif old == 0 and self.may_vanish[start, CELL]:
            self.zeros += 1
            self.acked[start] = 1 - i % 2  # an addition began anew; a comparison failed
        elif OTHER <= old <= OTHER + self.done:  # another mapping's word, and what was added to it
            self.others += 1
        else:
            self._complain(f"cell {start}: {old}, not {expected}")

    def _complain(self, text: str) -> None:
        if len(self.bad) < 3:
            self.bad.append(text)

    # ---- the end

    def sweep(self) -> None:
        """From now on: every block once."""
        if self.op == "send":
            self.limit = self.sent + self.lane.blocks // SEND_BLOCKS
        else:
            self.plan = list(range(0, self.lane.blocks, 1 if self.op == "atomic" else MESSAGE))

    def swept(self) -> bool:
        return bool(self.failed) or (self.sent == self.limit if self.op == "send" else not self.plan)

    def report(self) -> dict[str, Any]:
        return {"status": self.failed, "done": self.done, "bad": self.bad, "zeros": self.zeros, "others": self.others,
                "acked": self.acked.tolist(), "posted": self.posted.tolist(), "sent": self.sent}  # fmt: skip


def record(qp: v.QP) -> dict[str, int]:
    """What the device knows of a queue pair: for messages of failures."""
    words = qp.device.h[qp._q : qp._q + L.QP_WORDS].view(L.QP)[0]
    return {name: int(words[name]) for name in L.QP.names if words[name] and not name.startswith("word")}


class Crew:
    """The process's device and the workers of one cell."""

    def __init__(self) -> None:
        self.context = v.Context()
        self.pd, self.cq = v.PD(self.context), v.CQ(self.context, 512)
        self.words = empty((len(LANES), 2, BATCH, MESSAGE, BLOCK_WORDS), np.int64)
        self.mr = v.MR(self.pd, self.words, ALL)
        self.out = np.zeros(64, v.WC_DTYPE)
        self.workers: list[Worker] = []
        self.before: dict[str, int] = {}

    def make(self, seed: int) -> list[Any]:
        """Queue pairs for a cell; what the other end must know of them."""
        self.before = self.context.counters()
        parts = zip(lanes(), self.words)
        self.workers = [Worker(lane, self.mr, words, self.pd, self.cq, seed + lane.index) for lane, words in parts]
        return [worker.qp.info(TIMEOUT).as_dict() for worker in self.workers]

    def start(self, infos: list[Any], address: int, rkey: int, vanishing: list[tuple[int, int]], newest: int) -> None:
        """Connect. *vanishing*: bytes of the region that may turn to zeros; READs bring generations up to *newest*."""
        for worker, info in zip(self.workers, infos):
            worker.qp.connect(v.PeerInfo(**info), REMOTE, timeout=TIMEOUT)
            worker.aim(address, rkey)
            worker.newest = newest
            for low, high in vanishing:
                worker.may_vanish |= worker.lane.within(low, high)

    def hammer(self, rounds: int, until: Any = None) -> int:
        """Batch after batch, *rounds* times or until something is to be read from *until*."""
        half = 0
        self._post(half)
        while rounds > 0 and not (until is not None and select.select([until], [], [], 0)[0]):
            half = 1 - half
            self._post(half)
            self._settle(1 - half)
            rounds -= 1
        self._settle(half)
        return rounds

    def _post(self, half: int) -> None:
        for worker in self.workers:
            worker.post(half)

    def _settle(self, half: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while any(worker.pending[half] for worker in self.workers):
            got = self.cq.poll_into(self.out, 1.0)
            for wr_id, status in zip(self.out["wr_id"][:got].tolist(), self.out["status"][:got].tolist()):
                self.workers[wr_id >> 8].take(wr_id >> 7 & 1, wr_id & 127, status)
            if time.monotonic() > deadline:
                stuck = [worker.op for worker in self.workers if worker.pending[half]]
                states = [record(worker.qp) for worker in self.workers if worker.pending[half]]
                raise TimeoutError(f"no completion for {stuck}: {states} {nonzero(self.context.counters())}")
        for worker in self.workers:
            worker.judge(half)

    def finish(self, newest: int) -> list[Any]:
        """Visit every block once; what was seen all the while. *newest*: what READs must bring now."""
        for worker in self.workers:
            worker.seen[:] = newest
            worker.sweep()
        while not all(worker.swept() for worker in self.workers):
            self.hammer(1)
        return [worker.report() for worker in self.workers]

    def end(self) -> dict[str, int]:
        """Close the queue pairs; how the device's counters moved since `make`."""
        for worker in self.workers:
            worker.qp.close()
        self.workers = []
        after = self.context.counters()
        return {name: after[name] - self.before.get(name, 0) for name in after}


class Peer(Forked):
    """The crew in a process of its own, for the test to command by the names of `Crew`'s methods."""

    def __init__(self) -> None:
        super().__init__(_serve)


def _serve(line: Line) -> None:
    crew = Crew()
    while (command := line.next()) is not None:
        verb, *arguments = command
        try:
            if verb == "hammer":
                crew.hammer(2)
                line.answer("busy")
                crew.hammer(1 << 60, line.commands)
            else:
                line.answer(getattr(crew, verb)(*arguments))
        except Exception as error:
            line.answer({"error": f"{type(error).__name__}: {error}"})
    crew.context.close()
