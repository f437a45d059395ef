"""What a page fault of the device adds to a READ: one minor fault, and a large READ of memory that was never touched.

Every fault meets a page that no READ has met before, far enough from all others that the kernel has not mapped it along (a huge
page of the page cache at most) and that nobody read ahead. Hot READs of the same size alternate with the faulting ones.
"""

import os
import tempfile
import time

import numpy as np
from _common import KIB, MIB, Child, Figure, Options, main, median, say, spread
from _end import *  # noqa: F403
from _end import _memories, _queues, join, local, pattern

PAGE, APART, LARGE, LARGE_APART = 4 * KIB, 2 * MIB, 4 * MIB, 16 * MIB
LANDING = 8 * MIB


def write_file(path, length):
    """A file in the page cache (written, hence there), which nobody has mapped yet."""
    with open(path, "wb") as file:
        for at in range(0, length, LARGE):
            file.write(pattern(at, min(LARGE, length - at)).tobytes())
        file.flush()
        os.fsync(file.fileno())  # clean pages: a dirty one costs the same, its write-back does not


def touch(name, length, step):
    """Read a byte of every page, so that they are mapped."""
    return int(_memories[name].bytes[:length:step].sum())


def pairs(cold, hot, length, offsets, verified):
    """Times in microseconds of a READ of each offset in *cold*, and of one in *hot* before it; words that were wrong."""
    q, base, times, wrong = _queues["main"], local("local"), {"cold": [], "hot": []}, 0
    landing = _memories["local"].bytes[:length].view(np.int64)
    for offset in offsets:
        for name, remote, where in (("hot", hot, 0), ("cold", cold, offset)):
            work = q.stage("read", base, 0, remote, where, length, 1)
            began = time.perf_counter_ns()
            q.post(work)
            q.must_poll()
            times[name].append((time.perf_counter_ns() - began) / 1e3)
        wrong += int((landing != (pattern(offset, length) if verified else 0)).sum())
    return times | {"wrong": wrong}


def measure(options: Options) -> list[Figure]:
    faults, larges = options.pick(500, 60), options.pick(60, 8)
    span = max(faults * APART, larges * LARGE_APART)
    rng = np.random.default_rng(1)
    figures, added = [], {}
    with Child() as owner, Child() as reader, tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        say(f"writing a file of {span // MIB} MiB")
        owner.ask("write_file", path=path, length=span)
        owner.ask("make", name="hot", kind="shared", length=LANDING, fill=True)
        reader.ask("make", name="local", kind="shared", length=LANDING, fill=True)
        join(owner, reader)
        hot = owner.ask("expose", name="hot")
        reader.ask("expose", name="local")

        def cold(kind, name):
            if kind == "page cache":
                return owner.ask("expose_file", name=name, path=path)
            owner.ask("make", name=name, kind=kind, length=span)
            return owner.ask("expose", name=name)

        kinds = {
            "page cache": "page in the page cache",
            "private": "zero page, private memory",
            "owned": "fresh page, owned memory",
        }
        for kind, text in kinds.items():
            for what, length, count, step in (("small", PAGE, faults, APART), ("large", LARGE, larges, LARGE_APART)):
                name = f"{kind} {what}"
                remote = cold(kind, name)
                offsets = (rng.permutation(span // step)[:count] * step).tolist()
                warm, offsets = offsets[:4], offsets[4:]
                reader.ask("pairs", cold=remote, hot=hot, length=length, offsets=warm, verified=kind == "page cache")
                before = owner.ask("region_counters", name=name)
                gave = reader.ask(
                    "pairs", cold=remote, hot=hot, length=length, offsets=offsets, verified=kind == "page cache"
                )
                after = owner.ask("region_counters", name=name)
                owner.ask("drop", name=name)
                if gave["wrong"]:
                    raise RuntimeError(f"{name}: {gave['wrong']} wrong words")
                parts = {
                    "cold_us": spread(gave["cold"]),
                    "hot_us": spread(gave["hot"]),
                    "counters": {key: value - before.get(key, 0) for key, value in after.items()},
                }
                middle = {key: median(gave[key]) for key in ("cold", "hot")}
                if what == "small":
                    added[kind] = middle["cold"] - middle["hot"]
                    figures.append(
                        Figure(
                            f"added by one minor fault, {text}",
                            added[kind],
                            "us",
                            "<= 60" if kind != "owned" else "",
                            parts,
                        )
                    )
                else:
                    value = middle["cold"] / (middle["hot"] + added[kind])
                    figures.append(
                        Figure(f"READ 4 MiB never touched / hot + one fault, {kind}", value, "times", "<= 1.6", parts)
                    )
                say(f"{name}: cold {middle['cold']:.1f} us, hot {middle['hot']:.1f} us")
    return figures


if __name__ == "__main__":
    main(measure, globals())
