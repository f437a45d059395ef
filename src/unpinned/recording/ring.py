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

MERGE_NS = 1_000_000  # how long a run of copies may grow


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


@kernel
def put_run(r, qp, op, start, end, left, now):
    """A run of copies: longer, when it continues its message (of which `left` bytes are still to come), or a new one. 0."""
    at = R.RING_OPEN + (((qp * 2654435761) >> 16) & (R.OPEN_RUNS - 1)) * R.OPEN_WORDS
    if r[at + R.OPEN_QP] == qp + 1 and r[at + R.OPEN_END] == start and r[at + R.OPEN_OP] == op and r[at + R.OPEN_LEFT] > 0:
        if now - r[at + R.OPEN_SINCE] < MERGE_NS:
            start = r[at + R.OPEN_START]
            now = r[at + R.OPEN_SINCE]
            r[at + R.OPEN_QP] = 0
    end_run(r, at)
    if left == 0:
        return put(r, R.ACCESS, now, start, end - start, 0, op, qp)
    r[at + R.OPEN_QP] = qp + 1
    r[at + R.OPEN_OP] = op
    r[at + R.OPEN_START] = start
    r[at + R.OPEN_END] = end
    r[at + R.OPEN_LEFT] = left
    r[at + R.OPEN_SINCE] = now
    return 0


@kernel
def end_run(r, at):
    """Put the open run at word `at` in, if there is one."""
    qp = r[at + R.OPEN_QP] - 1
    if qp >= 0:
        r[at + R.OPEN_QP] = 0
        start = r[at + R.OPEN_START]
        put(r, R.ACCESS, r[at + R.OPEN_SINCE], start, r[at + R.OPEN_END] - start, r[at + R.OPEN_LEFT], r[at + R.OPEN_OP], qp)
    return 0


@kernel
def end_runs(r):
    """Put every open run in. The driver's, or of one who has halted it: before the table loses what they found in it."""
    for i in range(R.OPEN_RUNS):
        end_run(r, R.RING_OPEN + i * R.OPEN_WORDS)
    return 0


def take(r: Words, upto: int | None = None) -> Words:
    """Every complete record that waits (with number < upto), oldest first, as rows (a copy); their room is free again."""
    capacity, tail = int(r[R.RING_CAPACITY]), int(r[R.RING_TAIL])
    head = int(r[R.RING_HEAD]) if upto is None else upto
    records = r[R.RING_RECORDS :].reshape(capacity, R.WORDS)
    first = tail & (capacity - 1)
    made = records[first : first + head - tail]
    if first + head - tail > capacity:
        made = np.concatenate([made, records[: first + head - tail - capacity]])
    missing = np.flatnonzero(made[:, R.STAMP] != np.arange(tail + 1, head + 1))
    made = made[: missing[0] if missing.size else None].copy()
    made[:, R.STAMP] = 0
    r[R.RING_TAIL] = tail + len(made)
    return made
