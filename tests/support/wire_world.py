"""Two devices and a wire, in one thread: time is a number that the test advances, the wire a list of datagrams.

A test's ``middleware`` may drop from it, duplicate in it or reorder it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from support.ends import ALL_ACCESS, MS, Buffer, End
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.hca.ready import make_ready

STEP_NS = 1000
Sge = tuple[int, int, int]

Middleware = Callable[[list[bytes], "End"], list[bytes]]


@dataclass
class Weather:
    """A wire that loses, duplicates and delays, from a seed; ``calm`` ends it."""

    rng: random.Random
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    late: list[tuple[End, bytes]] = field(default_factory=list)

    def calm(self) -> None:
        self.loss = self.duplication = self.reordering = 0.0

    def __call__(self, wire: list[bytes], sender: End) -> list[bytes]:
        due = [late for late in self.late if late[0] is sender and self.rng.random() < 0.5]
        self.late = [late for late in self.late if late not in due]
        arrived = [data for _, data in due]
        for data in wire:
            if self.rng.random() < self.loss:
                continue
            if self.rng.random() < self.duplication:
                self.late.append((sender, data))
            if self.rng.random() < self.reordering:
                self.late.append((sender, data))
            else:
                arrived.append(data)
        return arrived


def drop(*indices: int, of: int = 1) -> Middleware:
    """A wire that loses the packets of these numbers (from 0) of those that end ``of`` sends."""
    seen = -1

    def middleware(wire: list[bytes], sender: End) -> list[bytes]:
        nonlocal seen
        if sender.address != of:
            return wire
        kept = []
        for data in wire:
            seen += 1
            if seen not in indices:
                kept.append(data)
        return kept

    return middleware


@dataclass
class World:
    """Two ends, a clock and the wire between them."""

    mtu: int = 1024
    geometry: dict = field(default_factory=dict)
    fault_slots: int = 32
    a: End = field(init=False)
    z: End = field(init=False)
    now: int = MS
    middleware: Middleware | None = None
    trace: list[tuple[int, bytes]] = field(default_factory=list)
    tracing: bool = True

    def __post_init__(self) -> None:
        self.a = End(1, self.geometry, self.fault_slots)
        self.z = End(2, self.geometry, self.fault_slots)

    @property
    def ends(self) -> tuple[End, End]:
        return self.a, self.z

    def connect(
        self,
        *,
        psn: tuple[int, int] = (100, 200),
        depth: int = 64,
        sig_all: bool = True,
        sges: int = 4,
        cq_depth: int = 0,
        access: int = ALL_ACCESS,
        mtu: int = 0,
        **kw: int,
    ) -> tuple[int, int]:
        """A queue pair at each end, in RTS. ``psn``: the first of each end; the rest as in `Path` and `Sending`."""
        sending = {k: kw.pop(k) for k in ("timeout", "retry_cnt", "rnr_retry", "max_rd_atomic") if k in kw}
        pair = tuple(end.qp(depth=depth, sges=sges, sig_all=sig_all, cq_depth=cq_depth) for end in self.ends)
        for i in (0, 1):
            end, q, other, r = self.ends[i], pair[i], self.ends[1 - i], pair[1 - i]
            number = int(other.h[r + L.QP_NUMBER])
            path = setup.Path(number, 0, other.address, psn[1 - i], mtu or self.mtu, access=access, **kw)
            setup.to_rtr(end.t, q, path)
            setup.to_rts(end.t, q, setup.Sending(psn[i], **sending))
        return pair  # type: ignore[return-value]

    def post(self, end: End, q: int, **kw: object) -> None:
        assert setup.post_send(end.h, q, **kw)  # type: ignore[arg-type]
        make_ready(end.h, q)

    def write(
        self,
        q: int,
        source: Buffer,
        target: Buffer,
        length: int | None = None,
        *,
        wr_id: int = 1,
        at: int = 0,
        to: int = 0,
        opcode: int = L.WR_RDMA_WRITE,
        flags: int = 0,
        imm: int = 0,
        end: End | None = None,
    ) -> None:
        """Post a WRITE, or (by ``opcode``) a READ, between two buffers."""
        length = source.array.nbytes - at if length is None else length
        self.post(
            end or self.a,
            q,
            wr_id=wr_id,
            opcode=opcode,
            flags=flags,
            sges=[source.sge(at, length)] if length else [],
            rva=target.va + to,
            rkey=target.key,
            imm=imm,
        )

    def read(self, q: int, into: Buffer, source: Buffer, length: int | None = None, **kw: int) -> None:
        self.write(q, into, source, length, opcode=L.WR_RDMA_READ, **kw)  # type: ignore[arg-type]

    def send(
        self,
        q: int,
        sges: list[tuple[int, int, int]],
        *,
        wr_id: int = 1,
        opcode: int = L.WR_SEND,
        flags: int = 0,
        imm: int = 0,
    ) -> None:
        self.post(self.a, q, wr_id=wr_id, opcode=opcode, flags=flags, sges=sges, imm=imm)

    def recv(self, q: int, sges: list[tuple[int, int, int]], *, wr_id: int = 100, end: End | None = None) -> None:
        end = end or self.z
        assert setup.post_recv(end.h, q, wr_id=wr_id, sges=sges)
        make_ready(end.h, q)

    def atomic(
        self,
        q: int,
        into: Buffer,
        target: Buffer,
        *,
        add: int | None = None,
        compare: int = 0,
        swap: int = 0,
        wr_id: int = 1,
        at: int = 0,
        to: int = 0,
    ) -> None:
        """Post a FetchAdd (``add`` given) or a CmpSwap."""
        opcode = L.WR_ATOMIC_CMP_AND_SWP if add is None else L.WR_ATOMIC_FETCH_AND_ADD
        self.post(
            self.a,
            q,
            wr_id=wr_id,
            opcode=opcode,
            flags=0,
            sges=[into.sge(at, 8)],
            rva=target.va + to,
            rkey=target.key,
            compare=compare if add is None else add,
            swap=swap,
        )

    def step(self) -> bool:
        """Both devices once, the wire between them; whether anything is still going on at this instant."""
        moved = False
        for end, other in ((self.a, self.z), (self.z, self.a)):
            wire, other.out = other.out, []
            if self.tracing:
                self.trace += [(other.address, d) for d in wire]
            if self.middleware:
                wire = self.middleware(wire, other)
            queue = [(d, other.address) for d in wire]
            end.deliver(queue, self.now)
            while queue or end.h[L.H_PACKET_NEXT] < end.h[L.H_PACKET_COUNT]:
                end.deliver(queue, self.now)
            moved |= bool(wire) or end.busy()
        return moved or bool(self.a.out or self.z.out)

    def next_deadline(self) -> int:
        return min([int(e.h[L.H_NEXT_TIMER]) for e in self.ends] + [when for e in self.ends for when, _ in e.pending])

    def run(self, until: Callable[[], bool] | None = None, limit_ns: int = 10_000 * MS, steps: int = 200_000) -> None:
        """Step until ``until`` holds (or nothing is left to do), jumping to the next deadline when idle."""
        end = self.now + limit_ns
        for _ in range(steps):
            if until and until():
                return
            if self.step() or (until and until()):
                self.now += STEP_NS
                continue
            deadline = self.next_deadline()
            if deadline > end:
                if until:
                    raise AssertionError("nothing left to do, and the condition does not hold")
                return
            self.now = max(self.now, deadline)
        raise AssertionError(f"no end in {steps} steps")

    def quiet(self) -> None:
        for end in self.ends:
            end.quiet()

    def sent(self, end: End) -> list[bytes]:
        """What ``end`` put on the wire so far."""
        return [data for address, data in self.trace if address == end.address]
