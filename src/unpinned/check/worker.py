"""The process that explores with mutants: it is started in a copy of the package (mutate.py) and told what to do.

A line of JSON in: the mutant's number and its world. A line out for each: what the world said. Nothing else is printed on stdout.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def work() -> None:
    """Serve stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Explore the world of one order, or try all requests; or run the kept trace that it holds."""
    from unpinned.check.mutate import choose
    from unpinned.check.replay import ReplayError, again
    from unpinned.check.trace import dumps, loads

    choose(order["number"])
    if "trace" not in order:
        return _explore(order) if order["world"] else _requests(order)
    try:
        return {"trace": dumps(again(loads(order["trace"])))}
    except ReplayError as error:
        return {"error": str(error)}


def _explore(order: dict[str, Any]) -> dict[str, Any]:
    from unpinned.check.replay import make_trace, world_from
    from unpinned.check.search import explore_world
    from unpinned.check.trace import dumps
    from unpinned.model.search import Limits

    name, trace = order["mutant"], ""
    world = world_from(order["world"])
    outcome = explore_world(world, Limits(states=order["states"]))
    if outcome.broke:
        made = make_trace(f"mutant {name}", world, outcome.broke, outcome.message, outcome.path, outcome.loop, name)
        trace = dumps(made)
    return {
        "world": outcome.world, "verdict": outcome.verdict, "broke": outcome.broke, "path": outcome.path,
        "states": outcome.states, "transitions": outcome.transitions, "seconds": outcome.seconds, "trace": trace,
    }  # fmt: skip


def _requests(order: dict[str, Any]) -> dict[str, Any]:
    from time import perf_counter

    from unpinned.check.requests import make_trace, requests, violations
    from unpinned.check.trace import dumps

    began = perf_counter()
    found = next(violations(), None)
    return {
        "world": "requests", "verdict": "UNSAFE" if found else "SAFE", "broke": "KEYS" if found else "",
        "path": [0] if found else [], "states": sum(1 for _ in requests()), "transitions": 0,
        "seconds": perf_counter() - began, "trace": dumps(make_trace(*found, order["mutant"])) if found else "",
    }  # fmt: skip


if __name__ == "__main__":
    work()
