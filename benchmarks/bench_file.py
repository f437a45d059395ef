"""A file four times the memory that its owner's cgroup may use: read at random and from end to end, every byte checked.

Beside it, a process in the same cgroup that reads the same file with plain system calls.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import HERE, MIB, Child, Figure, Options, interleave, main, median, missing, say, spread
from _end import *  # noqa: F403
from _end import _fleets, _memories, _queues, join, join_fleets, local, pattern

from support import Missing
from support.cgroup import memory_cgroup

WINDOW = 16


def write_file(path, length):
    """The file, on the disk and nowhere else: what comes to be in memory is then the owner's to pay."""
    with open(path, "wb") as file:
        for at in range(0, length, 4 * MIB):
            file.write(pattern(at, 4 * MIB).tobytes())
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_random(remote, length, count, seed, lanes):
    """*count* pages at random places over *lanes* queue pairs, 16 in flight in all: pages a second, wrong words."""
    fleet, rng = _fleets["lanes"], np.random.default_rng(seed)
    places = rng.integers(0, length // 4096, count) * 4096
    wrong, took = 0, 0.0
    for at in range(0, count, 512):
        some = places[at : at + 512]
        work = fleet.queues[0].stage("read", local("local"), np.arange(len(some)) * 4096, remote, some, 4096, len(some))
        began = time.perf_counter()
        fleet.run(work, lanes, WINDOW // lanes)
        took += time.perf_counter() - began
        got = _memories["local"].bytes[: len(some) * 4096].view(np.int64).reshape(len(some), 512)
        wrong += sum(int((row != pattern(int(place), 4096)).sum()) for row, place in zip(got, some))
    return {"rate": count / took, "wrong": wrong}


def read_through(remote, length):
    """All of it, 1 MiB at a time: MiB/s, wrong words."""
    q, wrong, took = _queues["main"], 0, 0.0
    for at in range(0, length, WINDOW * MIB):
        some = np.arange(min(WINDOW, (length - at) // MIB)) * MIB
        began = time.perf_counter()
        q.run(q.stage("read", local("local"), some, remote, at + some, MIB, len(some)), WINDOW)
        took += time.perf_counter() - began
        wrong += int((_memories["local"].bytes[: len(some) * MIB].view(np.int64) != pattern(at, len(some) * MIB)).sum())
    return {"rate": length / MIB / took, "wrong": wrong}


def plain_random(path, length, count, seed):
    """The same with pread, one after the other."""
    places = (np.random.default_rng(seed).integers(0, length // 4096, count) * 4096).tolist()
    with open(path, "rb") as file:
        began = time.perf_counter()
        for place in places:
            os.pread(file.fileno(), 4096, place)
        return {"rate": count / (time.perf_counter() - began), "wrong": 0}


def plain_through(path, length):
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(MIB)
        began = time.perf_counter()
        while file.readinto(buffer):
            pass
        return {"rate": length / MIB / (time.perf_counter() - began), "wrong": 0}


def measure(options: Options) -> list[Figure]:
    limit, pages = 512 * MIB, options.pick(4_000, 500)
    length = 4 * limit
    what = f"READ of a file of {length // MIB} MiB in {limit // MIB} MiB of memory"
    room = os.statvfs(HERE)
    if room.f_bavail * room.f_frsize < 2 * length:
        return [missing(what, f"less than {2 * length // MIB} MiB free on the disk")]
    try:
        with memory_cgroup(limit) as group, tempfile.TemporaryDirectory(dir=HERE) as folder:
            return in_group(group, os.path.join(folder, "file"), length, pages, options.pick(3, 1), what)
    except Missing as why:
        return [missing(what, str(why))]


def in_group(group, path, length, pages, rounds, what):
    with Child() as writer:
        say(f"writing {length // MIB} MiB")
        writer.ask("write_file", path=path, length=length)
    enter = ["sh", "-c", f'echo $$ > {group.path / "cgroup.procs"}; exec "$@"', "sh"]
    with Child(prefix=enter) as owner, Child(prefix=enter) as plain, Child() as reader:
        reader.ask("make", name="local", kind="shared", length=WINDOW * MIB, fill=True)
        join(owner, reader, depth=64)
        join_fleets(owner, reader, "lanes", WINDOW)
        remote = owner.ask("expose_file", name="file", path=path)
        reader.ask("expose", name="local")
        seeds = iter(range(1 << 20))

        def at_random(lanes, share=1):
            count = pages // share
            return lambda: reader.ask(
                "read_random", remote=remote, length=length, count=count, seed=next(seeds), lanes=lanes
            )

        gave = interleave(
            rounds,
            {
                "random_16_queues": at_random(16),
                "random_1_queue": at_random(1, 4),
                "random_pread": lambda: plain.ask(
                    "plain_random", path=path, length=length, count=pages // 4, seed=next(seeds)
                ),
                "through": lambda: reader.ask("read_through", remote=remote, length=length),
                "through_read": lambda: plain.ask("plain_through", path=path, length=length),
            },
        )
        status, counts = owner.ask("memory_of_process"), owner.ask("region_counters", name="file")
        peaks = [Path(group.path, name) for name in ("memory.max_usage_in_bytes", "memory.peak")]
        peak = max(int(file.read_text()) for file in peaks if file.exists())
        kills = group.oom_kills()
    wrong = sum(one["wrong"] for ones in gave.values() for one in ones)
    parts = {"counters": counts, "group_peak_mib": round(peak / MIB), "owner_rss_mib": status["VmRSS"] // 1024}
    rates = {name: [one["rate"] for one in ones] for name, ones in gave.items()}
    figures = [
        Figure(f"{what}: wrong words", wrong, "", "== 0", parts),
        Figure("processes killed for memory", kills, "", "== 0"),
        Figure("locked or pinned by the owner", status["VmLck"] + status.get("VmPin", 0), "KiB", "== 0"),
    ]
    texts = (
        (
            "random_16_queues",
            "random_pread",
            "random 4 KiB over 16 queue pairs / pread by one thread",
            "pages_per_s",
        ),
        (
            "random_1_queue",
            "random_pread",
            "random 4 KiB, 16 in flight on one queue pair / pread by one thread",
            "pages_per_s",
        ),
        ("through", "through_read", "from end to end, 1 MiB, 16 in flight / read by one thread", "mib_per_s"),
    )
    for one, other, text, unit in texts:
        parts = {f"{name}_{unit}": spread(rates[name]) for name in (one, other)}
        figures.append(Figure(text, median(rates[one]) / median(rates[other]), "times", "", parts))
    return figures


if __name__ == "__main__":
    main(measure, globals())
