"""perftest's layout, in less than 80 columns: its header, its columns, its number formats."""

from __future__ import annotations

from typing import Any, TextIO

from unpinned.perf.options import Options
from unpinned.perf.session import Result, Watcher, settled_mtu
from unpinned.remote.messages import Message

RULE = "-" * 79
TITLES = {"read": "RDMA_Read", "write": "RDMA_Write", "send": "Send", "atomic": "Atomic FETCH_AND_ADD"}
MEMORY = {"odp": "on demand", "pinned": "pinned", "implicit": "implicit"}
BANDWIDTH = "#bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]"
LATENCY = "#bytes  #iterations  t_min    t_max  t_typical  t_avg  t_stdev    99%  99.9%"
_LATENCY_COLUMNS = (
    ("t_min", 6), ("t_max", 8), ("t_typical", 10), ("t_avg", 6), ("t_stdev", 8), ("percentile_99", 6), ("percentile_99.9", 6)
)  # fmt: skip
UNIT = "(times in usec)"


class Printer(Watcher):
    """Prints header and rows as they come, to *stream*."""

    def __init__(self, stream: TextIO, device: str = "") -> None:
        self.stream = stream

    def begin(self, options: Options, mine: Message, theirs: Message) -> None:
        for line in header(options, mine, theirs):
            print(line, file=self.stream)
        self.stream.flush()

    def result(self, options: Options, result: Result) -> None:
        print(row(options, result), file=self.stream, flush=True)


def header(options: Options, mine: Message, theirs: Message) -> list[str]:
    """Everything above the rows."""
    title = f"{TITLES[options.verb]} {'Latency' if options.is_latency else 'BW'} Test"
    pairs = [
        ("Device", str(mine["device"])[:24], "Transport type", "RoCE v2"),
        ("Number of qps", options.qps, "Connection type", "RC"),
        ("Memory", MEMORY[options.memory], "Mtu", f"{settled_mtu(options, mine, theirs)}[B]"),
        ("TX depth", 1 if options.is_latency else options.depth, "Outstand reads", 16),
    ]
    lines = [RULE, f"{title:^79}".rstrip()]
    lines += [f" {left:<16}: {value!s:<24} {right:<16}: {other}" for left, value, right, other in pairs]
    lines += [RULE, *(_address(name, end) for name, end in (("local", mine), ("remote", theirs))), RULE]
    return [*lines, f"{LATENCY}\n{UNIT:>79}" if options.is_latency else BANDWIDTH]


def _address(name: str, end: Message) -> str:
    link: dict[str, Any] = end["links"][0]
    where = f"QPN {link['qpn']:#08x} PSN {link['psn']:#08x} RKey {end['rkey']:#010x}"
    return f" {name + ' address:':<16}{where} VAddr {end['address']:#014x}"


def figure(value: float, width: int) -> str:
    """With two decimals, or as many as fit: a slow machine's latencies keep to their columns.

    >>> figure(58.283, 6), figure(3006.18, 6), figure(18745.09, 6)
    (' 58.28', '3006.2', ' 18745')
    """
    texts = (f"{value:{width}.{decimals}f}" for decimals in (2, 1))
    return next((text for text in texts if len(text) <= width), f"{value:{width}.0f}")


def row(options: Options, result: Result) -> str:
    """One measured size."""
    size, count = result["MsgSize"], result["n_iterations"]
    if options.is_latency:
        times = (figure(result[name], width) for name, width in _LATENCY_COLUMNS)
        return f"{size:<7} {count:<11} {' '.join(times)}"
    return (
        f"{size:<10} {count:<14} {result['BW_peak']:<18.2f} {result['BW_average']:<20.2f} {result['MsgRate']:.6f}"
    )
