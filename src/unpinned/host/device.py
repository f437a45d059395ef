"""A device: its blocks, its socket, its threads, and the control plane over them.

One device per address in a process; contexts share it (`open_device` counts them). The control plane takes the device lock
for steps and *halts* the device for what must not meet a copy in flight (a region that goes away).
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.hca import block, setup
from unpinned.hca import layout as L
from unpinned.hca.qp import fail_qp
from unpinned.hca.ready import make_ready
from unpinned.host import engine_words as E
from unpinned.host import process
from unpinned.host.copies import copy_scratch
from unpinned.host.engine import enter
from unpinned.host.lock import halt, lock, resume, unlock
from unpinned.host.memory import Kind, Mapping
from unpinned.host.notify import invalidate
from unpinned.host.pagemap import close_scratch, resident, scan_scratch
from unpinned.host.udp import address_words, open_endpoint, parse_address, udp_scratch
from unpinned.host.workers import work
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_begin
from unpinned.paging.regions import region_close, region_open
from unpinned.wire.icrc import SOLVER_WORDS

HORIZON_NS = 20_000_000
WORKERS = 4
SPIN_NS = 30_000
ADDRESS_SPACE = 1 << 47
SETTLED = (P.FAULT_FREE, P.FAULT_DONE, P.FAULT_FAILED)


@dataclass
class Region:
    """A registered range: its record, its key and the mapping that the device uses."""

    device: Device
    mr: int
    slot: int
    key: int
    mapping: Mapping | None
    start: int
    length: int

    def counters(self) -> dict[str, int]:
        """The region's page-fault and invalidation counters, by name."""
        record = P.view(self.device.p, "counters")[self.slot]
        return {name: int(record[name].sum()) for name in record.dtype.names}

    def resident_bytes(self) -> int:
        """Bytes of the region whose pages are in memory, as the device's mapping sees them."""
        if self.mapping is None:
            return 0
        scratch = scan_scratch()
        try:
            return int(resident(*self.mapping.pages, scratch))
        finally:
            close_scratch(scratch)


