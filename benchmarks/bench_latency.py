"""A hot READ of 8 bytes, over a ping-pong of 8-byte datagrams between two plain loops at C speed on the same machine.

The READs are posted and polled from Python. The scheduler likes to put two blocking loops on one core, where no core has to be
woken; so the ping-pong of two loops that are kept apart is stated too.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from _common import KIB, MIB, Child, Figure, Options, interleave, main, median, p99, spread
from _end import *  # noqa: F403
from _end import join
from _kernels import echo, ping

SPAN = MIB
_sockets: dict[str, socket.socket] = {}
_scratch = np.zeros(64, np.uint8)


def open_socket() -> int:
    """A plain UDP socket on loopback; its port."""
    _sockets["udp"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    _sockets["udp"].bind(("127.0.0.1", 0))
    return _sockets["udp"].getsockname()[1]


def aim(port: int) -> None:
    _sockets["udp"].connect(("127.0.0.1", port))


@contextmanager
def only_on(core: int) -> Iterator[None]:
    """Keep this thread on one of the cores that the process may use (-1: let the scheduler choose)."""
    cores = os.sched_getaffinity(0)
    if core >= 0:
        os.sched_setaffinity(0, {sorted(cores)[core % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)


def answer(rounds: int, core: int) -> int:
    with only_on(core):
        return int(echo(_sockets["udp"].fileno(), _scratch.ctypes.data, rounds))


def ask(rounds: int, core: int) -> dict[str, float]:
    """Round trips, microseconds."""
    times = np.zeros(rounds, np.int64)
    with only_on(core):
        if ping(_sockets["udp"].fileno(), _scratch.ctypes.data, 8, times):
            raise OSError("the datagrams do not come back")
    return {"median": float(np.median(times)) / 1e3, "p99": p99((times / 1e3).tolist()), "n": rounds}


def measure(options: Options) -> list[Figure]:
    rounds, count = options.pick(15, 3), options.pick(4000, 300)
    with Child() as owner, Child() as reader:
        owner.ask("make", name="served", kind="shared", length=SPAN, fill=True)
        reader.ask("make", name="local", kind="shared", length=SPAN, fill=True)
        join(owner, reader)
        remote = owner.ask("expose", name="served")
        reader.ask("expose", name="local")
        ports = owner.ask("open_socket"), reader.ask("open_socket")
        owner.ask("aim", port=ports[1]), reader.ask("aim", port=ports[0])

        def plain(one, other):
            owner.start("answer", rounds=count, core=one)
            took = reader.ask("ask", rounds=count, core=other)
            owner.result()
            return took

        def one(op, length):
            return lambda: reader.ask(
                "latency", remote=remote, op=op, length=length, count=count, step=4 * KIB, span=SPAN
            )

        variants = {
            "udp": lambda: plain(-1, -1),
            "udp_two_cores": lambda: plain(0, 1),
            "read_8": one("read", 8),
            "write_8": one("write", 8),
            "add_8": one("add", 8),
            "read_4096": one("read", 4096),
        }
        for variant in variants.values():
            variant()
        gave = interleave(rounds, variants)
    middle = {name: median(one["median"] for one in ones) for name, ones in gave.items()}
    parts = {
        f"{name}_us": spread([one["median"] for one in ones]) | {"p99": median(one["p99"] for one in ones)}
        for name, ones in gave.items()
    }
    figures = [
        Figure("hot READ 8 B / UDP ping-pong, medians", middle["read_8"] / middle["udp"], "times", "<= 2", parts)
    ]
    apart = middle["read_8"] / middle["udp_two_cores"]
    figures.append(Figure("the same, the two UDP loops kept on two cores", apart, "times"))
    for name, text in (("write_8", "hot WRITE 8 B"), ("add_8", "FetchAdd"), ("read_4096", "hot READ 4 KiB")):
        figures.append(Figure(f"{text} / UDP ping-pong, medians", middle[name] / middle["udp"], "times"))
    return figures


if __name__ == "__main__":
    main(measure, globals())
