"""Equal situations are equal words: renaming frames, packing, the hash."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from support.worlds import EVERYTHING, same_state, walk
from unpinned.model import layout as M
from unpinned.model.audit import audit
from unpinned.model.canonical import digest, pack, rename_frames, unpack
from unpinned.model.world import World, state_words

FIRST = EVERYTHING[2]


def states(world: World, seed: int, count: int = 12) -> list[np.ndarray]:
    """Some states of a world, reached at random."""
    found = [w.copy() for run in range(4) for *_, w in walk(world, Random(f"{seed}.{run}"))]
    return Random(seed).sample(found, min(count, len(found)))


def scratch(w: np.ndarray) -> np.ndarray:
    return np.zeros((int(w[M.W_FRAMES]) + 1) * (2 + int(w[M.W_FRAME_WORDS])), np.int64)


def rename(w: np.ndarray, names: list[int]) -> np.ndarray:
    """A world in which frame f is called names[f]; written down field by field, unlike the code it tests."""
    made = w.copy()
    words, frames = int(w[M.W_FRAME_WORDS]), int(w[M.W_FRAMES])
    for frame in range(1, frames + 1):
        old, new = (int(w[M.W_FRAME]) + n * words for n in (frame, names[frame]))
        made[new : new + words] = w[old : old + words]
    for i in range(int(w[M.W_PTE]), int(w[M.W_TRUTH])):
        if w[i] & (M.PTE_PRESENT | M.PTE_MIGRATION):
            made[i] = names[int(w[i]) >> M.PTE_SHIFT] << M.PTE_SHIFT | int(w[i]) & 255
    for slot in range(1, int(w[M.W_SLOTS]) + 1):
        i = int(w[M.W_SLOT]) + slot * M.SLOT_WORDS + M.S_FRAME
        made[i] = names[int(w[i])]
    for t in range(int(w[M.W_THREADS])):
        for i in (M.T_FRAME, M.T_NEW):
            at = int(w[M.W_THREAD] + t * w[M.W_THREAD_WORDS]) + i
            made[at] = names[int(w[at])]
    for r in range(int(w[M.W_REQUESTS])):
        for i in range(int(w[M.W_SPAN])):
            at = int(w[M.W_REQUEST] + r * w[M.W_REQUEST_WORDS]) + M.Q_FRAME + i
            made[at] = names[int(w[at])]
    for i in range(int(w[M.W_TLB]), int(w[M.W_BLOCKS])):
        made[i] = names[int(w[i]) >> M.TLB_SHIFT] << M.TLB_SHIFT | int(w[i]) & 255
    for d in range(int(w[M.W_DEVICES])):
        at = int(w[M.W_DEVICE] + d * w[M.W_DEVICE_WORDS])
        for i in range(at + M.D_SEEN, at + int(w[M.W_DEVICE_WORDS])):
            made[i] = names[int(w[i])]
        block = int(w[at + M.D_OFFSET])
        p = w[block:]
        for i in range(int(p[9 - 4]), int(p[1])):  # NODES .. COUNTERS
            if p[i] & 1:
                made[block + i] = names[int(p[i]) >> 12] << 12 | int(p[i]) & 4095
    return made


@pytest.mark.parametrize("world", EVERYTHING[:4], ids=lambda world: world.name)
def test_names_of_frames_do_not_matter(world: World, seed: int) -> None:
    choose = Random(seed)
    for w in states(world, seed):
        names = [0, *choose.sample(range(1, world.frames + 1), world.frames)]
        other = rename(w, names)
        assert audit(other) == []
        rename_frames(other, scratch(w))
        rename_frames(w, scratch(w))
        assert same_state(w, other)
        assert audit(w) == []
        assert rename_frames(w, scratch(w)) == 0, "the canonical form of a canonical form is itself"


def test_packing_keeps_every_state_word(seed: int) -> None:
    world = FIRST
    index = state_words(world.build())
    for w in states(world, seed):
        packed = np.zeros(len(index) // 4, np.int64)
        assert pack(w, index, len(index), packed, 0) == 0
        made = world.build()
        unpack(made, index, len(index), packed, 0)
        assert same_state(w, made)


@pytest.mark.parametrize("value, fits", [(32767, True), (-32768, True), (32768, False), (-32769, False)])
def test_what_does_not_fit_is_noticed(value: int, fits: bool) -> None:
    index = np.arange(4)
    for place in range(4):
        w = np.zeros(4, np.int64)
        w[place] = value
        out = np.zeros(1, np.int64)
        assert (pack(w, index, 4, out, 0) == 0) == fits


def test_every_word_moves_both_halves_of_the_hash() -> None:
    packed = np.zeros(40, np.int64)
    out = np.zeros(2, np.int64)
    seen: tuple[set[int], set[int]] = (set(), set())
    digest(packed, 0, 40, out)
    seen[0].add(int(out[0])), seen[1].add(int(out[1]))
    for i in range(40):
        for bit in range(0, 64, 7):
            packed[i] = 1 << bit if bit < 63 else -(1 << 63)
            digest(packed, 0, 40, out)
            seen[0].add(int(out[0])), seen[1].add(int(out[1]))
        packed[i] = 0
    assert len(seen[0]) == len(seen[1]) == 1 + 40 * 10
