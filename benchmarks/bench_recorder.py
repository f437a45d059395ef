"""What recording costs: READs of hot memory with the recorder on and off, by turns, and the bytes of a record in the file.

Both ends are in one process, so one recorded device of two. A round is a fraction of a second of each, one after the other, in
turn; the figures are medians of the rounds' ratios, beside them the same of one without the recorder against another, which is
what the machine's noise makes of 1. Page tables are warmed up again before each, as a recording empties them.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import KIB, MIB, Figure, Options, interleave, main, median


def reads(a: Any, mr: Any, length: int, count: int, depth: int) -> float:
    """Seconds for `count` READs of `length` bytes with `depth` under way."""
    from unpinned import verbs as v

    began, posted, done = time.perf_counter(), 0, 0
    while done < count:
        while posted < count and posted - done < depth:
            a.remote(v.IBV_WR_RDMA_READ, mr, 0, (posted * length) % (mr.length - length + 1), length)
            posted += 1
        a.wait()
        done += 1
    return time.perf_counter() - began


def measure(options: Options) -> list[Figure]:
    import numpy as np

    from support.verbs import ALL, pair
    from unpinned.host.owned import empty
    from unpinned.recording import file

    rounds = options.pick(12, 1)
    kinds = {"1 MiB, 8 under way": (MIB, options.pick(400, 20), 8), "4 KiB, one at a time": (4 * KIB, options.pick(3_000, 100), 1),
             "64 B, 32 under way": (64, options.pick(10_000, 200), 32)}  # fmt: skip
    sizes: list[tuple[int, int, int]] = []
    with tempfile.TemporaryDirectory() as folder, pair(buffer=2 * MIB) as (a, b):
        path = Path(folder) / "recording"
        memory = empty(64 * MIB, np.uint8)
        memory[:] = 1
        from unpinned import verbs as v

        with v.MR(b.pd, memory, ALL) as mr:

            def once(recorded: bool) -> list[float]:
                recorder = b.context.device.record(path) if recorded else None
                reads(a, mr, MIB, 64, 8)
                took = [reads(a, mr, *kind) for kind in kinds.values()]
                if recorder is not None:
                    count = recorder.stop()
                    sizes.append((count, os.path.getsize(path), int(file.read(path).end["lost"])))
                return took

            once(True)
            found = interleave(rounds, {"off": lambda: once(False), "on": lambda: once(True), "again": lambda: once(False)})
    count, size, lost = (sum(each) for each in zip(*sizes))
    figures = []
    for i, what in enumerate(kinds):
        ratios = sorted(off[i] / on[i] for off, on in zip(found["off"], found["on"]))
        same = median(off[i] / again[i] for off, again in zip(found["off"], found["again"]))
        parts = {"quarter": ratios[len(ratios) // 4], "three quarters": ratios[3 * len(ratios) // 4], "off against off": same}
        figures.append(Figure(f"READ of {what}: rate, recorded to not", median(ratios), "", ">= 0.97", parts))
    return [
        *figures,
        Figure("bytes of a record in the file", size / count, "B", "<= 16", {"records": count}),
        Figure("records lost", lost, "", "== 0"),
    ]


if __name__ == "__main__":
    main(measure, globals())
