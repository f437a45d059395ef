"""Recordings as workloads: what a live device saw, as the accesses and the script of a run.

What becomes of a recording (`unpinned serve --record`, `unpinned demo --record`):

* A message is a request. It arrives when its first bytes were copied, or when the one before it on its queue pair has been
  answered, whichever is later: what a peer waits for here is the model's, what it did between two requests is its own.
* Queue pairs that were not there at the same time share a stream.
* What the owner did is a script of one processor, each row at its recorded moment or when the one before it has ended. With a
  slow device it falls behind: what is asked for before it is mapped ends in an error, and is counted.
* Memory is the spans of 2 MiB that a peer touched, put together in the order of their addresses. What was registered and
  never touched is left out, so that memory saved against pinning is a lower bound.
* What was there at the beginning follows from what a worker of the device had to bring in. A page that it had to bring in once
  more, and nobody had given up, had been reclaimed: a row of the script, at the last moment that it can have been. A page
  that was given up and then read without being brought in had been touched by its owner: a row, right behind that which
  gave it up.

Not taken over: when faults ended, what read-ahead fetched, and how long anything took.
"""

from __future__ import annotations

import heapq
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unpinned.paging import layout as P
from unpinned.recording import file
from unpinned.recording import layout as R
from unpinned.recording.file import Recording, RecordingError
from unpinned.study import layout as S
from unpinned.study.workloads import Plan, Words, accesses

SPAN_SHIFT: Final = 21
SPAN_PAGES: Final = 1 << SPAN_SHIFT - S.PAGE_SHIFT
REQUEST_SHIFT: Final = 22  # a longer message is several requests
LANES_MAX: Final = 128  # streams; more queue pairs at once share them by turns
MEMORY_MAX: Final = 1 << 24  # pages

UNKNOWN, THERE, ABSENT, UNMAPPED = range(4)

OPERATIONS: Final = {
    P.CAUSE_UNMAP: S.DO_UNMAP, P.CAUSE_REMAP: S.DO_REMAP, P.CAUSE_DISCARD: S.DO_DISCARD, P.CAUSE_RECLAIM: S.DO_RECLAIM,
    P.CAUSE_MIGRATE: S.DO_MIGRATE, P.CAUSE_MERGE: S.DO_MERGE, P.CAUSE_SOFT_DIRTY: S.DO_SOFT_DIRTY, P.CAUSE_RELEASE: S.DO_RELEASE,
}  # fmt: skip
"""What the owner does, by the cause that was recorded. Others do not come from a live device."""


@dataclass(frozen=True)
class Trace:
    """A recording, ready to be run."""

    pages: int
    plan: Plan
    title: str


def checksum(path: str | Path) -> int:
    """Of the file, so that another computer, or a later day, runs the same one. OSError when it cannot be read."""
    return zlib.crc32(Path(path).read_bytes())


@lru_cache(maxsize=2)
def load(path: str, crc: int) -> Trace:
    """The recording at `path`, which has this checksum.

    Raises:
        RecordingError: no recording, not a whole one, another one, or one of nothing; it names the file.
        OSError: no such file.
    """
    try:
        if checksum(path) != crc:
            raise RecordingError("not the file that the sweep began with")
        return trace(file.read(path))
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from None


def trace(recording: Recording) -> Trace:
    """A recording as a plan. RecordingError when a record cannot be, or nobody touched anything."""
    r = recording.records
    copies = r[r[:, R.KIND] == R.ACCESS]
    if not len(copies):
        raise RecordingError("nobody touched anything in it")
    _check(r)
    memory = _Memory(copies)
    if memory.pages > MEMORY_MAX:
        raise RecordingError(f"{memory.pages >> 18} GiB were touched, expected at most {MEMORY_MAX >> 18}")
    zero = int(r[:, R.TIME].min())
    requests = _requests(copies)
    words = accesses(memory.page(requests.start), requests.write, requests.pages)
    order, edges = _lanes(requests)
    owner = _Owner(memory, zero)
    for row in r.tolist():
        owner.see(row)
    plan = Plan(
        words[order], [owner.script()] if owner.rows else [], loop=False, accesses_loop=False, think_ns=0, streams=len(edges) - 1,
        until_scripts_end=True, given_up=owner.given_up, moments=requests.time[order] - zero, edges=edges, present=owner.at_first,
    )  # fmt: skip
    return Trace(memory.pages, plan, _title(recording, plan, memory, len(np.unique(copies[:, R.E])), owner))


