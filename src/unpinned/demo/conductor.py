"""The conductor: starts owner and peer, has them go through the phases, watches, and ends them, whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from unpinned.demo.channel import Channel, Gone, Message
from unpinned.demo.display import Display
from unpinned.demo.files import Source
from unpinned.demo.ledger import Ledger
from unpinned.demo.recorder import Recorder

PATIENCE_S = 60.0
"""How much longer than asked a process may take before the demo gives up."""
COMPILE_S = 900.0
_HOG = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1000000): pass"


class DemoError(OSError):
    """The demo cannot go on; the text says why."""


@dataclass(frozen=True)
class Plan:
    """How long each phase takes, in seconds, and how much memory there is."""

    seconds: float
    array_bytes: int = 256 << 20
    private_bytes: int = 64 << 20
    rounds: int = 3
    hot_each: int = 5
    faults: int = 400
    record: str = ""
    """Where the owner's device is recorded to."""

    @property
    def scan_s(self) -> float:
        return 0.16 * self.seconds

    @property
    def speed_s(self) -> float:
        """Of each of the three, in each round."""
        return 0.07 * self.seconds / self.rounds

    @property
    def storm_s(self) -> float:
        return 0.6 * self.seconds


@dataclass
class Outcome:
    """What owner and peer answered, and what was recorded meanwhile."""

    served: Message = field(default_factory=dict)
    gbps: dict[str, float] = field(default_factory=dict)
    latency: Message = field(default_factory=dict)
    storm: Message = field(default_factory=dict)
    account: Message = field(default_factory=dict)
    check: Message = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    invalidations: list[int] = field(default_factory=list)


