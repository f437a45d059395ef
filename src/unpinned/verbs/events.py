"""Events: the descriptors that announce them, how one waits for one, and the asynchronous ones of a context."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from unpinned.hca import layout as L
from unpinned.host import endings
from unpinned.host.device import Device
from unpinned.host.events import take_event
from unpinned.host.system import readable
from unpinned.verbs import enums as e
from unpinned.verbs.errors import closed, coded, seconds

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
WAIT_SECONDS = 0.5  # a wait looks so often whether another thread has closed what it waits at

QP_EVENTS: Final = {
    L.EVENT_FATAL: e.IBV_EVENT_QP_FATAL, L.EVENT_REQUEST: e.IBV_EVENT_QP_REQ_ERR, L.EVENT_ACCESS: e.IBV_EVENT_QP_ACCESS_ERR,
    L.EVENT_ESTABLISHED: e.IBV_EVENT_COMM_EST, L.EVENT_DRAINED: e.IBV_EVENT_SQ_DRAINED,
}  # fmt: skip
NAMES: Final = {value: name for name, value in vars(e).items() if name.startswith("IBV_EVENT_")}
CQ_EVENTS: Final = {L.TELL_OVERRUN: e.IBV_EVENT_CQ_ERR}


class Event:
    """An event descriptor, which counts: closed when what it announces is, and no queue refers to it any more."""

    @coded
    def __init__(self) -> None:
        self.queues: set[object] = set()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._ending = endings.at_end(self, own=endings.closing(self.fd))
        self.guard = threading.RLock()
        self.there = True

    def join(self, queue: object) -> int:
        """The descriptor, which stays open while it is in `queues`. ENODEV when it has been closed."""
        with self.guard:
            if not self.there:
                raise closed("completion channel")
            self.queues.add(queue)
            return self.fd

    def lend(self, make: Callable[[int], T]) -> T:
        """What *make* makes of the descriptor, which nobody closes meanwhile. ENODEV when it has been closed."""
        with self.guard:
            if not self.there:
                raise closed("context")
            return make(self.fd)

    def wake(self) -> None:
        """Wake who waits for an event, if the descriptor is still ours."""
        with self.guard:
            if self.there:
                os.eventfd_write(self.fd, 1)

    def take(self) -> bool:
        """Take an event; was there one?"""
        with self.guard, contextlib.suppress(BlockingIOError):
            if self.there:
                os.eventfd_read(self.fd)
                return True
        return False

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        with self.guard:
            self.there = False
            self._ending.carry_on()

    def leave(self, wait: bool) -> bool:
        """`close`, if no queue refers to it; was it? As `process.Departure` wants it."""
        with self.guard:
            if self.queues:
                return False
            self.close()
        return True


@dataclass(frozen=True)
class AsyncEvent:
    """An asynchronous event (ibv_async_event): its ``event_type``, IBV_EVENT_*, and the ``element``, QP or CQ, that it is about."""

    event_type: int
    element: Any

    def ack(self) -> None:
        """Nothing to do here: an event that was taken is acknowledged."""

    def __str__(self) -> str:
        return f"{NAMES[self.event_type]} of {self.element!r}"


def happened(device: Device, word: int, kinds: Mapping[int, int]) -> int | None:
    """Take an asynchronous event of the record whose CQ_ASYNC or QP_ASYNC is at *word*: IBV_EVENT_*, or None."""
    return kinds.get(take_event(device.e, word)) if device.h[word] else None  # another thread may have taken it meanwhile


def await_one(take: Callable[[], T | None], fileno: Callable[[], int], timeout: float | None, what: str) -> T:
    """What *take* gives, as soon as it gives something. OSError ETIMEDOUT after *timeout* seconds."""
    limit = seconds("timeout", timeout)
    deadline = None if limit is None else time.monotonic() + limit
    while (taken := take()) is None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, f"no {what} within {timeout} s")
        readable(fileno(), WAIT_SECONDS if left is None else min(left, WAIT_SECONDS))
    return taken


async def arrival(take: Callable[[], T | None], fileno: Callable[[], int]) -> T:
    """`await_one` without a limit, and without blocking the loop."""
    import asyncio  # late: it takes 50 ms

    loop = asyncio.get_running_loop()
    while (taken := take()) is None:
        readable = loop.create_future()
        fd = os.dup(fileno())  # its own: when the descriptor is closed, the number may be another's before the loop hears of it
        try:
            loop.add_reader(fd, _resolve, readable)
            await readable
        finally:
            loop.remove_reader(fd)
            os.close(fd)
    return taken


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
