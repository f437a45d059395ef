"""Control plane of a device block: completion queues, regions and queue pairs come and go.

Plain Python, called with the device lock held by whoever owns the block (``host.device`` live, ``model`` in the modelled
world).  Random numbers (keys, QP numbers, PSNs) are arguments, so a world that replays can choose them.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import numpy as np

from unpinned.hca import layout as L
from unpinned.hca.block import Rings, Words, insert_key, remove_key
from unpinned.hca.completions import paid
from unpinned.hca.parking import forget, forget_requests
from unpinned.hca.qp import release_faults, set_inflight
from unpinned.wire.headers import MULTICAST_QPN, QPN_MASK


@dataclass
class Tables:
    """Which records of a block are in use."""

    h: Words
    p: Words
    rings: Rings = field(init=False)
    free_qps: list[int] = field(init=False)
    free_mrs: list[int] = field(init=False)
    free_cqs: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.rings = Rings(self.h)
        # Lowest first; QP indices 0 and 1 stay unused (QP0 and QP1 are the management queue pairs).
        self.free_qps = list(range(int(self.h[L.H_QP_COUNT]) - 1, 1, -1))
        self.free_mrs = list(range(int(self.h[L.H_MR_COUNT]), 0, -1))
        self.free_cqs = list(range(int(self.h[L.H_CQ_COUNT]) - 1, -1, -1))


def cq_depth(entries: int) -> int:
    """Entries of a completion queue that holds at least so many."""
    return 1 << max(3, (entries - 1).bit_length())


def add_cq(t: Tables, depth: int, fd: int = -1, async_fd: int = -1) -> int:
    """Open a completion queue of at least ``depth`` entries; its record."""
    h = t.h
    depth = cq_depth(depth)
    if not t.free_cqs:
        raise OSError(errno.ENOMEM, "the device has no free completion queue")
    ring = t.rings.take(depth * L.CQE_WORDS)
    cq = int(h[L.H_CQ_BASE]) + t.free_cqs.pop() * L.CQ_WORDS
    h[cq : cq + L.CQ_WORDS] = 0
    h[cq + L.CQ_RING] = ring
    h[cq + L.CQ_MASK] = depth - 1
    h[cq + L.CQ_FD], h[cq + L.CQ_ASYNC_FD] = fd, async_fd
    h[cq + L.CQ_STATE] = 1
    h[L.H_CQ_LIVE] = max(h[L.H_CQ_LIVE], (cq - int(h[L.H_CQ_BASE])) // L.CQ_WORDS + 1)
    return cq


def remove_cq(t: Tables, cq: int) -> None:
    h = t.h
    paid(h, cq + L.CQ_EVENT)
    t.rings.give(int(h[cq + L.CQ_RING]), int(h[cq + L.CQ_MASK] + 1) * L.CQE_WORDS)
    h[cq : cq + L.CQ_WORDS] = 0
    t.free_cqs.append((cq - int(h[L.H_CQ_BASE])) // L.CQ_WORDS)


def add_mr(
    t: Tables, *, pd: int, key: int, start: int, length: int, access: int, delta: int, path: int, pinned: bool, region: int
) -> int:
    """Open a region; its record, or 0 when ``key`` is taken or its neighbourhood full (draw another)."""
    h = t.h
    if not t.free_mrs:
        raise OSError(errno.ENOMEM, "the device has no free memory region")
    mr = int(h[L.H_MR_BASE]) + t.free_mrs[-1] * L.MR_WORDS
    if key == 0 or not insert_key(h, key, mr):
        return 0
    h[L.H_MR_LIVE] = max(h[L.H_MR_LIVE], t.free_mrs.pop() + 1)
    h[mr : mr + L.MR_WORDS] = 0
    for word, value in (
        (L.MR_PD, pd), (L.MR_KEY, key), (L.MR_START, start), (L.MR_LENGTH, length), (L.MR_ACCESS, access),
        (L.MR_DELTA, delta), (L.MR_PATH, path), (L.MR_PINNED, int(pinned)), (L.MR_REGION, region), (L.MR_STATE, 1),
    ):  # fmt: skip
        h[mr + word] = value
    return mr


def remove_mr(t: Tables, mr: int) -> None:
    h = t.h
    remove_key(h, int(h[mr + L.MR_KEY]), mr)
    h[mr : mr + L.MR_WORDS] = 0
    t.free_mrs.append((mr - int(h[L.H_MR_BASE])) // L.MR_WORDS)


def _stride(head: int, sges: int) -> int:
    return 1 << (head + sges * L.SGE_WORDS - 1).bit_length()


def _depth(entries: int) -> int:
    return 1 << max(0, entries - 1).bit_length()


def qp_number(random: int, count: int, index: int) -> int:
    """The number of the queue pair at ``index`` of ``count``: random above the index's bits, and never the one of all groups."""
    number = (random * count + index) & QPN_MASK
    return number if number != MULTICAST_QPN else index


