"""Compile every kernel that is called from Python before it is needed, in as many processes as there are cores.

Two threads compile no faster than one (the compiler holds a lock), two processes do. Each worker asks for the next
piece when it has finished one, so the work balances itself. First come the `PARTS` that the entry points consist of,
then these; what one worker compiles the others wait for or load.

A stamp file whose name covers all sources says that nothing is left to do: then `ensure` costs milliseconds.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import hashlib
import importlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import types
from numba.core.typing.typeof import typeof

from unpinned.compiled import cache, linking
from unpinned.compiled.decorator import INTERPRETED
from unpinned.compiled.interrupts import interrupts_later

ENTRY_POINTS: list[tuple[str, str, str]] = [
    # (module, function, arguments: a letter each, see LETTERS)
    ("unpinned.host.engine", "enter", "wiiiiw"),
    ("unpinned.host.notify", "notify", "w"),
    ("unpinned.host.workers", "work", "w"),
    ("unpinned.host.control", "write_words", "ww"),
    ("unpinned.host.control", "install_qp", "wiw"),
    ("unpinned.host.control", "reset_qp", "wiii"),
    ("unpinned.host.control", "break_qp", "wii"),
    ("unpinned.host.control", "clear_cq", "wi"),
    ("unpinned.host.control", "arm_cq", "wii"),
    ("unpinned.host.control", "resize_cq", "wiw"),
    ("unpinned.host.control", "has_drained", "wi"),
    ("unpinned.host.events", "take_event", "wi"),
    ("unpinned.host.events", "forget_descriptor", "wi"),
    ("unpinned.host.control", "open_region", "wiw"),
    ("unpinned.host.control", "revoke_regions", "wi"),
    ("unpinned.host.control", "close_region", "wiiii"),
    ("unpinned.host.control", "record", "www"),
    ("unpinned.host.control", "recorded", "ww"),
    ("unpinned.host.control", "faults_of", "wiiii"),
    ("unpinned.host.control", "begin_faults", "wiiiii"),
    ("unpinned.host.control", "serve_device", "wi"),
    ("unpinned.host.control", "leave_device", "wi"),
    ("unpinned.host.control", "end_notifier", "w"),
    ("unpinned.host.posting", "check_sends", "wiii"),
    ("unpinned.host.posting", "check_receives", "wiii"),
    ("unpinned.host.pagemap", "resident", "iiw"),
    ("unpinned.compiled.libc", "futex_wake", "ii"),
]
"""What Python calls."""

PARTS: list[tuple[str, str, str]] = [
    ("unpinned.hca.device", "receive", "wwbi"),
    ("unpinned.host.burst", "take_datagrams", "wwbww"),
    ("unpinned.host.copies", "execute", "wbw"),
    ("unpinned.host.burst", "scan_faults", "wwwww"),
    ("unpinned.host.burst", "send_packets", "wwwbww"),
    ("unpinned.hca.device", "turns", "wwbi"),
    ("unpinned.hca.device", "timers", "wwi"),
    ("unpinned.hca.device", "finish", "wwi"),
]
"""What the entry points share, in pieces that several processes can compile at once."""

LETTERS = {"i": types.int64, "w": types.int64[::1], "b": types.uint8[::1]}
"""i: a number; w: a block of words, ``int64[:]``; b: the byte arena, ``uint8[:]``."""

UNUSED_DAYS = 30
"""Kernels of other versions are deleted when they have not been written for so long."""


_REFUSED = "refused by the system: "
"""How a worker's answer begins when the error is not the kernel's but the disk's; the number follows."""


