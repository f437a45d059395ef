"""What a process holds: threads, descriptors, mappings. A test compares before with after."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holdings:
    """A snapshot: thread names by id, descriptor targets by number, count of mappings."""

    threads: dict[int, str]
    descriptors: dict[int, str]
    mappings: int


def holdings() -> Holdings:
    """What this process holds now (garbage collected first)."""
    gc.collect()
    return Holdings(_threads(), _descriptors(), _mappings())


def resident() -> int:
    """Bytes of this process that are in memory (garbage collected first)."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def no_leaks(mappings_slack: int | None = None, settle_s: float = 5.0) -> Iterator[Holdings]:
    """Fail if threads or descriptors are left that were not there before.

    A closing thread is waited for up to ``settle_s``. Mappings are compared only when
    ``mappings_slack`` says how many the allocator may keep: it grows arenas as it likes.
    """
    before = holdings()
    yield before
    deadline = time.monotonic() + settle_s
    while (left := leaked(before, mappings_slack)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, "left behind: " + "; ".join(left)


def leaked(before: Holdings, mappings_slack: int | None = None) -> list[str]:
    """What is there now and was not in ``before``, in words."""
    now = holdings()
    words = [f"thread {tid} {name!r}" for tid, name in now.threads.items() if tid not in before.threads]
    words += [
        f"descriptor {number} -> {target}"
        for number, target in now.descriptors.items()
        if before.descriptors.get(number) != target
    ]
    if mappings_slack is not None and now.mappings > before.mappings + mappings_slack:
        words.append(f"{now.mappings - before.mappings} mappings (allowed: {mappings_slack})")
    return words


def _threads() -> dict[int, str]:
    found = {}
    for task in os.listdir("/proc/self/task"):
        try:
            found[int(task)] = Path("/proc/self/task", task, "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended while we looked
    return found


def _descriptors() -> dict[int, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            pass  # the listing's own descriptor
    return found


def _mappings() -> int:
    return Path("/proc/self/maps").read_bytes().count(b"\n")
