"""This project's live device as a profile of `unpinned study`: each of its times, measured, and what the study makes of them.

How each figure was measured stands behind it in the file that `--write` makes; what could not be is marked as a guess there. A
profile is worth what it predicts: the study then runs with it, and what it says is compared with the device's own times,
measured apart from those that the figures come from.

    python benchmarks/bench_live.py --write src/unpinned/study/live.toml
    python benchmarks/bench_live.py --name mine --write mine.toml          # for `unpinned study --profile mine.toml`
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from _common import MIB, Child, Figure, Options, interleave, main, median, missing, say, spread
from _end import *  # noqa: F403
from _end import join
from _times import *  # noqa: F403
from _times import APART, CHUNK, MANY, PAGE, SWAPPED
from bench_faults import write_file as write_file
from bench_latency import *  # noqa: F403

from unpinned.host.device import WORKERS
from unpinned.study.profiles import Profile, dumps, profiles

SMALL, SOME, LARGE = 8, 16 * PAGE, MIB
LANDING, WARM = 8 * MIB, 16
CLOSE = "<= 1.15"
HEADER = """This project's own device as a profile of the study, written by benchmarks/bench_live.py. Times in ns, medians,
measured on {machine}, while 8 B went to another core and back in {wake:.0f} us (UDP,
two plain loops): waking threads is most of wire, resume and notify. Behind each figure: what was measured."""
TITLE = "unpinned's live device (user space, UDP)"
SWAP = ("major", "major_page", "write_back")
UNTOUCHED = "private"  # costs the device less than any other page (host/nearby.py); the study has one kind of minor fault
CHECKED = (
    ("READ 4 KiB, hot", f"hot {PAGE}", 1),
    ("READ 4 KiB, one minor fault, page cache", f"page cache {PAGE}", 1),
    ("READ 4 KiB, one minor fault, private memory", f"private {PAGE}", 1),
    ("READ 64 KiB, hot", f"hot {SOME}", SOME // PAGE),
    ("READ 64 KiB, one fault over 16 pages, page cache", f"page cache {SOME}", SOME // PAGE),
    ("READ 64 KiB, one fault over 16 pages, private memory", f"private {SOME}", SOME // PAGE),
)


@dataclass
class Fit:
    """A profile in the making: each field's figure, where it is from, and the numbers that it was made of."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    wake_us: float = 0.0  #: a round trip between two plain loops on two cores, meanwhile

    def measured(self, name: str, ns: float, how: str, **parts: list[float]) -> None:
        """A figure, and the samples behind it in ns."""
        self.values[name] = _rounded(ns)
        self.notes[name] = f"measured: {how}"
        self.parts[name] = {part: spread(samples) for part, samples in parts.items()}
        say(f"{name}: {self.values[name]} ns")

    def given(self, why: str, **values: Any) -> None:
        """Figures that are no measurements."""
        self.values |= values
        self.notes |= dict.fromkeys(values, why)

    def profile(self) -> Profile:
        """The profile; each of its figures has been said, none is a default."""
        assert set(self.notes) == {each.name for each in fields(Profile)} - {"name", "title"}
        return Profile(self.name, TITLE, **self.values)

    def figures(self) -> list[Figure]:
        """What was measured, each with how."""
        made = [Figure(name, self.values[name], "ns", "", {"how": self.notes[name], **parts}) for name, parts in self.parts.items()]
        return [Figure("UDP ping-pong between two cores meanwhile", self.wake_us, "us"), *made]


def _rounded(ns: float) -> int:
    """To three digits: the machine's noise is larger."""
    return max(0, int(float(f"{ns:.3g}")))


# --- what is measured ----------------------------------------------------------------------------------------------------


def ns(us: list[float]) -> list[float]:
    return [1e3 * each for each in us]


