"""Run seeded defects and see which property each one breaks.

One copy of the package holds all mutants (mutate.py); as many processes as there are cores work in it, each takes the
next mutant when it has finished one. So the copy is compiled once, and kept like every compiled kernel.
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

from unpinned.check.mutants import MUTANTS, Mutant
from unpinned.check.mutate import copy_package
from unpinned.check.replay import ReplayError, world_data
from unpinned.check.trace import Trace, dumps, loads
from unpinned.check.worlds import mutant_worlds


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
    """One process in a copy of the package. `interpreted`: without compiling, for what takes fewer steps than that."""

    def __init__(self, directory: Path, interpreted: bool) -> None:
        environment = {**os.environ, "PYTHONPATH": str(directory), **({"NUMBA_DISABLE_JIT": "1"} if interpreted else {})}
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
    """A directory with a copy of the package that has all mutants: always all, so that it is compiled once."""
    with tempfile.TemporaryDirectory(prefix="unpinned-mutants-") as name:
        copy_package(Path(name), list(MUTANTS.values()))
        yield Path(name)


def kill(names: Sequence[str], *, states: int = 300_000, processes: int = 0) -> Iterator[Kill]:
    """What becomes of each mutant, in the order in which they end."""
    with copied() as directory, ExitStack() as stack:
        for of_requests in (True, False):
            chosen = [name for name in names if MUTANTS[name].of_requests == of_requests]
            count = min(processes or len(os.sched_getaffinity(0)), len(chosen))
            started = [Worker(directory, of_requests) for _ in range(1 if of_requests and chosen else count)]
            for worker in started:
                stack.callback(worker.close)
            yield from _shared(started, chosen, states)


def _shared(started: Sequence[Worker], names: Sequence[str], states: int) -> Iterator[Kill]:
    """Each worker takes the next mutant when it has finished one."""
    if not names:
        return
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
    mutant = MUTANTS[name]
    worlds = "requests" if mutant.of_requests else [world_data(world) for world in mutant_worlds(mutant)]
    number = list(MUTANTS).index(name) + 1
    found = worker.ask({"number": number, "mutant": name, "worlds": worlds, "states": states})
    return Kill(
        mutant, found["world"], found["broke"], len(found["path"]), found["states"], found["seconds"], found["trace"]
    )


def replay_mutant(kept: Trace) -> Trace:
    """Run a kept trace of a mutant again, in a copy that has it. Raises ReplayError, as `replay.again` does."""
    name = str(kept.world["mutant"])
    if name not in MUTANTS:
        raise ReplayError(f"mutant {name}: there is none of that name any more (unpinned check --mutant list)")
    with copied() as directory, closing(Worker(directory, interpreted=True)) as worker:
        found = worker.ask({"number": list(MUTANTS).index(name) + 1, "trace": dumps(kept)})
    if "error" in found:
        raise ReplayError(found["error"])
    return loads(found["trace"])
