"""What a campaign of schedules calls, in any process: plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unpinned.campaign import Plan
from unpinned.compiled import build, cache
from unpinned.swarm import cases, engine
from unpinned.swarm import layout as S
from unpinned.swarm.cases import Case

FAILURES_MAX = 20
PIECE = 2_000  # schedules of one call: a few seconds
ENTRY = ("unpinned.swarm.engine", "run", "wbwwwii")


def plan(first: int, count: int, hosts: int, connections: int, settings: Mapping[str, int]) -> Plan:
    """The campaign over seeds [first, first + count)."""
    starts = range(first, first + count, PIECE)
    pieces = [
        {"first": at, "count": min(PIECE, first + count - at), "hosts": hosts, "connections": connections, "settings": dict(settings)}
        for at in starts
    ]  # fmt: skip
    sizes = [min(PIECE, first + count - at) for at in starts]
    return Plan("swarm", "unpinned.swarm.jobs:run_range", pieces, "schedules", sizes)


def code() -> str:
    """Names the code that plays: the swarm, and what it drives of `paging` and `hca`."""
    return cache.code(__name__)


def compile_once() -> None:
    """Compile the engine if it is not on disk; says so on stderr."""
    build.ensure([ENTRY])


def run_range(first: int, count: int, hosts: int, connections: int, settings: Mapping[str, int]) -> dict[str, Any]:
    """Play seeds [first, first + count): those that broke something, with what, and the statistics of all."""
    compile_once()
    world = cases._image(cases.Shape(hosts, connections), 0)
    cases.set_masks(world, {})
    t = np.zeros(S.STAT_WORDS, np.int64)
    failures: list[dict[str, Any]] = []
    at = first
    while at < first + count and len(failures) < FAILURES_MAX:
        at += int(engine.run(world.w, world.b, world.template, cases.overrides(settings), t, at, first + count - at))
        if at < first + count:
            outcome = cases.read(Case(at, hosts, connections, {}, settings), world, t)
            failures.append({"seed": at, "verdict": outcome.verdict, "text": outcome.text})
            at += 1
    statistics = {name: int(t[word]) for name, word in S.STATISTICS.items()}
    statistics["causes"] = t[S.T_CAUSES : S.STAT_WORDS].tolist()
    return {"first": first, "played": at - first, "failures": failures, "statistics": statistics}


def total(results: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """One result of many."""
    statistics: dict[str, Any] = {}
    for result in results.values():
        for name, value in result["statistics"].items():
            if isinstance(value, list):
                statistics[name] = [x + y for x, y in zip(statistics.get(name, [0] * len(value)), value)]
            else:
                statistics[name] = statistics.get(name, 0) + value
    failures = sorted((f for result in results.values() for f in result["failures"]), key=lambda f: f["seed"])
    return {"played": sum(r["played"] for r in results.values()), "failures": failures, "statistics": statistics}
