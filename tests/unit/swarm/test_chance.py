"""Choices: every stream its own, evenly spread, and independent of what was drawn before."""

import numpy as np

from unpinned.swarm import layout as S
from unpinned.swarm.chance import begin, between, draw, left_out, pattern, scramble
from unpinned.swarm.events import pop, push


def world(seed: int = 1) -> np.ndarray:
    w = np.zeros(4096, np.int64)
    w[S.W_SEED], w[S.W_HEAP], w[S.W_HEAP_DEPTH], w[S.W_MASKS] = seed, 200, 1000, 3500
    return w


def stream(w: np.ndarray, concern: int, index: int, n: int = 16) -> list[int]:
    begin(w, concern, index)
    return [int(draw(w, 1 << 30)) for _ in range(n)]


def test_streams_differ_by_seed_concern_and_index_only() -> None:
    w = world()
    first = stream(w, 1, 0)
    stream(w, 2, 5)
    assert stream(w, 1, 0) == first
    others = [stream(w, 1, 1), stream(w, 2, 0), stream(world(2), 1, 0), stream(world(1 + (1 << 32)), 1, 0)]
    assert len({tuple(x) for x in [first, *others]}) == 5


def test_draws_are_evenly_spread() -> None:
    w = world()
    begin(w, 1, 0)
    counts = np.bincount([int(draw(w, 10)) for _ in range(5_000)], minlength=10)
    assert counts.min() > 350 and counts.max() < 650
    assert {int(between(w, 3, 5)) for _ in range(200)} == {3, 4, 5}


def test_scramble_is_a_permutation_as_far_as_it_is_tried() -> None:
    assert len({int(scramble(x)) for x in range(5_000)}) == 5_000


def test_a_message_is_never_taken_for_discarded_memory() -> None:
    assert all(int(pattern(tag, i)) & 0xFF for tag in range(40) for i in range(300))


def test_masks() -> None:
    w = world()
    w[3500 + S.MASK_STORES * S.MASK_WORDS + 2] = 1 << 5
    assert [i for i in range(S.MASK_BITS + 9) if left_out(w, S.MASK_STORES, i)] == [69]
    assert not left_out(w, S.MASK_OPS, 69)


def test_events_come_in_order_of_time_then_of_making(seed: int) -> None:
    w = world()
    rng = np.random.default_rng(seed)
    times = [int(t) for t in rng.integers(0, 40, 300)]
    for i, time in enumerate(times):
        push(w, time, S.EV_STORE, i, 3)
    got = []
    while pop(w):
        got.append((int(w[S.W_NOW]), int(w[S.W_EVENT_A]), int(w[S.W_EVENT_B])))
    assert got == sorted((time, i, 3) for i, time in enumerate(times))
