"""What all devices of a process share: one userfaultfd, the notifier thread, the list of devices, one control plane.

A range can be watched by one userfaultfd only, so the process has one. It opens with the first device and closes with
the last. After a fork the child has nothing of it: it closes the descriptors at once (a userfaultfd that lives on in a child
would leave the parent's ``munmap`` asleep for the child's life) and starts afresh if it opens a device of its own.

Rules of the control plane:

* `control` guards what Python owns (free lists, counts of watched ranges). It is held for a few lines and never while
  anything is waited for.
* What is to go away is a `Departure`: steps that may be interrupted (Ctrl-C) and carried on by anybody. An explicit
  close waits for it; when the collector takes an object, which may be at any moment, only what can be done at once is done,
  and nothing at all inside `control`. What is left over is carried on by the next call of the control plane (`settle`).
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import errno
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from unpinned.host import endings
from unpinned.host import engine_words as E
from unpinned.host.control import DONE, end_notifier, leave_device, serve_device
from unpinned.host.notify import notify
from unpinned.host.system import SHORTAGES
from unpinned.host.undisturbed import LOOK_SECONDS, Sign
from unpinned.host.userfaultfd import Userfaultfd, notify_scratch

if TYPE_CHECKING:
    from unpinned.host.device import Device

QUIET_SECONDS = 1.0  # how long a registration waits for a pause between changes of mappings

control = threading.RLock()
devices: dict[tuple[str, int], Device] = {}
immortal: list[Any] = []
"""What threads that did not end still look at: never freed."""

_notifier: Notifier | None = None
_pid = os.getpid()
_expected: set[Departure] = set()
_departures: list[Departure] = []
"""Those that have begun and are not complete."""


class Departure(weakref.ref[Any]):
    """The end of *thing*. It begins with `begin`, or when *thing* has gone: that is noted in C, where no signal handler comes between.

    *leave*(wait) does what is left to do and says whether that was all; it may be interrupted anywhere and called again, by one
    thread at a time. Nothing is done in a forked child.
    """

    __slots__ = ("_leave", "_pid", "_to_begin", "_turn", "done")
    __eq__ = object.__eq__  # references are equal where their objects are
    __hash__ = object.__hash__

    def __new__(cls, thing: object, leave: Callable[[bool], bool]) -> Departure:
        return super().__new__(cls, thing, _departures.append)

    def __init__(self, thing: object, leave: Callable[[bool], bool]) -> None:
        self._leave = leave
        self._turn = threading.RLock()
        self._to_begin = [True]
        self._pid = os.getpid()
        self.done = False
        _expected.add(self)

    def begin(self, wait: bool = True) -> None:
        """Begin, or go on; with *wait* it is complete on return. Idempotent.

        Who comes second does not wait for who came first: two that close each other's things, from finalizers, would for ever.
        """
        if self.done:
            return
        _departures.append(self)
        first = False
        with contextlib.suppress(IndexError):
            first = self._to_begin.pop()
        if not control._is_owned():  # type: ignore[attr-defined]
            self.carry_on(wait, wait and first)

    def carry_on(self, wait: bool, queue: bool) -> None:
        """Do what is left: all of it with *wait*, else what can be done at once. Without *queue* nothing while another thread is at it."""
        taken: list[bool] = []
        self.done = self.done or self._pid != os.getpid()  # first: in a child nobody may have the turn to give
        try:
            if not self.done and not self._turn._is_owned():  # type: ignore[attr-defined]  # by what a signal handler interrupts
                taken.extend(filter(None, map(self._turn.acquire, (queue,))))  # one call from C: no interruption between turn and note
            if taken:
                self.done = self.done or self._leave(wait)
        finally:
            if taken:
                self._turn.release()
        if self.done:
            _expected.discard(self)
            with contextlib.suppress(ValueError):
                while True:
                    _departures.remove(self)


def departing(thing: object, leave: Callable[[bool], bool]) -> Departure:
    """The `Departure` of *thing*, which the collector also sets off at once."""
    weakref.finalize(thing, settle).atexit = False  # first: of an object's weak references the last one made is told first
    return Departure(thing, leave)


def settle() -> None:
    """Carry on what has begun and could not end: by the collector, or by calls that were interrupted."""
    endings.settle()
    if control._is_owned() or just_forked():  # type: ignore[attr-defined]
        return
    for departure in list(_departures):
        departure.carry_on(False, False)
    for device in list(devices.values()):
        if not device.uses and not device.closed:
            device.shutdown()


def await_departures() -> bool:
    """Complete all that is under way; was there any?"""
    departures = list(_departures)
    for departure in departures:
        departure.carry_on(True, True)
    return bool(departures)


def just_forked() -> bool:
    """Is this a forked child that has not forgotten the parent's devices yet? What runs now, in somebody's fork handler or by the
    collector, must not touch them: locks may be held by threads that the child has not got.
    """
    return os.getpid() != _pid


class Notifier:
    """The userfaultfd of the process and the thread that reads it; absent where the kernel refuses one."""

    def __init__(self) -> None:
        self.source: Userfaultfd | None = None
        self.refused = ""
        self.g = np.zeros(E.G_WORDS, np.int64)
        self._scratch = notify_scratch()
        self._thread: KernelThread | None = None
        try:
            self.source = Userfaultfd.open()
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            self.refused = error.strerror or str(error)
            return
        self.g[E.G_UFFD] = self.source.fd
        self.g[E.G_WAKE_FD] = -1
        try:
            self.g[E.G_WAKE_FD] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.g[E.G_SCRATCH], self.g[E.G_SCRATCH_LENGTH] = self._scratch.ctypes.data, self._scratch.size
            self._thread = KernelThread(self, notify, self.g)
        except BaseException:
            if self.g[E.G_WAKE_FD] >= 0:
                os.close(int(self.g[E.G_WAKE_FD]))
            self.source.close()
            raise

    def add(self, e: Any) -> None:
        """Apply events to the device of engine block ``e`` from now on."""
        if serve_device(self.g, e.ctypes.data) != DONE:
            raise OSError(errno.EMFILE, f"a process has at most {E.DEVICES_MAX} devices")

    def await_reader(self) -> None:
        """Return when the thread is in its kernel. To get there it needs the GIL once: an event that comes before, from an
        munmap by a thread that holds the GIL, would find no reader for ever.
        """
        while self.g[E.G_THREADS] == 0 and self._thread is not None and self._thread.is_alive():
            time.sleep(0.0001)

    def await_quiet(self) -> None:
        """Return when no unmapping that began before this call is still to be told: what comes next at an address is not revoked
        for what was there before. Changes never stop in some processes, but they pause.
        """
        deadline = time.monotonic() + QUIET_SECONDS
        while self.source is not None and self.source.changing() and time.monotonic() < deadline:
            time.sleep(0.0001)

    def remove(self, e: Any) -> None:
        """Leave a device alone; on return the notifier does not look at it."""
        leave_device(self.g, e.ctypes.data)

    def close(self) -> None:
        """Unwatch everything, then end the thread: in that order, or an event could find no reader."""
        source, self.source = self.source, None
        if source is None:
            return
        for start, end, _ in list(source.watched):
            source.forget(start, end)
        source.fd = -1  # the kernel below closes it
        if end_notifier(self.g):
            immortal.append(self)
            return
        if self._thread is not None:
            self._thread.join()
        os.close(int(self.g[E.G_WAKE_FD]))

    def forget(self) -> None:
        """In a forked child: close the descriptors, touch nothing else."""
        source, self.source = self.source, None
        if source is not None:
            source.close()
            os.close(int(self.g[E.G_WAKE_FD]))


class KernelThread:
    """A daemon thread inside a kernel, without the GIL until the kernel returns.

    Not `threading.Thread`: its start waits for the new thread in Python, and Ctrl-C in there leaves a thread that nobody
    knows of. This one is begun by one call that a signal handler cannot divide, and is alive from then on. *owner* lives as
    long: the kernel reaches its blocks by address.
    """

    def __init__(self, owner: object, kernel: Callable[..., Any], *arguments: Any) -> None:
        """OSError EAGAIN when there is no room for a thread."""
        self._over = _thread.allocate_lock()
        self._over.acquire()
        sign = Sign()
        self._sign = weakref.ref(sign)
        try:
            _thread.start_new_thread(self._run, (owner, kernel, arguments, sign))
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"no thread for the device: {error} (RLIMIT_NPROC, RLIMIT_AS, pids.max)") from None

    def _run(self, owner: object, kernel: Callable[..., Any], arguments: tuple[Any, ...], sign: Sign) -> None:
        try:
            kernel(*arguments)
        finally:
            self._over.release()

    def is_alive(self) -> bool:
        """False also for one that ended before its first line, for want of memory."""
        return self._over.locked() and self._sign() is not None

    def join(self, timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.is_alive() and (deadline is None or time.monotonic() < deadline):
            if self._over.acquire(timeout=LOOK_SECONDS if timeout is None else min(timeout, LOOK_SECONDS)):
                self._over.release()


def acquire_notifier() -> Notifier:
    """The process's notifier, opened with its first device. `control` is held."""
    global _notifier
    if _notifier is None:
        _notifier = Notifier()
    return _notifier


def release_notifier() -> None:
    """Close the notifier when the last device has gone."""
    global _notifier
    notifier = None
    with control:
        if not devices:
            notifier, _notifier = _notifier, None
    if notifier is not None:
        notifier.close()


def shutdown() -> None:
    """Close every device. At interpreter exit, before daemon threads are frozen and arrays collected."""
    for device in list(devices.values()):
        device.shutdown()
    settle()


def _after_fork_in_child() -> None:
    """The child has none of it: no thread, no registration. Objects it inherited are closed."""
    global _notifier, _pid, control
    control = threading.RLock()
    _expected.clear()
    _departures.clear()
    for device in list(devices.values()):
        device.forget()
    devices.clear()
    if _notifier is not None:
        _notifier.forget()
        _notifier = None
    _pid = os.getpid()


atexit.register(shutdown)
os.register_at_fork(after_in_child=_after_fork_in_child)
