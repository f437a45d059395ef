"""A device: its blocks, its socket, its threads, and its end.

One device per address and port in a process; contexts share it (`Use`). Its regions and queues come
and go by `regions` and `queues`; what changes under the device lock is a kernel of `control`.

A device ends in this order: no new copies and faults; its ranges watched no more; its threads end, and with them what was
under way; the notifier forgets it; its mappings and descriptors go; with the last device, the notifier.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import time
from pathlib import Path
from sys import is_finalizing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.compiled.libc import futex_wake
from unpinned.hca import block, setup
from unpinned.hca import layout as L
from unpinned.host import control, process, system
from unpinned.host import engine_words as E
from unpinned.host import layout as H
from unpinned.host.copies import copy_scratch
from unpinned.host.engine import enter
from unpinned.host.pagemap import close_scratch, scan_scratch
from unpinned.host.queues import Queues
from unpinned.host.recorder import Recorder
from unpinned.host.regions import REGIONS, Regions, named
from unpinned.host.trust import HORIZON_NS
from unpinned.host.udp import ROCE_PORT, address_words, open_endpoint, parse_address, udp_scratch
from unpinned.host.undisturbed import undisturbed
from unpinned.host.vmas import MAPS, procmap_query_works
from unpinned.host.workers import work
from unpinned.paging import layout as P
from unpinned.wire.icrc import SOLVER_WORDS

Words = NDArray[np.int64]

PROVISIONAL_TRUST_NS = 2_000_000  # longer than a driver takes to come by again on a busy machine
WORKERS = 8  # pages that may be on their way from the disk at once
SPIN_NS = 50_000
WAIT_SLICE_NS = 50_000_000  # a wait comes back to Python so often, for signals and for the end of the device
STOP_SECONDS = 10.0  # how long threads may take to end; one that hangs in somebody's fault handler is left behind


class Device:
    """One address's device. `open_device` makes it."""

    _scratch: tuple[Words, ...] = ()  # until `_build` has made it

    def __init__(self, address: str | None, port: int) -> None:
        self.endpoint = open_endpoint(address, port)
        self.address = str(self.endpoint.address)
        self.port = self.endpoint.port
        self.uses: set[object] = set()
        """A key for each user (`Use`); the device ends with the last one."""
        self.closed = False
        self._ended = False
        self.pds = itertools.count(1)
        self.recorder: Recorder | None = None
        self._threads: list[process.KernelThread] = []
        self.e = np.zeros(E.E_WORDS, np.int64)
        self.e[E.E_WAKE_FD] = -1
        try:
            self._build()
            self.notifier = process.acquire_notifier()
            self._scratch[1][H.COPY_UFFD] = self.notifier.g[E.G_UFFD]
        except BaseException:
            self._close_descriptors()
            raise
        try:
            self.notifier.add(self.e)
            self._start_threads()
        except BaseException:  # no room, no thread, or Ctrl-C at any of these lines
            self._shutdown(True)
            raise

    def _start_threads(self) -> None:
        self._threads.append(process.KernelThread(self, enter, self.e, E.MODE_FIRMWARE, 0, 0, 0, np.zeros(1, np.int64)))
        for _ in range(WORKERS):
            self._threads.append(process.KernelThread(self, work, self.e))

    def _build(self) -> None:
        """The blocks, and the engine block that says where they are."""
        window = min(1 << 20, max(1 << 16, self.endpoint.receive_bytes // 4))
        spare = max(0, self.endpoint.receive_bytes * 5 // 8 - 2 * window)  # with all shares, answers in 5/8 of the buffer at most
        self.h, arena = block.create(window_bytes=window, spare_bytes=spare)
        self.p = P.create(levels=4, bits=9, leaves=65_536, regions=REGIONS, revoked=4_096, dma=1_280, faults=1_024)
        self.p[P.HORIZON_NS] = self.p[P.PROVISIONAL_NS] = HORIZON_NS
        self.p[P.PROVISIONAL_TRUST_NS] = PROVISIONAL_TRUST_NS
        self.b = system.zeroed(arena + 4096)
        self.tables = setup.Tables(self.h, self.p)
        self.regions, self.queues = Regions(self), Queues(self)
        solver = np.zeros(SOLVER_WORDS, np.int64)
        self._scratch = (udp_scratch(self.endpoint, L.RECV_BURSTS), copy_scratch(), scan_scratch(), solver)
        copies, scans = self._scratch[1:3]
        if scans[H.SCAN_MODE] == H.MODE_IOCTL and procmap_query_works():
            scans[H.SCAN_MAPS] = os.open(MAPS, os.O_RDONLY | os.O_CLOEXEC)
            copies[H.COPY_SCAN] = scans.ctypes.data
        self.files = np.zeros(REGIONS, np.int64)
        words = (E.E_H, E.E_P, E.E_B, E.E_UDP, E.E_COPY, E.E_SCAN, E.E_SOLVER, E.E_FILES)
        arrays: tuple[NDArray[Any], ...] = (self.h, self.p, self.b, *self._scratch, self.files)
        for word, array in zip(words, arrays):
            self.e[word], self.e[word + 1] = array.ctypes.data, array.size
        self.e[E.E_WAKE_FD] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.e[E.E_LOCAL_HI], self.e[E.E_LOCAL_LO] = address_words(self.endpoint.address)
        self.e[E.E_LOCAL_PORT] = self.endpoint.port
        self.e[E.E_SPIN_NS] = SPIN_NS
        self.e[E.E_HORIZON_SINCE] = time.monotonic_ns()

    def check(self) -> None:
        """OSError ENODEV when the device is closed, or belongs to the parent of this process."""
        if self.closed:
            raise OSError(errno.ENODEV, f"the device on {self.address} is closed")

    def drive(self) -> None:
        """Give the device a burst, or wake who drives it."""
        enter(self.e, E.MODE_DRIVE, 0, 0, 0, self.e)

    def counters(self) -> dict[str, int]:
        """Every counter of the device, by name; packets dropped are counted by reason (``bad_*``).

        ``send_errors`` counts sends that the socket refused, ``send_too_big`` those of them that exceeded the path's MTU;
        ``send_errno`` is the last one's errno.
        """
        made = {name: int(self.h[word]) for name, word in L.COUNTERS.items()}
        made |= {f"paging_{name}": value for name, value in named(P.view(self.p, "totals")[0]).items()}
        made["slow_copies"] = int(self._scratch[1][H.COPY_SLOW])
        made["hole_bytes"] = int(self._scratch[1][H.COPY_HOLE_BYTES])
        made["nearby_pages"] = int(self.e[E.E_NEARBY])
        made["foreign_bytes_at_risk"] = int(self._scratch[1][H.COPY_AT_RISK])
        made["send_too_big"] = int(self.e[E.E_MTU_ERRORS])
        made["send_errno"] = int(self.e[E.E_TX_ERRNO])
        return made | {"halts": int(self.e[E.E_HALTS]), "halt_max_ns": int(self.e[E.E_HALT_MAX_NS])}

    def record(self, path: str | Path) -> Recorder:
        """Record what the device does to a file, until its end or ``stop``. OSError when the file cannot be written, EBUSY when
        it is being recorded already.
        """
        self.check()
        if self.recorder is not None and self.recorder.active:
            raise OSError(errno.EBUSY, f"the device on {self.address} is being recorded to {self.recorder.path}")
        self.recorder = Recorder(self, path)
        return self.recorder

    # ---- the end ---------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Stop the threads, close everything. Idempotent; the last `Use` that is closed does it."""
        process.Departure(self, self._shutdown).begin()

    def _shutdown(self, wait: bool) -> bool:
        if self._ended:
            return True
        if self.recorder is not None:
            with contextlib.suppress(OSError):  # its `error`, and the file, say so
                self.recorder.stop()
        if not self.closed:
            control.revoke_regions(self.e, 0)
            self.closed = True
        with process.control:
            self.regions.unwatch_all()
        stopped = self._stop_threads()
        self.notifier.remove(self.e)
        with process.control:
            self._ended = True
            if process.devices.get((self.address, self.port)) is self:
                del process.devices[self.address, self.port]
            if stopped:
                self.regions.close_all()
                self._close_descriptors()
            else:
                process.immortal.append(self)
        process.release_notifier()
        return True

    def _stop_threads(self) -> bool:
        """Have every thread leave the kernels of this device; False if one did not."""
        deadline = time.monotonic() + STOP_SECONDS
        self.e[E.E_STOP] = 1
        while any(thread.is_alive() for thread in self._threads) or self.e[E.E_THREADS]:
            if time.monotonic() > deadline:
                return False
            wake_all(self.e)
            for thread in self._threads:
                thread.join(0.01)
        return True

    def _close_descriptors(self) -> None:
        """As many as there are: `_build` may have failed halfway."""
        self.endpoint.close()
        if self._scratch:
            close_scratch(self._scratch[2])
        wake_fd, self.e[E.E_WAKE_FD] = int(self.e[E.E_WAKE_FD]), -1
        if wake_fd >= 0:
            os.close(wake_fd)

    def forget(self) -> None:
        """In a forked child: close the descriptors; threads, lock and blocks belong to the parent."""
        self.closed = self._ended = True
        self.regions.open.clear()
        self._close_descriptors()


class Use:
    """One user's hold on a device: until `close`, or until nobody holds this any more."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._key = object()
        device.uses.add(self._key)
        self._departure = process.departing(self, functools.partial(_let_go, device, self._key))

    def leave(self, wait: bool) -> bool:
        """The last one stops the device. As `process.Departure` wants it."""
        return _let_go(self.device, self._key, wait)

    def close(self) -> None:
        """`leave`, completely. Idempotent."""
        self._departure.begin()


def _let_go(device: Device, key: object, wait: bool) -> bool:
    """Wherever a signal handler interrupts this, doing it again is right; if nobody does, `process.settle` sees to the device."""
    with process.control:
        device.uses.discard(key)
        last = not device.uses
    if last and wait:
        undisturbed(device.shutdown)
    elif last:
        process.Departure(device, device._shutdown).begin(wait=False)
    return True


def open_device(address: str | None = None, port: int = ROCE_PORT) -> Use:
    """The process's device on ``address`` (None: a free loopback address), opened at first use.

    Raises:
        OSError: the address is taken by another process, or is not ours; ENOMEM, EAGAIN or EMFILE: no memory, thread or descriptor.
    """
    if is_finalizing():
        raise OSError(errno.EAGAIN, "the interpreter is shutting down: no thread for a device can begin")
    _compile()
    process.settle()
    try:
        return _open_or_await(address, port)
    except MemoryError as error:
        raise OSError(errno.ENOMEM, f"no memory for a device: {error}") from None


def _open_or_await(address: str | None, port: int) -> Use:
    if process.control._is_owned():  # type: ignore[attr-defined]  # by what a signal handler, which is calling, interrupts
        return _open(address, port)
    try:
        return undisturbed(lambda: _open(address, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not process.await_departures():
            raise
        return undisturbed(lambda: _open(address, port))  # it was one of ours, on its way out


def _open(address: str | None, port: int) -> Use:
    with process.control:
        if address is not None:
            known = process.devices.get((str(parse_address(address)[0]), port))
            if known is not None and known.uses:
                return Use(known)
        device = Device(address, port)
        use = Use(device)
        process.devices[device.address, device.port] = device
        return use


@functools.cache
def _compile() -> None:
    from unpinned.compiled import build

    build.ensure()
    build.load()  # now: a device must be able to end where there is no descriptor and no disk left


def poll(device: Device, cq: int, limit: int, timeout_ns: int, out: Words) -> int:
    """Completions of record ``cq`` into ``out``; how many. Sleeps without the GIL, at most ``timeout_ns``."""
    return int(enter(device.e, E.MODE_POLL, cq, limit, timeout_ns, out))


def post(device: Device, q: int, staged: Words, count: int, receive: bool) -> int:
    """Post ``count`` work requests staged at the queue's stride; how many the queue took, -1 when the queue pair is closed."""
    return int(enter(device.e, E.MODE_POST, q, int(receive), count, staged))


def wake_all(e: Words) -> None:
    """Wake every thread of an engine whose E_STOP is set."""
    os.eventfd_write(int(e[E.E_WAKE_FD]), 1)
    for word in (E.E_WORK, E.E_PROGRESS):
        e[word] += 1
    for word in (E.E_WORK, E.E_PROGRESS, E.E_PAUSED, E.E_HALT):
        futex_wake(e.ctypes.data + 8 * word, 1 << 30)
