"""The bounded ring: any thread puts records in, without a lock; one reader takes them out. Full means lost, and counted.

A writer takes a number by compare-and-swap, fills the record and stamps it; the reader stops at the first record without
its stamp. A record of n lies at place n modulo the capacity, and its stamp is n + 1, so an old one is never taken for new.
"""

from __future__ import annotations

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.atomics import compare_exchange, fetch_add, load_acquire, store_release
from unpinned.recording import layout as R
from unpinned.recording.layout import Words


@kernel
def put(r, kind, time, a, b, c, d, e):
    """Put one record in; 1, or 0 when there was no room."""
    while True:
        number = load_acquire(r, R.RING_HEAD)
        if number - load_acquire(r, R.RING_TAIL) >= r[R.RING_CAPACITY]:
            fetch_add(r, R.RING_LOST, 1)
            return 0
        if compare_exchange(r, R.RING_HEAD, number, number + 1) == number:
            break
    at = R.RING_RECORDS + (number & (r[R.RING_CAPACITY] - 1)) * R.WORDS
    r[at + R.KIND] = kind
    r[at + R.TIME] = time
    r[at + R.A] = a
    r[at + R.B] = b
    r[at + R.C] = c
    r[at + R.D] = d
    r[at + R.E] = e
    store_release(r, at + R.STAMP, number + 1)
    return 1


def take(r: Words) -> Words:
    """Every complete record that waits, oldest first, as rows (a copy); their room is free again."""
    capacity, tail, head = int(r[R.RING_CAPACITY]), int(r[R.RING_TAIL]), int(r[R.RING_HEAD])
    records = r[R.RING_RECORDS :].reshape(capacity, R.WORDS)
    numbers = np.arange(tail, head)
    places = numbers & (capacity - 1)
    missing = np.flatnonzero(records[places, R.STAMP] != numbers + 1)
    ready = int(missing[0]) if missing.size else numbers.size
    made = records[places[:ready]]
    made[:, R.STAMP] = 0
    r[R.RING_TAIL] = tail + ready
    return made
