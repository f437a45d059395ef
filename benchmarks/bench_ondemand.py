"""Hot READ and WRITE of 1 MiB at depth 16: on-demand regions at both ends over pinned ones of the same memory."""

from _common import MIB, Child, Figure, Options, interleave, main, median, spread
from _end import *  # noqa: F403  the commands of the two ends
from _end import join

SPAN = 64 * MIB


def measure(options: Options) -> list[Figure]:
    rounds, seconds = options.pick(60, 3), options.pick(0.1, 0.1)  # many short ones: a disturbance spoils few of them
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
            value = median(gave["demand"]) / median(gave["pinned"])
            parts = {f"{how}_mib_per_s": spread(rates) for how, rates in gave.items()}
            figures.append(Figure(f"hot {op.upper()} 1 MiB, depth 16: on-demand / pinned", value, "", ">= 0.97", parts))
        return figures


if __name__ == "__main__":
    main(measure, globals())
