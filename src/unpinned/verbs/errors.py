"""Errors of verbs: OSErrors with an errno, and texts that name what was wrong.

* `ArgumentError`    the caller broke the contract: EINVAL, and a ValueError; the text begins with the argument's name.
* `unsupported`      EOPNOTSUPP, with the feature's name.
* `CompletionError`  what a work completion said, for those who rather raise than look (`WC.check`).

A wrong type is a TypeError.

Whatever OSError leaves a call of verbs has pyverbs' ``error_code`` besides: the number that ``errno`` has. pyverbs' classes are
not there, under no name: an alias of OSError would catch what is none of verbs, and an ``except OSError`` says what happens.
"""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_STATUS: tuple[tuple[str, int], ...] = (
    # verbs' text, and the errno that comes closest; the index is the status
    ("success", 0),
    ("local length error", errno.EMSGSIZE),
    ("local QP operation error", errno.EINVAL),
    ("local EE context operation error", errno.EINVAL),
    ("local protection error", errno.EFAULT),
    ("Work Request Flushed Error", errno.ECANCELED),
    ("memory management operation error", errno.EINVAL),
    ("bad response error", errno.EPROTO),
    ("local access error", errno.EACCES),
    ("remote invalid request error", errno.EBADMSG),
    ("remote access error", errno.EACCES),
    ("remote operation error", errno.EREMOTEIO),
    ("transport retry counter exceeded", errno.ETIMEDOUT),
    ("RNR retry counter exceeded", errno.ENOBUFS),
    ("local RDD violation error", errno.EINVAL),
    ("remote invalid RD request", errno.EBADMSG),
    ("aborted error", errno.ECONNABORTED),
    ("invalid EE context number", errno.EINVAL),
    ("invalid EE context state", errno.EINVAL),
    ("fatal error", errno.EIO),
    ("response timeout error", errno.ETIMEDOUT),
    ("general error", errno.EIO),
    ("TM error", errno.EIO),
    ("TM software rendezvous", errno.EIO),
)


def coded(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """*call*, whose OSErrors have ``error_code``: also those of the floors below, which keep their own classes."""

    @functools.wraps(call)
    def wrapped(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return call(*arguments, **options)
        except OSError as error:
            error.error_code = error.errno  # type: ignore[attr-defined]
            raise

    return wrapped


class ArgumentError(OSError, ValueError):
    """EINVAL: an argument is out of its range; the text names it."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(errno.EINVAL, f"{name}: {problem}")
        self.error_code = errno.EINVAL


class CompletionError(OSError):
    """A work request failed; `status` is its IBV_WC_* and `wr_id` says which it was."""

    def __init__(self, status: int, wr_id: int = 0, what: str = "") -> None:
        self.status = status
        self.wr_id = wr_id
        self.error_code = status_errno(status)
        text = wc_status_to_str(status)
        super().__init__(self.error_code, f"{what}: {text}" if what else text)


def wc_status_to_str(status: int) -> str:
    """The text of a work completion's status, as ibv_wc_status_str has it.

    >>> wc_status_to_str(10)
    'remote access error'
    """
    return _STATUS[status][0] if 0 <= status < len(_STATUS) else "unknown"


def status_errno(status: int) -> int:
    """The errno that stands for a work completion's status."""
    return _STATUS[status][1] if 0 <= status < len(_STATUS) else errno.EIO


def caller_level() -> int:
    """The ``stacklevel`` that makes a warning of the function that calls this one of the line outside the package that led to it.

    A constant would not do: a queue pair gets to RTR by `modify`, `to_rtr` or `to_rts`.
    """
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == __name__.partition(".")[0]:
        frame = frame.f_back
        level += 1
    return level


def refused(number: int, text: str) -> OSError:
    """The error to raise with this errno and text."""
    error = OSError(number, text)
    error.error_code = number  # type: ignore[attr-defined]
    return error


def unsupported(feature: str) -> OSError:
    """The error to raise for what verbs has and this device has not."""
    return refused(errno.EOPNOTSUPP, f"{feature}: not supported by this device")


def closed(what: str) -> OSError:
    """The error to raise for an object that was closed, or that came with a fork."""
    return refused(errno.ENODEV, f"the {what} is closed")


def instance(name: str, value: Any, kind: type) -> None:
    """TypeError that begins with *name* unless *value* is a *kind*."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: a {kind.__name__} is needed, not {type(value).__name__}")


def seconds(name: str, value: Any) -> float | None:
    """*value* as a waiting time, at least 0; None (for ever) for None and for what is longer than a century.

    TypeError or `ArgumentError` that begin with *name*.
    """
    if value is None:
        return None
    try:
        number = float(value) if not isinstance(value, str | bytes) else None
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{name}: seconds are needed, not {type(value).__name__}")
    if number != number:
        raise ArgumentError(name, f"{value} is no time")
    return max(number, 0.0) if number < 3.2e9 else None


def integer(name: str, value: Any, low: int, high: int) -> int:
    """*value* as an int in [low, high]; TypeError or `ArgumentError` that begin with *name*."""
    if type(value) is int and low <= value <= high:
        return value
    try:
        number = value.__index__()
    except AttributeError:
        raise TypeError(f"{name}: an integer is needed, not {type(value).__name__}") from None
    if not low <= number <= high:
        raise ArgumentError(name, f"{number} is not between {low} and {high}")
    return int(number)
