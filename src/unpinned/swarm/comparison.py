"""Today's adapters beside ours: what a page fault costs the operation that met it, and the ones behind it.

Every row is a fixed workload in the swarm's world, on a wire without loss, played twice: with the imitation of today's
adapters (`adapter`), and as our transport is. Their figures come from elsewhere and are printed with the result:

* a fault takes 220 us, most of it firmware (ASPLOS 2017), and firmware serves one after the other;
* min_rnr_timer is 12 (0.64 ms) in the first rows, and 0 (655 ms) where nobody set it, as with rdma_cm;
* the shortest transport timeout is that of timeout code 17 (0.54 s; ISPASS 2021 found about 0.5 s on one generation of
  adapters) and 13 (34 ms; about 30 ms on the next).

*Damming*: what was posted behind the operation that faulted waits for the transport's timer. *Flood*: responses that cannot
land are dropped and asked for again, over and over, by every queue pair at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from unpinned.swarm import cases, engine
from unpinned.swarm import layout as S
from unpinned.swarm.image import Shape
from unpinned.swarm.workload import MIX_READ, MIX_WRITE

FAULT_NS = 220_000
CALM = {
    "loss": 0, "repeat": 0, "late": 0, "touch_limit": 0, "strict": 0, "gap": 0, "store_gap": 0, "unmaps": 0, "slow": 0,
    "delay_ns": 1_000, "jitter_ns": 0, "round_ns": 300, "copy_ns": 300, "flush_ns": 1_000, "policy": 0, "by_scan": 0,
    "minor_ns": FAULT_NS, "major_ns": FAULT_NS, "mtu": 1024, "fixed": 1, "think_ns": 1, "retry": 7,
    "rnr_retry": 7, "workers": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """A workload: how many connections, operations each, of which kind, into what."""

    name: str
    connections: int
    operations: int
    mix: int
    timeout: int
    rnr_timer: int = 12
    reread_ns: int = 0
    length: int = 1024


EXPERIMENTS = (
    Experiment("one WRITE, target page missing", 1, 1, MIX_WRITE, 17),
    Experiment("one WRITE, RNR timer never set", 1, 1, MIX_WRITE, 17, 0),
    Experiment("two WRITEs, the second behind it", 1, 2, MIX_WRITE, 17),
    Experiment("  the same, a later adapter", 1, 2, MIX_WRITE, 13),
    Experiment("one READ, landing page cold", 1, 1, MIX_READ, 17),
    Experiment("64 queue pairs READ 1 KiB each", 64, 1, MIX_READ, 17, 12, 500_000),
    Experiment("64 queue pairs READ 2 x 2.5 KiB", 64, 2, MIX_READ, 17, 12, 500_000, 2560),
)


@dataclass
class Figures:
    """What one play of an experiment took."""

    time_ns: int
    packets: int
    timeouts: int
    faults: int
    verdict: int


def measure(experiment: Experiment, *, adapter: bool) -> Figures:
    """Play an experiment once."""
    settings = {
        **CALM,
        "mix": experiment.mix,
        "ops": experiment.operations,
        "timeout": experiment.timeout,
        "length": experiment.length,
    }
    settings["park_ns"] = (4096 << experiment.timeout) // 4
    if adapter:
        settings |= {"profile": S.PROFILE_ADAPTER, "park_ns": 0, "rnr_timer": experiment.rnr_timer}
        settings |= {"reread_ns": experiment.reread_ns, "serial": 1}
    world = cases._image(Shape(2, experiment.connections), 0)
    cases.set_masks(world, {})
    t = np.zeros(S.STAT_WORDS, np.int64)
    engine.run(world.w, world.b, world.template, cases.overrides(settings), t, 1, 1)
    w = world.w
    start = min(int(w[w[S.W_OP] + d * S.OPS * S.OP_WORDS + S.OP_SINCE]) for d in range(0, int(w[S.W_DIRECTIONS]), 2))
    return Figures(
        int(w[S.W_END]) - start, int(w[S.W_PACKETS]), int(w[S.W_TIMEOUTS]), int(t[S.T_FAULTS]), int(w[S.W_VERDICT])
    )


def rows() -> list[dict[str, Any]]:
    """Every experiment, theirs and ours."""
    made = []
    for experiment in EXPERIMENTS:
        theirs, ours = measure(experiment, adapter=True), measure(experiment, adapter=False)
        made.append(
            {
                "experiment": experiment.name.strip(), "theirs": theirs.__dict__, "ours": ours.__dict__,
                "theirs_faults": theirs.time_ns / FAULT_NS, "ours_faults": ours.time_ns / FAULT_NS,
            }
        )  # fmt: skip
    return made


def _time(ns: int) -> str:
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def show(as_json: bool) -> int:
    """Print the table; 1 if an experiment of ours broke an invariant."""
    found = rows()
    if as_json:
        print(json.dumps({"fault_ns": FAULT_NS, "rows": found}, indent=2))
    else:
        print(f"a fault takes {_time(FAULT_NS)}; x: times a fault; packets in all, transport timeouts")
        print(f"{'':34}{'today, imitated':>22}{'ours':>22}")
        for experiment, row in zip(EXPERIMENTS, found):
            cells = [
                f"{_time(f['time_ns']):>9} {f['time_ns'] / FAULT_NS:>5.0f}x {f['packets']:>5}"
                for f in (row["theirs"], row["ours"])
            ]
            print(f"{experiment.name:<34}{cells[0]:>22}{cells[1]:>22}")
    return 1 if any(row["ours"]["verdict"] for row in found) else 0
