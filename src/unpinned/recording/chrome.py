"""A recording as a timeline in the Chrome trace format, for https://ui.perfetto.dev and chrome://tracing.

Faults and what workers did are slices with their duration, invalidations are instants on a line per cause, copies are a
counter of MB a millisecond (a slice for each of a million copies would help nobody).
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
FAULTS, WORKERS, NOTIFIER = 1, 2, 3


def events(recording: Recording) -> Iterator[dict[str, Any]]:
    """Trace events; times in us from the first record."""
    if not len(recording.records):
        return
    zero = int(recording.records[:, R.TIME].min())
    name = recording.header.get("device", "device")
    yield {"ph": "M", "name": "process_name", "pid": PROCESS, "args": {"name": f"unpinned {name}"}}
    for line, what in ((FAULTS, "faults: looked up"), (WORKERS, "faults: pages brought in"), (NOTIFIER, "notifier")):
        yield {"ph": "M", "name": "thread_name", "pid": PROCESS, "tid": line, "args": {"name": what}}
    yield from _slices(recording, zero)
    yield from _instants(recording, zero)
    yield from _counters(recording, zero)


def _slices(recording: Recording, zero: int) -> Iterator[dict[str, Any]]:
    for record in recording.of(R.FAULT).tolist():
        age = record[R.E] >> R.FAULT_AGE_SHIFT
        arguments = {"start": hex(record[R.A]), "pages": (record[R.B] - record[R.A]) >> 12,
                     "write": bool(record[R.E] & R.FAULT_WRITE), "there": max(0, record[R.D] - record[R.A]) >> 12}  # fmt: skip
        ends = (record[R.TIME] - zero) / 1e3
        yield _slice("fault", FAULTS, ends - age, age, arguments)
    for record in recording.of(R.CHUNK).tolist():
        arguments = {"start": hex(record[R.A]), "pages": (record[R.B] - record[R.A]) >> 12, "errno": record[R.C]}
        yield _slice("populate", WORKERS, (record[R.D] - zero) / 1e3, (record[R.TIME] - record[R.D]) / 1e3, arguments)


def _slice(name: str, line: int, began: float, took: float, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "name": name, "pid": PROCESS, "tid": line, "ts": began, "dur": took, "args": arguments}


def _instants(recording: Recording, zero: int) -> Iterator[dict[str, Any]]:
    for kind in (R.INVALIDATE, R.REVOKE, R.OPEN, R.CLOSE):
        for record in recording.of(kind).tolist():
            name = Cause(record[R.C]).name if kind == R.INVALIDATE else R.KINDS[kind]
            arguments = {"start": hex(record[R.A]), "bytes": record[R.B] - record[R.A], "region": record[R.D]}
            when = (record[R.TIME] - zero) / 1e3
            yield {"ph": "i", "s": "p", "name": name, "pid": PROCESS, "tid": NOTIFIER, "ts": when, "args": arguments}


def _counters(recording: Recording, zero: int) -> Iterator[dict[str, Any]]:
    runs = recording.of(R.ACCESS)
    if not len(runs):
        return
    step = (runs[:, R.TIME] - zero) // STEP_NS
    reads = runs[:, R.D] == P.OP_READ
    read, written = (np.bincount(step, weights=np.where(mask, runs[:, R.B], 0)) / 1e6 for mask in (reads, ~reads))
    for i in np.flatnonzero((read > 0) | (written > 0) | (np.diff(np.sign(read + written), prepend=0) < 0)).tolist():
        arguments = {"read MB": round(read[i], 4), "written MB": round(written[i], 4)}
        yield {"ph": "C", "name": "copies, MB a ms", "pid": PROCESS, "ts": i * STEP_NS / 1e3, "args": arguments}


def write(recording: Recording, path: str | Path) -> int:
    """Write the timeline; how many events."""
    made = list(events(recording))
    Path(path).write_text(json.dumps({"traceEvents": made, "displayTimeUnit": "ns"}))
    return len(made)