class Device:
    """One address's device. Use `open_device`."""

    def __init__(self, address: str | None, port: int) -> None:
        self.endpoint = open_endpoint(address, port)
        self.address = str(self.endpoint.address)
        self.references = 0
        self.closed = False
        window = min(1 << 20, max(1 << 16, self.endpoint.receive_bytes // 4))
        self.h, arena = block.create(window_bytes=window)
        self.p = P.create(levels=4, bits=9, leaves=65_536, regions=16_384, revoked=4_096, dma=1_280, faults=1_024)
        self.p[P.HORIZON_NS] = HORIZON_NS
        self.p[P.PROVISIONAL_NS] = HORIZON_NS
        self.b = np.zeros(arena + 4096, np.uint8)
        self.e = np.zeros(E.E_WORDS, np.int64)
        self.tables = setup.Tables(self.h, self.p)
        self._free_slots = list(range(16_383, -1, -1))
        self._scratch = (udp_scratch(self.endpoint, L.RECV_BURSTS), copy_scratch(), scan_scratch(), np.zeros(SOLVER_WORDS, np.int64))
        for word, array in zip((E.E_H, E.E_P, E.E_B, E.E_UDP, E.E_COPY, E.E_SCAN, E.E_SOLVER), (self.h, self.p, self.b, *self._scratch)):
            self.e[word], self.e[word + 1] = array.ctypes.data, array.size
        self.e[E.E_WAKE_FD] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.e[E.E_LOCAL_HI], self.e[E.E_LOCAL_LO] = address_words(self.endpoint.address)
        self.e[E.E_LOCAL_PORT] = self.endpoint.port
        self.e[E.E_SPIN_NS] = SPIN_NS
        self.notifier = process.acquire_notifier()
        self.notifier.add(self.e)
        nothing = np.zeros(1, np.int64)
        self._threads = [process.start_thread(f"unpinned-firmware-{self.address}", enter, self.e, E.MODE_FIRMWARE, 0, 0, 0, nothing)]
        self._threads += [process.start_thread(f"unpinned-fault-{i}", work, self.e) for i in range(WORKERS)]

    # ---- locking ---------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The device lock, for a step of the control plane."""
        self._check()
        lock(self.e, E.E_LOCK)
        try:
            yield
        finally:
            unlock(self.e, E.E_LOCK)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """The device stands still: the lock is held and no copy is in flight."""
        self._check()
        halt(self.e)
        try:
            yield
        finally:
            resume(self.e)

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.ENODEV, f"the device on {self.address} is closed")

    def drive(self) -> None:
        """Give the device a burst, or wake who drives it."""
        enter(self.e, E.MODE_DRIVE, 0, 0, 0, self.e)

    # ---- regions ---------------------------------------------------------------------------------------------------

    def register(self, mapping: Mapping, *, pd: int, access: int, pinned: bool = False, key: int = 0) -> Region:
        """Register a mapping. O(1) in its size, unless ``pinned``.

        Raises:
            OSError: ENOMEM or EPERM when pinning exceeds RLIMIT_MEMLOCK, ENOMEM when the device is full.
        """
        self._check()
        if pinned:
            mapping.lock()
        try:
            low, high = mapping.pages
            flags = P.REGION_WRITE_BY_SCAN if mapping.kind is Kind.OWNED else 0
            region = self._open(mapping.address, mapping.length, mapping.table_base, mapping.table_base + mapping.length or 1, flags,
                                pd=pd, access=access, path=mapping.path, pinned=pinned, implicit=False, mapping=mapping, key=key)
            if self.notifier.source is not None and mapping.notify:
                mapping.watch(self.notifier.source)
            elif mapping.notify:
                mapping.unnotified = self.notifier.refused
        except BaseException:
            mapping.close()
            raise
        return region

    def register_implicit(self, *, pd: int, access: int) -> Region:
        """The whole address space as one region, reached by process_vm at the application's own addresses."""
        return self._open(0, ADDRESS_SPACE, 0, ADDRESS_SPACE, 0, pd=pd, access=access, path=P.PATH_PROCESS_VM, pinned=False,
                          implicit=True, mapping=None, key=0)

    def _open(self, start: int, length: int, low: int, high: int, flags: int, *, pd: int, access: int, path: int, pinned: bool,
              implicit: bool, mapping: Mapping | None, key: int) -> Region:  # fmt: skip
        with self.locked():
            if not self._free_slots:
                raise OSError(errno.ENOMEM, "the device has no free memory region")
            slot = self._free_slots.pop()
            high = max(high, low + 1)
            if region_open(self.p, slot, low, high, flags) != P.DONE:
                self._free_slots.append(slot)
                raise OSError(errno.EINVAL, f"not a range that can be registered: {high - low} bytes at {low:#x}")
            mr = 0
            for _ in range(16):
                chosen = key or secrets.randbits(32)
                mr = setup.add_mr(self.tables, pd=pd, key=chosen, start=start, length=length, access=access, delta=low - start,
                                  path=path, pinned=pinned, region=slot)
                if mr or key:
                    break
            if not mr:
                region_close(self.p, slot)
                self._free_slots.append(slot)
                raise OSError(errno.ENOMEM, "the device's key table is full")
            self.h[mr + L.MR_IMPLICIT] = int(implicit)
        return Region(self, mr, slot, chosen, mapping, start, length)

    def deregister(self, region: Region) -> None:
        """Close a region: on return nothing can reach it, no copy and no fault is under way in it, and its mapping is gone."""
        if not self.closed:
            with self.halted():
                self.h[region.mr + L.MR_STATE] = 2
            self._await_faults(region.slot)
            with self.halted():
                base, length = int(self.h[region.mr + L.MR_START] + self.h[region.mr + L.MR_DELTA]), region.length
                setup.remove_mr(self.tables, region.mr)
                if region.mapping is not None:
                    low, high = region.mapping.pages
                    invalidate(self.p, low, max(high, low + 1), P.CAUSE_RELEASE, time.monotonic_ns())
                else:
                    invalidate(self.p, base, base + length, P.CAUSE_RELEASE, time.monotonic_ns())
                region_close(self.p, region.slot)
                self._free_slots.insert(0, region.slot)
        if region.mapping is not None:
            region.mapping.close()

    def _await_faults(self, slot: int) -> None:
        """Wait until no fault works in the region's pages: a worker in populate must not meet their unmapping."""
        while True:
            with self.locked():
                faults = P.view(self.p, "faults")
                busy = (faults["region"] == slot) & ~np.isin(faults["state"], SETTLED)
                if not busy.any():
                    return
            time.sleep(0.0005)

    def prefetch(self, region: Region, start: int, length: int, *, write: bool, resident_only: bool = False) -> int:
        """Begin faults for [start, start + length) with nobody waiting; how many were begun (fewer when slots run out)."""
        begun = 0
        with self.locked():
            delta = int(self.h[region.mr + L.MR_DELTA])
            want = (P.WANT_WRITE if write else 0) | (P.WANT_RESIDENT if resident_only else 0)
            at, end = start + delta, start + length + delta
            while at < end:
                step = min(end - at, int(self.p[P.FAULT_MAX_BYTES]))
                if fault_begin(self.p, at, at + step, want, P.NONE, region.slot, time.monotonic_ns()) < 0:
                    break
                begun += 1
                at += step
        self.drive()
        return begun

    # ---- queues ----------------------------------------------------------------------------------------------------

    def create_cq(self, depth: int, fd: int = -1) -> int:
        """A completion queue; its record. ``fd``: an eventfd that announces completions once armed."""
        with self.locked():
            return setup.add_cq(self.tables, depth, fd)

    def destroy_cq(self, cq: int) -> None:
        if not self.closed:
            with self.idle():
                setup.remove_cq(self.tables, cq)

    def create_qp(self, **parameters: Any) -> int:
        """A queue pair in RESET; its record. Parameters as `hca.setup.add_qp`, without ``random``."""
        with self.locked():
            return setup.add_qp(self.tables, random=secrets.randbits(24), **parameters)

    def destroy_qp(self, q: int) -> None:
        if not self.closed:
            with self.idle():
                setup.remove_qp(self.tables, q)

    @contextmanager
    def idle(self) -> Iterator[None]:
        """The lock, at a moment when no batch is between its copies and its completions."""
        while True:
            with self.locked():
                if not self.h[L.H_ACT_COUNT] and not self.h[L.H_TX_COUNT]:
                    yield
                    return
            self.drive()

    def to_error(self, q: int) -> None:
        """Move a queue pair to the error state and flush it."""
        with self.idle():
            if self.h[q + L.QP_STATE] != L.QPS_ERR:
                fail_qp(self.h, self.p, q, L.WC_FATAL_ERR)
        self.drive()

    def make_ready(self, q: int) -> None:
        with self.locked():
            make_ready(self.h, q)

    def counters(self) -> dict[str, int]:
        """Every counter of the device, by name; packets dropped are counted by reason (``bad_*``)."""
        made = {name: int(self.h[word]) for name, word in L.COUNTERS.items()}
        totals = P.view(self.p, "totals")
        made |= {f"paging_{name}": int(totals[name].sum()) for name in totals.dtype.names or ()}
        copies = self._scratch[1]
        from unpinned.host import layout as H

        made |= {"slow_copies": int(copies[H.COPY_SLOW]), "halts": int(self.e[E.E_HALTS]), "halt_max_ns": int(self.e[E.E_HALT_MAX_NS])}
        return made

    # ---- the end ---------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Stop the threads, close the socket. Idempotent; `Context.close` of the last context does it."""
        with process.guard():
            if self.closed:
                return
            self.closed = True
            process.devices.pop(self.address, None)
        self.notifier.remove(self.e)
        self._stop_threads()
        for region in list(self._open_mappings()):
            region.close()
        process.release_notifier()
        self.endpoint.close()
        close_scratch(self._scratch[2])
        os.close(int(self.e[E.E_WAKE_FD]))

    def _stop_threads(self) -> None:
        self.e[E.E_STOP] = 1
        while any(thread.is_alive() for thread in self._threads):
            stop(self.e)
            for thread in self._threads:
                thread.join(0.01)

    def _open_mappings(self) -> list[Mapping]:
        return []

    def forget(self) -> None:
        """In a forked child: close the descriptors; threads, lock and blocks belong to the parent."""
        self.closed = True
        self.endpoint.close()
        close_scratch(self._scratch[2])
        os.close(int(self.e[E.E_WAKE_FD]))


def open_device(address: str | None = None, port: int = 4791) -> Device:
    """The process's device on ``address`` (None: a free loopback address), opened at first use; `close_device` gives it back.

    Raises:
        OSError: the address is taken by another process, or is not ours.
    """
    from unpinned.compiled.build import ensure

    ensure()
    with process.guard():
        if address is not None:
            known = process.devices.get(str(parse_address(address)[0]))
            if known is not None:
                known.references += 1
                return known
        device = Device(address, port)
        device.references = 1
        process.devices[device.address] = device
        return device


def close_device(device: Device) -> None:
    """Give a device back; the last one stops it."""
    with process.guard():
        device.references -= 1
        last = device.references <= 0
    if last:
        device.shutdown()


def poll(device: Device, cq: int, limit: int, timeout_ns: int, out: NDArray[np.int64]) -> int:
    """Completions of ``cq`` into ``out``; how many. Sleeps without the GIL, at most ``timeout_ns``."""
    return int(enter(device.e, E.MODE_POLL, cq, limit, timeout_ns, out))


def post(device: Device, q: int, staged: NDArray[np.int64], count: int, receive: bool) -> int:
    """Post ``count`` work requests staged at the queue's stride; how many the queue took."""
    return int(enter(device.e, E.MODE_POST, q, int(receive), count, staged))


stop_doc = "threads that sleep are woken by their event descriptor and their futexes"


def stop(e: NDArray[np.int64]) -> None:
    """Wake every thread of an engine whose E_STOP is set."""
    from unpinned.compiled.libc import futex_wake

    os.eventfd_write(int(e[E.E_WAKE_FD]), 1)
    for word in (E.E_WORK, E.E_PAUSED, E.E_PROGRESS, E.E_HALT):
        e[E.E_WORK] += 1
        futex_wake(e.ctypes.data + 8 * word, 1 << 30)
