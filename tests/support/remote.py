"""An owner process that serves arrays, told what to do line by line, and the arrays it serves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

PATIENCE = 60.0
"""Seconds for the owner to start or answer: a busy machine loads the compiled kernels slowly."""

_OWNER = """
import sys
import numpy as np
import unpinned
from support.remote import arrays
{setup}
print("ready", server.address, flush=True)
for line in sys.stdin:
    try:
        exec(line)
        print("done", flush=True)
    except BaseException as error:
        print("failed", type(error).__name__, error, flush=True)
"""


def arrays(seed: int = 0) -> dict[str, Any]:
    """Arrays of many shapes, orders and dtypes, always the same for a seed."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 1 << 30, (2000, 96), np.int32)
    return {
        "table": table,
        "fortran": np.asfortranarray(table[:300]),
        "cube": rng.random((7, 5, 6, 3)),
        "bytes": rng.integers(0, 255, 100_003, np.uint8),
        "text": np.array([["alpha", "b"], ["", "delta"], ["e" * 9, "f"]]),
        "record": np.array([(i, i / 3, bytes([65 + i % 26])) for i in range(50)], [("a", "i4"), ("b", "f8"), ("c", "S3")]),
        "scalar": np.array(4.5),
        "empty": np.zeros((3, 0, 2), "f4"),
        "times": np.arange(40).astype("M8[s]").reshape(5, 8),
        "big_endian": np.arange(30, dtype=">i4"),
        "words": np.zeros(64, np.int64),
        "unsigned": np.full(8, 2**64 - 2, np.uint64),
    }


class Owner:
    """The process. ``do`` runs a line of Python in it, with `np`, `unpinned`, `server` and what its set-up defined."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address

    def do(self, line: str, fails: str = "") -> None:
        """Run *line* there to its end; to an error that begins so, if one is given."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = _line(self.process)
        assert answer.startswith(f"failed {fails}") if fails else answer == "done", answer

    def value(self, expression: str) -> Any:
        """What *expression* is there (a plain number, text or list)."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"print(repr({expression}), flush=True)\n")
        self.process.stdin.flush()
        found = eval(_line(self.process))
        assert _line(self.process) == "done"
        return found


def _line(process: subprocess.Popen[str]) -> str:
    """Its next line of output; the process is ended if none comes."""
    assert process.stdout is not None
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    assert line, f"the owner said nothing within {PATIENCE} s, or ended: {process.poll()}"
    return line.rstrip("\n")


@contextmanager
def owner(setup: str = "server = unpinned.serve(arrays(), port=0)", command: Callable[[list[str]], list[str]] = list) -> Iterator[Owner]:
    """An owner whose *setup* defines ``server``; *command* turns its command into one that runs elsewhere."""
    tests = os.path.dirname(os.path.dirname(__file__))
    path = os.pathsep.join([tests, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    process = subprocess.Popen(
        command([sys.executable, "-c", _OWNER.format(setup=setup)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        word, address = _line(process).split()
        assert word == "ready"
        yield Owner(process, address)
    finally:
        assert process.stdin is not None and process.stdout is not None
        if process.poll() is None:
            process.stdin.close()  # the loop ends, and the process as it should
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError("the owner did not end") from None
        process.stdout.close()
