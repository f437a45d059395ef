"""A device: its blocks, its socket, its threads, and the control plane over them.

One device per address and port in a process; contexts share it (`open_device` counts them). What changes under the device
lock is a kernel of `control`; here are the free lists, the order of things, and what must be waited for.

The order of an end, of a region and of the device alike: no new copies and faults; the range watched no more; what is
under way ends; the tables forget it; its mapping goes; the notifier last.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from unpinned.compiled.libc import futex_wake
from unpinned.hca import block, setup
from unpinned.hca import layout as L
from unpinned.host import control, process
from unpinned.host import engine_words as E
from unpinned.host import layout as H
from unpinned.host.copies import copy_scratch
from unpinned.host.engine import enter
from unpinned.host.memory import Kind, Mapping
from unpinned.host.pagemap import close_scratch, resident, scan_scratch
from unpinned.host.udp import ROCE_PORT, address_words, open_endpoint, parse_address, udp_scratch
from unpinned.host.workers import work
from unpinned.paging import layout as P
from unpinned.paging.causes import Cause
from unpinned.wire.icrc import SOLVER_WORDS

Words = NDArray[np.int64]

HORIZON_NS = 20_000_000
WORKERS = 4
SPIN_NS = 30_000
REGIONS = 16_384
ADDRESS_SPACE = 1 << 47
WAIT_SLICE_NS = 50_000_000  # a wait comes back to Python so often, for signals and for the end of the device
STOP_SECONDS = 10.0  # how long threads may take to end; one that hangs in somebody's fault handler is left behind
FAULTS_AHEAD = 256  # prefetches that may be under way, of the device's 1,024 faults


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
    unnotified: str = ""
    """Why changes of the mapping are not announced for it; "" when they are (or need not be)."""
    _gone: int = 0  # how far `Device.deregister` came

    def counters(self) -> dict[str, int]:
        """The region's page-fault and invalidation counters, by name."""
        return named(P.view(self.device.p, "counters")[self.slot])

    def resident_bytes(self) -> int:
        """Bytes of the region whose pages are in memory, as the device's mapping sees them."""
        if self.mapping is None:
            return 0
        scratch = scan_scratch()
        try:
            return int(resident(*self.mapping.pages, scratch))
        finally:
            close_scratch(scratch)


class Queue:
    """A completion queue's record, and how many queue pairs still use it."""

    def __init__(self, cq: int, depth: int) -> None:
        self.cq, self.depth = cq, depth
        self.users = 0


@dataclass
class QueuePair:
    """A queue pair's record and what it holds on to."""

    q: int
    number: int
    send: Queue
    receive: Queue
    rings: list[tuple[int, int]]
    _gone: int = 0


class _Changes:
    """Stands for a device's block while `hca.setup` writes to it: reads pass, writes are kept for one step."""

    def __init__(self, h: Words) -> None:
        self._h = h
        self.words: dict[int, int] = {}

    def __getitem__(self, index: int) -> int:
        return self.words.get(index, int(self._h[index]))

    def __setitem__(self, index: int, value: int) -> None:
        self.words[index] = int(value)


