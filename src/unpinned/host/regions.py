"""Memory regions of a device come and go.

A region goes in this order: no new copy and no new fault in it; what is under way ends; the tables forget it; its range is
watched no more and its mapping goes. Each step may be interrupted, and carried on by whoever comes by (`process.settle`).
"""

from __future__ import annotations

import errno
import secrets
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unpinned.hca import block
from unpinned.hca import layout as L
from unpinned.host import control, endings, process, system
from unpinned.host import engine_words as E
from unpinned.host.memory import Kind, Mapping
from unpinned.host.nearby import REGION_ANONYMOUS, REGION_OURS
from unpinned.host.pagemap import close_scratch, resident, scan_scratch
from unpinned.paging import layout as P
from unpinned.paging.causes import Cause

if TYPE_CHECKING:
    from unpinned.host.device import Device

REGIONS = 16_384
ADDRESS_SPACE = 1 << 47
PREFETCHES = 256  # that may be under way, of the device's 1,024 faults
PATIENCE_SECONDS = 10.0
"""How long a close waits for faults that are under way. One that hangs (in somebody's fault handler, on a dead disk) keeps
its mapping and record until it has ended; nothing can reach them any more."""

_PROBES = 16  # as `block.insert_key`


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
    delta: int
    """Table address minus the application's."""
    unnotified: str = ""
    """Why changes of the mapping are not announced for it; "" when they are (or need not be)."""
    _untold: int = 0  # 1: counted in E_UNTOLD
    _gone: int = 0  # how far `leave` came
    _left: list[endings.Step] = field(default_factory=list)  # of what it gives back in the end

    @property
    def pages(self) -> tuple[int, int]:
        """The page range of table addresses; never empty."""
        low, high = self.mapping.pages if self.mapping is not None else (0, ADDRESS_SPACE)
        return low, max(high, low + 1)

    def counters(self) -> dict[str, int]:
        """The region's page-fault and invalidation counters, by name."""
        return named(P.view(self.device.p, "counters")[self.slot])

    def resident_bytes(self) -> int:
        """Bytes of the region whose pages are in memory, as the device's mapping sees them; of an implicit region what the
        process has in memory (its RSS)."""
        if self.mapping is None:
            return int(Path("/proc/self/statm").read_text().split()[1]) * system.PAGE
        scratch = scan_scratch()
        try:
            return int(resident(*self.mapping.pages, scratch))
        finally:
            close_scratch(scratch)


def named(record: Any) -> dict[str, int]:
    """A record of paging's counters: name -> value; of the invalidations the sum, and each cause that occurred."""
    made = {name: int(record[name].sum()) for name in record.dtype.names}
    causes = zip(Cause, record["invalidations"].tolist())
    return made | {f"invalidations_{cause.name.lower()}": count for cause, count in causes if count}