def _check(r: Words) -> None:
    """Refuse ranges that no device can have. RecordingError names the record."""
    ranged = np.isin(r[:, R.KIND], (R.ACCESS, R.INVALIDATE, R.OPEN, R.CHUNK))
    length = np.where(r[:, R.KIND] == R.ACCESS, r[:, R.B], r[:, R.B] - r[:, R.A])
    most = np.where(r[:, R.KIND] == R.ACCESS, 1 << 31, 1 << 62)
    wrong = np.flatnonzero(ranged & ((r[:, R.A] < 0) | (length <= 0) | (length > most)))
    if wrong.size:
        row = r[wrong[0]].tolist()
        raise RecordingError(f"record {wrong[0]} ({R.KINDS[row[R.KIND]]}): expected a range of memory, found {row[R.A :]}")


class _Memory:
    """The spans that were touched, as pages 0, 1, ... in the order of their addresses."""

    def __init__(self, copies: Words) -> None:
        first, last = copies[:, R.A] >> SPAN_SHIFT, (copies[:, R.A] + copies[:, R.B] - 1) >> SPAN_SHIFT
        self.spans = np.unique(np.concatenate([_counting(first, last - first + 1)]))
        self.pages = SPAN_PAGES * len(self.spans)

    def page(self, address: Words) -> Words:
        """Of addresses that were touched, their pages."""
        span = np.searchsorted(self.spans, address >> SPAN_SHIFT)
        return span * SPAN_PAGES + (address >> S.PAGE_SHIFT & (SPAN_PAGES - 1))

    def ranges(self, start: int, end: int) -> tuple[int, int]:
        """The pages [first, last) of what was touched of addresses [start, end). They are neighbours here, if not there."""
        return self._at(start, 0), self._at(end, S.PAGE - 1)

    def _at(self, address: int, rest: int) -> int:
        span = int(np.searchsorted(self.spans, address >> SPAN_SHIFT))
        if span == len(self.spans) or self.spans[span] != address >> SPAN_SHIFT:
            return span * SPAN_PAGES
        return span * SPAN_PAGES + ((address & (1 << SPAN_SHIFT) - 1) + rest >> S.PAGE_SHIFT)


def _counting(first: Words, count: Words) -> Words:
    """first[i], first[i] + 1, ... of count[i] numbers each, one after the other."""
    return np.repeat(first - np.cumsum(count) + count, count) + np.arange(int(count.sum()))


@dataclass
class _Requests:
    """Messages: their first byte, pages, direction, queue pair, and when they came."""

    start: Words
    pages: Words
    write: NDArray[np.bool_]
    qp: Words
    time: Words


def _requests(copies: Words) -> _Requests:
    """The runs of copies of one message, together."""
    c = copies[np.argsort(copies[:, R.E], kind="stable")]
    end = c[:, R.A] + c[:, R.B]
    new = np.ones(len(c), bool)
    new[1:] = (c[1:, R.E] != c[:-1, R.E]) | (c[1:, R.D] != c[:-1, R.D]) | (c[1:, R.A] != end[:-1]) | (c[:-1, R.C] == 0)
    message = np.cumsum(new) - 1
    part = (c[:, R.A] - c[new, R.A][message]) >> REQUEST_SHIFT
    new[1:] |= part[1:] != part[:-1]
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(c)) - 1
    pages = (end[last] - 1 >> S.PAGE_SHIFT) - (c[first, R.A] >> S.PAGE_SHIFT) + 1
    return _Requests(c[first, R.A], pages, c[first, R.D] != P.OP_READ, c[first, R.E], c[first, R.TIME])


def _lanes(requests: _Requests) -> tuple[Words, Words]:
    """Requests by stream and moment: (their order, where each stream begins). A queue pair stays on its stream."""
    names, qp = np.unique(requests.qp, return_inverse=True)
    began, ended = np.full(len(names), 1 << 62), np.zeros(len(names), np.int64)
    np.minimum.at(began, qp, requests.time)
    np.maximum.at(ended, qp, requests.time)
    lane_of = np.zeros(len(names), np.int64)
    free: list[tuple[int, int]] = []  # (when the lane's last queue pair ended, lane)
    for one in np.argsort(began, kind="stable").tolist():
        if len(free) == LANES_MAX or (free and free[0][0] < began[one]):
            _, lane_of[one] = heapq.heappop(free)
        else:
            lane_of[one] = len(free)
        heapq.heappush(free, (int(ended[one]), int(lane_of[one])))
    lane = lane_of[qp]
    order = np.lexsort((requests.time, lane))
    return order, np.searchsorted(lane[order], np.arange(len(free) + 1))