def hot_reads(fit: Fit, gave: dict[str, list[float]], walks: list[float]) -> None:
    """The wire, and what a page adds to a READ."""
    small, large = ns(gave[f"hot {SMALL}"]), ns(gave[f"hot {LARGE}"])
    walk, page = median(walks), (median(large) - median(small)) / (LARGE / PAGE)
    fit.measured("wire", median(small), "a READ of 8 B of memory that is there", read_8=small)
    fit.measured("walk", walk, "a look into the device's table, at random in 256 MiB", walk=walks)
    fit.measured("copy", page - walk, "a READ of 1 MiB less one of 8 B, by 256, less the walk", read_1_MiB=large)


def faults(fit: Fit, looked: dict[str, list[float]], minor: dict[str, list[float]], gave: dict[str, list[float]]) -> None:
    """One minor fault, in its parts."""
    one, many = median(looked["one"]), median(looked["many"])
    page = (many - one) / (MANY - 1)
    fit.measured("scan", one - page, "a look at one page (PAGEMAP_SCAN), less scan_page", one_page=looked["one"])
    fit.measured("scan_page", page, f"a look at {MANY} pages less one at one, by {MANY - 1}", many_pages=looked["many"])
    fit.measured("minor", median(minor["page cache"]), "MADV_POPULATE_READ of a page in the page cache", **{
        name.replace(" ", "_").replace(",", ""): times for name, times in minor.items()})  # fmt: skip
    cold, hot = ns(gave[f"page cache {PAGE}"]), ns(gave[f"hot {PAGE}"])
    rest = median(cold) - median(hot) - one - median(minor["page cache"])
    fit.measured("resume", rest, "what a minor fault adds to a READ of 4 KiB, less scan, scan_page and minor",
                 cold_read=cold, hot_read=hot)  # fmt: skip


def swap(fit: Fit, rounds: int) -> str:
    """Pages from a real swap file, where there can be one; else why not."""
    from support import Missing
    from support.cgroup import memory_cgroup
    from support.swap import swap_file

    gave: dict[str, list[float]] = {"out": [], "one": [], "chunk": []}
    try:
        with swap_file(2 * SWAPPED), memory_cgroup() as group, Child() as child:
            group.add(child.pid)
            for name, pages in (("one", 1), ("chunk", CHUNK)) * rounds:
                gave["out"].append(child.ask("put_out")["ns"])
                forget(group)
                gave[name] += child.ask("bring_back", pages=pages)
    except Missing as lack:
        kept = {name: getattr(profiles()["live"], name) for name in SWAP}
        fit.given("a guess here, from the profile that was there before: this was fitted without swap", **kept)
        return str(lack)
    one = median(gave["one"])
    fit.measured("major", one, "MADV_POPULATE_READ of a page from a swap file", one=gave["one"])
    fit.measured("major_page", (median(gave["chunk"]) - one) / (CHUNK - 1), f"{CHUNK} such pages in a row less one, by {CHUNK - 1}",
                 chunk=gave["chunk"])  # fmt: skip
    fit.measured("write_back", median(gave["out"]), "MADV_PAGEOUT of written memory, a page", out=gave["out"])
    return ""


