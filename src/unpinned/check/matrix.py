"""The matrix: cause x verdict x notifier mode -> SAFE, BOUNDED or UNSAFE, and how it prints.

A *cell* asks: if this cause gets this verdict, and the host notifies in this mode, does every interleaving of every
small world keep every invariant? Its answer is the worst of its worlds: UNSAFE with a shortest trace, BOUNDED when a
world was cut before it was exhausted (and where), SAFE when all were exhausted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from unpinned.paging.causes import Cause, Verdict
from unpinned.paging.policy import MODEL, Policy, PolicyError, Row

SAFE: Final = "SAFE"
BOUNDED: Final = "BOUNDED"
UNSAFE: Final = "UNSAFE"
_WORST: Final = (SAFE, BOUNDED, UNSAFE)

MODES: Final[dict[str, str]] = {
    "exact": "start before the change, finish after it, with its cause, and it may sleep",
    "late": "notified when the page table has changed already (userfaultfd, munmap)",
    "early": "notified before the change, and nothing marks its end (userfaultfd, MADV_DONTNEED)",
    "spurious": "also notified for calls that then fail",
    "silent": "not notified at all (userfaultfd, reclaim and mprotect)",
    "blind": "notified without a cause",
    "unsleepable": "notified where nobody may sleep (the OOM reaper)",
}

KERNEL_MODES: Final = ("exact", "spurious", "blind", "unsleepable")
"""Notifiers that a kernel has. With the others, which are user space's, no policy is safe for a device that caches frames."""

DEVICES: Final[dict[str, str]] = {
    "hca": "copies go to the frame that was translated; translations are cached, and flushed",
    "vm": "copies go through the process's own mapping at the moment of the copy (process_vm_writev)",
    "alias": "copies go through another mapping of the same object (memfd, file)",
}
"""An HCA, and the two ways in which the live device reaches memory."""

NOT_SHARED: Final = (Cause.COW, Cause.MERGE)
"""Causes that only private memory knows."""

DEFAULT_ROWS: Final = (
    Row(),
    Row(Verdict.DOWNGRADE),
    Row(Verdict.DEFER, 2, 1_000),
    Row(Verdict.REFUSE_IF_BUSY),
)
"""What each cause is tried with when no policy says so. The deferral is bounded by two pages, or one tick of time."""


@dataclass(frozen=True)
class Cell:
    """One question of the matrix."""

    cause: Cause
    row: Row
    mode: str
    device: str = "hca"  #: what its copies go through: DEVICES
    keeps: bool = True  #: the host keeps the obligations of deferral

    @property
    def name(self) -> str:
        kind = "" if self.device == "hca" else f"/{self.device}"
        return f"{self.cause.name}/{self.row.verdict.name}/{self.mode}{kind}{'' if self.keeps else '/careless'}"

    @property
    def command(self) -> str:
        """What asks it again; "" for a row that only a policy has."""
        if self.row not in DEFAULT_ROWS:
            return ""
        more = ("" if self.device == "hca" else f" --device {self.device}") + ("" if self.keeps else " --careless")
        return f"unpinned check --cause {self.cause.name} --verdict {self.row.verdict.name} --mode {self.mode}{more}"


