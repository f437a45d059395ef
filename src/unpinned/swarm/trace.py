"""A schedule as text: one line an event, with the packets by name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from unpinned.paging import layout as P
from unpinned.paging.causes import Cause
from unpinned.swarm import layout as S
from unpinned.wire import opcodes as O

_FATES = ("", "  ** LOST", "  ** repeated", "  ** late")
_VERDICTS = {P.DONE: "DONE", P.WAIT: "WAIT", P.DEFERRED: "DEFERRED", P.REFUSED: "REFUSED", P.FULL: "FULL"}
_STEPS = ("begins", "waits", "changes", "ends")
_STATUS = {
    P.COMMITTED: "installed, more to come", P.RETRY: "hit, again", P.WAITING: "waits for an invalidation", P.FAILED: "failed",
    P.EXHAUSTED: "too many hits", P.OVER: "nobody waits", P.FINISHED: "installed",
}  # fmt: skip
_KINDS = {
    0: "WRITE", 1: "WRITE_IMM", 2: "SEND", 3: "SEND_IMM", 4: "READ", 5: "CMP_SWAP", 6: "FETCH_ADD",
}  # fmt: skip
_COPIES = {P.OP_WRITE: "to", P.OP_READ: "from", P.OP_CMP_SWAP: "compares and swaps at", P.OP_FETCH_ADD: "adds at"}


def lines(trace: NDArray[np.int64], count: int) -> Iterator[str]:
    """The first *count* records, a line each: time in us, host, what happened."""
    for i in range(count):
        time, kind, host, *words = (int(word) for word in trace[i * S.TRACE_WORDS : (i + 1) * S.TRACE_WORDS])
        yield f"{time / 1000:12.3f}  host {host}  {_event(kind, *words[:4])}"


def _event(kind: int, x: int, y: int, z: int, v: int) -> str:
    if kind == S.EV_PACKET:
        name = O.NAMES.get(z & 0xFF, f"opcode {z & 0xFF:#x}")[3:]
        return f"sends {name} psn {z >> 8} to host {x} qp {v:#x}{_FATES[y]}"
    if kind == S.EV_POST and y == -1:
        return f"TIMEOUT of direction {x}"
    if kind == S.EV_POST and z == -2:
        return f"completes {x}.{y} with status {v}"
    if kind == S.EV_POST:
        return f"posts {x}.{y}: {_KINDS[z]} of {v} bytes"
    if kind == S.EV_COPY:
        return f"copies {z} bytes {_COPIES[x]} {y:#x}"
    if kind in (S.EV_SCAN, S.EV_COMMIT):
        who = "scan" if kind == S.EV_SCAN else "worker"
        return f"fault {x}: {who} saw pages {z >> S.PAGE_SHIFT}..{(v >> S.PAGE_SHIFT) - 1}: {_STATUS.get(y, y)}"
    if kind == S.EV_POPULATE:
        return f"fault {x}: pages {z >> S.PAGE_SHIFT}..{(v >> S.PAGE_SHIFT) - 1} are there{f', errno {y}' if y else ''}"
    if kind == S.EV_NOTICE:
        return f"invalidation {x} {_STEPS[y]}: {Cause(z).name}: {_VERDICTS.get(v, v)}"
    if kind == S.EV_FLUSH:
        return "flush ends" if x else "flush begins"
    return f"event {kind}: {x} {y} {z} {v}"