def add_qp(
    t: Tables, *, random: int, pd: int, send_cq: int, recv_cq: int, sends: int, recvs: int, send_sges: int, recv_sges: int,
    sig_all: bool,
) -> int:  # fmt: skip
    """Open a queue pair in RESET; its record. ``random`` supplies the high bits of its 24-bit number."""
    h = t.h
    if not t.free_qps:
        raise OSError(errno.ENOMEM, "the device has no free queue pair")
    strides = _stride(L.W_SGE, send_sges), _stride(L.R_SGE, recv_sges)
    masks = _depth(sends) - 1, _depth(recvs) - 1
    rings = []
    for mask, stride in zip(masks, strides):
        try:
            rings.append(t.rings.take((mask + 1) * stride))
        except MemoryError:
            if rings:
                t.rings.give(rings[0], (masks[0] + 1) * strides[0])
            raise
    index = t.free_qps.pop()
    count = int(h[L.H_QP_COUNT])
    q = int(h[L.H_QP_BASE]) + index * L.QP_WORDS
    queued = h[q + L.QP_QUEUED]  # its predecessor may still stand in the ready ring
    h[q : q + L.QP_WORDS] = 0
    h[q + L.QP_QUEUED] = queued
    h[q + L.QP_NUMBER] = qp_number(random, count, index)
    h[q + L.QP_PD], h[q + L.QP_SEND_CQ], h[q + L.QP_RECV_CQ] = pd, send_cq, recv_cq
    h[q + L.QP_SIG_ALL] = int(sig_all)
    h[q + L.QP_SQ_RING], h[q + L.QP_SQ_MASK], h[q + L.QP_SQ_STRIDE] = rings[0], masks[0], strides[0]
    h[q + L.QP_RQ_RING], h[q + L.QP_RQ_MASK], h[q + L.QP_RQ_STRIDE] = rings[1], masks[1], strides[1]
    reset_qp(t, q)
    h[L.H_QP_LIVE] = max(h[L.H_QP_LIVE], index + 1)
    return q


def reset_qp(t: Tables, q: int) -> None:
    """Back to RESET: queues empty, nothing in flight; numbers, rings and queues stay."""
    h = t.h
    release_faults(h, t.p, q)
    forget_requests(h, q)
    forget(h, q + L.QP_LAND_HEAD)
    set_inflight(h, q, int(h[q + L.QP_UNA]), int(h[q + L.QP_UNA]))
    keep = {L.QP_NUMBER, L.QP_PD, L.QP_SEND_CQ, L.QP_RECV_CQ, L.QP_SIG_ALL, L.QP_QUEUED}
    keep |= {L.QP_SQ_RING, L.QP_SQ_MASK, L.QP_SQ_STRIDE, L.QP_RQ_RING, L.QP_RQ_MASK, L.QP_RQ_STRIDE}
    keep |= {L.QP_EVENT, L.QP_ASYNC, L.QP_ASYNC_FD}
    for word in range(L.QP_WORDS):
        if word not in keep:
            h[q + word] = 0
    h[q + L.QP_STATE] = L.QPS_RESET
    h[q + L.QP_LAST_ID] = -1
    _disown_batch(h, q)


def _disown_batch(h: Words, q: int) -> None:
    """What the current batch still has to finish for a QP is finished for nobody."""
    for i in range(int(h[L.H_ACT_COUNT])):
        a = int(h[L.H_ACT_BASE]) + i * L.ACT_WORDS
        if h[a + L.A_QP] == q:
            h[a + L.A_QP] = 0
    for i in range(int(h[L.H_TX_COUNT])):
        t = int(h[L.H_TX_BASE]) + i * L.TX_WORDS
        if h[t + L.T_QP] == q:
            h[t + L.T_SIDE] = 2


@dataclass(frozen=True)
class Path:
    """What a queue pair must know of its peer to receive (RTR)."""

    dest_qpn: int
    peer_hi: int
    peer_lo: int
    rq_psn: int
    mtu: int = 1024
    port: int = 4791
    min_rnr_timer: int = 1
    max_dest_rd_atomic: int = 16
    access: int = 0
    park_ns: int = 4_000_000
    foreign: bool = False


@dataclass(frozen=True)
class Sending:
    """What it must know to send (RTS). ``timeout`` and ``rnr_retry`` are verbs codes."""

    sq_psn: int
    timeout: int = 14
    retry_cnt: int = 7
    rnr_retry: int = 7
    max_rd_atomic: int = 16


def timeout_ns(code: int) -> int:
    """4.096 us * 2^code; code 0 is never."""
    return 4096 << code if code else 0


