"""What every byte must be: memory whose words say what they are.

A word of 64 bits holds, from the top, whose memory it is (`Tag`, 7 bits), which filling of it (a generation, 20 bits) and
where it stands (its index in words, 36 bits). So a reader knows a right word from one of an earlier generation, of another
place, or of something else that was mapped at the same address, and can say which::

     62     56 55                 36 35                                 0
    +---------+---------------------+------------------------------------+
    |   tag   |     generation      |               index                |
    +---------+---------------------+------------------------------------+

Memory that its owner discards and fills again goes through *steps*, three a generation: 3g means "filled with g", 3g + 1
"being discarded: g or zero", 3g + 2 "zero, being filled with g + 1: zero or g + 1". Whoever notes the step before it asks for
bytes, and again when it has them, knows what they may be (`allowed`); anything else is stale or foreign.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64]

INDEX_BITS = 36
GENERATION_BITS = 20
WORD_BYTES = 8
BLOCK_WORDS = 1 << 15
"""Contents are made and compared in blocks of 256 KiB, which the cache holds."""

_ramp = np.arange(BLOCK_WORDS, dtype=np.int64)
_scratch = np.empty(BLOCK_WORDS, np.int64)


class Tag(IntEnum):
    """Whose memory a word belongs to."""

    NOTHING = 0
    FILE = 1
    ARRAY = 2
    PRIVATE = 3
    PEER = 4
    VICTIM = 5
    OTHER = 6


_NAMES = {
    Tag.NOTHING: "nothing",
    Tag.FILE: "the file",
    Tag.ARRAY: "the array",
    Tag.PRIVATE: "the private memory",
    Tag.PEER: "the peer",
    Tag.VICTIM: "a range before it went",
    Tag.OTHER: "what was mapped there instead",
}


def word(tag: int, generation: int = 0, index: int = 0) -> int:
    """The word that stands at *index* (in words) of the *generation*-th filling of *tag*'s memory."""
    return tag << (INDEX_BITS + GENERATION_BITS) | (generation & (1 << GENERATION_BITS) - 1) << INDEX_BITS | index


def describe(value: int) -> str:
    """What a word says of itself.

    >>> describe(word(Tag.FILE, 0, 7))
    'word 7 of the file, generation 0'
    >>> describe(0)
    'zero'
    """
    if value == 0:
        return "zero"
    tag, generation = value >> (INDEX_BITS + GENERATION_BITS), value >> INDEX_BITS & (1 << GENERATION_BITS) - 1
    if tag not in list(Tag):
        return f"{value & (1 << 64) - 1:#018x}, which nobody wrote"
    return f"word {value & (1 << INDEX_BITS) - 1} of {_NAMES[Tag(tag)]}, generation {generation}"


def fill(words: Words, first: int) -> None:
    """Fill *words* with *first*, *first* + 1, ...: *first* is the `word` of the first of them."""
    for at in range(0, words.size, BLOCK_WORDS):
        part = words[at : at + BLOCK_WORDS]
        np.add(_ramp[: part.size], first + at, out=part)


def matches(words: Words, first: int) -> bool:
    """Do *words* hold *first*, *first* + 1, ...? (About 7 GB/s.)"""
    for at in range(0, words.size, BLOCK_WORDS):
        part = words[at : at + BLOCK_WORDS]
        scratch = _scratch[: part.size]
        np.subtract(part, _ramp[: part.size], out=scratch)
        if scratch.min() != first + at or scratch.max() != first + at:
            return False
    return True


def wrong(words: Words, firsts: Collection[int], zero: bool = False) -> NDArray[np.intp]:
    """Places whose word is none of what *firsts* would have put there, nor (if allowed) *zero*."""
    ramp = np.arange(words.size, dtype=np.int64)
    bad = np.ones(words.size, np.bool_)
    for first in firsts:
        bad &= words != ramp + first
    if zero:
        bad &= words != 0
    return np.flatnonzero(bad)


def allowed(before: int, after: int) -> tuple[range, bool]:
    """Generations that memory may show to a reader who saw step *before* first and *after* last, and may it be zero?

    >>> allowed(3, 3), allowed(3, 4), allowed(4, 8), allowed(5, 5)
    ((range(1, 2), False), (range(1, 2), True), (range(1, 4), True), (range(2, 3), True))
    """
    oldest = before // 3 + (before % 3 == 2)
    newest = after // 3 + (after % 3 == 2)
    return range(oldest, newest + 1), before % 3 != 0 or after > before
