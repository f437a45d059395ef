"""Words that say what they are: right ones pass, and every kind of wrong one is found and named."""

import numpy as np
import pytest

from unpinned.demo import contents as C


@pytest.mark.parametrize("size", [1, 64, C.BLOCK_WORDS, C.BLOCK_WORDS + 1, 3 * C.BLOCK_WORDS + 7])
def test_what_was_filled_matches_and_one_wrong_word_does_not(size):
    words = np.empty(size, np.int64)
    first = C.word(C.Tag.ARRAY, 5, 1000)
    C.fill(words, first)
    assert words[-1] == C.word(C.Tag.ARRAY, 5, 1000 + size - 1)
    assert C.matches(words, first)
    assert not C.wrong(words, [first]).size
    for place in {0, size // 2, size - 1}:
        kept = words[place]
        words[place] ^= 1 << 40
        assert not C.matches(words, first)
        assert C.wrong(words, [first]).tolist() == [place]
        words[place] = kept


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "zero"),
        (C.word(C.Tag.PRIVATE, 7, 9), "word 9 of the private memory, generation 7"),
        (C.word(C.Tag.OTHER, 0, 3), "word 3 of what was mapped there instead, generation 0"),
        (-1, "0xffffffffffffffff, which nobody wrote"),
    ],
)
def test_a_word_says_what_it_is(value, text):
    assert C.describe(value) == text


def test_places_generations_and_owners_never_collide():
    rng = np.random.default_rng(0)
    places = {(int(t), int(g), int(i)) for t, g, i in zip(rng.integers(1, 7, 5000), rng.integers(0, 9, 5000), rng.integers(0, 99, 5000))}
    assert len({C.word(*place) for place in places}) == len(places)


def history(before: int, after: int) -> tuple[set[int], bool]:
    """`allowed`, spelled out: what memory may hold in each step from *before* to *after*."""
    generations, zero = set(), False
    for step in range(before, after + 1):
        generation, phase = divmod(step, 3)
        generations |= {generation} if phase < 2 else {generation + 1}
        zero |= phase > 0
    return generations, zero


@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("length", range(7))
def test_allowed_is_what_the_steps_allow(before, length):
    generations, zero = C.allowed(before, before + length)
    assert (set(generations), zero) == history(before, before + length)
