"""A memory cgroup of the test's own, v1 or v2, to run a process in less memory than its data."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import RUN, Missing, need_root

V1_ROOT = Path("/sys/fs/cgroup/memory")


class MemoryCgroup:
    """A group with a memory limit. ``add(pid)`` moves a process in; pages it touches then count."""

    def __init__(self, path: Path, version: int) -> None:
        self.path = path
        self.version = version

    def add(self, pid: int = 0) -> None:
        """Move process ``pid`` (0: the caller) in."""
        (self.path / "cgroup.procs").write_text(str(pid or os.getpid()))

    def limit(self, size_bytes: int) -> None:
        """Allow at most ``size_bytes`` of memory, page cache included."""
        self._write({1: "memory.limit_in_bytes", 2: "memory.max"}, size_bytes)

    def usage_bytes(self) -> int:
        """Memory charged to the group now."""
        return int(self._file({1: "memory.usage_in_bytes", 2: "memory.current"}).read_text())

    def oom_kills(self) -> int:
        """How many processes of the group the kernel killed for lack of memory."""
        text = self._file({1: "memory.oom_control", 2: "memory.events"}).read_text()
        return {name: int(value) for name, value in map(str.split, text.splitlines())}.get("oom_kill", 0)

    def pids(self) -> list[int]:
        """The processes in the group."""
        return [int(word) for word in (self.path / "cgroup.procs").read_text().split()]

    def _file(self, names: dict[int, str]) -> Path:
        return self.path / names[self.version]

    def _write(self, names: dict[int, str], value: int) -> None:
        self._file(names).write_text(str(value))


@contextmanager
def memory_cgroup(limit_bytes: int | None = None) -> Iterator[MemoryCgroup]:
    """Make a memory cgroup; at the end the caller is moved out, all others in it are ended."""
    need_root()
    parent, version = _parent()
    group = MemoryCgroup(parent / f"unpinned-{RUN}-{os.getpid()}-{time.monotonic_ns():x}", version)
    try:
        group.path.mkdir()
    except OSError as error:
        raise Missing(f"no memory cgroup: {error}") from error
    try:
        if limit_bytes is not None:
            group.limit(limit_bytes)
        yield group
    finally:
        _empty(group, parent)
        group.path.rmdir()


def _parent() -> tuple[Path, int]:
    if (V1_ROOT / "memory.limit_in_bytes").exists():
        return V1_ROOT, 1
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        controllers = Path(mount, "cgroup.controllers")
        if kind == "cgroup2" and controllers.exists() and "memory" in controllers.read_text().split():
            return _delegated(Path(mount)), 2
    raise Missing("no memory cgroup controller is mounted")


def _delegated(root: Path) -> Path:
    """The v2 root with its memory controller handed to children."""
    control = root / "cgroup.subtree_control"
    try:
        if "memory" not in control.read_text().split():
            control.write_text("+memory")
    except OSError as error:
        raise Missing(f"cgroup v2 hands no memory controller down: {error}") from error
    return root


def _empty(group: MemoryCgroup, parent: Path) -> None:
    deadline = time.monotonic() + 10
    while (pids := group.pids()) and time.monotonic() < deadline:
        for pid in pids:
            if pid == os.getpid():
                (parent / "cgroup.procs").write_text(str(pid))
            else:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)  # a killed process leaves the group when it is reaped
