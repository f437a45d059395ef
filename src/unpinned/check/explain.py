"""What the invariants say, in a sentence each: for the reader of a matrix and of a trace."""

from __future__ import annotations

import textwrap
from typing import Final

from unpinned.check.matrix import DEVICES, MODES

INVARIANTS: Final[dict[str, str]] = {
    "I1": "no access to a frame after it is freed or reused",
    "I2": "no device write unless the entry was CPU-writable at install and has not been downgraded since",
    "I3": "past the point that the policy states for this cause, the old translation is never used",
    "I4": "what the device wrote and acknowledged is never lost, except to a discard, a truncation or the end",
    "I5": "one CPU observer never sees two device writes of one message in descending order",
    "I6": "no cycle without progress under weak fairness: every fault ends when invalidations are finite",
    "I8": "no step returns with the sequence open, or a page busy without an owner",
    "I10": "a refusing device changes nothing (it may ask for the flush that it would have needed)",
    "BOUND": "a deferral never holds more pages back than its policy allows",
    "DEADLOCK": "I6: nobody can take a step, and not everything has ended",
    "LIVELOCK": "I6: a cycle in which everybody takes steps and somebody never gets anywhere",
}
"""Those marked S in the design (I7 exactly once, I9 no timeout caused by a fault) need a wire: `unpinned swarm` tests them."""

_VERDICTS: Final = {
    "NOW": "zap, flush, wait",
    "DOWNGRADE": "drop the write right; reads go on",
    "DEFER": "mark stale, batch, one flush for many; the host holds the frames until then",
    "REFUSE": "REFUSE_IF_BUSY: idle, as NOW; busy, leave the page with its owner, nothing changed",
}


def reason(broke: str) -> str:
    """The sentence of an invariant."""
    return INVARIANTS.get(broke.split()[0] if broke else "", broke)


def text(width: int) -> str:
    """All of it, in lines of at most `width` columns."""
    parts = (("always", INVARIANTS), ("notifier modes", MODES), ("verdicts", _VERDICTS), ("devices", DEVICES))
    lines = []
    for title, entries in parts:
        lines.append(f"{title}:")
        for name, sentence in entries.items():
            lines += textwrap.wrap(f"{name:<13}{sentence}", width - 2, initial_indent="  ", subsequent_indent=" " * 15)
        lines.append("")
    lines += textwrap.wrap("n/a here, for they need a wire (unpinned swarm): I7 atomics and writes happen exactly once, "
                           "I9 no transport timeout is caused by a fault.", width)  # fmt: skip
    return "\n".join(lines)
