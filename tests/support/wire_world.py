"""Two devices and a wire, in one thread: the transport without sockets, for tests.

Memory is real (NumPy arrays reached through direct copies), time is a number that the test advances, and the wire is a list
that a test's ``middleware`` may drop from, duplicate in or reorder.  Pages come and go when the test says so: ``end.resident`` is
the world's truth, ``end.serve_faults`` brings pages in as the host would.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from unpinned.hca import block, device, setup
from unpinned.hca import layout as L
from unpinned.hca.completions import take
from unpinned.hca.ready import make_ready
from unpinned.paging import faults, regions
from unpinned.paging import layout as P

ALL_ACCESS = 15


@dataclass
class End:
    """One device with its memory."""

    address: int
    h: np.ndarray = field(init=False)
    p: np.ndarray = field(init=False)
    b: np.ndarray = field(init=False)
    t: setup.Tables = field(init=False)
    out: list[bytes] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)  # page numbers whose copies fail (EFAULT)
    absent: set[int] = field(default_factory=set)  # page numbers that must be brought in
    fault_after: int = 0  # ns that bringing pages in takes
    pending: list[tuple[int, int]] = field(default_factory=list)
    _keys: int = 0x1000
    _regions: int = 0

    def __post_init__(self) -> None:
        self.h, size = block.create(qps=64, mrs=64, cqs=64, waiting=512, packets=256, ring_words=1 << 18)
        self.b = np.zeros(size, np.uint8)
        self.p = P.create(levels=4, bits=9, leaves=256, regions=64, faults=32, dma=256)
        self.t = setup.Tables(self.h, self.p)

    def register(self, array: np.ndarray, access: int = ALL_ACCESS, pinned: bool = False, key: int = 0, pd: int = 1) -> int:
        """Open a region over an array; its key."""
        self._keys += 0x101
        start = array.ctypes.data
        region = self._regions
        self._regions += 1
        regions.region_open(self.p, region, start, start + array.nbytes, 0)
        key = key or self._keys
        assert setup.add_mr(self.t, pd=pd, key=key, start=start, length=array.nbytes, access=access, delta=0, path=1, pinned=pinned,
                            region=region)
        return key

    def qp(self, *, depth: int = 64, sges: int = 4, sig_all: bool = True) -> int:
        cq = setup.add_cq(self.t, 4 * depth)
        return setup.add_qp(self.t, random=7, pd=1, send_cq=cq, recv_cq=cq, sends=depth, recvs=depth, send_sges=sges, recv_sges=sges,
                            sig_all=sig_all)

    def completions(self, q: int) -> list[tuple[int, ...]]:
        """(wr_id, status, opcode, length, qpn, imm, flags) of everything completed."""
        out = np.zeros(L.CQE_WORDS * 256, np.int64)
        n = take(self.h, int(self.h[q + L.QP_SEND_CQ]), out, 256)
        return [tuple(int(x) for x in out[i * L.CQE_WORDS : i * L.CQE_WORDS + 7]) for i in range(n)]

    def deliver(self, datagrams: list[tuple[bytes, int]], now: int) -> None:
        """One round of the device: datagrams (without ICRC) with their sender's address in, ``out`` out."""
        h, p, b = self.h, self.p, self.b
        at = int(h[L.H_RX_ARENA])
        if h[L.H_PACKET_NEXT] >= h[L.H_PACKET_COUNT]:
            h[L.H_PACKET_NEXT] = h[L.H_PACKET_COUNT] = 0
            batch, datagrams[:] = datagrams[:48], datagrams[48:]
            for i, (data, source) in enumerate(batch):
                b[at : at + len(data)] = np.frombuffer(data, np.uint8)
                k = int(h[L.H_PACKET_BASE]) + i * L.PACKET_WORDS
                h[k : k + L.PACKET_WORDS] = (at, len(data), 0, source, 4791, 0, 0, 0)
                h[L.H_PACKET_COUNT] = i + 1
                at += len(data)
        device.finish(h, p, now)
        device.receive(h, p, b, now)
        device.turns(h, p, b, now)
        device.timers(h, p, now)
        self._faults(now)
        self._execute()
        for i in range(int(h[L.H_TX_COUNT])):
            t = int(h[L.H_TX_BASE]) + i * L.TX_WORDS
            if all(self.p[self.p[P.DMA] + d * P.DMA_WORDS + P.DMA_STATE] == P.DMA_DONE for d in range(h[t + L.T_FIRST], h[t + L.T_END])):
                o, n = int(h[t + L.T_OFFSET]), int(h[t + L.T_LENGTH]) - 4
                self.out.append(b[o : o + n].tobytes())

    def busy(self) -> bool:
        return bool(device.next_turn(self.h, 0) == 0)

    def _execute(self) -> None:
        p = self.p
        base = self.b.ctypes.data
        for i in range(int(p[P.DMA_COUNT])):
            d = int(p[P.DMA]) + i * P.DMA_WORDS
            va, n, op = int(p[d + P.DMA_VA]), int(p[d + P.DMA_LENGTH]), p[d + P.DMA_OP]
            local = base + int(p[d + P.DMA_OFFSET])
            if any(page in self.gone for page in range(va >> 12, (va + n - 1 >> 12) + 1)):
                p[d + P.DMA_STATE], p[d + P.DMA_STATUS] = P.DMA_FAILED, 14
                continue
            if op == P.OP_WRITE:
                ctypes.memmove(va, local, n)
            elif op == P.OP_READ:
                ctypes.memmove(local, va, n)
            else:
                cell = ctypes.c_int64.from_address(va)
                old, x0, x1 = cell.value, int(p[d + P.DMA_X0]), int(p[d + P.DMA_X1])
                p[d + P.DMA_RESULT] = old
                new = ((old + x0 + (1 << 63)) % (1 << 64)) - (1 << 63) if op == P.OP_FETCH_ADD else (x1 if old == x0 else old)
                cell.value = new
            p[d + P.DMA_STATE] = P.DMA_DONE

    def _faults(self, now: int) -> None:
        """Scan in line; bring absent pages in ``fault_after`` later."""
        h, p = self.h, self.p
        while (slot := int(faults.fault_take(p, P.FAULT_SCAN))) >= 0:
            at, end = int(p[slot + P.FAULT_CURSOR]), int(p[slot + P.FAULT_END])
            while at < end and (at >> 12) not in self.absent and (at >> 12) not in self.gone:
                at += 4096
            faults.fault_scanned(p, slot, at, now)
            device.wake_fault(h, int(p[slot + P.FAULT_TOKEN]), slot)
        while (slot := int(faults.fault_take(p, P.FAULT_QUEUED))) >= 0:
            self.pending.append((now + self.fault_after, slot))
        for when, slot in list(self.pending):
            if when > now:
                continue
            self.pending.remove((when, slot))
            while faults.fault_chunk(p, slot):
                pages = range(int(p[slot + P.FAULT_CURSOR]) >> 12, int(p[slot + P.FAULT_CHUNK_END]) >> 12)
                self.absent -= set(pages)
                faults.fault_commit(p, slot, 14 if self.gone & set(pages) else 0, now)
            device.wake_fault(h, int(p[slot + P.FAULT_TOKEN]), slot)


