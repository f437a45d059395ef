"""Registering memory: 64 GiB of reserved memory on demand, smaller ranges beside it, and pinning per GiB."""

import time

from _common import GIB, KIB, MIB, Child, Figure, Options, interleave, main, median, spread
from _end import *  # noqa: F403
from _end import domain, drop, expose, make, memory_of_process, withdraw


def warm():
    """The device's threads, its blocks' first pages and the code itself are not part of a registration."""
    domain()
    for kind in ("private", "shared", "owned"):
        once(kind, MIB, "demand")


def once(kind, length, how, touched=False):
    """Register and close one untouched range: milliseconds, and KiB that the process grew by."""
    make("range", kind, length, touched)
    before = memory_of_process()["VmRSS"]
    began = time.perf_counter()
    expose("range", how)
    took = time.perf_counter() - began
    grew = memory_of_process()["VmRSS"] - before
    closing = withdraw("range", how)
    drop("range")
    return {"ms": took * 1e3, "grew_kib": grew, "close_ms": closing * 1e3}


def measure(options: Options) -> list[Figure]:
    huge, pinned = options.pick(64 * GIB, 64 * GIB), options.pick(GIB, 64 * MIB)
    figures = []
    with Child() as owner:
        owner.ask("warm")

        def run(kind, length, how, touched=False):
            return lambda: owner.ask("once", kind=kind, length=length, how=how, touched=touched)

        variants = {
            f"{kind} {size}": run(kind, length, "demand")
            for kind in ("private", "shared", "owned")
            for size, length in (("1 MiB", MIB), ("1 GiB", GIB), ("64 GiB", huge))
        }
        gave = interleave(options.pick(31, 5), variants)
        pins = interleave(
            options.pick(5, 2),
            {"untouched": run("private", pinned, "pinned"), "resident": run("private", pinned, "pinned", True)},
        )
    per_gib = {name: spread([one["ms"] * GIB / pinned for one in ones]) for name, ones in pins.items()}
    for kind in ("private", "shared", "owned"):
        ms = {size: [one["ms"] for one in gave[f"{kind} {size}"]] for size in ("1 MiB", "1 GiB", "64 GiB")}
        grew = median(one["grew_kib"] for one in gave[f"{kind} 64 GiB"])
        parts = {size.replace(" ", "_") + "_ms": spread(times) for size, times in ms.items()}
        parts["close_64_GiB_ms"] = spread([one["close_ms"] for one in gave[f"{kind} 64 GiB"]])
        figures.append(Figure(f"register 64 GiB on demand, {kind}", median(ms["64 GiB"]), "ms", "<= 1", parts))
        figures.append(Figure(f"memory that it takes, {kind}", grew * KIB / MIB, "MiB", "<= 1"))
        figures.append(Figure(f"64 GiB / 1 MiB, {kind}", median(ms["64 GiB"]) / median(ms["1 MiB"]), "times"))
    parts = {f"{name}_ms_per_gib": times for name, times in per_gib.items()}
    figures.append(
        Figure("pinned registration of 1 GiB, for comparison", per_gib["untouched"]["median"], "ms", "", parts)
    )
    return figures


if __name__ == "__main__":
    main(measure, globals())
