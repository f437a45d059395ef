"""What a page fault of the device adds to a READ: one minor fault, and a large READ of memory that was never touched.

Every fault meets a page that no READ has met before, far enough from all others that the kernel has not mapped it along (a huge
page of the page cache at most) and that nobody read ahead. Hot READs of the same size alternate with the faulting ones.

Memory that was never touched has no bytes of its own, but a file has: the 4 MiB that a READ of it faults in come from DRAM, while
one place that is read over and over stays in the processor's caches. So large READs of a file are compared with READs of the
same file at places as rarely visited, whose pages are there, and with the one place in the caches besides. (What the device knows of
such a place has grown old, so most of these READs look again: the second comparison, whose READs never do, is the stricter one.)
"""

import os
import tempfile
import time

import numpy as np
from _common import KIB, MIB, Child, Figure, Options, main, median, say, spread
from _end import *  # noqa: F403
from _end import _memories, _queues, join, local, pattern

PAGE, APART, LARGE, LARGE_APART = 4 * KIB, 2 * MIB, 4 * MIB, 16 * MIB
LANDING = 16 * MIB


def write_file(path, length):
    """A file in the page cache (written, hence there), which nobody has mapped yet."""
    with open(path, "wb") as file:
        for at in range(0, length, LARGE):
            file.write(pattern(at, min(LARGE, length - at)).tobytes())
        file.flush()
        os.fsync(file.fileno())  # clean pages: a dirty one costs the same, its write-back does not


def pairs(cold, hot, length, offsets, verified, there=None):
    """Times in microseconds of a READ of each offset in *cold*, and of one in *hot*, by turns; words that were wrong.

    *there*: a region with the same bytes, whose pages were read before: also of a READ in it, half of the offsets away.
    """
    q, base, wrong = _queues["main"], local("local"), 0
    times = {"waking": [], "hot": [], "there": [], "cold": []}
    landed = []
    for i, offset in enumerate(offsets):
        far = offsets[(i + len(offsets) // 2) % len(offsets)]
        visits = [("hot", hot, 0), ("cold", cold, offset)] + ([("there", there, far)] if there else [])
        first = i % len(visits)
        # The first one, not counted, is for cores that have to wake after the pause.
        for name, remote, where in [("waking", hot, 0)] + visits[first:] + visits[:first]:
            place = length * (1 + len(landed)) if name == "cold" else 0
            work = q.stage("read", base, place, remote, where, length, 1)
            began = time.perf_counter_ns()
            q.post(work)
            q.must_poll()
            times[name].append((time.perf_counter_ns() - began) / 1e3)
        landed.append(offset)
        if (2 + len(landed)) * length > LANDING or i + 1 == len(offsets):
            wrong += _wrong(landed, length, verified)
            landed.clear()
    return times | {"wrong": wrong}


def _wrong(landed, length, verified):
    """Words that are not what lies at the offsets *landed*, whose bytes follow each other behind the hot ones."""
    wrong = 0
    for k, offset in enumerate(landed):
        got = _memories["local"].bytes[(1 + k) * length : (2 + k) * length].view(np.int64)
        wrong += int((got != (pattern(offset, length) if verified else 0)).sum())
        got[:] = -1
    return wrong


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
        # Where the READs land is there.
        reader.ask("pairs", cold=hot, hot=hot, length=LANDING // 2, offsets=[LANDING // 2], verified=True)

        def unread(kind, name):
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
                remote = unread(kind, name)
                offsets = (rng.permutation(span // step)[:count] * step).tolist()
                warm, offsets = offsets[:4], offsets[4:]
                regions = [name]
                job = {"cold": remote, "hot": hot, "length": length, "verified": kind == "page cache"}
                reader.ask("pairs", offsets=warm, **job)
                if kind == "page cache" and what == "large":
                    there = owner.ask("expose_file", name="there", path=path)
                    reader.ask("pairs", offsets=offsets, **job | {"cold": there})
                    job["there"], regions = there, [name, "there"]
                before = {region: owner.ask("region_counters", name=region) for region in regions}
                gave = reader.ask("pairs", offsets=offsets, **job)
                after = {region: owner.ask("region_counters", name=region) for region in regions}
                owner.ask("drop", name=name)
                if wrong := gave.pop("wrong"):
                    raise RuntimeError(f"{name}: {wrong} wrong words")
                parts = {f"{key}_us": spread(times) for key, times in gave.items() if times}
                for region, label in zip(regions, ("counters", "there_counters")):
                    parts[label] = {key: value - before[region].get(key, 0) for key, value in after[region].items()}
                if parts["counters"].get("faults_read", 0) < len(offsets):
                    raise RuntimeError(f"{name}: {len(offsets)} READs of what nobody had read, with fewer faults")
                middle = {key: median(times) for key, times in gave.items() if times}
                if what == "small":
                    # Of each its own neighbour: whether cores sleep in between changes every few hundred READs.
                    added[kind] = median(cold - hot for cold, hot in zip(gave["cold"], gave["hot"]))
                    target = "<= 60" if kind != "owned" else ""
                    figures.append(Figure(f"added by one minor fault, {text}", added[kind], "us", target, parts))
                else:
                    said = f"READ 4 MiB never touched / hot + one fault, {kind}"
                    against = {"": "hot"} if "there" not in middle else {"": "there", ", hot in the CPU's caches": "hot"}
                    for where, key in against.items():
                        value = middle["cold"] / (middle[key] + added[kind])
                        figures.append(Figure(said + where, value, "times", "<= 1.6", parts))
                say(f"{name}: " + ", ".join(f"{key} {value:.1f} us" for key, value in sorted(middle.items())))
    return figures


if __name__ == "__main__":
    main(measure, globals())
