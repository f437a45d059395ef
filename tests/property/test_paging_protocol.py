"""The whole paging protocol against a small host and device written in plain Python, in any order of steps.

The host owns the truth: which version of each page is mapped, and whether it may be written. It changes a range only
when the notifier lets it, and holds what a deferral makes it hold. The device uses translations (its own cached ones
first, where it has a cache) and has copies in flight. After every step: no entry disagrees with the truth, no copy and
no cached translation means a frame that was given up, and the block is consistent. At the end everything that was
begun ends.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from unpinned.paging import create, view
from unpinned.paging import layout as P
from unpinned.paging.audit import audit, entries
from unpinned.paging.dma import dma_at, dma_complete, dma_issue
from unpinned.paging.faults import fault_begin, fault_chunk, fault_commit, fault_end, fault_scanned, fault_take
from unpinned.paging.notifier import (
    flush_begin,
    flush_due,
    flush_end,
    invalidate_finish,
    invalidate_poll,
    invalidate_start,
    obligation_done,
    obligation_end,
)
from unpinned.paging.policy import POLICIES
from unpinned.paging.regions import region_open
from unpinned.paging.table import entry, retag, translate

PAGES = 16
SIZE = 4096
EFAULT = 14
FIRST, LAST = 1, 15  # the region's pages: [FIRST, LAST)

SLOT = 9  # stands for any slot
REACHED = {
    "invalidate_start": {P.DONE, P.WAIT, P.DEFERRED, P.REFUSED, P.FULL},
    "invalidate_poll": {P.DONE, P.WAIT},
    "invalidate_finish": {P.DONE, P.PROTOCOL},
    "flush_end": {P.DONE, P.WAIT},
    "obligation_done": {0, 1, P.PROTOCOL},
    "fault_begin": {SLOT, P.NONE, P.OUTSIDE},
    "fault_take": {SLOT, P.NONE},
    "fault_scanned": {P.COMMITTED, P.FINISHED, P.RETRY, P.WAITING, P.EXHAUSTED, P.OVER},
    "fault_chunk": {0, 1},
    "fault_commit": {P.COMMITTED, P.FINISHED, P.RETRY, P.WAITING, P.FAILED, P.EXHAUSTED, P.OVER},
    "fault_end": {P.DONE, P.BUSY},
    "dma_issue": {0, 1, 2, P.NONE},
}


@dataclass
class Ticket:
    number: int
    pages: range
    verdict: int
    token: int = P.NONE
    done: bool = False
    held: set[tuple[int, int]] = field(default_factory=set)


@dataclass
class Worker:
    """A scan or a chunk between its two steps: what it saw, and when."""

    slot: int
    pages: range
    seen: dict[int, int] | None = None
    error: int = 0


class World:
    """One schedule. `choose` decides everything; `seen` counts what the steps answered."""

    def __init__(self, choose: Random, seen: Counter[tuple[str, int]]) -> None:
        self.choose = choose
        self.answers = seen
        leaves = choose.choice([3, 5])  # with 3, the table evicts
        self.p = create(levels=2, bits=2, leaves=leaves, regions=1, active=2, deferrals=2, revoked=1, dma=3, faults=3)
        self.p[P.TLB] = choose.random() < 0.5
        self.p[P.TRACK] = P.CACHED * choose.randrange(2)
        self.p[P.HUGE] = 0
        self.p[P.CHUNK_BYTES] = SIZE
        self.p[P.READ_AHEAD_BYTES] = 2 * SIZE
        self.p[P.RETRIES_MAX] = choose.choice([0, 0, 3])
        POLICIES[choose.choice(["zap_everything", "by_cause", *2 * ["by_cause_batching"]])].write(self.p)
        assert region_open(self.p, 0, FIRST * SIZE, LAST * SIZE, 0) == P.DONE
        self.version = [1] * PAGES
        self.writable = [True] * PAGES
        self.tickets: list[Ticket] = []
        self.held: dict[int, set[tuple[int, int]]] = {}  # token -> frames (page, version)
        self.workers: list[Worker] = []
        self.waiters: list[int] = []
        self.copies: dict[int, tuple[list[tuple[int, int]], bool]] = {}
        self.tlb: dict[int, tuple[int, bool]] = {}  # page -> version, may write
        self.flushed: set[int] = set()
        self.now = 0

    def call(self, step: Callable[..., int], *args: Any) -> int:
        answer = int(step(self.p, *args))
        self.answers[step.__name__, min(answer, 9)] += 1
        return answer

    def pages(self) -> tuple[int, int]:
        """A short range, more often than not near a page that has an entry."""
        present = sorted(entries(self.p))
        near = bool(present) and self.choose.random() < 0.6
        first = self.choose.choice(present) if near else self.choose.randrange(PAGES)
        return first, min(PAGES, first + self.choose.randint(1, 4))

    def step(self) -> None:
        rules = (
            (2, self.start), (2, self.poll), (3, self.change_and_finish), (1, self.upgrade), (2, self.discharge),
            (8, self.use), (2, self.copied), (2, self.flush), (1, self.time_passes), (5, self.fault), (9, self.take),
            (8, self.look), (8, self.commit), (1, self.leave), (4, self.resume),
        )  # fmt: skip
        self.choose.choices([rule for _, rule in rules], [weight for weight, _ in rules])[0]()
        self.check()

    # --- the host ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        first, last = self.pages()
        cause = self.choose.choice([*range(P.CAUSES), *4 * [P.CAUSE_UNMAP]])
        may_sleep = self.choose.random() < 0.7
        before = self.p.copy()
        verdict = self.call(invalidate_start, first * SIZE + 1, last * SIZE - 1, cause, may_sleep, self.now)
        assert verdict in (P.DONE, P.WAIT, P.DEFERRED, P.REFUSED, P.FULL)
        number = int(self.p[P.TICKET])
        if verdict in (P.REFUSED, P.FULL):
            before[P.TICKET] = before[P.OBLIGATION] = P.NONE
            before[P.FLUSH_WANTED] = self.p[P.FLUSH_WANTED]  # it may be asked for
            assert number == P.NONE and (before == self.p)[: self.p[P.COUNTERS]].all(), (
                "I10: a refusal changed something"
            )
            return
        assert may_sleep or verdict != P.WAIT
        done = view(self.p, "active")[number]
        ticket = Ticket(number, range(first, last), int(done["verdict"]), int(self.p[P.OBLIGATION]), verdict != P.WAIT)
        self.tickets.append(ticket)

    def poll(self) -> None:
        for ticket in self.tickets:
            if not ticket.done:
                ticket.done = self.call(invalidate_poll, ticket.number) == P.DONE
                if not ticket.done:  # too early: nothing changes
                    assert self.call(invalidate_finish, ticket.number, self.now) == P.PROTOCOL

    def change_and_finish(self) -> None:
        done = [ticket for ticket in self.tickets if ticket.done]
        if not done:
            return
        ticket = self.choose.choice(done)
        spurious, writable = self.choose.random() < 0.2, self.choose.random() < 0.7
        for page in ticket.pages:
            if spurious:
                break
            if ticket.verdict == P.DOWNGRADE:
                self.writable[page] = False
                assert not any(write and page in [f[0] for f in frames] for frames, write in self.copies.values())
                assert not self.tlb.get(page, (0, False))[1], "the device still caches the write right"
                continue
            if ticket.verdict == P.DEFER:
                self.held.setdefault(ticket.token, set()).add((page, self.version[page]))
            self.version[page] += 1
            self.writable[page] = writable
        assert self.call(invalidate_finish, ticket.number, self.now) == P.DONE
        self.tickets.remove(ticket)

    def upgrade(self) -> None:
        self.writable[self.choose.randrange(PAGES)] = True  # nobody needs to be told

    def discharge(self) -> None:
        token = self.choose.randrange(2)
        done = self.call(obligation_done, token)
        if done == 1 and not any(t.token == token for t in self.tickets):
            self.held.pop(token, None)  # the frames are free: frames_are_kept looks who still uses them
            assert self.call(obligation_end, token) == P.DONE
        elif done != 1:
            assert self.call(obligation_end, token) == P.PROTOCOL

    # --- the device ----------------------------------------------------------------------------------------------------

    def use(self) -> None:
        """Translate (the device's own cache first) and issue a copy, in one step."""
        (page, last), write = self.pages(), self.choose.random() < 0.5
        frames = []
        for at in range(page, min(page + 2, last)):
            cached, may_write = self.tlb.get(at, (0, False))
            if not cached or (write and not may_write):
                if self.call(translate, at * SIZE, SIZE, write, self.now) < SIZE:
                    return
                e = entry(self.p, at * SIZE)
                cached, may_write = e >> P.FLAG_BITS, bool(e & P.WRITE)
                if self.p[P.TLB]:
                    self.tlb[at] = (cached, may_write)
            frames.append((at, cached))
        index = self.call(dma_issue, page * SIZE, len(frames) * SIZE, P.OP_WRITE if write else P.OP_READ, 0, 0, 0)
        if index >= 0:
            self.copies[index] = (frames, write)
        else:
            assert len(self.copies) == 3

    def copied(self) -> None:
        if self.copies:
            index = self.choose.choice(sorted(self.copies))
            assert self.call(dma_complete, index) == P.PROTOCOL
            state = self.choose.choice([P.DMA_DONE, P.DMA_FAILED])
            self.p[dma_at(self.p, index) + P.DMA_STATE] = state
            del self.copies[index]
            assert self.call(dma_complete, index) == state

    def flush(self) -> None:
        if self.p[P.FLUSHING]:
            if self.p[P.TLB]:
                self.tlb = {page: kept for page, kept in self.tlb.items() if page not in self.flushed}
            self.call(flush_end, self.now)
        elif self.call(flush_due, self.now):
            self.call(flush_begin, self.now)
            self.flushed = set(self.tlb)

    def time_passes(self) -> None:
        self.now += 400_000

    # --- faults --------------------------------------------------------------------------------------------------------

    def fault(self) -> None:
        first, last = self.pages()
        want, waits = self.choose.choice([0, 0, 1, 1, 2, 3]), self.choose.random() < 0.8
        slot = self.call(fault_begin, first * SIZE + 5, last * SIZE - 5, want, 7 if waits else P.NONE, 0, self.now)
        if first < FIRST or last > LAST:
            assert slot == P.OUTSIDE
        elif slot >= 0 and waits:
            self.waiters.append(slot)

    def take(self) -> None:
        state = self.choose.choice([P.FAULT_SCAN, P.FAULT_QUEUED])
        slot = self.call(fault_take, state)
        if slot < 0:
            return
        assert self.p[slot + P.FAULT_STATE] in (P.FAULT_SCANNING, P.FAULT_RUNNING)
        if state == P.FAULT_SCAN:
            pages = range(int(self.p[slot + P.FAULT_CURSOR]) // SIZE, int(self.p[slot + P.FAULT_END]) // SIZE)
            self.workers.append(Worker(slot, pages))
        else:
            self.next_chunk(slot)

    def next_chunk(self, slot: int) -> None:
        if self.call(fault_chunk, slot):
            start, end = int(self.p[slot + P.FAULT_CURSOR]), int(self.p[slot + P.FAULT_CHUNK_END])
            assert FIRST * SIZE <= start < end <= LAST * SIZE
            self.workers.append(Worker(slot, range(start // SIZE, end // SIZE)))

    def look(self) -> None:
        """The work without the lock: what the worker sees is the truth of this moment."""
        for worker in self.workers:
            if worker.seen is None and self.choose.random() < 0.7:
                worker.seen = {page: self.version[page] for page in worker.pages}
                if self.p[worker.slot + P.FAULT_WRITE] and not all(self.writable[page] for page in worker.pages):
                    worker.error = EFAULT
                elif self.choose.random() < 0.05:
                    worker.error = P.EAGAIN

    def commit(self) -> None:
        ready = [worker for worker in self.workers if worker.seen is not None]
        if not ready:
            return
        worker = self.choose.choice(ready)
        seen = worker.seen or {}
        self.workers.remove(worker)
        slot = worker.slot
        before = {page: int(entry(self.p, page * SIZE)) for page in worker.pages}
        if self.p[slot + P.FAULT_STATE] == P.FAULT_SCANNING:
            upto = self.choose.randint(worker.pages[0], worker.pages[-1] + 1)
            status = self.call(fault_scanned, slot, upto * SIZE, self.now)
        else:
            upto = worker.pages[-1] + 1
            status = self.call(fault_commit, slot, worker.error, self.now)
        assert status != P.PROTOCOL
        if status in (P.COMMITTED, P.FINISHED, P.OVER):
            for page in range(worker.pages[0], upto):
                # Installed, and not evicted since; a slot that is OVER may have installed nothing.
                if entry(self.p, page * SIZE) not in (0, before[page]):
                    assert retag(self.p, page * SIZE, seen[page]) == 1
        if self.p[slot + P.FAULT_STATE] == P.FAULT_RUNNING and status in (P.COMMITTED, P.RETRY):
            self.next_chunk(slot)

    def leave(self) -> None:
        """A waiter goes, whether or not its fault is over."""
        if self.waiters:
            slot = self.waiters.pop(self.choose.randrange(len(self.waiters)))
            assert self.call(fault_end, slot) in (P.DONE, P.BUSY)
            if any(worker.slot == slot for worker in self.workers):
                assert self.p[slot + P.FAULT_STATE] in (P.FAULT_SCANNING, P.FAULT_RUNNING)

    def resume(self) -> None:
        """Waiters whose fault is over go."""
        for slot in [slot for slot in self.waiters if self.p[slot + P.FAULT_STATE] >= P.FAULT_DONE]:
            self.waiters.remove(slot)
            self.call(fault_end, slot)

    # --- what must hold ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        assert audit(self.p) == []
        for page, e in entries(self.p).items():
            if not e & P.STALE:
                assert e >> P.FLAG_BITS == self.version[page], f"page {page}: an entry of a version that is gone"
                assert not e & P.WRITE or self.writable[page], f"page {page}: a write right that the CPU does not have"
        # I1: whatever the device can still touch is mapped, or held.
        held = set().union(*self.held.values())
        used = [frame for frames, _ in self.copies.values() for frame in frames]
        used += [(page, version) for page, (version, _) in self.tlb.items()]
        for page, version in used:
            assert version == self.version[page] or (page, version) in held, f"page {page}: a frame that was given up"

    def end(self) -> None:
        """When the host stops, everything ends (I6)."""
        for index in list(self.copies):
            self.p[dma_at(self.p, index) + P.DMA_STATE] = P.DMA_DONE
            dma_complete(self.p, index)
        for _ in range(2):
            if not self.p[P.FLUSHING]:
                flush_begin(self.p, self.now)
            assert flush_end(self.p, self.now) == P.DONE
        for ticket in self.tickets:
            assert invalidate_finish(self.p, ticket.number, self.now) == P.DONE
        for worker in self.workers:
            if self.p[worker.slot + P.FAULT_STATE] == P.FAULT_SCANNING:
                fault_scanned(self.p, worker.slot, 0, self.now)
            elif fault_commit(self.p, worker.slot, 0, self.now) in (P.COMMITTED, P.RETRY):
                self.drive(worker.slot)
        while (slot := fault_take(self.p, P.FAULT_SCAN)) >= 0:
            fault_scanned(self.p, slot, 0, self.now)
        while (slot := fault_take(self.p, P.FAULT_QUEUED)) >= 0:
            self.drive(slot)
        for slot in self.waiters:
            assert self.p[slot + P.FAULT_STATE] in (P.FAULT_DONE, P.FAULT_FAILED), "a fault that does not end"
            fault_end(self.p, slot)
        assert self.p[P.FAULT_LIVE] == self.p[P.ACTIVE_COUNT] == self.p[P.DMA_LIVE] == 0
        assert audit(self.p) == []

    def drive(self, slot: int) -> None:
        while fault_chunk(self.p, slot):
            if fault_commit(self.p, slot, 0, self.now) not in (P.COMMITTED, P.RETRY):
                return


def run(seed: int, schedules: int, steps: int) -> Counter[tuple[str, int]]:
    seen: Counter[tuple[str, int]] = Counter()
    for schedule in range(schedules):
        world = World(Random(f"{seed}.{schedule}"), seen)
        try:
            for _ in range(steps):
                world.step()
            world.end()
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}.{schedule}: {error}") from error
    return seen


def test_any_schedule(seed: int) -> None:
    run(seed, schedules=20, steps=200)


def test_every_answer_comes_up() -> None:
    """The schedules are not vacuous: within a bounded number of them each status of each step is seen."""
    seen: Counter[tuple[str, int]] = Counter()
    missing = {(step, answer) for step, answers in REACHED.items() for answer in answers}
    for batch in range(60):
        seen += run(1000 + batch, schedules=10, steps=200)
        missing -= set(seen)
        if not missing:
            return
    raise AssertionError(f"never seen: {sorted(missing)}")


def digest(seed: int) -> str:
    """Of the block after every step of one schedule, counters included."""
    world = World(Random(seed), Counter())
    digest = hashlib.sha256()
    for _ in range(300):
        world.step()
        digest.update(world.p.tobytes())
    return digest.hexdigest()


@pytest.mark.compiled_only
def test_compiled_and_interpreted_kernels_leave_the_same_words(seed: int) -> None:
    code = f"import runpy; print(runpy.run_path({__file__!r})['digest']({seed}))"
    interpreted = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert interpreted.stdout.strip() == digest(seed)
