"""1 % of the packets lost, some repeated, some late: every byte right, every atomic once, and how fast.

A middleman (`_middleware`) in a third process stands between the ends; `tc netem` is not used, it is often not there. The
middleman takes its share of two cores, so the rates compare with those through the same middleman when it does nothing.
"""

import time

import numpy as np
from _common import MIB, Child, Figure, Options, interleave, main, median, spread
from _end import *  # noqa: F403
from _end import _memories, _queues, domain, local, pattern
from _middleware import Middleman

SPAN, PIECE = 64 * MIB, 256 * 1024
LOSS, REPEAT, REORDER = 0.01, 0.005, 0.01
_middle: list[Middleman] = []


def address() -> str:
    return domain().context.address


def stand_between(one: str, other: str, seed: int) -> str:
    _middle.append(Middleman(one, other, seed=seed))
    return _middle[0].address


def behave(loss: float, repeat: float, reorder: float) -> None:
    _middle[0].set(loss, repeat, reorder)


def fates() -> dict[str, int]:
    return _middle[0].counts()


def transfer(remote: dict, op: str, seconds: float, salt: int) -> dict[str, float]:
    """READs (or WRITEs, read back) of every piece of the span in a random order, checked: MiB/s and wrong words."""
    q, rng = _queues["main"], np.random.default_rng(salt)
    landing = _memories["local"].bytes
    wrong, took, moved, began = 0, 0.0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        places = rng.permutation(SPAN // PIECE)[:64] * PIECE
        rows = landing[: 64 * PIECE].view(np.int64).reshape(64, -1)
        expected = np.stack([pattern(int(place) + salt * 8 * (op == "write"), PIECE) for place in places])
        rows[:] = expected if op == "write" else 0
        start = time.perf_counter()
        q.run(q.stage(op, local("local"), np.arange(64) * PIECE, remote, places, PIECE, 64), 16)
        took += time.perf_counter() - start
        moved += 64 * PIECE
        if op == "write":
            rows[:] = 0
            q.run(q.stage("read", local("local"), np.arange(64) * PIECE, remote, places, PIECE, 64), 16)
            wrong += int((rows != expected).sum())
            rows[:] = np.stack([pattern(int(place), PIECE) for place in places])
            q.run(q.stage("write", local("local"), np.arange(64) * PIECE, remote, places, PIECE, 64), 16)
        else:
            wrong += int((rows != expected).sum())
    return {"mib_per_s": moved / took / MIB, "wrong": wrong}


def count_up(remote: dict, count: int) -> dict[str, int]:
    """FetchAdd of 1, *count* times from 0, 16 in flight: values that did not come exactly once."""
    q, landing = _queues["main"], _memories["local"].bytes.view(np.int64)
    landing[:count] = -1
    q.run(q.stage("add", local("local"), np.arange(count) * 8, remote, 0, 8, count), 16)
    return {"bad": int((np.sort(landing[:count]) != np.arange(count)).sum())}


def value(name: str) -> int:
    return int(_memories[name].bytes[:8].view(np.int64)[0])


def clear(name: str) -> None:
    _memories[name].bytes[:8] = 0


def refill(name: str) -> None:
    _memories[name].bytes.view(np.int64)[:] = pattern(0, SPAN)


def measure(options: Options) -> list[Figure]:
    rounds, seconds, adds = options.pick(9, 2), options.pick(1.5, 0.2), options.pick(20_000, 500)
    with Child() as owner, Child() as reader, Child() as middle:
        owner.ask("make", name="served", kind="shared", length=SPAN, fill=True)
        owner.ask("make", name="counter", kind="shared", length=4096)
        reader.ask("make", name="local", kind="shared", length=SPAN, fill=True)
        remote, counter = owner.ask("expose", name="served"), owner.ask("expose", name="counter")
        reader.ask("expose", name="local")
        between = middle.ask("stand_between", one=owner.ask("address"), other=reader.ask("address"), seed=20_261_122)
        salts, failures = iter(range(1, 1 << 20)), []

        def pair():
            infos = owner.ask("queue", name="main"), reader.ask("queue", name="main")
            for end, peer in ((owner, infos[1]), (reader, infos[0])):
                end.ask("connect", name="main", peer=peer | {"gid": f"::ffff:{between}"})

        def attempt(what, command, **arguments):
            """Something that must not fail; where it does, that is a figure, and the rest goes on with a new pair."""
            try:
                return reader.ask(command, **arguments)
            except RuntimeError as error:
                failures.append(f"{what}: {error}")
                middle.ask("behave", loss=0, repeat=0, reorder=0)
                owner.ask("refill", name="served")
                pair()
                return None

        def run(op, loss, repeat, reorder):
            def go():
                middle.ask("behave", loss=loss, repeat=repeat, reorder=reorder)
                what = f"{op} with {loss:.1%} lost, {repeat:.1%} repeated, {reorder:.1%} late"
                gave = attempt(what, "transfer", remote=remote, op=op, seconds=seconds, salt=next(salts))
                return gave or {"mib_per_s": 0.0, "wrong": 0}

            return go

        pair()
        chances = {
            "clean": (0, 0, 0),
            "1% lost": (LOSS, 0, 0),
            "1% late": (0, 0, REORDER),
            "all": (LOSS, REPEAT, REORDER),
        }
        variants = {f"{op} {name}": run(op, *some) for op in ("read", "write") for name, some in chances.items()}
        variants["read clean"]()
        gave = interleave(rounds, variants)
        middle.ask("behave", loss=LOSS, repeat=REPEAT, reorder=REORDER)
        owner.ask("clear", name="counter")
        atomics = attempt("FetchAdd", "count_up", remote=counter, count=adds) or {"bad": adds}
        total = owner.ask("value", name="counter")
        counts = {name: end.ask("counters") for name, end in (("owner", owner), ("reader", reader))}
        parts = {"packets": middle.ask("fates"), **counts}
    if not all(parts["packets"][fate] for fate in ("lost", "repeated", "reordered")):
        raise RuntimeError(f"the middleman did not do its part: {parts['packets']}")
    wrong = sum(one["wrong"] for ones in gave.values() for one in ones)
    figures = [
        Figure("wrong words under loss, repetition and reordering", wrong, "", "== 0", parts),
        Figure("requests that failed", len(failures), "", "== 0", {"failures": failures[:20]}),
        Figure(f"FetchAdds of {adds} not done exactly once", atomics["bad"] + abs(total - adds), "", "== 0"),
    ]
    rates = {name: [one["mib_per_s"] for one in ones] for name, ones in gave.items()}
    for op in ("read", "write"):
        for name in list(chances)[1:]:
            parts = {f"{one}_mib_per_s": spread(rates[f"{op} {one}"]) for one in (name, "clean")}
            value = median(rates[f"{op} {name}"]) / median(rates[f"{op} clean"])
            figures.append(Figure(f"{op.upper()} 256 KiB, depth 16, {name} / clean", value, "", "", parts))
    return figures


if __name__ == "__main__":
    main(measure, globals())