Middleware = Callable[[list[bytes], "End"], list[bytes]]


@dataclass
class World:
    """Two ends, a clock and the wire between them."""

    a: End = field(default_factory=lambda: End(1))
    z: End = field(default_factory=lambda: End(2))
    now: int = 1_000_000
    middleware: Middleware | None = None
    mtu: int = 1024
    trace: list[tuple[int, bytes]] = field(default_factory=list)

    def connect(self, **kw: int) -> tuple[int, int]:
        """A queue pair at each end, in RTS."""
        sending = {k: kw.pop(k) for k in ("timeout", "retry_cnt", "rnr_retry", "max_rd_atomic") if k in kw}
        depth = kw.pop("depth", 64)
        qa, qz = self.a.qp(depth=depth), self.z.qp(depth=depth)
        for end, q, other, r in ((self.a, qa, self.z, qz), (self.z, qz, self.a, qa)):
            setup.to_rtr(end.t, q, setup.Path(int(other.h[r + L.QP_NUMBER]), 0, other.address, 100 * other.address, self.mtu,
                                              access=ALL_ACCESS, **kw))
            setup.to_rts(end.t, q, setup.Sending(100 * end.address, **sending))
        return qa, qz

    def post(self, end: End, q: int, **kw: object) -> None:
        assert setup.post_send(end.h, q, **kw)  # type: ignore[arg-type]
        make_ready(end.h, q)

    def step(self) -> bool:
        """Both devices once, the wire between them; whether anything is still going on at this instant."""
        moved = False
        for end, other in ((self.a, self.z), (self.z, self.a)):
            wire, other.out = other.out, []
            self.trace += [(other.address, d) for d in wire]
            if self.middleware:
                wire = self.middleware(wire, other)
            queue = [(d, other.address) for d in wire]
            end.deliver(queue, self.now)
            while queue or end.h[L.H_PACKET_NEXT] < end.h[L.H_PACKET_COUNT]:
                end.deliver(queue, self.now)
            moved |= bool(wire) or end.busy()
        return moved or bool(self.a.out or self.z.out)

    def run(self, until: Callable[[], bool] | None = None, limit_ns: int = 10_000_000_000, steps: int = 200_000) -> None:
        """Step until ``until`` holds (or nothing is left to do), jumping to the next deadline when idle."""
        end = self.now + limit_ns
        for _ in range(steps):
            if until and until():
                return
            if self.step():
                self.now += 1000
                continue
            deadline = min([int(e.h[L.H_NEXT_TIMER]) for e in (self.a, self.z)] + [w for e in (self.a, self.z) for w, _ in e.pending])
            if deadline > end:
                if until:
                    raise AssertionError("nothing left to do, and the condition does not hold")
                return
            self.now = max(self.now, deadline)
        raise AssertionError(f"no end in {steps} steps")
