"""Ctrl-C while LLVM is at work: it calls back into Python, and an exception that is raised there is printed and lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_later() -> Iterator[None]:
    """An interrupt (SIGINT) that falls in here is handled at the end, by whoever would have handled it at once.

    Only in the main thread, which is where Python handles signals; nested ones do nothing.
    """
    handler = signal.getsignal(signal.SIGINT)
    elsewhere = threading.get_ident() != threading.main_thread().ident  # `current_thread` makes an entry for a thread that has none
    if elsewhere or not callable(handler) or getattr(handler, "later", False):
        yield
        return
    seen: list[FrameType | None] = []

    def wait(number: int, frame: FrameType | None) -> None:
        seen.append(frame)

    wait.later = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if seen:
            handler(signal.SIGINT, seen[0])
