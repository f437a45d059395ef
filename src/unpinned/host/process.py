"""What all devices of a process share: one userfaultfd, the notifier thread, the list of devices.

A range can be watched by one userfaultfd only, so the process has one. It opens with the first device and closes with
the last. After a fork the child has nothing of it: it closes the descriptors at once (a userfaultfd that lives on in a child
would leave the parent's ``munmap`` asleep for the child's life) and starts afresh if it opens a device of its own.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from unpinned.host import engine_words as E
from unpinned.host.lock import lock, unlock
from unpinned.host.notify import notify
from unpinned.host.userfaultfd import Userfaultfd, notify_scratch

if TYPE_CHECKING:
    from unpinned.host.device import Device


class Notifier:
    """The userfaultfd of the process and the thread that reads it; absent where the kernel refuses one."""

    def __init__(self) -> None:
        self.source: Userfaultfd | None = None
        self.refused = ""
        self._thread: threading.Thread | None = None
        self.g = np.zeros(E.G_WORDS, np.int64)
        self._scratch = notify_scratch()
        try:
            self.source = Userfaultfd.open()
        except OSError as error:
            self.refused = str(error)
            return
        self.g[E.G_UFFD] = self.source.fd
        self.g[E.G_WAKE_FD] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.g[E.G_SCRATCH], self.g[E.G_SCRATCH_LENGTH] = self._scratch.ctypes.data, self._scratch.size
        self._thread = start_thread("unpinned-notifier", notify, self.g)

    def add(self, e: Any) -> None:
        """Apply events to the device of engine block ``e`` from now on."""
        lock(self.g, E.G_LOCK)
        self.g[E.G_DEVICES + self.g[E.G_COUNT]] = e.ctypes.data
        self.g[E.G_COUNT] += 1
        unlock(self.g, E.G_LOCK)

    def remove(self, e: Any) -> None:
        """Leave a device alone; on return the notifier does not look at it."""
        lock(self.g, E.G_LOCK)
        count = int(self.g[E.G_COUNT])
        devices = self.g[E.G_DEVICES : E.G_DEVICES + count]
        kept = devices[devices != e.ctypes.data].copy()
        devices[: kept.size] = kept
        self.g[E.G_COUNT] = kept.size
        unlock(self.g, E.G_LOCK)

    def close(self) -> None:
        """Unwatch everything, then end the thread: in that order, or an event could find no reader."""
        if self.source is None:
            return
        for start, end in list(self.source.watched):
            self.source.forget(start, end)
        self.source.close()  # wakes whoever still waits for an event
        self.g[E.G_STOP] = 1
        os.eventfd_write(int(self.g[E.G_WAKE_FD]), 1)
        if self._thread is not None:
            self._thread.join()
        os.close(int(self.g[E.G_WAKE_FD]))
        self.source = None

    def forget(self) -> None:
        """In a forked child: close the descriptors, touch nothing else."""
        if self.source is not None:
            self.source.close()
            os.close(int(self.g[E.G_WAKE_FD]))
            self.source = None


def start_thread(name: str, kernel: Any, *arguments: Any) -> threading.Thread:
    """A daemon thread inside a kernel, without the GIL until the kernel returns."""
    thread = threading.Thread(target=kernel, args=arguments, name=name, daemon=True)
    thread.start()
    return thread


_guard = threading.RLock()
_notifier: Notifier | None = None
devices: dict[str, Device] = {}
_forks: weakref.WeakSet[Any] = weakref.WeakSet()


def guard() -> threading.RLock:
    """The lock of the process's device list."""
    return _guard


def acquire_notifier() -> Notifier:
    """The process's notifier, opened with its first device."""
    global _notifier
    if _notifier is None:
        _notifier = Notifier()
    return _notifier


def release_notifier() -> None:
    """Close the notifier when the last device has gone."""
    global _notifier
    if _notifier is not None and not devices:
        notifier, _notifier = _notifier, None
        notifier.close()


def shutdown() -> None:
    """Close every device. At interpreter exit, before daemon threads are frozen and arrays collected."""
    with _guard:
        for device in list(devices.values()):
            device.shutdown()


def _after_fork_in_child() -> None:
    global _notifier, _guard
    _guard = threading.RLock()
    for device in list(devices.values()):
        device.forget()
    devices.clear()
    if _notifier is not None:
        _notifier.forget()
        _notifier = None


atexit.register(shutdown)
os.register_at_fork(after_in_child=_after_fork_in_child)
