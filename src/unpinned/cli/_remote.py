"""What serve, get and put have in common: tokens, sizes, a progress bar, and errors as sentences."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from unpinned.cli import CommandError, sentence
from unpinned.cli._output import note

BAR_BYTES_MIN = 16 << 20
"""Shorter transfers are over before a bar could be read."""
TOKEN_BYTES_MAX = 4096
"""Beyond, a file holds something else (or, a device, never ends)."""


@contextmanager
def sentences() -> Iterator[None]:
    """Whatever the user, the machine or the peer did wrong becomes a CommandError."""
    try:
        yield
    except KeyError as error:
        raise CommandError(str(error.args[0])) from error
    except (ValueError, TypeError, IndexError, MemoryError) as error:
        raise CommandError(str(error) or type(error).__name__) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(sentence(error)) from error


def read_token(path: str | None) -> str | None:
    """The token in a file, without the white space around it; None without a file."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            token = file.read(TOKEN_BYTES_MAX + 1).decode().strip()
    except UnicodeDecodeError:
        raise CommandError(f"{path} holds no token: it is no text") from None
    if not 0 < len(token.encode()) <= TOKEN_BYTES_MAX:
        raise CommandError(f"{path} holds no token: one has 1 to {TOKEN_BYTES_MAX} bytes")
    return token


def new_token() -> str:
    """A token that nobody can guess."""
    import secrets

    return secrets.token_urlsafe(32)


def write_token(path: str, token: str) -> None:
    """Write *token* into a new file that only its owner can read."""
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600), encoding="utf-8") as file:
        file.write(token + "\n")
    note(f"a new token is in {path}; clients need a copy of that file")


def size(count: float) -> str:
    """Bytes, as one reads them.

    >>> size(25_600_000_000), size(999)
    ('25.6 GB', '999 B')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


@dataclass
class Transfer:
    """How a transfer goes: bytes so far, and how long it took."""

    nbytes: int
    done: int = 0
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    advance: Callable[[int], None] = lambda count: None

    def __call__(self, count: int) -> None:
        """*count* more bytes have arrived."""
        self.done += count
        self.advance(count)

    def summary(self) -> str:
        rate = self.nbytes / self.seconds if self.seconds else 0.0
        return f"{size(self.nbytes)} in {self.seconds:.2f} s, {size(rate)}/s"

    def document(self) -> dict[str, object]:
        rate = self.nbytes / self.seconds / 1e9 if self.seconds else 0.0
        return {"bytes": self.nbytes, "seconds": round(self.seconds, 6), "gigabytes_per_second": round(rate, 3)}


@contextmanager
def transfer(nbytes: int, what: str) -> Iterator[Transfer]:
    """Time a transfer, and show a bar on stderr when it is long and somebody looks."""
    state = Transfer(nbytes)
    if nbytes < BAR_BYTES_MIN or not sys.stderr.isatty():
        yield state
    else:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (TextColumn(what), BarColumn(None), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True, width=79), transient=True) as bar:
            task = bar.add_task(what, total=nbytes)
            state.advance = lambda count: bar.advance(task, count)
            yield state
    state.seconds = time.perf_counter() - state.began