@dataclass(frozen=True)
class Outcome:
    """What one world said. `path`: the shortest way to the violation, as action codes; `loop`: where its cycle begins."""

    world: str
    verdict: str
    states: int
    transitions: int
    depth: int
    seconds: float
    broke: str = ""  #: the invariant
    message: str = ""  #: what broke it
    path: tuple[int, ...] = ()
    loop: int = -1
    cut: str = ""  #: BOUNDED: where
    reached: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Answer:
    """A cell and what its worlds said."""

    cell: Cell
    outcomes: tuple[Outcome, ...]

    @property
    def verdict(self) -> str:
        return max((each.verdict for each in self.outcomes), key=_WORST.index, default=SAFE)

    @property
    def worst(self) -> Outcome | None:
        """The outcome that decides: of the violations the one with the shortest trace."""
        decides = [each for each in self.outcomes if each.verdict == self.verdict]
        return min(decides, key=lambda each: (len(each.path), each.depth), default=None)

    @property
    def states(self) -> int:
        return sum(each.states for each in self.outcomes)

    @property
    def depth(self) -> int:
        return max((each.depth for each in self.outcomes), default=0)

    def line(self) -> str:
        """The whole answer: how much was explored, and what decides."""
        worst = self.worst
        said = f"{len(self.outcomes)} worlds, {self.states:,} states, depth {self.depth}"
        if worst and self.verdict == UNSAFE:
            said = f"{worst.broke} after {len(worst.path)} steps in {worst.world} ({said})"
        return f"{self.cell.name}: {self.verdict}: {said}{f'; cut: {worst.cut}' if worst and worst.cut else ''}"

    def brief(self) -> str:
        """At most seven characters: ``safe``, ``cut``, or what breaks and the trace's length, ``I1/9``, ``LIVE/15``."""
        worst = self.worst
        if worst is None or self.verdict == SAFE:
            return "safe"
        return "cut" if self.verdict == BOUNDED else f"{worst.broke.removesuffix('LOCK')}/{len(worst.path)}"

    def as_dict(self) -> dict[str, Any]:
        worst = self.worst
        return {
            "cause": self.cell.cause.name,
            "verdict": str(self.cell.row),
            "mode": self.cell.mode,
            "device": self.cell.device,
            "answer": self.verdict,
            "worlds": len(self.outcomes),
            "states": self.states,
            "transitions": sum(each.transitions for each in self.outcomes),
            "depth": self.depth,
            "seconds": round(sum(each.seconds for each in self.outcomes), 3),
            "invariant": worst.broke if worst else "",
            "steps": len(worst.path) if worst else 0,
            "world": worst.world if worst and self.verdict != SAFE else "",
            "cut": worst.cut if worst else "",
        }


def cells(
    policy: Policy | None = None,
    causes: Iterable[Cause] = tuple(Cause),
    verdicts: Iterable[Verdict] = tuple(Verdict),
    modes: Iterable[str] = tuple(MODES),
    device: str = "hca",
    keeps: bool = True,
) -> list[Cell]:
    """The questions to ask: of a policy its own rows, else every verdict that the model can honour, in every mode.

    Raises PolicyError when nothing is left to ask, with the reason.
    """
    verdicts, modes = tuple(verdicts), tuple(modes)
    found, reason = [], ""
    for cause in causes:
        rows = (policy.rows[cause],) if policy else tuple(row for row in DEFAULT_ROWS if row.verdict in verdicts)
        if device == "alias" and cause in NOT_SHARED:
            reason = f"{cause.name}: device alias: a shared object is neither copied on write nor merged"
            continue
        # Who is told no cause gets a policy's verdict of UNKNOWN, whatever it says of the others.
        asked = [mode for mode in modes if (mode == "blind" if cause is Cause.UNKNOWN else not policy or mode != "blind")]
        for row in rows:
            if cause is Cause.UNKNOWN and "blind" not in modes:
                reason = "UNKNOWN: a notifier passes no cause in mode blind only"
                continue
            if row.verdict not in MODEL.verdicts[cause]:
                reason = f"{cause.name}: {row.verdict.name} is impossible: {MODEL.reasons[cause]}"
                continue
            if not asked:
                reason = f"{cause.name}: in mode blind a policy is asked for its verdict of UNKNOWN"
            found += [Cell(cause, row, mode, device, keeps) for mode in asked]
    if not found:
        raise PolicyError(reason or "no cause, verdict or mode is left to check")
    return found


# --- text ----------------------------------------------------------------------------------------------------------------


def table(answers: Sequence[Answer]) -> str:
    """The matrix in less than 80 columns."""
    modes = [mode for mode in MODES if any(answer.cell.mode == mode for answer in answers)]
    rows: dict[tuple[Cause, Row], dict[str, Answer]] = {}
    for answer in answers:
        rows.setdefault((answer.cell.cause, answer.cell.row), {})[answer.cell.mode] = answer
    lines = [f"{'cause':<11}{'verdict':<10}" + "".join(f"{_MODE_HEAD.get(mode, mode):<8}" for mode in modes).rstrip()]
    last = None
    for (cause, row), line in rows.items():
        if last not in (None, cause):
            lines.append("")
        name = cause.name if cause is not last else ""
        last = cause
        verdict = "REFUSE" if row.verdict is Verdict.REFUSE_IF_BUSY else row.verdict.name
        brief = "".join(f"{line[mode].brief() if mode in line else '-':<8}" for mode in modes)
        lines.append(f"{name:<11}{verdict:<10}{brief}".rstrip())
    return "\n".join(lines)


_MODE_HEAD: Final = {"unsleepable": "nosleep", "spurious": "spurio."}
