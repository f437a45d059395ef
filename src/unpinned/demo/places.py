"""What is served, as both ends see it: regions, their zones, and what their bytes must be."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.demo import contents as C
from unpinned.demo.ledger import Ledger

CHUNK_BYTES = 1 << 20
"""The owner discards and fills, and the peer writes, in chunks (or pieces of them)."""
FILE, ARRAY, PRIVATE, RESERVED = "file", "array", "private", "reserved"
STEPPED = {ARRAY: 0, PRIVATE: 1}
"""Regions whose chunks have steps in the ledger, and their number there."""
TAGS = {FILE: C.Tag.FILE, ARRAY: C.Tag.ARRAY, PRIVATE: C.Tag.PRIVATE}


@dataclass(frozen=True)
class Place:
    """A region of the owner. ``[0, read_bytes)`` is the owner's to change, ``[read_bytes, write_bytes)`` the peer's to write,
    from there to the end (in the array) are counters that the peer adds to."""

    name: str
    address: int
    rkey: int
    size_bytes: int
    read_bytes: int = 0
    write_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def zones(name: str, size_bytes: int) -> tuple[int, int]:
    """(read_bytes, write_bytes) of a region that has zones, whole chunks each."""
    chunks = size_bytes // CHUNK_BYTES
    counters = max(chunks // 16, 1) if name == ARRAY else 0
    return chunks // 2 * CHUNK_BYTES, (chunks - counters) * CHUNK_BYTES


Expectation = Callable[[NDArray[np.uint8], int], str]
"""Are these bytes what must stand at that offset? "" or what was found instead."""


def file_expectation(path: str, made: bool) -> Expectation:
    """For the file: by formula when we made it, by its own content when it is the user's (read, not mapped: a page that is
    mapped twice is not reclaimed)."""
    if made:
        return _words_of_file
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    content = np.empty(CHUNK_BYTES, np.uint8)

    def check(found: NDArray[np.uint8], offset: int) -> str:
        expected = content[: found.size]
        if os.preadv(fd, [expected.data], offset) != found.size:
            return "the file has become shorter"
        if np.array_equal(found, expected):
            return ""
        first = int(np.flatnonzero(found != expected)[0])
        return f"byte {offset + first} of the file is another"

    return check


def _words_of_file(found: NDArray[np.uint8], offset: int) -> str:
    words = found.view(np.int64)
    first = C.word(C.Tag.FILE, 0, offset // C.WORD_BYTES)
    return "" if C.matches(words, first) else _first_wrong(words, [first], False, offset)


def _first_wrong(words: C.Words, firsts: list[int], zero: bool, offset: int) -> str:
    """Which word is wrong, in words; "" when none is."""
    bad = C.wrong(words, firsts, zero)
    if not bad.size:
        return ""
    at = int(bad[0])
    return f"{bad.size} words, the first at {offset + C.WORD_BYTES * at:#x}: {C.describe(int(words[at]))}"


def stepped_expectation(place: Place, ledger: Ledger, found: NDArray[np.uint8], offset: int, before: int) -> str:
    """For bytes of one chunk that the owner discards and fills, asked for at step *before* and here now."""
    chunk = offset // CHUNK_BYTES
    words = found.view(np.int64)
    index, tag = offset // C.WORD_BYTES, TAGS[place.name]
    generations, zero = C.allowed(before, ledger.step(STEPPED[place.name], chunk))
    if not zero and len(generations) == 1 and C.matches(words, C.word(tag, generations[0], index)):
        return ""
    return _first_wrong(words, [C.word(tag, generation, index) for generation in generations], zero, offset)


def written_expectation(found: NDArray[np.uint8], offset: int, generation: int) -> str:
    """For bytes that the peer itself wrote."""
    words = found.view(np.int64)
    first = C.word(C.Tag.PEER, generation, offset // C.WORD_BYTES)
    return "" if C.matches(words, first) else _first_wrong(words, [first], False, offset)