class Device:
    """One address's device. Use `open_device`."""

    def __init__(self, address: str | None, port: int) -> None:
        self.endpoint = open_endpoint(address, port)
        self.address = str(self.endpoint.address)
        self.port = self.endpoint.port
        self.references = 0
        self.closed = False
        self._ended = False
        self.pds = itertools.count(1)
        self.regions: dict[int, Region] = {}
        self.descriptors: set[int] = set()
        """Event descriptors of completion channels, for a forked child to close."""
        self._free_slots = list(range(REGIONS - 1, -1, -1))
        try:
            self._build()
            self.notifier = process.acquire_notifier()
            self.notifier.add(self.e)
        except BaseException:
            self.endpoint.close()
            raise
        nothing = np.zeros(1, np.int64)
        start = process.start_thread
        self._threads = [start(f"unpinned-firmware-{self.address}", enter, self.e, E.MODE_FIRMWARE, 0, 0, 0, nothing)]
        self._threads += [start(f"unpinned-fault-{i}", work, self.e) for i in range(WORKERS)]

    def _build(self) -> None:
        """The blocks, and the engine block that says where they are."""
        window = min(1 << 20, max(1 << 16, self.endpoint.receive_bytes // 4))
        self.h, arena = block.create(window_bytes=window)
        self.p = P.create(levels=4, bits=9, leaves=65_536, regions=REGIONS, revoked=4_096, dma=1_280, faults=1_024)
        self.p[P.HORIZON_NS] = self.p[P.PROVISIONAL_NS] = HORIZON_NS
        self.b = np.zeros(arena + 4096, np.uint8)
        self.e = np.zeros(E.E_WORDS, np.int64)
        self.tables = setup.Tables(self.h, self.p)
        solver = np.zeros(SOLVER_WORDS, np.int64)
        self._scratch = (udp_scratch(self.endpoint, L.RECV_BURSTS), copy_scratch(), scan_scratch(), solver)
        words = (E.E_H, E.E_P, E.E_B, E.E_UDP, E.E_COPY, E.E_SCAN, E.E_SOLVER)
        arrays: tuple[NDArray[Any], ...] = (self.h, self.p, self.b, *self._scratch)
        for word, array in zip(words, arrays):
            self.e[word], self.e[word + 1] = array.ctypes.data, array.size
        self.e[E.E_WAKE_FD] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.e[E.E_LOCAL_HI], self.e[E.E_LOCAL_LO] = address_words(self.endpoint.address)
        self.e[E.E_LOCAL_PORT] = self.endpoint.port
        self.e[E.E_SPIN_NS] = SPIN_NS

    def check(self) -> None:
        """OSError ENODEV when the device is closed, or belongs to the parent of this process."""
        if self.closed:
            raise OSError(errno.ENODEV, f"the device on {self.address} is closed")

    def drive(self) -> None:
        """Give the device a burst, or wake who drives it."""
        enter(self.e, E.MODE_DRIVE, 0, 0, 0, self.e)

    # ---- regions ---------------------------------------------------------------------------------------------------

    def register(self, mapping: Mapping, *, pd: int, access: int, pinned: bool = False, key: int = 0) -> Region:
        """Register a mapping, which then is the region's to close. O(1) in its size, unless ``pinned``.

        Raises:
            OSError: ENOMEM or EPERM when pinning exceeds RLIMIT_MEMLOCK, ENOMEM when the device is full.
        """
        try:
            self.check()
            if pinned:
                mapping.lock()
            with process.control:
                if self.notifier.source is not None and mapping.notify:
                    mapping.watch(self.notifier.source)
                elif mapping.notify:
                    mapping.unnotified = self.notifier.refused
            flags = P.REGION_WRITE_BY_SCAN if mapping.kind is Kind.OWNED else 0
            record = {L.MR_PD: pd, L.MR_ACCESS: access, L.MR_PATH: mapping.path, L.MR_PINNED: int(pinned),
                      L.MR_START: mapping.address, L.MR_LENGTH: mapping.length}  # fmt: skip
            return self._open(record, mapping.table_base, flags, mapping, key)
        except BaseException:
            with process.control:
                mapping.close()
            raise

    def register_implicit(self, *, pd: int, access: int) -> Region:
        """The whole address space as one region, reached by process_vm at the application's own addresses."""
        record = {L.MR_PD: pd, L.MR_ACCESS: access, L.MR_PATH: P.PATH_PROCESS_VM, L.MR_LENGTH: ADDRESS_SPACE, L.MR_IMPLICIT: 1}
        return self._open(record, 0, 0, None, 0)

    def _open(self, record: dict[int, int], low: int, flags: int, mapping: Mapping | None, key: int) -> Region:
        start, length = record.get(L.MR_START, 0), record[L.MR_LENGTH]
        words = np.zeros(4 + L.MR_WORDS, np.int64)
        with process.control:
            self.check()
            if not self._free_slots or not self.tables.free_mrs:
                raise OSError(errno.ENOMEM, f"the device has no free memory region ({REGIONS} are in use)")
            slot = self._free_slots.pop()
            mr = int(self.h[L.H_MR_BASE]) + self.tables.free_mrs.pop() * L.MR_WORDS
            try:
                key = self._enter_key(key, mr)
                for word, value in (record | {L.MR_KEY: key, L.MR_DELTA: low - start, L.MR_REGION: slot, L.MR_STATE: 1}).items():
                    words[4 + word] = value
                words[:4] = (slot, low, low + max(length, 1), flags)
                if control.open_region(self.e, mr, words) != P.DONE:
                    block.remove_key(self.h, key)
                    raise OSError(errno.EINVAL, f"not a range that can be registered: {length} bytes at {start:#x}")
            except OSError:
                self._free_slots.append(slot)
                self.tables.free_mrs.append(self._mr_index(mr))
                raise
            why = mapping.unnotified if mapping is not None else "the whole address space is not watched"
            region = Region(self, mr, slot, key, mapping, start, length, low - start, why)
            self.regions[mr] = region
        return region

    def _mr_index(self, mr: int) -> int:
        return (mr - int(self.h[L.H_MR_BASE])) // L.MR_WORDS

    def _enter_key(self, key: int, mr: int) -> int:
        """Enter ``key``, or a random one, for a record whose state is not valid yet."""
        for _ in range(64):
            chosen = key or secrets.randbelow((1 << 32) - 1) + 1
            if not any(region.key == chosen for region in self._with_key(chosen)) and block.insert_key(self.h, chosen, mr):
                return chosen
            if key:
                raise OSError(errno.EEXIST, f"key {key:#x} is taken")
        raise OSError(errno.ENOMEM, "the device's key table is full")

    def _with_key(self, key: int) -> list[Region]:
        """Regions that have ``key`` already (found by the table's own way of looking)."""
        mask, base = int(self.h[L.H_KEY_MASK]), int(self.h[L.H_KEY_BASE])
        at = (key * 40503 + (key >> 16)) & mask
        slots = (base + 2 * ((at + probe) & mask) for probe in range(16))
        return [self.regions[mr] for s in slots if (mr := int(self.h[s + 1])) in self.regions and self.h[s] == key]

    def deregister(self, region: Region, wait: bool = True) -> None:
        """Close a region: on return nothing can reach it, no copy and no fault is under way in it, and its mapping is gone.

        Without ``wait`` what cannot be done at once is left to a later call of the control plane.
        """
        process.depart(lambda patient: self._deregister(region, patient), wait)

    def _deregister(self, region: Region, wait: bool) -> bool:
        low, high = region.mapping.pages if region.mapping is not None else (0, ADDRESS_SPACE)
        high = max(high, low + 1)
        if region._gone == 0 and not self.closed:
            control.revoke_regions(self.e, region.mr)
            region._gone = 1
        while region._gone == 1 and not self.closed:
            if not control.faults_of(self.e, region.slot, low, high, 0):
                region._gone = 2
            elif not wait:
                return False
            else:
                self.drive()
                time.sleep(0.0002)
        if region._gone == 2 and not self.closed:
            control.close_region(self.e, region.mr, region.slot, low, high)
            with process.control:
                self._forget_region(region)
            self.drive()
        if not self.closed or region.mr not in self.regions:
            with process.control:
                if region.mapping is not None:
                    region.mapping.close()
        return True

    def _forget_region(self, region: Region) -> None:
        region._gone = 3  # first: an interruption may lose a record, but none is free twice
        block.remove_key(self.h, region.key)
        self.regions.pop(region.mr, None)
        self.tables.free_mrs.insert(0, self._mr_index(region.mr))
        self._free_slots.insert(0, region.slot)

    def prefetch(
        self, region: Region, start: int, length: int, *, write: bool, resident_only: bool = False, wait: bool = False
    ) -> int:
        """Begin faults for [start, start + length) with nobody waiting; bytes covered (fewer when too many are under way).

        With ``wait`` all of it, and on return they have ended. OSError EFAULT when a page could not be brought in.
        """
        want = (P.WANT_WRITE if write else 0) | (P.WANT_RESIDENT if resident_only else 0)
        low, high = start + region.delta, start + length + region.delta
        failed = int(P.view(self.p, "counters")[region.slot]["faults_failed"])
        at = low
        while True:
            self.check()
            if at < high:
                under_way = control.faults_of(self.e, region.slot, 0, ADDRESS_SPACE, 1)
                at = control.begin_faults(self.e, region.slot, at, high, want, FAULTS_AHEAD - under_way)
                if at < 0:
                    raise OSError(errno.EFAULT, f"{length} bytes at {start:#x} were unmapped since they were registered")
                self.drive()
            if not wait or (at >= high and not control.faults_of(self.e, region.slot, low, high, 1)):
                break
            time.sleep(0.0002)
        if wait and int(P.view(self.p, "counters")[region.slot]["faults_failed"]) != failed:
            raise OSError(errno.EFAULT, f"not all of {length} bytes at {start:#x} could be brought in")
        return at - low

    # ---- queues ----------------------------------------------------------------------------------------------------

    def create_cq(self, depth: int, fd: int = -1) -> Queue:
        """A completion queue of at least ``depth`` entries. ``fd``: an eventfd that announces completions once armed."""
        with process.control:
            self.check()
            cq = setup.add_cq(self.tables, depth, fd)
        return Queue(cq, int(self.h[cq + L.CQ_MASK]) + 1)

    def destroy_cq(self, queue: Queue, wait: bool = True, after: Callable[[], None] | None = None) -> None:
        """Retire a completion queue, once no queue pair uses it, and call ``after``."""
        process.depart(lambda patient: self._destroy_cq(queue, after), wait)

    def _destroy_cq(self, queue: Queue, after: Callable[[], None] | None) -> bool:
        if queue.users and not self.closed:
            return False
        with process.control:
            cq, queue.cq = queue.cq, -1
            if cq >= 0 and not self.closed:
                ring = int(self.h[cq + L.CQ_RING]), queue.depth * L.CQE_WORDS
                control.clear_cq(self.e, cq)
                self.tables.rings.give(*ring)
                # Last in line: a poller of the old queue must not meet a new one.
                self.tables.free_cqs.insert(0, (cq - int(self.h[L.H_CQ_BASE])) // L.CQ_WORDS)
        if after is not None:
            after()
        process.settle()
        return True

    def arm_cq(self, queue: Queue, solicited_only: bool) -> None:
        """Ask for an event on the queue's descriptor at its next completion."""
        self.check()
        control.arm_cq(self.e, queue.cq, 2 if solicited_only else 1)

    def create_qp(self, *, pd: int, send_cq: Queue, recv_cq: Queue, sends: int, recvs: int, send_sges: int,
                  recv_sges: int, sig_all: bool) -> QueuePair:  # fmt: skip
        """A queue pair in RESET."""
        record = np.zeros(L.QP_WORDS, np.int64)
        count = int(self.h[L.H_QP_COUNT])
        with process.control:
            self.check()
            if not self.tables.free_qps:
                raise OSError(errno.ENOMEM, f"the device has no free queue pair ({count - 2} are in use)")
            asked = ((sends, L.W_SGE, send_sges), (recvs, L.R_SGE, recv_sges))
            sides = [(depth(n), setup._stride(head, sges)) for n, head, sges in asked]
            rings = self._take_rings([entries * stride for entries, stride in sides])
            index = self.tables.free_qps.pop()
            number = (secrets.randbits(24) * count + index) & 0xFFFFFF
            for word, value in (
                (L.QP_NUMBER, number), (L.QP_PD, pd), (L.QP_SEND_CQ, send_cq.cq), (L.QP_RECV_CQ, recv_cq.cq),
                (L.QP_SIG_ALL, int(sig_all)), (L.QP_SQ_RING, rings[0][0]), (L.QP_SQ_MASK, sides[0][0] - 1),
                (L.QP_SQ_STRIDE, sides[0][1]), (L.QP_RQ_RING, rings[1][0]), (L.QP_RQ_MASK, sides[1][0] - 1),
                (L.QP_RQ_STRIDE, sides[1][1]), (L.QP_STATE, L.QPS_RESET), (L.QP_LAST_ID, -1),
            ):  # fmt: skip
                record[word] = value
            record[L.QP_AT_PSN : L.QP_AT_PSN + L.READ_RING] = -1
            q = int(self.h[L.H_QP_BASE]) + index * L.QP_WORDS
            control.install_qp(self.e, q, record)
            send_cq.users += 1
            recv_cq.users += 1
        return QueuePair(q, number, send_cq, recv_cq, rings)

    def _take_rings(self, sizes: list[int]) -> list[tuple[int, int]]:
        """A ring of each size, words: (index, size) each; none when memory runs out."""
        taken: list[tuple[int, int]] = []
        try:
            for size in sizes:
                taken.append((self.tables.rings.take(size), size))
        except MemoryError as error:
            for ring in taken:
                self.tables.rings.give(*ring)
            raise OSError(errno.ENOMEM, str(error)) from None
        return taken

    def destroy_qp(self, pair: QueuePair, wait: bool = True) -> None:
        """Retire a queue pair: on return nothing of it is sent, received or completed."""
        process.depart(lambda patient: self._destroy_qp(pair, patient), wait)

    def _destroy_qp(self, pair: QueuePair, wait: bool) -> bool:
        if self.closed:
            return True
        if pair._gone == 0:
            if not self._between_batches(lambda: control.reset_qp(self.e, pair.q, L.QPS_FREE), 1000 if wait else 20):
                return False
            pair._gone = 1
        if pair._gone == 1:
            with process.control:
                pair._gone = 2
                pair.send.users -= 1
                pair.receive.users -= 1
                for ring in pair.rings:
                    self.tables.rings.give(*ring)
                self.tables.free_qps.insert(0, (pair.q - int(self.h[L.H_QP_BASE])) // L.QP_WORDS)
        process.settle()  # a completion queue may have waited for this
        return True

    def _between_batches(self, step: Any, tries: int) -> bool:
        """Try a step that must not meet a batch between its copies and its completions."""
        for _ in range(tries):
            if step() == control.DONE or self.closed:
                return True
            self.drive()
            time.sleep(0)
        return False

    def reset_qp(self, pair: QueuePair) -> None:
        """Back to RESET: queues empty, nothing in flight."""
        self.check()
        if not self._between_batches(lambda: control.reset_qp(self.e, pair.q, L.QPS_RESET), 100_000):
            raise OSError(errno.EBUSY, "the device never came to rest")

    def to_error(self, pair: QueuePair) -> None:
        """Move a queue pair to the error state and flush it."""
        self.check()
        if not self._between_batches(lambda: control.break_qp(self.e, pair.q), 100_000):
            raise OSError(errno.EBUSY, "the device never came to rest")
        self.drive()

    def change_qp(self, pair: QueuePair, before: int, words: dict[int, int]) -> bool:
        """Write words of a queue pair's record (QP_*: value), if it is in the state ``before``; was it?"""
        return self._write({pair.q + word: value for word, value in words.items()}, pair, before)

    def to_rtr(self, pair: QueuePair, path: setup.Path) -> bool:
        """INIT -> RTR; False when it was not in INIT."""
        changes = _Changes(self.h)
        setup.to_rtr(_tables(changes), pair.q, path)
        return self._write(changes.words, pair, L.QPS_INIT)

    def to_rts(self, pair: QueuePair, sending: setup.Sending, words: dict[int, int]) -> bool:
        """RTR -> RTS, writing ``words`` too (as for `change_qp`); False when it was not in RTR."""
        changes = _Changes(self.h)
        setup.to_rts(_tables(changes), pair.q, sending)
        changes.words |= {pair.q + word: value for word, value in words.items()}
        return self._write(changes.words, pair, L.QPS_RTR)

    def _write(self, words: dict[int, int], pair: QueuePair, state: int) -> bool:
        self.check()
        flat = [value for item in words.items() for value in item]
        staged = np.array([pair.q + L.QP_STATE, state, len(words), *flat], np.int64)
        return bool(control.write_words(self.e, staged) == control.DONE)

    def counters(self) -> dict[str, int]:
        """Every counter of the device, by name; packets dropped are counted by reason (``bad_*``)."""
        made = {name: int(self.h[word]) for name, word in L.COUNTERS.items()}
        made |= {f"paging_{name}": value for name, value in named(P.view(self.p, "totals")[0]).items()}
        made["slow_copies"] = int(self._scratch[1][H.COPY_SLOW])
        return made | {"halts": int(self.e[E.E_HALTS]), "halt_max_ns": int(self.e[E.E_HALT_MAX_NS])}

    # ---- the end ---------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Stop the threads, close everything. Idempotent; `close_device` of the last context does it."""
        process.depart(self._shutdown, True)

    def _shutdown(self, wait: bool) -> bool:
        if self._ended:
            return True
        if not self.closed:
            control.revoke_regions(self.e, 0)
            self.closed = True
        with process.control:
            for region in self.regions.values():
                if region.mapping is not None:
                    region.mapping.unwatch()
        stopped = self._stop_threads()
        self.notifier.remove(self.e)
        with process.control:
            self._ended = True
            if process.devices.get((self.address, self.port)) is self:
                del process.devices[self.address, self.port]
            if stopped:
                self._close_mappings()
                self._close_descriptors()
            else:
                process.immortal.append(self)
        process.release_notifier()
        return True

    def _close_mappings(self) -> None:
        for region in self.regions.values():
            if region.mapping is not None:
                region.mapping.close()
        self.regions.clear()

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
        self.endpoint.close()
        close_scratch(self._scratch[2])
        os.close(int(self.e[E.E_WAKE_FD]))

    def forget(self) -> None:
        """In a forked child: close the descriptors; threads, lock and blocks belong to the parent."""
        self.closed = self._ended = True
        self.regions.clear()
        self._close_descriptors()
        for fd in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.descriptors.clear()


def named(record: Any) -> dict[str, int]:
    """A record of paging's counters: name -> value; of the invalidations the sum, and each cause that occurred."""
    made = {name: int(record[name].sum()) for name in record.dtype.names}
    causes = zip(Cause, record["invalidations"].tolist())
    return made | {f"invalidations_{cause.name.lower()}": count for cause, count in causes if count}


def depth(entries: int) -> int:
    """Entries of a ring that takes at least so many: a power of two."""
    return 1 << max(0, entries - 1).bit_length()


def _tables(changes: _Changes) -> setup.Tables:
    """`hca.setup` reads and writes no more of its tables than ``h`` in the steps that are staged here."""

    class Staged:
        h = changes

    return cast("setup.Tables", Staged)


def open_device(address: str | None = None, port: int = ROCE_PORT) -> Device:
    """The process's device on ``address`` (None: a free loopback address), opened at first use; `close_device` gives it back.

    Raises:
        OSError: the address is taken by another process, or is not ours.
    """
    _compile()
    process.settle()
    with process.control:
        if address is not None:
            known = process.devices.get((str(parse_address(address)[0]), port))
            if known is not None and known.references > 0:
                known.references += 1
                return known
        device = Device(address, port)
        device.references = 1
        process.devices[device.address, device.port] = device
        return device


@functools.cache
def _compile() -> None:
    from unpinned.compiled.build import ensure

    ensure()


def close_device(device: Device) -> None:
    """Give a device back; the last one stops it."""
    with process.control:
        device.references -= 1
        last = device.references <= 0
    if last:
        device.shutdown()


def poll(device: Device, cq: int, limit: int, timeout_ns: int, out: Words) -> int:
    """Completions of record ``cq`` into ``out``; how many. Sleeps without the GIL, at most ``timeout_ns``."""
    return int(enter(device.e, E.MODE_POLL, cq, limit, timeout_ns, out))


def post(device: Device, q: int, staged: Words, count: int, receive: bool) -> int:
    """Post ``count`` work requests staged at the queue's stride; how many the queue took."""
    return int(enter(device.e, E.MODE_POST, q, int(receive), count, staged))


def wake_all(e: Words) -> None:
    """Wake every thread of an engine whose E_STOP is set."""
    os.eventfd_write(int(e[E.E_WAKE_FD]), 1)
    for word in (E.E_WORK, E.E_PROGRESS):
        e[word] += 1
    for word in (E.E_WORK, E.E_PROGRESS, E.E_PAUSED, E.E_HALT):
        futex_wake(e.ctypes.data + 8 * word, 1 << 30)
