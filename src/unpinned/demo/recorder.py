"""What is looked at while the demo runs: the ledger, ten times a second, and what the kernel says is locked."""

from __future__ import annotations

import os
import time
from pathlib import Path

from unpinned.demo.ledger import ACTIONS, Ledger

SAMPLE_NS = 100_000_000
RESIDENT = ("file", "array", "private")


class Recorder:
    """Samples over time. Times are seconds since `begin`."""

    def __init__(self, ledger: Ledger, pids: list[int]) -> None:
        self.ledger, self.pids = ledger, pids
        self.times: list[float] = []
        self.rate: list[float] = []
        self.faults: list[float] = []
        self.pages: list[float] = []
        self.resident: dict[str, list[float]] = {name: [] for name in RESIDENT}
        self.registered: list[float] = []
        self.phases: list[tuple[str, float, float]] = []
        self.actions: dict[str, list[tuple[float, float]]] = {}
        self.locked_max_bytes = 0
        self.wire_after_s = 0.0
        self._began = 0
        self._last = (0, 0, 0, 0)

    def begin(self) -> None:
        """The wire is up: from here on, time counts."""
        self._began = time.monotonic_ns()
        self._last = self._began, self.ledger["bytes_delivered"], self.ledger["faults"], self.ledger["pages_in"]

    def now(self) -> float:
        return (time.monotonic_ns() - self._began) / 1e9

    def sample(self) -> bool:
        """Take a sample if it is time; was it?"""
        now = time.monotonic_ns()
        if not self._began or now - self._last[0] < SAMPLE_NS:
            return False
        delivered, faults, pages = (self.ledger[name] for name in ("bytes_delivered", "faults", "pages_in"))
        elapsed = (now - self._last[0]) / 1e9
        if delivered and not self.wire_after_s:
            self.wire_after_s = process_age_s()
        self.times.append((now - self._began) / 1e9)
        self.rate.append((delivered - self._last[1]) / elapsed / 1e9)
        self.faults.append((faults - self._last[2]) / elapsed)
        self.pages.append((pages - self._last[3]) / elapsed)
        for name in RESIDENT:
            self.resident[name].append(self.ledger[f"resident_{name}_bytes"])
        self.registered.append(self.ledger["registered_bytes"])
        self.locked_max_bytes = max(self.locked_max_bytes, sum(map(locked_bytes, self.pids)))
        self._last = now, delivered, faults, pages
        return True

    def finish(self) -> None:
        """Take over what the owner noted."""
        for name in ACTIONS:
            self.actions[name] = []
        for name, began, ended in self.ledger.events():
            self.actions[name].append(((began - self._began) / 1e9, (ended - began) / 1e9))


def locked_bytes(pid: int) -> int:
    """VmLck + VmPin of a process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("VmLck:", "VmPin:")))


def process_age_s() -> float:
    """Seconds since this process was started."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
