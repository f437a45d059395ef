"""One device with its memory, without sockets: the transport driven by hand, for tests.

Memory is real (anonymous maps reached through direct copies), time is an argument, datagrams are bytes in and out.  Pages come
and go when the test says so: ``End.absent`` holds those that must be brought in, ``End.gone`` those that cannot be; what
brings them in is the same sequence of steps as in the host.  Each copy is checked: it must lie in registered memory, and
never on a page that was taken away before it was described.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from unpinned.hca import block, device, setup
from unpinned.hca import layout as L
from unpinned.hca.completions import take
from unpinned.paging import faults, notifier, regions
from unpinned.paging import layout as P

ALL_ACCESS = 15
PAGE = 4096
EFAULT, ECANCELED = 14, 125
MS = 1_000_000


@dataclass
class Buffer:
    """Registered memory of one end."""

    array: np.ndarray
    key: int
    mr: int
    region: int
    mapping: mmap.mmap = field(repr=False)

    @property
    def va(self) -> int:
        return int(self.array.ctypes.data)

    def sge(self, at: int = 0, length: int | None = None) -> tuple[int, int, int]:
        return self.va + at, self.array.nbytes - at if length is None else length, self.key

    def pages(self, at: int = 0, length: int | None = None) -> range:
        start = self.va + at
        return range(start >> 12, (start + (self.array.nbytes - at if length is None else length) - 1 >> 12) + 1)


def memory(size: int) -> tuple[np.ndarray, mmap.mmap]:
    """Zeroed pages of our own."""
    mapping = mmap.mmap(-1, max(PAGE, -(-size // PAGE) * PAGE))
    return np.frombuffer(mapping, np.uint8)[:size], mapping


@dataclass
class End:
    """One device with its memory."""

    address: int
    geometry: dict = field(default_factory=dict)
    fault_slots: int = 32
    h: np.ndarray = field(init=False)
    p: np.ndarray = field(init=False)
    b: np.ndarray = field(init=False)
    t: setup.Tables = field(init=False)
    out: list[bytes] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)  # page numbers whose copies and faults fail (EFAULT)
    absent: set[int] = field(default_factory=set)  # page numbers that must be brought in
    fault_after: int | Callable[[], int] = 0  # ns that bringing pages in takes
    pending: list[tuple[int, int]] = field(default_factory=list)
    before_copies: Callable[[], None] | None = None  # between a batch's description and its execution
    buffers: list[Buffer] = field(default_factory=list)
    tickets: list[tuple[int, set[int]]] = field(default_factory=list)
    _keys: int = 0x1000

    def __post_init__(self) -> None:
        self.h, size = block.create(
            **{"qps": 64, "mrs": 64, "cqs": 64, "waiting": 512, "packets": 256, "ring_words": 1 << 18, **self.geometry}
        )
        self.b = np.zeros(size, np.uint8)
        self.p = P.create(levels=4, bits=9, leaves=256, regions=64, faults=self.fault_slots, dma=256)
        self.t = setup.Tables(self.h, self.p)

    # ---- memory ------------------------------------------------------------------------------------------------------

    def buffer(
        self,
        size: int,
        access: int = ALL_ACCESS,
        *,
        pinned: bool = True,
        key: int = 0,
        pd: int = 1,
        start: int | None = None,
    ) -> Buffer:
        """Register ``size`` bytes of new memory. Not ``pinned``: on demand, and no page is there yet.

        ``start``: the application's address, if it is not to be the memory's own.
        """
        array, mapping = memory(size)
        self._keys += 0x101
        region = len(self.buffers)
        va = int(array.ctypes.data)
        assert regions.region_open(self.p, region, va, va + max(size, 1), 0) == P.DONE
        key = key or self._keys
        start = va if start is None else start
        mr = setup.add_mr(
            self.t,
            pd=pd,
            key=key,
            start=start,
            length=size,
            access=access,
            delta=va - start,
            path=1,
            pinned=pinned,
            region=region,
        )
        assert mr
        made = Buffer(array, key, mr, region, mapping)
        self.buffers.append(made)
        if not pinned:
            self.absent |= set(made.pages())
        return made

    def discard(self, pages: range, now: int = 0) -> None:
        """The owner takes pages away: the device is out of them first, the next use is a fault."""
        notifier.invalidate_start(self.p, pages.start << 12, pages.stop << 12, P.CAUSE_DISCARD, 1, now)
        self.tickets.append((int(self.p[P.TICKET]), set(pages)))
        self.end_discards(now)

    def end_discards(self, now: int) -> None:
        """Finish those invalidations that wait for no copy any more."""
        waiting = []
        for ticket, pages in self.tickets:
            if notifier.invalidate_poll(self.p, ticket) == P.DONE:
                self.absent |= pages
                notifier.invalidate_finish(self.p, ticket, now)
            else:
                waiting.append((ticket, pages))
        self.tickets = waiting

    # ---- queues ------------------------------------------------------------------------------------------------------

    def qp(self, *, depth: int = 64, sges: int = 4, sig_all: bool = True, cq_depth: int = 0) -> int:
        cq = setup.add_cq(self.t, cq_depth or 4 * depth)
        return setup.add_qp(
            self.t,
            random=7,
            pd=1,
            send_cq=cq,
            recv_cq=cq,
            sends=depth,
            recvs=depth,
            send_sges=sges,
            recv_sges=sges,
            sig_all=sig_all,
        )

    def completions(self, q: int) -> list[tuple[int, ...]]:
        """(wr_id, status, opcode, length, qpn, imm, flags) of everything completed."""
        out = np.zeros(L.CQE_WORDS * 256, np.int64)
        n = take(self.h, int(self.h[q + L.QP_SEND_CQ]), out, 256)
        return [tuple(int(x) for x in out[i * L.CQE_WORDS : i * L.CQE_WORDS + 7]) for i in range(n)]

    def statuses(self, q: int) -> list[tuple[int, int]]:
        """(wr_id, status) of everything completed."""
        return [c[:2] for c in self.completions(q)]

    def counter(self, name: str) -> int:
        return int(self.h[L.COUNTERS[name]])

    def counters(self) -> dict[str, int]:
        return {name: int(self.h[at]) for name, at in L.COUNTERS.items() if self.h[at]}

    # ---- the device --------------------------------------------------------------------------------------------------

    def receive(self, datagrams: list[tuple[bytes, int]]) -> None:
        """Put datagrams (without ICRC), each with its sender's address, into the receive burst."""
        h = self.h
        at = int(h[L.H_RX_ARENA])
        h[L.H_PACKET_NEXT] = h[L.H_PACKET_COUNT] = 0
        for i, (data, source) in enumerate(datagrams):
            self.b[at : at + len(data)] = np.frombuffer(data, np.uint8)
            k = int(h[L.H_PACKET_BASE]) + i * L.PACKET_WORDS
            h[k : k + L.PACKET_WORDS] = (at, len(data), 0, source, 4791, 0, 0, 0)
            h[L.H_PACKET_COUNT] = i + 1
            at += len(data)

    def deliver(self, datagrams: list[tuple[bytes, int]], now: int) -> None:
        """One round of the device: up to 48 datagrams in, ``out`` out."""
        h, p, b = self.h, self.p, self.b
        if h[L.H_PACKET_NEXT] >= h[L.H_PACKET_COUNT]:
            batch, datagrams[:] = datagrams[:48], datagrams[48:]
            self.receive(batch)
        device.finish(h, p, now)
        device.receive(h, p, b, now)
        device.turns(h, p, b, now)
        device.timers(h, p, now)
        if self.before_copies:
            self.before_copies()
        self._execute()
        for t in self._sent():
            o, n = int(h[t + L.T_OFFSET]), int(h[t + L.T_LENGTH]) - 4
            self.out.append(b[o : o + n].tobytes())
        self.end_discards(now)
        self._faults(now)

    def _sent(self) -> Iterator[int]:
        h, p = self.h, self.p
        for i in range(int(h[L.H_TX_COUNT])):
            t = int(h[L.H_TX_BASE]) + i * L.TX_WORDS
            states = [p[p[P.DMA] + d * P.DMA_WORDS + P.DMA_STATE] for d in range(h[t + L.T_FIRST], h[t + L.T_END])]
            if all(s == P.DMA_DONE for s in states):
                yield t

    def busy(self) -> bool:
        return bool(device.next_turn(self.h, 0) == 0) or self.p[P.SCAN_LENGTH] > 0 or self.p[P.RUN_LENGTH] > 0

    def quiet(self) -> None:
        """Assert that nothing is held that should have been given back."""
        h, p = self.h, self.p
        assert h[L.H_POOL_USED] == 0, "packets still wait"
        free, at = 0, h[L.H_POOL_FREE]
        while at >= 0:
            free, at = free + 1, h[h[L.H_POOL_BASE] + at * L.POOL_WORDS + L.POOL_NEXT]
        assert free == h[L.H_POOL_COUNT], "the free list has lost packets"
        assert h[L.H_INFLIGHT] == 0, f"bytes still in flight: {h[L.H_INFLIGHT]}"
        assert p[P.FAULT_LIVE] == 0, "fault slots still held"
        assert p[P.DMA_COUNT] == 0 and h[L.H_ACT_COUNT] == 0 and h[L.H_TX_COUNT] == 0
        assert p[P.ACTIVE_COUNT] == 0
        assert P.view(p, "totals")["violations"][0] == 0, "a step of paging was called out of order"

    def _execute(self) -> None:
        """Carry out the batch, as host.copies.execute does: past a failed copy, none of the same queue pair."""
        p = self.p
        base = self.b.ctypes.data
        broken = set()
        for i in range(int(p[P.DMA_COUNT])):
            d = int(p[P.DMA]) + i * P.DMA_WORDS
            if p[d + P.DMA_STATE] != P.DMA_ISSUED:
                continue
            va, n, op, token = (int(p[d + w]) for w in (P.DMA_VA, P.DMA_LENGTH, P.DMA_OP, P.DMA_TOKEN))
            local = base + int(p[d + P.DMA_OFFSET])
            touched = range(va >> 12, (va + n - 1 >> 12) + 1)
            self._check(va, n, touched)
            if token in broken or any(page in self.gone for page in touched):
                p[d + P.DMA_STATE], p[d + P.DMA_STATUS] = P.DMA_FAILED, ECANCELED if token in broken else EFAULT
                broken.add(token)
                continue
            if op == P.OP_WRITE:
                ctypes.memmove(va, local, n)
            elif op == P.OP_READ:
                ctypes.memmove(local, va, n)
            else:
                self._atomic(va, d)
            p[d + P.DMA_STATE] = P.DMA_DONE

    def _check(self, va: int, n: int, touched: range) -> None:
        for buffer in self.buffers:
            if buffer.va <= va and va + n <= buffer.va + buffer.array.nbytes:
                break
        else:
            raise AssertionError(f"a copy of {n} bytes at {va:#x}: in no registered memory")
        pinned = self.h[buffer.mr + L.MR_PINNED]
        assert pinned or not any(page in self.absent for page in touched), "a copy on a page that was taken away"

    def _atomic(self, va: int, d: int) -> None:
        p = self.p
        cell = ctypes.c_int64.from_address(va)
        old, x0, x1 = cell.value, int(p[d + P.DMA_X0]), int(p[d + P.DMA_X1])
        p[d + P.DMA_RESULT] = old
        if p[d + P.DMA_OP] == P.OP_FETCH_ADD:
            cell.value = ((old + x0 + (1 << 63)) % (1 << 64)) - (1 << 63)
        elif old == x0:
            cell.value = x1

    def _faults(self, now: int) -> None:
        """Scan in line; bring absent pages in ``fault_after`` later."""
        h, p = self.h, self.p
        while (slot := int(faults.fault_take(p, P.FAULT_SCAN))) >= 0:
            at, end = int(p[slot + P.FAULT_CURSOR]), int(p[slot + P.FAULT_END])
            while at < end and (at >> 12) not in self.absent and (at >> 12) not in self.gone:
                at += PAGE
            faults.fault_scanned(p, slot, at, now)
            device.wake_fault(h, int(p[slot + P.FAULT_TOKEN]), slot)
        while (slot := int(faults.fault_take(p, P.FAULT_QUEUED))) >= 0:
            self.pending.append((now + (self.fault_after() if callable(self.fault_after) else self.fault_after), slot))
        for when, slot in list(self.pending):
            if when <= now:
                self.pending.remove((when, slot))
                self._bring_in(slot, now)

    def _bring_in(self, slot: int, now: int) -> None:
        h, p = self.h, self.p
        while faults.fault_chunk(p, slot):
            pages = set(range(int(p[slot + P.FAULT_CURSOR]) >> 12, int(p[slot + P.FAULT_CHUNK_END]) >> 12))
            token = int(p[slot + P.FAULT_TOKEN])
            bad = bool(self.gone & pages)
            if not bad:
                self.absent -= pages
            outcome = faults.fault_commit(p, slot, EFAULT if bad else 0, now)
            device.wake_fault(h, token, slot)
            if outcome not in (P.COMMITTED, P.RETRY):
                return
