"""Run seeded defects and see which property each one breaks.

One copy of the package holds all mutants (mutate.py); as many processes as there are cores work in it, each takes the
next mutant when it has finished one. They run interpreted: a mutant dies within a few hundred states, a second or less,
where compiling the copy would take most of a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpinned.check.mutant_worlds import world_of
from unpinned.check.mutants import CANARY, MUTANTS, Mutant
from unpinned.check.mutate import copy_package
from unpinned.check.replay import ReplayError, world_data
from unpinned.check.trace import Trace, dumps, loads

ALL = {**MUTANTS, CANARY.name: CANARY}
"""What the copy holds."""


@dataclass(frozen=True)
class Kill:
    """What became of a mutant. `broke`: the property, "" if it survived. `trace`: the trace's text (trace.loads)."""

    mutant: Mutant
    world: str
    broke: str
    steps: int
    states: int
    seconds: float
    trace: str

    @property
    def killed(self) -> bool:
        return bool(self.broke)


class Worker:
    """One process in a copy of the package, interpreted."""

    def __init__(self, directory: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(directory), "NUMBA_DISABLE_JIT": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unpinned.check.worker"], env=environment, cwd=directory,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Its answer. Raises RuntimeError if it died."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps(order), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that explores mutants ended with status {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def copied() -> Iterator[Path]:
    """A directory with a copy of the package that has all mutants."""
    with tempfile.TemporaryDirectory(prefix="unpinned-mutants-") as name:
        copy_package(Path(name), list(ALL.values()))
        yield Path(name)


def kill(names: Sequence[str], *, states: int = 300_000, processes: int = 0) -> Iterator[Kill]:
    """What becomes of each mutant, in the order in which they end."""
    with copied() as directory, ExitStack() as stack:
        started = [Worker(directory) for _ in range(min(processes or len(os.sched_getaffinity(0)), len(names)))]
        for worker in started:
            stack.callback(worker.close)
        yield from _shared(started, names, states)


def _shared(started: Sequence[Worker], names: Sequence[str], states: int) -> Iterator[Kill]:
    """Each worker takes the next mutant when it has finished one."""
    waiting = list(reversed(names))
    with ThreadPoolExecutor(len(started)) as pool:
        running = {pool.submit(_kill, worker, waiting.pop(), states): worker for worker in started}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    worker = running.pop(future)
                    if waiting:
                        running[pool.submit(_kill, worker, waiting.pop(), states)] = worker
                    yield future.result()
        finally:
            for worker in running.values():
                worker.process.kill()  # or the thread that waits for it would not end


def _kill(worker: Worker, name: str, states: int) -> Kill:
    mutant = ALL[name]
    world = None if mutant.of_requests else world_data(world_of(mutant))
    number = list(ALL).index(name) + 1
    found = worker.ask({"number": number, "mutant": name, "world": world, "states": states})
    return Kill(
        mutant, found["world"], found["broke"], len(found["path"]), found["states"], found["seconds"], found["trace"]
    )


def replay_mutant(kept: Trace) -> Trace:
    """Run a kept trace of a mutant again, in a copy that has it. Raises ReplayError, as `replay.again` does."""
    name = str(kept.world["mutant"])
    if name not in ALL:
        raise ReplayError(f"mutant {name}: there is none of that name any more (unpinned check --mutant list)")
    with copied() as directory, closing(Worker(directory)) as worker:
        found = worker.ask({"number": list(ALL).index(name) + 1, "trace": dumps(kept)})
    if "error" in found:
        raise ReplayError(found["error"])
    return loads(found["trace"])
