"""The explorer: transitions a second of one core, memory of a state, what the reduction saves."""

import time

from _common import Figure, Options, interleave, main, median, spread

from unpinned.model import Limits, Op, Request, World
from unpinned.model.search import Result, Search, explore
from unpinned.paging.policy import POLICIES

BATCHING = POLICIES["by_cause_batching"]
WORLDS = {
    "one device": World(
        "one device", pages=3, frames=4, faults=2, dma=2, policy=BATCHING,
        threads=((Op("UNMAP", 0), Op("MAP", 0), Op("WRITE", 0)), (Op("RECLAIM", 1), Op("WRITE", 1))),
        requests=(Request("WRITE", 0, 2), Request("READ", 1, 2)),
    ),
    "two devices": World(
        "two devices", pages=1, frames=3, devices=2, policy=BATCHING, threads=((Op("RECLAIM"), Op("REPLACE")),),
        requests=(Request("WRITE"), Request("READ", device=1)),
    ),
    "fork": World(
        "fork", pages=2, frames=5, threads=((Op("FORK"), Op("WRITE", 0)), (Op("WRITE", 0, process=1), Op("EXIT", process=1))),
        requests=(Request("WRITE", 0, 2), Request("READ", 0)),
    ),
}  # fmt: skip


class Run(dict[str, object]):
    """A search, and how many transitions it made in a second of CPU time: one core's, whatever else runs on the machine."""

    def __init__(self, result: Result, cpu_seconds: float) -> None:
        self.result, self.rate = result, result.transitions / cpu_seconds


def run(world: World, states: int, **how: bool) -> Run:
    began = time.process_time()
    result = explore(world, Limits(states=states), **how)
    return Run(result, time.process_time() - began)


def measure(options: Options) -> list[Figure]:
    states = options.pick(600_000, 60_000)
    variants = {name: lambda world=world: run(world, states, liveness=False) for name, world in WORLDS.items()}
    variants |= {
        f"{name}, with livelocks": lambda world=world: run(world, states, liveness=True)
        for name, world in WORLDS.items()
    }
    gave = interleave(options.pick(7, 3), variants)
    figures = []
    for name, results in gave.items():
        first = results[0].result
        rates = [result.rate for result in results]
        target = ">= 500000" if "livelocks" not in name else ""
        parts = {
            "rates": spread(rates), "verdict": first.verdict, "states": first.states, "transitions": first.transitions,
            "depth": first.depth, "collision_bound": first.collision_bound,
        }  # fmt: skip
        figures.append(Figure(f"explorer, {name}", median(rates), "transitions/s of CPU time", target, parts))
    for name, world in WORLDS.items():
        search = Search(world, Limits(states=16), liveness=False)
        kept = gave[name][0].result.bytes_per_state
        parts = {
            "packed_bytes": 8 * search.stride,
            "kept_bytes": kept,
            "with_livelocks": kept + 64,
            "table_bytes": "48 to 96",
        }
        figures.append(Figure(f"a state of {name}", 8 * search.stride, "bytes", "<= 2048", parts))
    smallest = World("smallest", pages=1, frames=2, devices=2, requests=(Request("READ"), Request("READ", device=1)))
    told = World(**{**smallest.__dict__, "threads": ((Op("UNMAP"),),)})
    full, reduced = (run(told, 100_000, liveness=False, reduce=reduce).result for reduce in (False, True))
    assert full.verdict == reduced.verdict and full.reached == reduced.reached
    parts = {"full": full.states, "reduced": reduced.states}
    figures.append(
        Figure("states left by the reduction, two equal devices", reduced.states / full.states, "", "<= 0.6", parts)
    )
    return figures


if __name__ == "__main__":
    main(measure, globals())
