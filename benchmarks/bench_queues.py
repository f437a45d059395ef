"""A thousand queue pairs connected, 64 of them active: what each takes, and what they carry together."""

import time

import numpy as np
from _common import KIB, MIB, Child, Figure, Options, interleave, main, median, spread
from _end import *  # noqa: F403
from _end import _fleets, _memories, join_fleets, local, pattern

SPAN, LENGTH, DEPTH = 64 * MIB, 64 * KIB, 64


def greet(remote, count):
    """A verified READ over every queue pair: wrong words."""
    wrong = 0
    landing = _memories["local"].bytes[:LENGTH].view(np.int64)
    for i, queue in enumerate(_fleets["all"].queues):
        offset = i * LENGTH % SPAN
        queue.run(queue.stage("read", local("local"), 0, remote, offset, LENGTH, 1), 1)
        wrong += int((landing != pattern(offset, LENGTH)).sum())
    return wrong


def rate(remote, active, count):
    """MiB/s of *count* READs over the first *active* queue pairs, 64 in flight in all."""
    offsets = np.arange(count) * LENGTH % SPAN
    work = _fleets["all"].queues[0].stage("read", local("local"), offsets, remote, offsets, LENGTH, count)
    began = time.perf_counter()
    _fleets["all"].run(work, active, max(1, DEPTH // active))
    return count * LENGTH / MIB / (time.perf_counter() - began)


def measure(options: Options) -> list[Figure]:
    count, rounds, reads = options.pick(1000, 100), options.pick(9, 2), options.pick(10_000, 500)
    with Child() as owner, Child() as reader:
        owner.ask("make", name="served", kind="shared", length=SPAN, fill=True)
        reader.ask("make", name="local", kind="shared", length=SPAN, fill=True)
        remote = owner.ask("expose", name="served")
        reader.ask("expose", name="local")
        before = [end.ask("memory_of_process")["VmRSS"] for end in (owner, reader)]
        took = join_fleets(owner, reader, "all", count, DEPTH)
        wrong = reader.ask("greet", remote=remote, count=count)
        after = [end.ask("memory_of_process")["VmRSS"] for end in (owner, reader)]
        active = min(64, count)
        variants = {str(n): lambda n=n: reader.ask("rate", remote=remote, active=n, count=reads) for n in (1, active)}
        gave = interleave(rounds, variants)
    kib = [(b - a) / count for a, b in zip(before, after)]
    rates = {f"{name}_active_mib_per_s": spread(values) for name, values in gave.items()}
    value = median(gave[str(active)]) / median(gave["1"])
    connecting = {"connect_ms_each": round(took * 1e3 / count, 3)}
    ends = {"owner_kib": round(kib[0], 2), "reader_kib": round(kib[1], 2)}
    return [
        Figure(f"wrong words in a READ over each of {count} queue pairs", wrong, "", "== 0", connecting),
        Figure(f"memory per queue pair ({DEPTH} sends deep)", max(kib), "KiB", "", ends),
        Figure(f"READ 64 KiB, {active} active / 1 active, 64 in flight", value, "times", "", rates),
    ]


if __name__ == "__main__":
    main(measure, globals())