class Regions:
    """The regions of a device, and its free records."""

    def __init__(self, device: Device) -> None:
        self._owner = weakref.ref(device)  # no cycle: as in `queues`
        self._slots = list(range(REGIONS - 1, -1, -1))
        self._records = device.tables.free_mrs
        self.open: dict[int, Region] = {}

    @property
    def _device(self) -> Device:
        device = self._owner()
        assert device is not None, "who uses the regions holds the device"
        return device

    def register(
        self, held: list[Region], mapping: Mapping, *, pd: int, access: int, pinned: bool = False, key: int = 0
    ) -> Region:
        """Register a mapping, which then is the region's to close (at once, if this fails). O(1) in its size, unless *pinned*.

        The region is in *held* before the wire can have it: `leave` those of a call that was interrupted.

        OSError: ENOMEM or EPERM when pinning exceeds RLIMIT_MEMLOCK, ENOMEM when the device is full, EEXIST for a *key*
        that is taken, EPERM or ENOSYS where process_vm is refused and the mapping needs it.
        """
        device = self._device
        try:
            device.check()
            if mapping.path != P.PATH_DIRECT and mapping.length:
                system.check_copies()
            if pinned:
                mapping.lock()
            device.notifier.await_reader()
            device.notifier.await_quiet()
            with process.control:
                if device.notifier.source is not None and mapping.notify:
                    mapping.watch(device.notifier.source)
                elif mapping.notify:
                    mapping.unnotified = device.notifier.refused
            direct = mapping.path == P.PATH_DIRECT and mapping.kind in (Kind.OWNED, Kind.ALIAS)  # shared memory: no file to tell
            flags = P.REGION_WRITE_BY_SCAN if direct else 0
            if mapping.file_may_be_asked:
                flags |= REGION_OURS
            if mapping.anonymous and mapping.notify and not mapping.unnotified:
                flags |= REGION_ANONYMOUS
            record = {L.MR_PD: pd, L.MR_ACCESS: access, L.MR_PATH: mapping.path, L.MR_PINNED: int(pinned),
                      L.MR_START: mapping.address, L.MR_LENGTH: mapping.length}  # fmt: skip
            return self._open(held, record, mapping.table_base, flags, mapping, key)
        except BaseException:
            with process.control:
                if not any(region.mapping is mapping for region in self.open.values()):  # else it goes with the region
                    mapping.close()
            raise

    def register_implicit(self, held: list[Region], *, pd: int, access: int) -> Region:
        """The whole address space as one region, reached by process_vm at the application's own addresses. *held*: as above."""
        system.check_copies()
        record = {L.MR_PD: pd, L.MR_ACCESS: access, L.MR_PATH: P.PATH_PROCESS_VM, L.MR_LENGTH: ADDRESS_SPACE, L.MR_IMPLICIT: 1}
        return self._open(held, record, 0, 0, None, 0)

    def _open(
        self, held: list[Region], record: dict[int, int], low: int, flags: int, mapping: Mapping | None, key: int
    ) -> Region:
        device = self._device
        start, length = record.get(L.MR_START, 0), record[L.MR_LENGTH]
        why = mapping.unnotified if mapping is not None else "the whole address space is not watched"
        with process.control:
            device.check()
            if not self._slots or not self._records:
                raise OSError(errno.ENOMEM, f"the device has no free memory region ({REGIONS} are in use)")
            slot, index = self._slots.pop(), self._records.pop()
            device.files[slot] = mapping.file if mapping is not None else 0
            mr = int(device.h[L.H_MR_BASE]) + index * L.MR_WORDS
            region = Region(device, mr, slot, 0, mapping, start, length, low - start, why)
            self.open[mr] = region
            held.append(region)
            try:
                region.key = key = self._enter_key(key, mr)
                record |= {L.MR_KEY: key, L.MR_DELTA: low - start, L.MR_REGION: slot, L.MR_STATE: 1}
                words = np.zeros(4 + L.MR_WORDS, np.int64)
                words[:4] = (slot, low, low + max(length, 1), flags)
                for word, value in record.items():
                    words[4 + word] = value
                e, untold = device.e, int(bool(why))
                region._untold = untold  # and counted: no call in between
                e[E.E_UNTOLD] += untold
                if control.open_region(e, mr, words) != P.DONE:
                    raise OSError(errno.EINVAL, f"not a range that can be registered: {length} bytes at {start:#x}")
            except OSError:
                self._forget(device, region)
                endings.work_off(region._left)
                raise
        return region

    def _enter_key(self, key: int, mr: int) -> int:
        """Enter *key*, or a random one, for a record whose state is not valid yet."""
        h = self._device.h
        for _ in range(64):
            chosen = key or secrets.randbelow((1 << 32) - 1) + 1
            if not self._has_key(chosen) and block.insert_key(h, chosen, mr):
                return chosen
            if key:
                raise OSError(errno.EEXIST, f"key {key:#x} is taken")
        raise OSError(errno.ENOMEM, "the device's key table is full")

    def _has_key(self, key: int) -> bool:
        h = self._device.h
        mask, base = int(h[L.H_KEY_MASK]), int(h[L.H_KEY_BASE])
        at = (key * 40503 + (key >> 16)) & mask
        slots = (base + 2 * ((at + probe) & mask) for probe in range(_PROBES))
        return any(h[slot] == key and h[slot + 1] > 0 for slot in slots)

    def leave(self, region: Region, wait: bool) -> bool:
        """Close a region; was it? Then nothing can reach it, no copy and no fault is under way in it, and its mapping is gone. Without
        *wait*, or where a fault takes too long (PATIENCE_SECONDS), it must be called again.
        """
        device = self._device
        if region._gone == 0 and not device.closed:
            if device.h[region.mr + L.MR_STATE]:
                control.revoke_regions(device.e, region.mr)
                region._gone = 1
            else:  # it never was the wire's: its opening was interrupted
                with process.control:
                    self._forget(device, region)
        if region._gone == 1 and not device.closed and not self._quiet(region, wait):
            return False
        if region._gone == 1 and not device.closed:
            low, high = region.pages
            control.close_region(device.e, region.mr, region.slot, low, high)
            with process.control:
                self._forget(device, region)
            device.drive()
        if region._left:
            with process.control:
                endings.work_off(region._left)
        if region.mr not in self.open and region.mapping is not None:  # else a device that ends closes it, when it may
            with process.control:
                region.mapping.close()
        return True

    def _quiet(self, region: Region, wait: bool) -> bool:
        """Has every fault in the region ended? With *wait*, give them time to."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while control.faults_of(self._device.e, region.slot, *region.pages, 0):
            if not wait or self._device.closed or time.monotonic() > deadline:
                return False
            self._device.drive()
            time.sleep(0.0002)
        return True

    def _forget(self, device: Device, region: Region) -> None:
        block.remove_key(device.h, region.key, region.mr)
        index = (region.mr - int(device.h[L.H_MR_BASE])) // L.MR_WORDS
        e = device.e
        left: list[endings.Step] = [
            (self._slots.insert, 0, region.slot),
            (self._records.insert, 0, index),
            (self.open.pop, region.mr, None),
        ]
        region._left, region._gone = left, 2  # no call from here on: no signal handler comes between
        e[E.E_UNTOLD] -= region._untold

    def unwatch_all(self) -> None:
        """Watch no range of this device any more. `process.control` is held."""
        for region in self.open.values():
            if region.mapping is not None:
                region.mapping.unwatch()

    def close_all(self) -> None:
        """Close every mapping; no thread of the device runs any more. `process.control` is held."""
        for region in self.open.values():
            if region.mapping is not None:
                region.mapping.close()
        self.open.clear()

    def prefetch(
        self, region: Region, start: int, length: int, *, write: bool, resident_only: bool = False, wait: bool = False
    ) -> int:
        """Begin faults for [start, start + length) with nobody waiting; bytes covered (fewer when too many are under way).

        With *wait* all of it, and on return they have ended. OSError EFAULT when a page could not be brought in.
        """
        device = self._device
        want = (P.WANT_WRITE if write else 0) | (P.WANT_RESIDENT if resident_only else 0)
        low, high = start + region.delta, start + length + region.delta
        failed = region.counters()["faults_failed"]
        at = low
        while True:
            device.check()
            if at < high:
                room = PREFETCHES - control.faults_of(device.e, region.slot, 0, ADDRESS_SPACE, 1)
                at = control.begin_faults(device.e, region.slot, at, high, want, room)
                if at < 0:
                    raise OSError(errno.EFAULT, f"{length} bytes at {start:#x}: some were unmapped since they were registered")
                device.drive()
            if not wait or (at >= high and not control.faults_of(device.e, region.slot, low, high, 1)):
                break
            time.sleep(0.0002)
        if wait and region.counters()["faults_failed"] != failed:
            raise OSError(errno.EFAULT, f"{length} bytes at {start:#x}: not all could be brought in")
        return at - low
