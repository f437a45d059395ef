"""Atomics: what they return, and that two threads lose nothing."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from unpinned.compiled import kernel
from unpinned.compiled.atomics import (
    compare_exchange,
    exchange,
    fetch_add,
    load_acquire,
    pause,
    store_release,
)

ROUNDS = 200_000
SLOTS = 8


@kernel
def _each(a):
    old_add = fetch_add(a, 0, 5)
    missed = compare_exchange(a, 1, 7, 8)
    swapped = compare_exchange(a, 2, 3, 9)
    old = exchange(a, 3, -1)
    store_release(a, 4, 44)
    pause()
    return old_add, missed, swapped, old, load_acquire(a, 4)


@kernel
def _add(a, rounds):
    for _ in range(rounds):
        fetch_add(a, 0, 1)
    return 0


@kernel
def _add_by_swapping(a, rounds):
    for _ in range(rounds):
        seen = load_acquire(a, 0)
        while compare_exchange(a, 0, seen, seen + 1) != seen:
            seen = load_acquire(a, 0)
    return 0


@kernel
def _produce(a, rounds):
    """Plain writes to a slot, published by the index in a[0]; a[1] is the consumer's."""
    for i in range(rounds):
        while i - load_acquire(a, 1) >= SLOTS:
            pause()
        a[16 + i % SLOTS] = i * 3
        store_release(a, 0, i + 1)
    return 0


@kernel
def _consume(a, rounds):
    wrong = 0
    for i in range(rounds):
        while load_acquire(a, 0) <= i:
            pause()
        wrong += a[16 + i % SLOTS] != i * 3
        store_release(a, 1, i + 1)
    a[2] = wrong
    return 0


def test_results() -> None:
    a = np.arange(8, dtype=np.int64)
    assert _each(a) == (0, 1, 2, 3, 44)
    assert a.tolist() == [5, 1, 2, -1, 44, 5, 6, 7]
    a[2] = 3
    assert _each(a)[2] == 3 and a[2] == 9


def test_addition_wraps() -> None:
    a = np.array([2**63 - 1] + [0] * 7, np.int64)
    _each(a)
    assert a[0] == -(2**63) + 4


def _in_two_threads(first: Callable, second: Callable, a: np.ndarray) -> None:
    first(a, 0), second(a, 0)  # compile before the race
    threads = [threading.Thread(target=function, args=(a, ROUNDS)) for function in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.compiled_only
@pytest.mark.parametrize("add", [_add, _add_by_swapping], ids=["fetch_add", "compare_exchange"])
def test_two_threads_lose_no_addition(add: Callable) -> None:
    a = np.zeros(32, np.int64)
    _in_two_threads(add, add, a)
    assert a[0] == 2 * ROUNDS


@pytest.mark.compiled_only
def test_what_was_written_before_a_release_is_seen_after_the_acquire() -> None:
    a = np.zeros(32, np.int64)
    _in_two_threads(_produce, _consume, a)
    assert a[:3].tolist() == [ROUNDS, ROUNDS, 0]