def forget(group: Any) -> None:
    """Have the kernel let go of what it has written to swap: it keeps such pages, and finds them again without the disk."""
    for _ in range(100):
        try:
            group.limit(max(4 * MIB, group.usage_bytes() - SWAPPED * 15 // 16))
            break
        except OSError:  # they are still being written
            time.sleep(0.1)
    else:
        raise RuntimeError("what went to swap stays in memory")
    group.limit(8 << 30)


def owner(fit: Fit, one: dict[str, list[float]], many: dict[str, list[float]]) -> None:
    """What the owner pays."""
    added = median(one["registered"]) - median(one["plain"])
    fit.measured("notify", 1e3 * added, "what registration adds to the munmap of a page that nobody uses",
                 registered=ns(one["registered"]), plain=ns(one["plain"]))  # fmt: skip
    page = (median(many["plain"]) - median(one["plain"])) / (MANY - 1)
    fit.measured("page", 1e3 * page, f"munmap of {MANY} pages less one of one, by {MANY - 1}, not registered", plain=ns(many["plain"]))


# --- what the study makes of it ------------------------------------------------------------------------------------------


def latency(profile: Profile, pages: int, cold: bool) -> float:
    """The study's median of READs of so many pages, one after the other, each of its own pages; us."""
    from unpinned.study.policies import STUDY_POLICIES
    from unpinned.study.simulate import Bounds, simulate
    from unpinned.study.workloads import Plan, accesses

    count = 200
    words = accesses(np.arange(count) * pages, count=pages)
    plan = Plan(words, resident=float(not cold), installed=not cold, accesses_loop=False, streams=1)
    made = simulate("READs", STUDY_POLICIES["zap-now"], profile, pages=count * pages, bounds=Bounds(1 << 50, 1 << 50), plan=plan, title="-")
    if (made.results["requests"], made.results["faults"]) != (count, count * cold):
        raise RuntimeError(f"the study served {made.results['requests']} READs with {made.results['faults']} faults")
    return float(made.results["latency_us_p50"])


def blocked(profile: Profile, pages: int) -> float:
    """What the study adds to an munmap of so many pages that nobody uses; us."""
    from unpinned.study import layout as S
    from unpinned.study.policies import STUDY_POLICIES
    from unpinned.study.simulate import Bounds, simulate
    from unpinned.study.workloads import Plan, accesses, rows

    script = rows(S.DO_UNMAP, np.arange(16) * pages, pages, 1_000_000)
    plan = Plan(accesses(np.zeros(0, np.int64)), [script], loop=False, accesses_loop=False, streams=1)
    made = simulate("munmap", STUDY_POLICIES["zap-now"], profile, pages=16 * pages, bounds=Bounds(1 << 50, 1 << 50), plan=plan, title="-")
    return float(made.results["blocked_us_p50"])


def check(what: str, says: float, samples: list[float], target: str = "") -> Figure:
    """How far the study is off, as a factor of at least 1."""
    took, name = median(samples), f"{what}: the study is off by"
    if min(says, took) <= 0:
        return missing(name, f"nothing to compare: the study says {says:.1f} us, the device {took:.1f} us", target)
    figure = Figure(name, max(says / took, took / says), "times", target,
                    {"study_us": round(says, 2), "ratio": round(says / took, 3), "device_us": spread(samples)})  # fmt: skip
    say(f"{what}: the study {says:.1f} us, the device {took:.1f} us")
    return figure


# --- all of it -----------------------------------------------------------------------------------------------------------


def reads(serving: Child, reading: Child, path: str, count: int, rounds: int) -> dict[str, list[list[float]]]:
    """READs of each kind in rounds, us. A cold one meets a page that no READ has met, far from all others; *count* of them."""
    serving.ask("write_file", path=path, length=count * APART)
    serving.ask("make", name="hot", kind="shared", length=LANDING, fill=True)
    reading.ask("make", name="local", kind="shared", length=LANDING, fill=True)
    join(serving, reading)
    here = serving.ask("expose", name="hot")
    reading.ask("expose", name="local")

    def hot(length: int) -> Callable[[], list[float]]:
        what = {"remote": here, "op": "read", "length": length, "step": max(length, PAGE), "span": LANDING}
        return lambda: reading.ask("latencies", count=min(count, 200), **what)

    def cold(kind: str, length: int) -> Callable[[], list[float]]:
        def some() -> list[float]:
            if kind == "page cache":
                remote = serving.ask("expose_file", name="cold", path=path)
            else:
                serving.ask("make", name="cold", kind=kind, length=count * APART)
                remote = serving.ask("expose", name="cold")
            what = {"remote": remote, "op": "read", "length": length, "step": APART, "span": count * APART}
            gave: list[float] = reading.ask("latencies", count=count - WARM, warm=WARM, **what)  # the warm ones meet the last pages
            faulted = serving.ask("region_counters", name="cold").get("faults_read", 0)
            serving.ask("drop", name="cold")
            if faulted < count * 0.95:
                raise RuntimeError(f"{kind}: {faulted} of {count} READs met a page that was not there")
            return gave

        return some

    ports = serving.ask("open_socket"), reading.ask("open_socket")
    serving.ask("aim", port=ports[1]), reading.ask("aim", port=ports[0])

    def plain() -> list[float]:
        serving.start("answer", rounds=count, core=0)
        took = reading.ask("ask", rounds=count, core=1)
        serving.result()
        return [took["median"]]

    variants = {"plain": plain} | {f"hot {length}": hot(length) for length in (SMALL, PAGE, SOME, LARGE)}
    variants |= {f"{kind} {length}": cold(kind, length) for kind in ("page cache", "private") for length in (PAGE, SOME)}
    return interleave(rounds, variants)


def measure(options: Options) -> list[Figure]:
    count, rounds, many = options.pick(250, 60), options.pick(16, 2), options.pick(200, 20)
    fit = Fit(options.own.name)
    with ExitStack() as stack:
        serving, reading = stack.enter_context(Child()), stack.enter_context(Child())
        path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "file")
        gave = reads(serving, reading, path, count, rounds)
        ours = {name: sum(blocks[::2], []) for name, blocks in gave.items()}  # the figures are from every second round
        theirs = {name: sum(blocks[1::2], []) for name, blocks in gave.items()}  # the others judge them
        fit.wake_us = median(ours["plain"])
        hot_reads(fit, ours, serving.ask("walk", pages=65_536, rounds=many))
        faults(fit, serving.ask("look", rounds=many), serving.ask("minor", path=path, count=count), ours)
        unmaps = {pages: serving.ask("unmap", pages=pages, rounds=many) for pages in (1, MANY)}
    owner(fit, unmaps[1], unmaps[MANY])
    lack = swap(fit, options.pick(4, 1))
    fit.given("none: the device is its own host", report=0, report_page=0)
    fit.given("none: the device keeps no translations beside its table", flush=0, tlb=0)
    fit.given("by construction: one driver, its threads, and a page map that does not say", scanners=1, workers=WORKERS, sees_write=False)
    profile = fit.profile()
    checks = []
    for text, name, pages in CHECKED:
        says = latency(profile, pages, not name.startswith("hot"))
        checks.append(check(text, says, theirs[name], CLOSE if pages == 1 and not name.startswith(UNTOUCHED) else ""))
    added = [one - median(unmaps[MANY]["plain"]) for one in unmaps[MANY]["registered"]]
    checks.append(check("registration's part of an munmap of 4 MiB that nobody uses", blocked(profile, MANY), added))
    if options.own.write and (options.quick or any(figure.met is False for figure in checks)):
        say(f"{options.own.write}: not written, for the study does not say what the device does")
    elif options.own.write:
        write(fit, options.own.write)
    figures = fit.figures()
    if lack:
        figures += [missing(name, lack) for name in SWAP]
    return figures + checks


def write(fit: Fit, path: str) -> None:
    """The profile as a file."""
    machine = f"{len(os.sched_getaffinity(0))} cores, Linux {platform.release().split('-')[0]}, {platform.machine()}"
    if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        machine += ", all at real-time priority"
    Path(path).write_text(dumps(fit.profile(), fit.notes, HEADER.format(machine=machine, wake=fit.wake_us)))
    say(f"wrote {path}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", metavar="FILE", help="the profile as TOML, with how each figure was measured")
    parser.add_argument("--name", default="live", help="of the profile (a file for `study --profile` needs another)")


if __name__ == "__main__":
    main(measure, globals(), add_arguments)
