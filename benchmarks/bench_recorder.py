"""What recording costs: READs of hot memory with the recorder on and off, by turns, and the bytes of a record in the file.

Both ends are in one process, so one recorded device of two; the figures are ratios of medians.
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

    rounds = options.pick(7, 1)
    large, small = options.pick(400, 20), options.pick(4_000, 100)
    sizes: list[tuple[int, int, int]] = []
    with tempfile.TemporaryDirectory() as folder, pair(buffer=2 * MIB) as (a, b):
        path = Path(folder) / "recording"
        memory = empty(64 * MIB, np.uint8)
        memory[:] = 1
        from unpinned import verbs as v

        with v.MR(b.pd, memory, ALL) as mr:

            def once(recorded: bool) -> list[float]:
                recorder = b.context.device.record(path) if recorded else None
                took = [reads(a, mr, MIB, large, 8), reads(a, mr, 4 * KIB, small, 1)]
                if recorder is not None:
                    count = recorder.stop()
                    sizes.append((count, os.path.getsize(path), int(file.read(path).end["lost"])))
                return took

            once(True)
            found = interleave(rounds, {"off": lambda: once(False), "on": lambda: once(True)})
    on, off = ([median(each[i] for each in found[name]) for i in range(2)] for name in ("on", "off"))
    count, size, lost = (sum(each) for each in zip(*sizes))
    return [
        Figure("READ of 1 MiB, 8 under way: bandwidth, recorded to not", off[0] / on[0], "", ">= 0.97", {"on": on[0], "off": off[0]}),
        Figure("READ of 4 KiB, one at a time: time, recorded against not", on[1] / off[1], "", "<= 1.03", {"on_s": on[1], "off_s": off[1]}),
        Figure("bytes of a record in the file", size / count, "B", "<= 16", {"records": count}),
        Figure("records lost", lost, "", "== 0"),
    ]


if __name__ == "__main__":
    main(measure, globals())
