"""What the answers rest on: explored cells with their traces, and runs in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from unpinned.check import matrix, search, trace
from unpinned.check.replay import trace_of
from unpinned.paging.causes import Cause, Verdict
from unpinned.paging.policy import POLICIES, Policy, Row
from unpinned.study import layout as S
from unpinned.study import simulate
from unpinned.study.policies import STUDY_POLICIES, StudyPolicy
from unpinned.study.profiles import Profile, profiles
from unpinned.study.workloads import WORKLOADS, Plan, accesses, rows

PAGES: Final = 1 << 16
PAGES_DISCARD: Final = 1 << 18
PAGES_BUSY: Final = 1 << 12
BUSY_NS: Final = 200_000_000
FLUSH_TIMES_NS: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)
WORKLOADS_COMPARED: Final = ("reclaim", "discard", "churn", "fork", "numa", "kv")


def _without(policy: Policy, verdict: Verdict, name: str) -> Policy:
    """The policy with every row of that verdict made NOW."""
    return Policy(name, {cause: Row() if row.verdict is verdict else row for cause, row in policy.rows.items()})


def _defer(*causes: Cause) -> dict[Cause, Row]:
    return {cause: Row(Verdict.DEFER, 512, 1_000_000) for cause in causes}


#: What a policy can do that knows less. The kernel's CLEAR stands for discard, reclaim, migration, copy-on-write and merging at
#: once: whatever is done for it must be right for the strictest of them, which allows no delay, no downgrade and no refusal.
INFORMATION: Final[dict[str, tuple[str, Policy]]] = {
    "nothing": ("no cause at all", POLICIES["zap_everything"]),
    "linux": (
        "the events that Linux passes",
        Policy("linux", dict.fromkeys((Cause.PROTECT, Cause.SOFT_DIRTY), Row(Verdict.DOWNGRADE)) | _defer(Cause.UNMAP, Cause.REMAP)),
    ),
    "two": (
        "two classes: can wait, must be now",
        Policy("two", _defer(Cause.UNMAP, Cause.REMAP, Cause.DISCARD, Cause.RECLAIM, Cause.SOFT_DIRTY)),
    ),
    "cause": ("the cause", POLICIES["by_cause_batching"]),
}  # fmt: skip


@dataclass
class Evidence:
    """Everything that the text uses."""

    quick: bool
    cells: dict[tuple[str, str, str], matrix.Answer] = field(default_factory=dict)
    kinds: dict[str, Any] = field(default_factory=dict)  #: vm, alias -> answer of UNMAP in mode late
    unkept: Any = None  #: outcome of a deferral whose obligation the host does not keep
    unkept_trace: str = ""
    late_trace: str = ""
    discard: dict[str, dict[str, Any]] = field(default_factory=dict)
    flush_times: list[tuple[int, dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    refusal: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)
    information: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    blind: dict[str, dict[str, Any]] = field(default_factory=dict)

    def cell(self, cause: str, verdict: str, mode: str = "exact") -> matrix.Answer:
        return self.cells[cause, verdict, mode]

    @property
    def states(self) -> int:
        return sum(answer.states for answer in self.cells.values())

    @property
    def worlds(self) -> int:
        return sum(len(answer.outcomes) for answer in self.cells.values())


def gather(quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Evidence:
    """Run everything: about a minute with `quick`, minutes without."""
    found = Evidence(quick)
    say("check: every cause, verdict and notifier mode")
    explored = list(search.answers(matrix.cells(), search.Plan(quick=quick)))
    mine = [answer for answer in explored if getattr(answer.cell, "device", "hca") == "hca"]
    found.cells = {(a.cell.cause.name, a.cell.row.verdict.name, a.cell.mode): a for a in mine}
    found.late_trace = trace.table(trace_of(found.cell("UNMAP", "NOW", "late")))
    _kinds(found)
    say("study: flush times, refusals, information")
    simulate.ensure_compiled()
    _discard(found)
    _flush_times(found)
    _refusal(found)
    _information(found)
    return found


def _kinds(found: Evidence) -> None:
    """UNMAP, told late: what a copy that touches each kind of memory may still do; and a deferral without its obligation."""
    plan = search.Plan(processes=1)  # never the smallest only: those map nothing anew
    for answer in search.answers([matrix.Cell(Cause.UNMAP, Row(), "late", kind) for kind in ("vm", "alias")], plan):
        found.kinds[answer.cell.device] = answer
    careless = matrix.Cell(Cause.UNMAP, Row(Verdict.DEFER, 2, 1_000), "exact", keeps=False)
    (answer,) = search.answers([careless], search.Plan(quick=True, processes=1))
    if answer.verdict == matrix.UNSAFE:
        found.unkept = answer.worst
        found.unkept_trace = trace.table(trace_of(answer))


def _run(
    workload: str, policy: StudyPolicy, profile: Profile, pages: int = PAGES, plan: Plan | None = None, ns: int = 100_000_000
) -> dict[str, Any]:
    made = plan or WORKLOADS[workload](pages, np.random.default_rng(1))
    world = simulate.build(made, policy, profile, pages=pages, bounds=simulate.Bounds(ns, 1 << 50))
    seconds = simulate.go(world)
    return simulate.read(world.s, world.devices, seconds)


def _discard(found: Evidence) -> None:
    """1 GiB given back page by page."""
    for name in ("zap-now", "by-cause", "batching"):
        plan = WORKLOADS["discard"](PAGES_DISCARD, np.random.default_rng(1))
        found.discard[name] = _run("discard", STUDY_POLICIES[name], profiles()["inline"], PAGES_DISCARD, plan, 1 << 50)


def _flush_times(found: Evidence) -> None:
    """Steady reclaim on devices that take ever longer to flush."""
    for flush_ns in FLUSH_TIMES_NS:
        profile = replace(profiles()["inline"], flush=flush_ns)
        made = [_run("reclaim", STUDY_POLICIES[name], profile) for name in ("zap-now", "batching")]
        found.flush_times.append((flush_ns, made[0], made[1]))


def _busy(pages: int, op: int) -> Plan:
    """Sixteen queue pairs copy 256 KiB at a time, nearly without a pause, while the kernel wants single pages of it."""
    random = np.random.default_rng(1)
    chosen = random.integers(0, pages // 64, 1 << 16) * 64
    script = rows(op, random.integers(0, pages, 1 << 14), think_ns=50_000)
    return Plan(accesses(chosen, count=64), [script], streams=16, think_ns=0, frames=1.25)


def _refusal(found: Evidence) -> None:
    """By cause with and without its refusals, where the device is busy."""
    with_it = STUDY_POLICIES["by-cause"]
    without = replace(with_it, name="without", table=_without(with_it.table, Verdict.REFUSE_IF_BUSY, "without"))
    for name, op in (("RECLAIM", S.DO_RECLAIM), ("MIGRATE", S.DO_MIGRATE)):
        for profile in ("inline", "mailing-list"):
            made = [_run(name, policy, profiles()[profile], PAGES_BUSY, _busy(PAGES_BUSY, op), BUSY_NS) for policy in (without, with_it)]
            found.refusal[name, profile] = made[0], made[1]


def _information(found: Evidence) -> None:
    """The same host and device, told more and more."""
    base = STUDY_POLICIES["batching"]
    for name, (_, table) in INFORMATION.items():
        for workload in WORKLOADS_COMPARED:
            policy = replace(base, name=name, table=table)
            found.information[name, workload] = _run(workload, policy, profiles()["inline"])
    for workload in WORKLOADS_COMPARED:
        found.blind[workload] = _run(workload, STUDY_POLICIES["blind"], profiles()["inline"])


def total(found: Mapping[tuple[str, str], dict[str, Any]], name: str, figure: str) -> float:
    """A figure summed over the workloads."""
    return float(sum(row[figure] for (each, _), row in found.items() if each == name))


def served(found: Mapping[tuple[str, str], dict[str, Any]], name: str, than: str, workloads: Sequence[str]) -> float:
    """Requests served, against another policy: the geometric mean over workloads."""
    ratios = [found[name, w]["requests_per_s"] / max(1.0, found[than, w]["requests_per_s"]) for w in workloads]
    return float(np.exp(np.mean(np.log(ratios))))
