"""The owner's Python spins and never gives up the GIL of its own will; the same with an unrelated process spinning instead."""

import time

from _common import KIB, MIB, Child, Figure, Options, Spinner, interleave, main, median, spread
from _end import *  # noqa: F403
from _end import join

SPAN = 64 * MIB
READY_SECONDS = 0.05
SPARE_SECONDS = 0.5


def measure(options: Options) -> list[Figure]:
    rounds, seconds, count = options.pick(15, 3), options.pick(0.5, 0.15), options.pick(1500, 200)
    with Child() as owner, Child() as reader:
        owner.ask("make", name="served", kind="shared", length=SPAN, fill=True)
        reader.ask("make", name="local", kind="shared", length=SPAN, fill=True)
        join(owner, reader)
        remote = owner.ask("expose", name="served")
        reader.ask("expose", name="local")

        def both():
            rate = reader.ask("bandwidth", remote=remote, op="read", length=MIB, depth=16, seconds=seconds, span=SPAN)
            wait = reader.ask(
                "latency",
                remote=remote,
                op="read",
                length=4 * KIB,
                count=count,
                step=64 * KIB,
                span=SPAN,
                seconds=seconds,
            )
            return {"rate": rate, "us": wait["median"], "p99_us": wait["p99"]}

        def owner_spins():
            owner.start("spin", seconds=READY_SECONDS + 2 * seconds + SPARE_SECONDS)
            time.sleep(READY_SECONDS)
            gave, ended = both(), time.monotonic()
            if owner.result() < ended:
                raise RuntimeError("the owner stopped spinning before the last READ")
            return gave

        def neighbour_spins():
            with Spinner():
                return both()

        both()
        gave = interleave(rounds, {"owner": owner_spins, "neighbour": neighbour_spins, "quiet": both})
    rate = {name: [one["rate"] for one in ones] for name, ones in gave.items()}
    wait = {name: [one["us"] for one in ones] for name, ones in gave.items()}
    tails = {f"{name}_p99_us": median(one["p99_us"] for one in ones) for name, ones in gave.items()}
    return [
        Figure(
            "READ bandwidth, owner's Python spins / neighbour spins",
            median(rate["owner"]) / median(rate["neighbour"]),
            "",
            ">= 0.95",
            {f"{name}_mib_per_s": spread(rates) for name, rates in rate.items()},
        ),
        Figure(
            "READ 4 KiB latency, owner's Python spins / neighbour spins",
            median(wait["owner"]) / median(wait["neighbour"]),
            "",
            "<= 1.1",
            {f"{name}_us": spread(times) for name, times in wait.items()} | tails,
        ),
    ]


if __name__ == "__main__":
    main(measure, globals())
