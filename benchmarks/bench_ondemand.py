"""Hot READ and WRITE of 1 MiB at depth 16: on-demand regions at both ends over pinned ones of the same memory.

The two are measured in turns of 50 ms, and each is compared with its neighbour: what else the machine does changes both rates by a
factor, and more between two rounds than within one. The value is the median of these ratios.
"""

from _common import MIB, Child, Figure, Options, interleave, main, median, spread
from _end import *  # noqa: F403  the commands of the two ends
from _end import join

SPAN = 64 * MIB


def measure(options: Options) -> list[Figure]:
    rounds, seconds = options.pick(240, 3), 0.05
    with Child() as owner, Child() as reader:
        owner.ask("make", name="served", kind="shared", length=SPAN, fill=True)
        reader.ask("make", name="local", kind="shared", length=SPAN, fill=True)
        join(owner, reader)
        remote = {how: owner.ask("expose", name="served", how=how) for how in ("demand", "pinned")}
        for how in remote:
            reader.ask("expose", name="local", how=how)

        def run(op, how):
            return lambda: reader.ask(
                "bandwidth", remote=remote[how], op=op, length=MIB, depth=16, seconds=seconds, span=SPAN, how=how
            )

        figures = []
        for op in ("read", "write"):
            for how in remote:
                run(op, how)()  # warm
            gave = interleave(rounds, {how: run(op, how) for how in remote})
            ratios = [demand / pinned for demand, pinned in zip(gave["demand"], gave["pinned"], strict=True)]
            parts = {f"{how}_mib_per_s": spread(rates) for how, rates in gave.items()} | {"ratio": spread(ratios)}
            figures.append(Figure(f"hot {op.upper()} 1 MiB, depth 16: on-demand / pinned", median(ratios), "", ">= 0.97", parts))
        return figures


if __name__ == "__main__":
    main(measure, globals())
