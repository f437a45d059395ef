"""Rows of 512 bytes at random places of a 256 MiB table that is all there, read into an array one after the other.

Through verbs (one READ a row, posted as one batch of records) and as a user writes it: ``remote[rows]``. Against UCX with one get a
row: see `bench_peers`, where both are measured by turns.
"""

import time

import numpy as np
from _common import MIB, Child, Figure, Options, interleave, main, median, spread
from _end import *  # noqa: F403
from _end import _memories, _queues, join, local

import unpinned

SPAN, ROW = 256 * MIB, 512
_kept = []


def rows_at_random(rows, seed):
    return np.random.default_rng(seed).integers(0, SPAN // ROW, rows)


def check_rows(index, got):
    if (got != (index[:, None] * ROW + np.arange(0, ROW, 8)) * 0x9E3779B97F4A7C1 | 1).any():
        raise RuntimeError("wrong rows")


def gather(remote, rows, window, seed):
    """Rows a second by READs of a row each."""
    index, q = rows_at_random(rows, seed), _queues["main"]
    began = time.perf_counter()
    work = q.stage("read", local("local"), np.arange(rows) * ROW, remote, index * ROW, ROW, rows)
    q.run(work, window)
    took = time.perf_counter() - began
    check_rows(index, _memories["local"].bytes[: rows * ROW].view(np.int64).reshape(rows, -1))
    return rows / took


def serve_table() -> str:
    _kept.append(unpinned.serve({"table": _memories["served"].bytes.view(np.int64).reshape(-1, ROW // 8)}))
    return _kept[0].address


def open_table(address: str) -> None:
    _kept.append(unpinned.connect(address)["table"])


def take(rows, seed):
    """Rows a second by an index array."""
    index, table = rows_at_random(rows, seed), _kept[0]
    began = time.perf_counter()
    got = table[index]
    took = time.perf_counter() - began
    check_rows(index, got)
    return rows / took


def measure(options: Options) -> list[Figure]:
    rounds, rows = options.pick(11, 2), options.pick(100_000, 5_000)
    with Child() as owner, Child() as reader:
        owner.ask("make", name="served", kind="shared", length=SPAN, fill=True)
        reader.ask("make", name="local", kind="shared", length=rows * ROW, fill=True)
        join(owner, reader, depth=1024)
        remote = owner.ask("expose", name="served")
        reader.ask("expose", name="local")
        reader.ask("open_table", address=owner.ask("serve_table"))
        seeds = iter(range(1 << 20))

        def batch(window):
            return lambda: reader.ask("gather", remote=remote, rows=rows, window=window, seed=next(seeds))

        variants = {f"{window}_in_flight": batch(window) for window in (16, 64, 1024)}
        variants["remote_array"] = lambda: reader.ask("take", rows=rows, seed=next(seeds))
        for variant in variants.values():
            variant()  # what comes first pays for connections and cold caches
        gave = interleave(rounds, variants)
    parts = {f"{name}_rows_per_s": spread(rates) for name, rates in gave.items()}
    best = max(median(rates) for name, rates in gave.items() if name != "remote_array")
    array = median(gave["remote_array"])
    return [
        Figure("gather of 512 B rows at random, hot: verbs", best, "rows/s", "", parts),
        Figure("gather of 512 B rows at random, hot: remote[rows]", array, "rows/s"),
    ]


if __name__ == "__main__":
    main(measure, globals())
