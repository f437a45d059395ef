"""What the benchmarks share: processes that do as they are told, interleaved repetitions, figures with their targets.

A benchmark is one script. `main` runs its ``measure`` in a parent process that only gives orders and sleeps meanwhile, so
that two cores are left for the two ends. An end is a `Child`: the same script, which calls the functions that the parent
names. Each figure is a ratio to (or a difference from) something measured in the same run, by turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "src"
sys.path[:0] = [str(path) for path in (SOURCES, HERE.parent / "tests") if str(path) not in sys.path]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PR_SET_PDEATHSIG = 1
ANSWER_SECONDS = 1800  # compiling for the first time is part of it


# --- figures -----------------------------------------------------------------------------


@dataclass
class Figure:
    """One measured number, what it should be, and the numbers that it was made of."""

    what: str
    value: float | None
    unit: str = ""
    target: str = ""
    """``>= 0.97``, ``<= 60``, ``== 0``, or empty: stated only."""
    parts: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    """Why there is no value."""
    met: bool | None = None

    def __post_init__(self) -> None:
        if self.value is not None:
            self.value = float(f"{self.value:.4g}")
            self.met = _holds(self.value, self.target) if self.target else None


def _holds(value: float, target: str) -> bool:
    relation, limit = target.split()
    return {">=": value >= float(limit), "<=": value <= float(limit), "==": value == float(limit)}[relation]


def missing(what: str, why: str, target: str = "") -> Figure:
    """A figure that this machine cannot give."""
    return Figure(what, None, target=target, why=why)


def median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """The median of some numbers, how far they reach, and how many they are."""
    numbers = {"median": median(values), "min": min(values), "p99": p99(values), "max": max(values)}
    return {name: float(f"{number:.{digits}g}") for name, number in numbers.items()} | {"n": len(values)}


def interleave(rounds: int, variants: Mapping[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Call every variant ``rounds`` times, by turns, each round starting one further: what each gave, by name."""
    names = list(variants)
    gave: dict[str, list[Any]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            gave[name].append(variants[name]())
        say(f"round {i + 1} of {rounds}: " + ", ".join(f"{n} {_brief(gave[n][-1])}" for n in names))
    return gave


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "done" if isinstance(value, (dict, list)) else str(value)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


# --- one script, several processes -------------------------------------------------------


@dataclass
class Options:
    """The command line."""

    quick: bool
    """Only see whether it works: the figures mean nothing."""
    peers: str
    """A built copy of the peers' folder, or empty."""
    own: argparse.Namespace = field(default_factory=argparse.Namespace)
    """What the script's own options gave."""

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full


def main(
    measure: Callable[[Options], list[Figure]],
    commands: Mapping[str, Any],
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """The body of a benchmark script: print one JSON document, or, in a child, obey.

    *commands* are the functions that the parent may name: the script's ``globals()``. *add_arguments*: options of its own.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="only see whether it works; the figures mean nothing")
    parser.add_argument(
        "--peers", default=os.environ.get("UNPINNED_PEERS", ""), help="a built copy of the peers' folder"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    if add_arguments:
        add_arguments(parser)
    options = parser.parse_args()
    if options.child:
        obey(commands)
        return
    began, load = time.monotonic(), os.getloadavg()[0]
    figures = measure(Options(options.quick, options.peers, options))
    document = {
        "figures": [asdict(figure) for figure in figures],
        "quick": options.quick,
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "arch": platform.machine(),
            "python": platform.python_version(),
            "load_before": round(load, 2),
        },
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(document))


def obey(commands: Mapping[str, Any]) -> None:
    """In a child: orders in, answers out, until the parent closes the pipe or dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"value": commands[name](**arguments)}
        except Exception as error:
            import traceback

            traceback.print_exc(limit=-3)
            answer = {"error": f"{name}: {type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class Child:
    """A process running this script, which does what it is asked, one thing at a time."""

    def __init__(self, *, prefix: Sequence[str] = (), **environment: str) -> None:
        script = sys.modules["__main__"].__file__ or ""
        self.process = subprocess.Popen(
            [*prefix, sys.executable, script, "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self, command: str, /, **arguments: Any) -> None:
        """Begin something; `result` waits for it."""
        assert self.process.stdin
        print(json.dumps((command, arguments)), file=self.process.stdin, flush=True)

    def result(self) -> Any:
        """What the last `start` gave. RuntimeError: it failed, or the process died."""
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise RuntimeError(f"no answer in {ANSWER_SECONDS} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def ask(self, command: str, /, **arguments: Any) -> Any:
        """Do something and wait for what it gives."""
        self.start(command, **arguments)
        return self.result()


class Spinner:
    """An unrelated process that spins, as a neighbour on the machine would."""

    def __enter__(self) -> Spinner:
        code = f"import ctypes; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)})\nwhile True: pass"
        self.process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(0.2)  # the interpreter's own start
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def status_kb(pid: int | str = "self") -> dict[str, int]:
    """VmRSS, VmLck, VmPin and the like of a process, KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("Vm", "Rss"))}
