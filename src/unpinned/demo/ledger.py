"""The page that the three processes share: counters, the steps of memory that changes, and what was done when.

A referee that stands apart: nothing in it goes over the wire. Each word has one writer (the peer, the owner or the
conductor), readers look at any time. Words are int64 of shared memory, written whole; what has to be ordered lies a system
call or a round trip apart.
"""

from __future__ import annotations

import mmap
import os
import time

CHUNKS = 512
"""Chunks of one region whose steps can be kept."""
SLOTS = 8
"""Ranges that may be on their way out at once."""
ACTIONS = ("discard", "page out", "move", "unmap", "replace", "protect", "shrink", "fork", "Python spins")
"""What the owner does, in the order of the picture."""

_PEER = (
    "bytes_delivered bytes_verified reads gathers gathered_rows writes adds stale_reads stale_words late_writes "
    "stale_reads_foreign access_errors other_errors first_byte_ns wrong_adds"
).split()
_OWNER = (
    "faults pages_in flushes registered_bytes resident_file_bytes resident_array_bytes resident_private_bytes "
    "resident_other_bytes resident_max_bytes locked_max_bytes stray_writes stray_writes_foreign samples"
).split()
_CAUSES = 16
_EVENTS = 8192
_EVENT_WORDS = 3

LIVE, STRIKING, GONE = 1, 2, 3
"""What a slot says of its range: there, going while you look, gone."""


class Ledger:
    """The shared page, by the names of its words: ``ledger["reads"] += 1``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, _BYTES)
        self._words = memoryview(self._map).cast("q")

    @classmethod
    def create(cls) -> Ledger:
        """A new one; processes that are given its descriptor see the same words."""
        fd = os.memfd_create("unpinned-demo-ledger", os.MFD_CLOEXEC)
        os.ftruncate(fd, _BYTES)
        return cls(fd)

    def __getitem__(self, name: str) -> int:
        return self._words[_PLACES[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._words[_PLACES[name]] = value

    def counters(self) -> dict[str, int]:
        """Every single counter, by name."""
        return {name: self._words[place] for name, place in _PLACES.items()}

    # ---- steps of chunks (see `contents`) --------------------------------------------------------------------------

    def step(self, region: int, chunk: int) -> int:
        """The step of a chunk that its owner discards and fills."""
        return self._words[_STEPS + region * CHUNKS + chunk]

    def set_step(self, region: int, chunk: int, step: int) -> None:
        self._words[_STEPS + region * CHUNKS + chunk] = step

    # ---- ranges on their way out -----------------------------------------------------------------------------------

    def slot(self, slot: int) -> int:
        """LIVE, STRIKING or GONE."""
        return self._words[_SLOT_STATES + slot]

    def set_slot(self, slot: int, state: int) -> None:
        self._words[_SLOT_STATES + slot] = state

    def shots(self, slot: int) -> int:
        """Operations on the range of *slot* that have ended, well or not."""
        return self._words[_SLOT_SHOTS + slot]

    def set_shots(self, slot: int, count: int) -> None:
        self._words[_SLOT_SHOTS + slot] = count

    # ---- invalidations, by cause -----------------------------------------------------------------------------------

    def invalidations(self) -> list[int]:
        return list(self._words[_CAUSE_COUNTS : _CAUSE_COUNTS + _CAUSES])

    def set_invalidations(self, counts: list[int]) -> None:
        for cause, count in enumerate(counts):
            self._words[_CAUSE_COUNTS + cause] = count

    # ---- what the owner did ----------------------------------------------------------------------------------------

    def note(self, action: str, began_ns: int, ended_ns: int | None = None) -> None:
        """The owner did *action* from *began_ns* to *ended_ns* (now); when the list is full, it is only counted."""
        number = self._words[_EVENT_COUNT]
        if number < _EVENTS:
            at = _EVENT_LIST + number * _EVENT_WORDS
            ended = time.monotonic_ns() if ended_ns is None else ended_ns
            self._words[at], self._words[at + 1], self._words[at + 2] = ACTIONS.index(action), began_ns, ended
        self._words[_EVENT_COUNT] = number + 1

    def events(self) -> list[tuple[str, int, int]]:
        """(action, began, ended), times in ns of the monotonic clock."""
        found = []
        for number in range(min(self._words[_EVENT_COUNT], _EVENTS)):
            kind, began, ended = self._words[(at := _EVENT_LIST + number * _EVENT_WORDS) : at + _EVENT_WORDS]
            found.append((ACTIONS[kind], began, ended))
        return found

    def close(self) -> None:
        """Let go of the memory; idempotent."""
        if self.fd >= 0:
            self._words.release()
            self._map.close()
            os.close(self.fd)
            self.fd = -1


_PLACES = {name: place for place, name in enumerate(_PEER + _OWNER)}
_CAUSE_COUNTS = 64
_SLOT_STATES = _CAUSE_COUNTS + _CAUSES
_SLOT_SHOTS = _SLOT_STATES + SLOTS
_STEPS = 128
_EVENT_COUNT = _STEPS + 4 * CHUNKS
_EVENT_LIST = _EVENT_COUNT + 1
_BYTES = 8 * (_EVENT_LIST + _EVENTS * _EVENT_WORDS)

assert len(_PLACES) <= _CAUSE_COUNTS and _SLOT_SHOTS + SLOTS <= _STEPS
