"""The file that the demo serves: the user's own, or one of known content, made once and kept.

The made file holds words that say where they stand (`contents`), so each of its bytes can be checked without the file. A user's
file is opened for reading only and checked against itself.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class Source:
    """A file to serve."""

    path: Path
    size_bytes: int
    made: bool
    """It is ours: its content is known by formula."""
    modified_ns: int

    def changed(self) -> bool:
        """Has anybody else written to it, replaced it or taken it away since?"""
        try:
            status = self.path.stat()
        except OSError:
            return True
        return (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.modified_ns)


def folder() -> Path:
    """Where a made file is kept: beside the compiled kernels, or in the temporary folder where that cannot be."""
    named = os.environ.get("UNPINNED_CACHE_DIR")
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "unpinned"
    for candidate in ([Path(named)] if named else []) + [base]:
        with suppress(OSError):
            candidate.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(candidate, os.W_OK | os.X_OK):
                return candidate
    return Path(tempfile.gettempdir())


def users(path: str) -> Source:
    """The user's file. OSError when it is missing, empty or no regular file."""
    status = os.stat(path)
    if not os.path.isfile(path):
        raise OSError(errno.EINVAL, "not a regular file", path)
    if status.st_size == 0:
        raise OSError(errno.EINVAL, "is empty: there is nothing to serve", path)
    with open(path, "rb"):  # may we?
        pass
    return Source(Path(path).resolve(), status.st_size, False, status.st_mtime_ns)


def made(size_bytes: int, say: Callable[[str], None]) -> Source:
    """The file of *size_bytes* (whole MiB), from an earlier run or made now; *say* hears about the latter."""
    path = folder() / f"demo-{size_bytes >> 20}MiB-v1.bin"
    if not _is_ours(path, size_bytes):
        say(f"making {path} ({size_bytes / (1 << 30):g} GiB, once; delete it when you like)")
        _make(path, size_bytes)
    status = path.stat()
    return Source(path, size_bytes, True, status.st_mtime_ns)


def _is_ours(path: Path, size_bytes: int) -> bool:
    """Is *path* complete? It is renamed into place when it is, so three words are evidence enough."""
    from unpinned.demo.contents import WORD_BYTES, Tag, word

    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != size_bytes:
                return False
            for at in (0, size_bytes // 2, size_bytes - WORD_BYTES):
                file.seek(at)
                expected = word(Tag.FILE, 0, at // WORD_BYTES)
                if file.read(WORD_BYTES) != expected.to_bytes(WORD_BYTES, "little"):
                    return False
    except OSError:
        return False
    return True


def _make(path: Path, size_bytes: int) -> None:
    import numpy as np

    from unpinned.demo.contents import WORD_BYTES, Tag, fill, word

    descriptor, name = tempfile.mkstemp(prefix=".demo-", suffix=".part", dir=path.parent)
    try:
        _allocate(descriptor, size_bytes, path)
        words = np.empty(_PIECE_BYTES // WORD_BYTES, np.int64)
        for at in range(0, size_bytes, _PIECE_BYTES):
            fill(words, word(Tag.FILE, 0, at // WORD_BYTES))
            piece = words.astype("<i8", copy=False).tobytes()[: size_bytes - at]
            if os.pwrite(descriptor, piece, at) != len(piece):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.replace(name, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path, size_bytes) from None
        raise
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size_bytes: int, path: Path) -> None:
    """Meet a full disk before the work, not after it."""
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(path, size_bytes) from None
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def _full(path: Path, size_bytes: int) -> OSError:
    text = f"no room for {size_bytes >> 20} MiB in {path.parent}; --size 256M needs less, --file PATH nothing"
    return OSError(errno.ENOSPC, text)


def temporary(size_bytes: int) -> int:
    """A descriptor of a file on the same disk that has no name and goes with its last descriptor."""
    with tempfile.TemporaryFile(prefix=".demo-", dir=folder()) as file:
        os.ftruncate(file.fileno(), size_bytes)
        return os.dup(file.fileno())