def ensure(
    entries: Sequence[tuple[str, str, str]] | None = None,
    *,
    processes: int | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Compile what is not yet on disk; the number of entry points compiled or looked at (0: all was there).

    *say* gets lines of progress (default: to stderr, none when there is nothing to do). One process at a time
    does the work; another waits and finds it done. Raises RuntimeError when a kernel does not compile, OSError when it
    cannot be kept.
    """
    chosen = list(ENTRY_POINTS if entries is None else entries)
    pieces = [(*part, "part") for part in PARTS if entries is None] + [(*entry, "whole") for entry in chosen]
    if INTERPRETED or not chosen:
        return 0
    stamp = cache.root() / f"complete-{_fingerprint(chosen)}"
    if stamp.exists():
        return 0
    say = say or _to_stderr
    with _alone():
        if stamp.exists():
            return 0
        count = min(processes or len(os.sched_getaffinity(0)), len(pieces))
        say(f"compiling {len(chosen)} kernels in {count} processes, once (kept in {cache.root()})")
        began = time.monotonic()
        slowest = sorted(_run(pieces, count, say), reverse=True)[:3]
        names = ", ".join(f"{name} {seconds:.1f} s" for seconds, name in slowest)
        say(f"compiled in {time.monotonic() - began:.0f} s (longest: {names})")
        stamp.touch()
        _prune()
    return len(chosen)


def load() -> None:
    """Have every entry point in memory: what comes later needs no file, no descriptor and no compiler.

    OSError where there is no descriptor to read them by.
    """
    if not INTERPRETED:
        for entry in ENTRY_POINTS:
            compile_entry(*entry)
        for kind in (np.int64, np.uint8):
            typeof(np.empty(1, kind))  # the first array that numba meets has it import more


def _to_stderr(line: str) -> None:
    print(f"unpinned: {line}", file=sys.stderr, flush=True)


def _fingerprint(entries: Sequence[tuple[str, str, str]]) -> str:
    """Names the sources of all *entries*, without importing them."""
    digest = hashlib.sha256()
    for module, function, letters in entries:
        digest.update(f"{cache.module_key(module)} {function} {letters}\n".encode())
    return digest.hexdigest()[:20]


@contextmanager
def _alone() -> Iterator[None]:
    with open(cache.root() / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(entries: list[tuple[str, str, str, str]], count: int, say: Callable[[str], None]) -> list[tuple[float, str]]:
    """Hand *entries* to *count* workers; (seconds, name) of each."""
    workers: list[_Worker] = []
    waiting = iter(range(len(entries)))
    done: list[tuple[float, str]] = []
    said = time.monotonic()
    try:
        with interrupts_later():  # or one that is being started would be nobody's
            for _ in range(count):
                workers.append(_Worker(entries))
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
                worker.give(next(waiting, None))
            while selector.get_map():
                for key, _ in selector.select():
                    worker = key.data
                    if worker.current is None:  # it was told to end, and did
                        selector.unregister(worker.answers)
                        continue
                    done.append(worker.take())
                    worker.give(next(waiting, None))
                if time.monotonic() - said > 5:
                    said = time.monotonic()
                    say(f"compiled {len(done)} of {len(entries)}")
    finally:
        for worker in workers:
            worker.close()
    return done


class _Worker:
    """A process of ours that compiles what it is given: an index in, seconds out."""

    def __init__(self, entries: list[tuple[str, str, str, str]]) -> None:
        source = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        self.entries = entries
        self.current: int | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from unpinned.compiled import build; build.work()"],
            env={**os.environ, "PYTHONPATH": path, "UNPINNED_CACHE_DIR": str(cache.root())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is ours to hear: `close` ends it, and so does our own end
        )
        assert self.process.stdin and self.process.stdout
        self.orders, self.answers = self.process.stdin, self.process.stdout

    def give(self, index: int | None) -> None:
        """The next entry to compile, or None: the worker ends."""
        self.current = index
        with suppress(BrokenPipeError):  # it died; `take` says so
            if index is None:
                self.orders.close()
            else:
                print(*self.entries[index], sep="\t", file=self.orders, flush=True)

    def take(self) -> tuple[float, str]:
        """(seconds, name) of the entry it has compiled."""
        assert self.current is not None
        module, function, letters, _ = self.entries[self.current]
        answer = self.answers.readline()
        if answer.startswith(_REFUSED):
            number = int(answer.removeprefix(_REFUSED))
            text = f"kernels cannot be kept in {cache.root()}: {os.strerror(number)} (UNPINNED_CACHE_DIR names another folder)"
            raise OSError(number, text)
        try:
            return float(answer), function
        except ValueError:
            why = answer.strip() or f"the compiler ended with status {self.process.wait()}"
            raise RuntimeError(f"{module}.{function}({letters}) does not compile: {why}") from None

    def close(self) -> None:
        if not self.orders.closed:
            self.process.kill()
            with suppress(BrokenPipeError):
                self.orders.close()
        self.process.wait()
        self.answers.close()


def work() -> None:
    """What a worker process does: compile what stdin names, answer with the seconds it took or with the error."""
    gc.disable()  # a compiler's objects live as long as it does: a quarter of the time otherwise
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a module prints may pass for an answer
    for line in sys.stdin:
        module, function, letters, form = line.rstrip("\n").split("\t")
        began = time.monotonic()
        try:
            compile_entry(module, function, letters, form)
        except OSError as error:
            answer = f"{_REFUSED}{error.errno or errno.EIO}"
        except Exception as error:
            answer = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
        else:
            answer = str(time.monotonic() - began)
        try:
            print(answer, file=answers, flush=True)
        except BrokenPipeError:
            os._exit(1)  # who asked is gone; an ordinary end would flush once more


def compile_entry(module: str, function: str, letters: str, form: str = "whole") -> None:
    """Compile one entry point, or what kernels need of it, in this process; or load it."""
    dispatcher: Any = getattr(importlib.import_module(module), function)
    arguments = tuple(LETTERS[letter] for letter in letters)
    if form == "part" and linking.SUPPORTED:
        dispatcher.part(arguments)
    elif form == "whole":
        dispatcher.compile(arguments)


def _prune() -> None:
    """Delete the kernels of sources, CPUs or modes that nobody has compiled for in a long time."""
    limit = time.time() - UNUSED_DAYS * 86400
    keep = {cache.module_key(module) for module, _, _ in ENTRY_POINTS}
    for entry in cache.root().iterdir():
        try:
            if entry.name in keep or entry.stat().st_mtime > limit:
                continue
            if entry.is_file() and entry.name.startswith("complete-"):
                entry.unlink()
            elif entry.is_dir():
                for file in entry.glob("*.nbc*"):
                    file.unlink()
                entry.rmdir()
        except OSError:
            continue  # not ours to delete, or somebody else is at it
