"""What can go wrong with an array on another machine, each an OSError whose text is one sentence."""

from __future__ import annotations

import errno
from typing import Any


class RemoteError(OSError):
    """Something about a remote array failed. Its text is the sentence alone; ``errno`` is set too."""

    code = errno.EREMOTEIO

    def __init__(self, sentence: str, code: int | None = None) -> None:
        super().__init__(self.code if code is None else code, sentence)

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.strerror, self.errno)


class RemoteAccessError(RemoteError):
    """The owner's device refused the access: the memory behind the array is gone, or may not be written.

    Attributes:
        name: the array; index: what was asked for, as text.
    """

    code = errno.EFAULT

    def __init__(self, name: str, index: str, reason: str) -> None:
        super().__init__(f"{name}[{index}]: {reason}" if index else f"{name}: {reason}")
        self.name, self.index, self.reason = name, index, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.index, self.reason)


class Disconnected(RemoteError, ConnectionError):
    """The owner, or the way to it, is gone; the next operation connects again by itself."""

    code = errno.ECONNRESET


class Refused(RemoteError, PermissionError):
    """The server does not let us in, or not do this (token, read-only array)."""

    code = errno.EACCES


class ProtocolError(RemoteError):
    """The other end does not speak our protocol, or not our version of it."""

    code = errno.EPROTO


def as_text(index: object, limit: int = 60) -> str:
    """An index as one writes it between brackets, shortened."""
    if isinstance(index, tuple):
        return ", ".join(as_text(part, limit) for part in index)
    if isinstance(index, slice):
        ends = ["" if end is None else str(end) for end in (index.start, index.stop)]
        return ":".join(ends) + ("" if index.step is None else f":{index.step}")
    if index is Ellipsis:
        return "..."
    text = " ".join(str(index if not hasattr(index, "shape") else _array_text(index)).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _array_text(array: Any) -> str:
    if array.ndim == 0:
        return str(array)
    first = ", ".join(str(item) for item in array.flat[:4])
    return f"[{first}{', ...' if array.size > 4 else ''}]"
