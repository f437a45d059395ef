"""What the peer does to the owner's memory while the owner mistreats it: streams of requests, each checked when it ends.

A stream keeps a few slots busy: it posts, and when a completion comes (`completed`) it checks what arrived and posts the next.
One completion queue serves them all, so one thread keeps everything moving.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned import verbs as v
from unpinned.demo import contents as C
from unpinned.demo.ledger import Ledger
from unpinned.demo.links import ADD, READ, WRITE, Link
from unpinned.demo.places import (
    CHUNK_BYTES,
    STEPPED,
    Expectation,
    Place,
    stepped_expectation,
    written_expectation,
)

ROW_BYTES = 512
COUNTERS = 4096
"""Counters of the array that are added to."""


class Desk:
    """What all streams share: the ledger, the landing memory, and the first few complaints."""

    def __init__(self, ledger: Ledger, landing: v.MR, memory: NDArray[np.uint8]) -> None:
        self.ledger, self.landing, self.memory = ledger, landing, memory
        self.complaints: list[str] = []
        self.random = random.Random(2)
        self._used = 0

    def claim(self, size: int) -> int:
        """An offset of *size* bytes of landing memory that nobody else has."""
        offset = self._used
        self._used += -(-size // 64) * 64
        if self._used > self.memory.size:
            raise MemoryError("the landing memory is too small")
        return offset

    def release(self) -> None:
        """All claims are over."""
        self._used = 0

    def arrived(self, size: int) -> None:
        """Bytes came over the wire (or went)."""
        self.ledger["bytes_delivered"] += size

    def judge(self, verdict: str, size: int, what: str) -> None:
        """*size* bytes were checked; *verdict* is "" or what was wrong with them."""
        self.ledger["bytes_verified"] += size
        if verdict:
            self.ledger["stale_reads"] += 1
            self.complain(f"{what}: {verdict}")

    def complain(self, text: str) -> None:
        if len(self.complaints) < 20:
            self.complaints.append(text)


class Stream(ABC):
    """Requests of one kind over one link. *slots* of them are under way at a time."""

    name = ""

    def __init__(self, desk: Desk, link: Link, slots: int, slot_bytes: int) -> None:
        self.desk, self.link, self.slots, self.slot_bytes = desk, link, slots, slot_bytes
        self.base = desk.claim(slots * slot_bytes)
        self.busy = 0
        self.stopping = False
        self.dead = ""

    def start(self) -> None:
        """Fill every slot."""
        self.stopping = False
        for slot in range(self.slots):
            self._next(slot)

    def completed(self, slot: int, status: int) -> None:
        """A completion for *slot* came: check, and go on."""
        self.busy -= 1
        if status != v.IBV_WC_SUCCESS:
            if not self.dead:
                self.dead = v.wc_status_to_str(status)
                self.desk.ledger["other_errors"] += 1
                self.desk.complain(f"{self.name}: {self.dead}")
            return
        self.check(slot)
        if not self.stopping and not self.dead:
            self._next(slot)

    def _next(self, slot: int) -> None:
        self.busy += 1
        self.post(slot)

    def view(self, slot: int, size: int | None = None) -> NDArray[np.uint8]:
        """The landing memory of a slot."""
        at = self.base + slot * self.slot_bytes
        return self.desk.memory[at : at + (self.slot_bytes if size is None else size)]

    def address(self, slot: int) -> int:
        return self.desk.landing.buf + self.base + slot * self.slot_bytes

    def move(self, opcode: int, slot: int, place: Place, offset: int, size: int, **more: Any) -> None:
        """Post one request between a slot's memory and *offset* of *place*."""
        lkey = self.desk.landing.lkey
        self.link.post(opcode, slot, self.address(slot), lkey, place.address + offset, place.rkey, size, **more)

    @abstractmethod
    def post(self, slot: int) -> None:
        """Post the next request of *slot*."""

    @abstractmethod
    def check(self, slot: int) -> None:
        """Check what *slot*'s request brought."""


