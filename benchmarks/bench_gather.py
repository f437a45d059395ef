"""Rows of 512 bytes at random places of a 256 MiB table that is all there, read into an array one after the other."""

import time

import numpy as np
from _common import MIB, Child, Figure, Options, interleave, main, median, spread
from _end import *  # noqa: F403
from _end import _memories, _queues, join, local

SPAN, ROW = 256 * MIB, 512


def gather(remote, rows, window, seed, run):
    """Rows a second; consecutive rows of *run* come as one request. The bytes are checked."""
    rng, q = np.random.default_rng(seed), _queues["main"]
    first = rng.integers(0, SPAN // ROW - run, rows // run) * ROW
    began = time.perf_counter()
    work = q.stage("read", local("local"), np.arange(len(first)) * ROW * run, remote, first, ROW * run, len(first))
    q.run(work, window)
    took = time.perf_counter() - began
    got = _memories["local"].bytes[: len(first) * ROW * run].view(np.int64).reshape(len(first), -1)
    if (got[:, 0] != (first * 0x9E3779B97F4A7C1) | 1).any():
        raise RuntimeError("wrong rows")
    return len(first) * run / took


def measure(options: Options) -> list[Figure]:
    rounds, rows = options.pick(11, 2), options.pick(100_000, 5_000)
    with Child() as owner, Child() as reader:
        owner.ask("make", name="served", kind="shared", length=SPAN, fill=True)
        reader.ask("make", name="local", kind="shared", length=rows * ROW, fill=True)
        join(owner, reader, depth=1024)
        remote = owner.ask("expose", name="served")
        reader.ask("expose", name="local")
        windows = {"16": 16, "64": 64, "1024": 1024}
        seeds = iter(range(1 << 20))
        gave = interleave(
            rounds,
            {
                name: lambda w=w: reader.ask("gather", remote=remote, rows=rows, window=w, seed=next(seeds), run=1)
                for name, w in windows.items()
            },
        )
    parts = {f"{name}_in_flight_rows_per_s": spread(rates) for name, rates in gave.items()}
    best = max(median(rates) for rates in gave.values())
    return [Figure("gather of 512 B rows at random, hot (against UCX: bench_peers)", best, "rows/s", "", parts)]


if __name__ == "__main__":
    main(measure, globals())