@dataclass
class _Owner:
    """What the owner did, from what the device saw of it."""

    memory: _Memory
    zero: int
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    given_up: int = 0
    reclaims: int = 0  #: that nobody recorded, and that must have been

    def __post_init__(self) -> None:
        self.state = np.zeros(self.memory.pages, np.int8)
        self.since = np.zeros(self.memory.pages, np.int64)
        self.at_first = np.zeros(self.memory.pages, bool)

    def see(self, row: list[int]) -> None:
        """Take the next record."""
        kind, start = row[R.KIND], row[R.A]
        if kind not in (R.ACCESS, R.CHUNK, R.INVALIDATE, R.OPEN):
            return
        first, last = self.memory.ranges(start, start + row[R.B] if kind == R.ACCESS else row[R.B])
        now = row[R.TIME] - self.zero
        if first >= last:
            return
        if kind == R.ACCESS:
            self._used(first, last)
        elif kind == R.CHUNK and row[R.C] == 0:
            self._brought_in(first, last, now)
        elif kind == R.INVALIDATE and row[R.C] in OPERATIONS:
            self._changed(first, last, row[R.C], now)
        elif kind == R.OPEN and (self.state[first:last] == UNMAPPED).any():
            self._do(S.DO_MAP, first, last, now)
            self._become(first, last, ABSENT, now, only=UNMAPPED)

    def script(self) -> Words:
        """The rows in the order of their moments."""
        made = np.array(self.rows, np.int64)
        return made[np.argsort(made[:, S.OP_THINK], kind="stable")]

    def _used(self, first: int, last: int) -> None:
        state = self.state[first:last]
        if (state == THERE).all():
            return
        self.at_first[first:last] |= state == UNKNOWN
        for kind in (UNMAPPED, ABSENT):  # the owner had touched it since; and mapped it before, if nobody noticed
            for one, end in _runs(first, state == kind):
                then = int(self.since[one:end].max())
                if kind == UNMAPPED:
                    self._do(S.DO_MAP, one, end, then)
                self._do(S.DO_WRITE, one, end, then)
        state[:] = THERE

    def _brought_in(self, first: int, last: int, now: int) -> None:
        for one, end in _runs(first, self.state[first:last] == THERE):
            self._do(S.DO_RECLAIM, one, end, now)
            self.reclaims += 1
        self.state[first:last] = THERE

    def _changed(self, first: int, last: int, cause: int, now: int) -> None:
        self.counts[cause] = self.counts.get(cause, 0) + 1
        self._do(OPERATIONS[cause], first, last, now)
        self.at_first[first:last] |= self.state[first:last] == UNKNOWN
        self.given_up += last - first
        if cause in (P.CAUSE_UNMAP, P.CAUSE_REMAP):
            self._become(first, last, UNMAPPED, now)
        elif cause in (P.CAUSE_DISCARD, P.CAUSE_RECLAIM):
            self._become(first, last, ABSENT, now)

    def _become(self, first: int, last: int, state: int, now: int, only: int = -1) -> None:
        which = slice(first, last) if only < 0 else first + np.flatnonzero(self.state[first:last] == only)
        self.state[which], self.since[which] = state, now

    def _do(self, kind: int, first: int, last: int, now: int) -> None:
        self.rows.append((kind, first, last - first, now))


def _runs(first: int, which: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The runs [start, end) of pages that are meant, `which` beginning at page `first`."""
    edges = first + np.flatnonzero(np.diff(which.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _title(recording: Recording, plan: Plan, memory: _Memory, qps: int, owner: _Owner) -> str:
    from unpinned.paging.causes import Cause

    causes = [f"{count:,} {Cause(cause).name}" for cause, count in sorted(owner.counts.items())]
    causes += [f"{owner.reclaims:,} RECLAIM (inferred)"] if owner.reclaims else []
    lost = int(recording.end.get("lost", 0))
    return (
        f"A recording of {recording.seconds:.1f} s: {len(plan.accesses):,} requests of {qps:,} queue pairs over "
        f"{memory.pages * S.PAGE / 1e6:,.0f} MB that were touched; the owner's part: {', '.join(causes) or 'nothing'}."
        + (f" {lost:,} records were lost." if lost else "")
    )