class Scan(Stream):
    """READs of the file from its beginning to its end, and again."""

    name = "reading the file"

    def __init__(self, desk: Desk, link: Link, place: Place, expectation: Expectation, slots: int, size: int) -> None:
        super().__init__(desk, link, slots, min(size, -(-place.size_bytes // 8) * 8))
        self.place, self.expectation = place, expectation
        self.at = 0
        self.asked = [(0, 0)] * slots

    def post(self, slot: int) -> None:
        offset, size = self.at, min(self.slot_bytes, self.place.size_bytes - self.at)
        self.at = (offset + size) % self.place.size_bytes
        self.asked[slot] = offset, size
        self.move(READ, slot, self.place, offset, size)

    def check(self, slot: int) -> None:
        offset, size = self.asked[slot]
        self.desk.arrived(size)
        self.desk.ledger["reads"] += 1
        self.desk.judge(self.expectation(self.view(slot, size), offset), size, self.name)


class Gather(Stream):
    """Many rows of the file from anywhere, in one post; only the last one completes."""

    name = "gathering rows"

    def __init__(self, desk: Desk, link: Link, place: Place, expectation: Expectation, rows: int) -> None:
        self.row_bytes = min(ROW_BYTES, place.size_bytes)
        super().__init__(desk, link, 1, rows * self.row_bytes)
        self.place, self.expectation, self.rows = place, expectation, rows
        self.offsets = np.zeros(rows, np.int64)
        self.generator = np.random.default_rng(3)

    def post(self, slot: int) -> None:
        count = self.place.size_bytes // self.row_bytes
        self.offsets = self.generator.integers(0, count, self.rows) * self.row_bytes
        local = self.address(0) + np.arange(self.rows) * self.row_bytes
        landing = self.desk.landing
        remote = self.place.address + self.offsets
        self.link.post(READ, 0, local, landing.lkey, remote, self.place.rkey, self.row_bytes,
                       count=self.rows, each=False)  # fmt: skip

    def check(self, slot: int) -> None:
        self.desk.arrived(self.slot_bytes)
        self.desk.ledger["gathers"] += 1
        self.desk.ledger["gathered_rows"] += self.rows
        rows = self.view(0).reshape(self.rows, self.row_bytes)
        for offset, row in zip(self.offsets.tolist(), rows):
            self.desk.judge(self.expectation(row, offset), self.row_bytes, self.name)


class Look(Stream):
    """READs of memory that its owner discards and fills, anywhere in it."""

    def __init__(self, desk: Desk, link: Link, place: Place, slots: int, size: int) -> None:
        super().__init__(desk, link, slots, size)
        self.place = place
        self.name = f"reading the {place.name}"
        self.asked = [(0, 0)] * slots

    def post(self, slot: int) -> None:
        offset = self.desk.random.randrange(self.place.read_bytes // self.slot_bytes) * self.slot_bytes
        step = self.desk.ledger.step(STEPPED[self.place.name], offset // CHUNK_BYTES)
        self.asked[slot] = offset, step
        self.move(READ, slot, self.place, offset, self.slot_bytes)

    def check(self, slot: int) -> None:
        offset, before = self.asked[slot]
        self.desk.arrived(self.slot_bytes)
        self.desk.ledger["reads"] += 1
        verdict = stepped_expectation(self.place, self.desk.ledger, self.view(slot), offset, before)
        self.desk.judge(verdict, self.slot_bytes, self.name)


class Write(Stream):
    """WRITEs of a new generation, each read back: a slot writes, then reads where it wrote."""

    def __init__(self, desk: Desk, link: Link, place: Place, slots: int, size: int) -> None:
        super().__init__(desk, link, slots, size)
        self.place = place
        self.name = f"writing the {place.name}"
        self.generations = [0] * ((place.write_bytes - place.read_bytes) // size)
        """Of each piece, what was acknowledged last; 0: never written."""
        self.piece = [-1] * slots
        self.reading = [False] * slots

    def offset(self, slot: int) -> int:
        return self.place.read_bytes + self.piece[slot] * self.slot_bytes

    def post(self, slot: int) -> None:
        if self.reading[slot]:  # written: look
            self.view(slot)[:] = 0xEE
            self.move(READ, slot, self.place, self.offset(slot), self.slot_bytes)
            return
        while (piece := self.desk.random.randrange(len(self.generations))) in self.piece:
            pass
        self.piece[slot] = piece
        generation = self.generations[piece] + 1
        C.fill(self.view(slot).view(np.int64), C.word(C.Tag.PEER, generation, self.offset(slot) // C.WORD_BYTES))
        self.move(WRITE, slot, self.place, self.offset(slot), self.slot_bytes)

    def check(self, slot: int) -> None:
        self.desk.arrived(self.slot_bytes)
        generation = self.generations[self.piece[slot]] + (not self.reading[slot])
        if self.reading[slot]:
            verdict = written_expectation(self.view(slot), self.offset(slot), generation)
            self.desk.judge(verdict, self.slot_bytes, self.name)
        else:
            self.desk.ledger["writes"] += 1
            self.generations[self.piece[slot]] = generation
        self.reading[slot] = not self.reading[slot]

    def completed(self, slot: int, status: int) -> None:
        """As for every stream; but what is written is read back even when the stream is stopping."""
        stopping, self.stopping = self.stopping, self.stopping and (self.reading[slot])
        super().completed(slot, status)
        self.stopping = stopping


class Add(Stream):
    """Fetch-and-add on counters of the array: each must return exactly what this stream made of it before."""

    name = "adding"

    def __init__(self, desk: Desk, link: Link, place: Place, slots: int) -> None:
        super().__init__(desk, link, slots, 8)
        self.place = place
        self.sums = [0] * COUNTERS
        self.asked = [(0, 0)] * slots

    def post(self, slot: int) -> None:
        counter, addend = self.desk.random.randrange(COUNTERS), self.desk.random.randrange(1, 1000)
        self.asked[slot] = counter, self.sums[counter]
        self.sums[counter] += addend  # requests of one queue pair are executed in order
        self.move(ADD, slot, self.place, self.place.write_bytes + counter * 8, 8, addend=addend)

    def check(self, slot: int) -> None:
        counter, expected = self.asked[slot]
        found = int(self.view(slot).view(np.int64)[0])
        self.desk.arrived(8)
        self.desk.ledger["adds"] += 1
        self.desk.ledger["bytes_verified"] += 8
        if found != expected:
            self.desk.ledger["wrong_adds"] += 1
            self.desk.complain(f"counter {counter} was {found}, not {expected}")