def to_rtr(t: Tables, q: int, path: Path) -> None:
    h = t.h
    h[q + L.QP_DEST], h[q + L.QP_PEER_HI], h[q + L.QP_PEER_LO] = path.dest_qpn, path.peer_hi, path.peer_lo
    h[q + L.QP_PEER_PORT], h[q + L.QP_MTU], h[q + L.QP_EPSN] = path.port, path.mtu, path.rq_psn
    h[q + L.QP_ANSWERED] = path.rq_psn
    h[q + L.QP_MIN_RNR], h[q + L.QP_DEST_RD_MAX] = path.min_rnr_timer, min(path.max_dest_rd_atomic, L.READ_RING)
    h[q + L.QP_ACCESS], h[q + L.QP_PARK_NS] = path.access, path.park_ns
    h[q + L.QP_FOREIGN] = int(path.foreign)
    h[q + L.QP_STATE] = L.QPS_RTR


def to_rts(t: Tables, q: int, sending: Sending) -> None:
    h = t.h
    psn = sending.sq_psn
    for word in (L.QP_SEND_PSN, L.QP_UNA, L.QP_DONE, L.QP_MAX_PSN):
        h[q + word] = psn
    h[q + L.QP_ASKED] = psn - 1
    h[q + L.QP_TIMEOUT_NS] = timeout_ns(sending.timeout)
    h[q + L.QP_RETRY_MAX] = h[q + L.QP_RETRIES] = sending.retry_cnt
    h[q + L.QP_RNR_MAX] = h[q + L.QP_RNR_RETRIES] = sending.rnr_retry
    h[q + L.QP_RD_MAX] = min(sending.max_rd_atomic, L.READ_RING)
    # Never more in flight than the peer keeps waiting behind a parked request.
    mtu = max(1, int(h[q + L.QP_MTU]))  # it has none once another thread has reset it, and then does not get to RTS
    window = min(int(h[L.H_WINDOW]) // mtu, int(h[L.H_POOL_LIMIT]))
    h[q + L.QP_CWND] = h[q + L.QP_CWND_MAX] = max(1, window)
    h[q + L.QP_STATE] = L.QPS_RTS


def remove_qp(t: Tables, q: int) -> None:
    """Close a queue pair; nothing that the current batch finishes refers to it afterwards."""
    h = t.h
    index = (q - int(h[L.H_QP_BASE])) // L.QP_WORDS
    reset_qp(t, q)
    paid(h, q + L.QP_EVENT)
    h[q + L.QP_ASYNC] = 0
    t.rings.give(int(h[q + L.QP_SQ_RING]), int((h[q + L.QP_SQ_MASK] + 1) * h[q + L.QP_SQ_STRIDE]))
    t.rings.give(int(h[q + L.QP_RQ_RING]), int((h[q + L.QP_RQ_MASK] + 1) * h[q + L.QP_RQ_STRIDE]))
    h[q + L.QP_NUMBER] = 0
    h[q + L.QP_STATE] = L.QPS_FREE
    t.free_qps.insert(0, index)  # last in line: a late packet finds no newcomer
    while h[L.H_QP_LIVE] > 0 and h[h[L.H_QP_BASE] + (h[L.H_QP_LIVE] - 1) * L.QP_WORDS + L.QP_NUMBER] == 0:
        h[L.H_QP_LIVE] -= 1


def post_send(
    h: Words, q: int, *, wr_id: int, opcode: int, flags: int, sges: list[tuple[int, int, int]],
    rva: int = 0, rkey: int = 0, imm: int = 0, compare: int = 0, swap: int = 0,
) -> bool:  # fmt: skip
    """Append a send work request (the plain-Python way: models and tests); False when the queue is full."""
    tail = int(h[q + L.QP_SQ_TAIL])
    if tail - h[q + L.QP_SQ_HEAD] > h[q + L.QP_SQ_MASK]:
        return False
    w = int(h[q + L.QP_SQ_RING]) + (tail & int(h[q + L.QP_SQ_MASK])) * int(h[q + L.QP_SQ_STRIDE])
    words = np.array([wr_id, opcode, flags, sum(s[1] for s in sges), rva, rkey, imm, compare, swap, 0, 0, len(sges)], np.int64)
    h[w : w + words.size] = words
    for i, sge in enumerate(sges):
        h[w + L.W_SGE + 3 * i : w + L.W_SGE + 3 * i + 3] = sge
    h[q + L.QP_SQ_TAIL] = tail + 1
    return True


def post_recv(h: Words, q: int, *, wr_id: int, sges: list[tuple[int, int, int]]) -> bool:
    """Append a receive work request; False when the queue is full."""
    tail = int(h[q + L.QP_RQ_TAIL])
    if tail - h[q + L.QP_RQ_HEAD] > h[q + L.QP_RQ_MASK]:
        return False
    r = int(h[q + L.QP_RQ_RING]) + (tail & int(h[q + L.QP_RQ_MASK])) * int(h[q + L.QP_RQ_STRIDE])
    h[r : r + 4] = (wr_id, sum(s[1] for s in sges), len(sges), 0)
    for i, sge in enumerate(sges):
        h[r + L.R_SGE + 3 * i : r + L.R_SGE + 3 * i + 3] = sge
    h[q + L.QP_RQ_TAIL] = tail + 1
    return True
