"""Queue pairs: found by their whole number, flushed in order, and nothing left when they end."""

import pytest

from support.ends import End
from support.peer import peer_of
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.hca.qp import fail_qp, find_qp, flush, wc_opcode


def test_a_guess_that_hits_the_index_misses() -> None:
    end = End(1)
    peer = peer_of(end)
    number = peer.qpn
    assert find_qp(end.h, number) == peer.q
    assert find_qp(end.h, number ^ 0x400000) == 0
    assert find_qp(end.h, number + 1) == 0
    assert all(end.h[find_qp(end.h, n) + L.QP_NUMBER] == n for n in range(64) if find_qp(end.h, n))


@pytest.mark.parametrize(
    ("request_", "completion"),
    [
        (L.WR_RDMA_WRITE, L.WC_RDMA_WRITE),
        (L.WR_RDMA_WRITE_WITH_IMM, L.WC_RDMA_WRITE),
        (L.WR_SEND, L.WC_SEND),
        (L.WR_SEND_WITH_IMM, L.WC_SEND),
        (L.WR_SEND_WITH_INV, L.WC_SEND),
        (L.WR_RDMA_READ, L.WC_RDMA_READ),
        (L.WR_ATOMIC_CMP_AND_SWP, L.WC_COMP_SWAP),
        (L.WR_ATOMIC_FETCH_AND_ADD, L.WC_FETCH_ADD),
        (L.WR_LOCAL_INV, L.WC_LOCAL_INV),
    ],
)
def test_completion_opcodes(request_: int, completion: int) -> None:
    assert wc_opcode(request_) == completion


def test_the_end_flushes_sends_then_receives_in_order() -> None:
    end = End(1)
    peer = peer_of(end, rts=False)
    for i in range(3):
        setup.post_send(end.h, peer.q, wr_id=i, opcode=L.WR_SEND, flags=0, sges=[])
        setup.post_recv(end.h, peer.q, wr_id=10 + i, sges=[])
    flush(end.h, peer.q)
    assert end.completions(peer.q) == [], "before the QP has ended nothing is flushed"
    fail_qp(end.h, end.p, peer.q, L.WC_WR_FLUSH_ERR)
    assert end.statuses(peer.q) == [(i, L.WC_WR_FLUSH_ERR) for i in (0, 1, 2, 10, 11, 12)]
    assert end.h[L.H_ERROR_EVENTS] == 1 and end.h[peer.q + L.QP_STATE] == L.QPS_ERR
    end.quiet()


def test_what_is_posted_after_the_end_is_flushed_too() -> None:
    end = End(1)
    peer = peer_of(end)
    fail_qp(end.h, end.p, peer.q, L.WC_WR_FLUSH_ERR)
    peer.post(wr_id=5, opcode=L.WR_SEND)
    setup.post_recv(end.h, peer.q, wr_id=6, sges=[])
    peer.post(wr_id=7, opcode=L.WR_SEND)
    assert end.statuses(peer.q) == [(5, L.WC_WR_FLUSH_ERR), (7, L.WC_WR_FLUSH_ERR), (6, L.WC_WR_FLUSH_ERR)]


def test_unsignaled_requests_complete_only_in_error() -> None:
    end = End(1)
    peer = peer_of(end, sig_all=False)
    peer.post(wr_id=1, opcode=L.WR_SEND)
    peer.post(wr_id=2, opcode=L.WR_SEND, flags=L.SEND_SIGNALED)
    peer.give(peer.ack(501))
    peer.post(wr_id=3, opcode=L.WR_SEND)
    fail_qp(end.h, end.p, peer.q, L.WC_WR_FLUSH_ERR)
    assert end.statuses(peer.q) == [(2, 0), (3, L.WC_WR_FLUSH_ERR)]
