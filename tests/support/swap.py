"""Real swap: a file of 256 MiB on a disk that takes one, for as long as the test needs it."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import RUN, Missing, need_root

SIZE_BYTES = 256 << 20


@dataclass(frozen=True)
class Swap:
    """The swap space of the test; ``path`` is None where the machine had enough of its own."""

    path: Path | None
    size_bytes: int


@contextmanager
def swap_file(size_bytes: int = SIZE_BYTES) -> Iterator[Swap]:
    """Make sure that ``size_bytes`` of swap are free; take away afterwards what was added."""
    if free_swap_bytes() >= size_bytes:
        yield Swap(None, size_bytes)
        return
    need_root()
    path = _switched_on(size_bytes)
    try:
        yield Swap(path, size_bytes)
    finally:
        _remove(path)


def free_swap_bytes() -> int:
    """What /proc/meminfo calls SwapFree."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SwapFree:"):
            return int(line.split()[1]) << 10
    return 0


def _switched_on(size_bytes: int) -> Path:
    """A swap file in the first folder whose file system allows one (tmpfs and overlay do not)."""
    reasons = []
    for folder in dict.fromkeys([tempfile.gettempdir(), "/var/tmp", os.getcwd()]):
        try:
            path = _allocated(folder, size_bytes)
        except OSError as error:
            reasons.append(f"{folder}: {error}")
            continue
        try:
            _command("mkswap", path)
            _command("swapon", path)
            return path
        except BaseException as error:
            path.unlink()
            if not isinstance(error, OSError):
                raise
            reasons.append(f"{folder}: {error}")
    raise Missing("no swap: " + "; ".join(reasons))


def _allocated(folder: str, size_bytes: int) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f"unpinned-swap-{RUN}-", dir=folder)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)  # swapon refuses a file with holes
    except OSError:
        os.unlink(name)
        raise
    finally:
        os.close(descriptor)
    return Path(name)


def _command(name: str, path: Path) -> None:
    result = subprocess.run([name, str(path)], capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"{name}: {result.stderr.strip()}")


def _remove(path: Path) -> None:
    try:
        _command("swapoff", path)
    finally:
        path.unlink(missing_ok=True)
