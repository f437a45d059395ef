"""Queue pairs: finding them, their work requests, the error state.

A QP number is its table index in the low bits and random bits above; the record repeats the whole number, so a
guess that hits the index still misses.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.completions import push
from unpinned.hca.parking import forget, forget_requests
from unpinned.paging.faults import fault_end


@kernel
def find_qp(h, qpn):
    """The record of QP number ``qpn``, or 0. A free record has number 0, which is nobody's."""
    index = qpn & (h[L.H_QP_COUNT] - 1)
    q = h[L.H_QP_BASE] + index * L.QP_WORDS
    return q if qpn != 0 and h[q + L.QP_NUMBER] == qpn else 0


@kernel
def is_peer(h, q, hi, lo):
    """Whether this is the address of the queue pair's peer."""
    return h[q + L.QP_PEER_HI] == hi and h[q + L.QP_PEER_LO] == lo


@kernel
def sends(h, q):
    """Whether the requester is at work. In SQD it begins no message, and finishes those that it has begun."""
    return h[q + L.QP_STATE] == L.QPS_RTS or h[q + L.QP_STATE] == L.QPS_SQD


@kernel
def drained(h, q):
    """Whether every message that was begun is complete, and none is to be sent again."""
    return h[q + L.QP_SQ_HEAD] == h[q + L.QP_SQ_NEXT] and h[q + L.QP_SQ_PACKET] == 0 and h[q + L.QP_SEND_PSN] == h[q + L.QP_MAX_PSN]


@kernel
def wqe(h, q, index):
    return h[q + L.QP_SQ_RING] + (index & h[q + L.QP_SQ_MASK]) * h[q + L.QP_SQ_STRIDE]


@kernel
def rqe(h, q, index):
    return h[q + L.QP_RQ_RING] + (index & h[q + L.QP_RQ_MASK]) * h[q + L.QP_RQ_STRIDE]


@kernel
def wc_opcode(opcode):
    """The completion opcode of a send work request's opcode."""
    if opcode == L.WR_RDMA_WRITE or opcode == L.WR_RDMA_WRITE_WITH_IMM:
        return L.WC_RDMA_WRITE
    if opcode == L.WR_RDMA_READ:
        return L.WC_RDMA_READ
    if opcode == L.WR_ATOMIC_CMP_AND_SWP:
        return L.WC_COMP_SWAP
    if opcode == L.WR_ATOMIC_FETCH_AND_ADD:
        return L.WC_FETCH_ADD
    return L.WC_LOCAL_INV if opcode == L.WR_LOCAL_INV else L.WC_SEND


@kernel
def complete_send(h, q, status):
    """Complete the oldest send request; success is reported only if it asked to be."""
    w = wqe(h, q, h[q + L.QP_SQ_HEAD])
    h[q + L.QP_SQ_HEAD] += 1
    if status != L.WC_SUCCESS or h[q + L.QP_SIG_ALL] or h[w + L.W_FLAGS] & L.SEND_SIGNALED:
        return push(h, h[q + L.QP_SEND_CQ], h[w + L.W_ID], status, wc_opcode(h[w + L.W_OPCODE]),
                    h[w + L.W_LENGTH], h[q + L.QP_NUMBER], 0, 0, 0)
    return 0


@kernel
def complete_receive(h, q, status, opcode, length, imm, flags, solicited):
    """Complete the oldest receive."""
    r = rqe(h, q, h[q + L.QP_RQ_HEAD])
    h[q + L.QP_RQ_HEAD] += 1
    return push(h, h[q + L.QP_RECV_CQ], h[r + L.R_ID], status, opcode, length, h[q + L.QP_NUMBER], imm, flags, solicited)


@kernel
def flush(h, q):
    """Complete everything still queued with WR_FLUSH_ERR (IBTA vol. 1, 10.3.1.7), once the QP has ended.

    Before that (the state is ERR, but what ended it waits in the batch) nothing may overtake the request that failed.
    """
    if h[q + L.QP_ERROR] == 0:
        return 0
    while h[q + L.QP_SQ_HEAD] < h[q + L.QP_SQ_TAIL]:
        complete_send(h, q, L.WC_WR_FLUSH_ERR)
    while h[q + L.QP_RQ_HEAD] < h[q + L.QP_RQ_TAIL]:
        complete_receive(h, q, L.WC_WR_FLUSH_ERR, L.WC_RECV, 0, 0, 0, 0)
    return 0


@kernel
def set_inflight(h, q, send_psn, una):
    """Move the window [una, send_psn) and the device's account of bytes in flight with it."""
    h[L.H_INFLIGHT] += (send_psn - una - h[q + L.QP_SEND_PSN] + h[q + L.QP_UNA]) * h[q + L.QP_MTU]
    h[q + L.QP_SEND_PSN] = send_psn
    h[q + L.QP_UNA] = una
    return 0


@kernel
def release_faults(h, p, q):
    """Let go of the faults the QP waits for; one that still runs ends by itself."""
    for field in (L.QP_PARK_FAULT, L.QP_SEND_FAULT, L.QP_LAND_FAULT):
        if h[q + field] > 0:
            fault_end(p, h[q + field] - 1)
        h[q + field] = 0
    return 0


@kernel
def fail_qp(h, p, q, status):
    """The QP's end (``status`` is not 0): error state, everything flushed, nothing but a last NAK sent any more."""
    h[q + L.QP_STATE] = L.QPS_ERR
    h[q + L.QP_ERROR] = status
    h[L.H_ERROR_EVENTS] += 1
    set_inflight(h, q, h[q + L.QP_UNA], h[q + L.QP_UNA])
    flush(h, q)
    release_faults(h, p, q)
    forget_requests(h, q)
    forget(h, q + L.QP_LAND_HEAD)
    h[q + L.QP_LAND_GAP] = 0
    h[q + L.QP_BUSY] = 0
    h[q + L.QP_KEPT_END] = 0
    h[q + L.QP_DEADLINE] = 0
    h[q + L.QP_RNR_UNTIL] = 0
    h[q + L.QP_PARK_UNTIL] = 0
    return 0