class Child:
    """The owner or the peer, and the line to it."""

    def __init__(self, role: str, other: Channel, ledger: Ledger) -> None:
        self.role = role
        self.channel, theirs = Channel.pair()
        fds = (theirs.fileno(), other.fileno(), ledger.fd)
        source = str(Path(__file__).absolute().parents[2])
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unpinned.demo.process", role, str(os.getpid()), *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            process_group=0,  # a terminal's Ctrl-C is ours alone, also while they still load
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        other.close()

    def order(self, **message: Any) -> None:
        """Have it do something. DemoError when it is not there any more."""
        try:
            self.channel.send(**message)
        except Gone:
            raise self._dead() from None

    def _dead(self) -> DemoError:
        return DemoError(f"the {self.role}'s process ended with status {self.process.wait()}")

    def answer(self, timeout: float) -> Message | None:
        """The answer to the last order, or None when it has not come yet. DemoError when it never will."""
        try:
            message = self.channel.receive(timeout)
        except Gone:
            raise self._dead() from None
        if message is not None and "error" in message:
            raise DemoError(f"the {self.role}: {message['error']}")
        return message

    def end(self) -> None:
        """End it, gently if it listens."""
        with suppress(OSError):
            self.channel.send(do="end")
        self.channel.close()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Conductor:
    """One run of the demo."""

    def __init__(self, source: Source, plan: Plan, display: Display) -> None:
        self.source, self.plan, self.display = source, plan, display
        self.outcome = Outcome()

    def run(self) -> tuple[Outcome, Recorder]:
        """All phases. On return, or on any exception, both processes have ended."""
        with ExitStack() as stack:
            ledger = Ledger.create()
            stack.callback(ledger.close)
            one, other = Channel.pair()
            self.owner = Child("owner", one, ledger)
            stack.callback(self.owner.end)
            self.peer = Child("peer", other, ledger)
            stack.callback(self.peer.end)
            pids = {child.role: child.process.pid for child in (self.owner, self.peer)}
            self.recorder = Recorder(ledger, list(pids.values()))
            stack.enter_context(self.display)
            self._meet()
            self._touch()
            self._measure()
            self._storm()
            self._check()
            self.outcome.counters = ledger.counters()
            self.outcome.invalidations = ledger.invalidations()
            self.recorder.finish()
        return self.outcome, self.recorder

    # ---- phases ------------------------------------------------------------------------------------------------------

    def _meet(self) -> None:
        plan, path = self.plan, str(self.source.path)
        self.display.begin("starting both processes")
        answers = self._both(
            COMPILE_S,
            {"do": "serve", "path": path, "array_bytes": plan.array_bytes, "private_bytes": plan.private_bytes, "record": plan.record},
            {"do": "meet", "path": path, "made": self.source.made},
        )
        self.outcome.served = {**answers[0], "peer_address": answers[1]["address"]}
        self.recorder.begin()

    def _touch(self) -> None:
        with self._phase("first touch of the file"):
            self._peer("scan", seconds=self.plan.scan_s)
        self._ask(self.owner, PATIENCE_S, {"do": "forget file"})

    def _measure(self) -> None:
        """Bandwidth of hot memory: by itself, beside a process that spins, and while the owner's Python spins. In turns, so
        that a disturbance of the machine meets all three; the median of each counts."""
        plan = self.plan
        found: dict[str, list[float]] = {"quiet": [], "hog": [], "owner_spinning": []}
        with self._phase("hot: quiet, a hog, owner spins"):
            self._peer("speed", seconds=0.0)  # brings the pages in
            for _ in range(plan.rounds):
                found["quiet"].append(self._peer("speed", seconds=plan.speed_s)["gbps"])
                with _hog():
                    found["hog"].append(self._peer("speed", seconds=plan.speed_s)["gbps"])
                spin = {"do": "spin", "seconds": plan.speed_s * 1.2}
                _, answer = self._both(plan.speed_s + PATIENCE_S, spin, {"do": "speed", "seconds": plan.speed_s})
                found["owner_spinning"].append(answer["gbps"])
        self.outcome.gbps = {name: median(values) for name, values in found.items()}
        with self._phase("latency"):
            self.outcome.latency = self._peer("latency", hot_each=plan.hot_each, faults=plan.faults)

    def _storm(self) -> None:
        with self._phase("everything at once"):
            seconds = self.plan.storm_s
            order = {"do": "storm", "seconds": seconds}
            self.outcome.storm = self._both(seconds + PATIENCE_S, order, order)[0]

    def _check(self) -> None:
        with self._phase("check"):
            self.outcome.account = account = self._peer("account")
            order = {"do": "check", "generations": account["generations"], "sums": account["sums"]}
            self.outcome.check = self._ask(self.owner, PATIENCE_S, order)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.display.begin(name)
        began = self.recorder.now()
        yield
        self.recorder.phases.append((name, began, self.recorder.now()))

    # ---- orders ------------------------------------------------------------------------------------------------------

    def _peer(self, do: str, **more: Any) -> Message:
        return self._ask(self.peer, more.get("seconds", 0.0) + PATIENCE_S, {"do": do, **more})

    def _ask(self, child: Child, timeout: float, order: Message) -> Message:
        child.order(**order)
        return self._await([child], timeout)[0]

    def _both(self, timeout: float, owner: Message, peer: Message) -> list[Message]:
        self.owner.order(**owner)
        self.peer.order(**peer)
        return self._await([self.owner, self.peer], timeout)

    def _await(self, children: list[Child], timeout: float) -> list[Message]:
        """The answers of all *children*; meanwhile, look and show."""
        answers: dict[str, Message] = {}
        deadline = time.monotonic() + timeout
        while len(answers) < len(children):
            for child in children:
                if child.role not in answers:
                    answer = child.answer(0.02)
                    if answer is not None:
                        answers[child.role] = answer
            if self.recorder.sample():
                self.display.show(self.recorder)
            if time.monotonic() > deadline:
                missing = [child.role for child in children if child.role not in answers]
                raise DemoError(f"no answer from the {' and the '.join(missing)} in {timeout:.0f} s")
        return [answers[child.role] for child in children]


@contextmanager
def _hog() -> Iterator[None]:
    """A process that has nothing to do with us and never rests."""
    hog = subprocess.Popen([sys.executable, "-c", _HOG], stdin=subprocess.DEVNULL, process_group=0)
    try:
        yield
    finally:
        hog.kill()
        hog.wait()
