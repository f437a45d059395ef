"""A recording as a timeline in the Chrome trace format, for https://ui.perfetto.dev and chrome://tracing.

Faults and what workers did are slices with their duration, invalidations are instants on the notifier's line, copies are a
counter of MB a millisecond (a slice for each of a million copies would help nobody).

Source: the Trace Event Format (complete events X, instants i, counters C, metadata M; times in us).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from unpinned.paging import layout as P
from unpinned.paging.causes import Cause
from unpinned.recording import layout as R
from unpinned.recording.file import Recording

STEP_NS: Final = 1_000_000
PROCESS: Final = 1
NOTIFIER: Final = 1
LINES: Final = ((100, "faults, from request to look"), (2_000, "faults, pages brought in"))
"""First line (tid) of each kind of slice, and its name. What overlaps goes on lines of its own: slices of a line must nest."""
FIRST: Final = {R.FAULT: R.LOOKED, R.TAKEN: R.CHUNK}
"""What begins a slice, and what ends it, by the slot of the fault."""
SLOT: Final = {R.FAULT: R.C, R.LOOKED: R.D, R.TAKEN: R.C, R.CHUNK: R.D}


def events(recording: Recording) -> Iterator[dict[str, Any]]:
    """Trace events; times in us from the first record."""
    if not len(recording.records):
        return
    zero = int(recording.records[:, R.TIME].min())
    name = recording.header.get("device", "device")
    yield {"ph": "M", "name": "process_name", "pid": PROCESS, "tid": 0, "args": {"name": f"unpinned {name}"}}
    yield _line(NOTIFIER, "notifier")
    for (first, what), (begins, ends) in zip(LINES, FIRST.items()):
        yield from _slices(_pairs(recording, begins, ends), first, what, zero)
    yield from _instants(recording, zero)
    yield from _counters(recording, zero)


def _line(tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "thread_name", "pid": PROCESS, "tid": tid, "args": {"name": name}}


def _pairs(recording: Recording, begins: int, ends: int) -> list[tuple[list[int], list[int]]]:
    """Each record of one kind with the next one of the other kind in the same slot, in the order of their beginning."""
    kinds = recording.records[:, R.KIND]
    begun: dict[int, list[int]] = {}
    found = []
    for record in recording.records[(kinds == begins) | (kinds == ends)].tolist():
        slot = record[SLOT[record[R.KIND]]]
        if record[R.KIND] == begins:
            begun[slot] = record
        elif slot in begun:
            found.append((begun.pop(slot), record))
    return sorted(found, key=lambda pair: pair[0][R.TIME])


def _slices(pairs: list[tuple[list[int], list[int]]], first: int, what: str, zero: int) -> Iterator[dict[str, Any]]:
    """Slices on as few lines as hold them without an overlap."""
    free: list[int] = []  # by line: when its last slice ends
    for begin, end in pairs:
        start, stop = begin[R.TIME], max(end[R.TIME], begin[R.TIME])
        line = next((i for i, until in enumerate(free) if until <= start), len(free))
        if line == len(free):
            free.append(0)
            yield _line(first + line, what if line == 0 else f"{what} ({line + 1})")
        free[line] = stop
        if begin[R.KIND] == R.FAULT:
            name = "prefetch" if begin[R.E] & R.FAULT_PREFETCH else "fault"
            arguments = {"start": hex(begin[R.A]), "pages": (begin[R.B] - begin[R.A]) >> 12, "region": begin[R.D],
                         "write": bool(begin[R.E] & R.FAULT_WRITE), "there": max(0, end[R.C] - end[R.A]) >> 12}  # fmt: skip
        else:
            name, arguments = "populate", {"start": hex(begin[R.A]), "pages": (begin[R.B] - begin[R.A]) >> 12, "errno": end[R.C]}
        yield {"ph": "X", "cat": "paging", "name": name, "pid": PROCESS, "tid": first + line, "ts": (start - zero) / 1e3,
               "dur": (stop - start) / 1e3, "args": arguments}  # fmt: skip


def _instants(recording: Recording, zero: int) -> Iterator[dict[str, Any]]:
    for time, ns in recording.of(R.HORIZON)[:, (R.TIME, R.A)].tolist():
        yield {"ph": "C", "name": "horizon, ms", "pid": PROCESS, "tid": 0, "ts": (time - zero) / 1e3, "args": {"ms": ns / 1e6}}
    for kind in (R.INVALIDATE, R.REVOKE, R.OPEN, R.CLOSE):
        for record in recording.of(kind).tolist():
            name = Cause(record[R.C]).name if kind == R.INVALIDATE else R.KINDS[kind]
            arguments = {"start": hex(record[R.A]), "bytes": record[R.B] - record[R.A], "region": record[R.D]}
            if kind == R.INVALIDATE:
                arguments |= {"pages zapped": record[R.E] >> 1, "flushed": bool(record[R.E] & 1)}
            when = (record[R.TIME] - zero) / 1e3
            yield {"ph": "i", "s": "t", "cat": "paging", "name": name, "pid": PROCESS, "tid": NOTIFIER, "ts": when, "args": arguments}


def _counters(recording: Recording, zero: int) -> Iterator[dict[str, Any]]:
    runs = recording.of(R.ACCESS)
    if not len(runs):
        return
    step = (runs[:, R.TIME] - zero) // STEP_NS
    reads = runs[:, R.D] == P.OP_READ
    read, written = (np.bincount(step, weights=np.where(mask, runs[:, R.B], 0)) / 1e6 for mask in (reads, ~reads))
    for i in np.flatnonzero((read > 0) | (written > 0) | (np.diff(np.sign(read + written), prepend=0) < 0)).tolist():
        arguments = {"read MB": round(read[i], 4), "written MB": round(written[i], 4)}
        yield {"ph": "C", "name": "copies, MB a ms", "pid": PROCESS, "tid": 0, "ts": i * STEP_NS / 1e3, "args": arguments}


def write(recording: Recording, path: str | Path) -> int:
    """Write the timeline; how many events."""
    made = list(events(recording))
    made.sort(key=lambda event: event.get("ts", -1.0))
    with open(path, "w") as file:
        json.dump({"traceEvents": made, "displayTimeUnit": "ns"}, file)
    return len(made)
