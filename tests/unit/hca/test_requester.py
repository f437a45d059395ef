"""The sending half: which packets a request becomes, and how far they may run ahead."""

import pytest

from support.ends import MS, PAGE, End
from support.peer import Peer, peer_of
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.hca.ready import make_ready
from unpinned.wire import opcodes as O


def test_a_write_becomes_packets_of_its_memory() -> None:
    peer = peer_of(End(1))
    source = peer.end.buffer(8192)
    source.array[:] = [i % 251 for i in range(8192)]
    sges = [source.sge(0, 1000), source.sge(4000, 0), source.sge(2000, 1500), source.sge(7000, 1)]
    sent = peer.post(opcode=L.WR_RDMA_WRITE, sges=sges, rva=0x1234, rkey=0x99)
    assert [(p["opcode"], p["psn"]) for p in sent] == [
        (O.RC_WRITE_FIRST, 500),
        (O.RC_WRITE_MIDDLE, 501),
        (O.RC_WRITE_LAST, 502),
    ]
    assert sent[0]["reth"] == (0x1234, 0x99, 2501) and sent[-1]["ackreq"] == 1
    data = source.array[0:1000].tobytes() + source.array[2000:3500].tobytes() + source.array[7000:7001].tobytes()
    assert b"".join(p["payload"] for p in sent) == data


@pytest.mark.parametrize(
    ("kind", "length", "opcodes"),
    [
        (L.WR_RDMA_WRITE, 0, [O.RC_WRITE_ONLY]),
        (L.WR_RDMA_WRITE, 1024, [O.RC_WRITE_ONLY]),
        (L.WR_RDMA_WRITE_WITH_IMM, 4, [O.RC_WRITE_ONLY_IMM]),
        (L.WR_RDMA_WRITE_WITH_IMM, 1025, [O.RC_WRITE_FIRST, O.RC_WRITE_LAST_IMM]),
        (L.WR_SEND, 0, [O.RC_SEND_ONLY]),
        (L.WR_SEND, 2048, [O.RC_SEND_FIRST, O.RC_SEND_LAST]),
        (L.WR_SEND_WITH_IMM, 1, [O.RC_SEND_ONLY_IMM]),
        (L.WR_SEND_WITH_IMM, 2049, [O.RC_SEND_FIRST, O.RC_SEND_MIDDLE, O.RC_SEND_LAST_IMM]),
        (L.WR_SEND_WITH_INV, 1, [O.RC_SEND_ONLY_INV]),
        (L.WR_SEND_WITH_INV, 1025, [O.RC_SEND_FIRST, O.RC_SEND_LAST_INV]),
        (L.WR_RDMA_READ, 5000, [O.RC_READ_REQUEST]),
        (L.WR_ATOMIC_CMP_AND_SWP, 8, [O.RC_CMP_SWAP]),
        (L.WR_ATOMIC_FETCH_AND_ADD, 8, [O.RC_FETCH_ADD]),
    ],
)
def test_opcodes(kind: int, length: int, opcodes: list[int]) -> None:
    peer = peer_of(End(1))
    source = peer.end.buffer(8192)
    sges = [source.sge(0, length)] if length else []
    sent = peer.post(opcode=kind, flags=L.SEND_SOLICITED, sges=sges, rva=64, rkey=7, imm=0xA1B2C3D4, compare=3, swap=5)
    assert [p["opcode"] for p in sent] == opcodes
    last = sent[-1]
    assert (last["ackreq"], last["se"]) == (1, 1 if kind not in (L.WR_RDMA_READ, 5, 6) else 0)
    assert all(p["se"] == 0 for p in sent[:-1])
    assert 0xA1B2C3D4 == last.get("immdt", last.get("ieth", 0xA1B2C3D4))
    if kind == L.WR_ATOMIC_CMP_AND_SWP:
        assert last["atomiceth"] == (64, 7, 5, 3)
    if kind == L.WR_ATOMIC_FETCH_AND_ADD:
        assert last["atomiceth"] == (64, 7, 3, 0)


def test_psns_wrap() -> None:
    peer = peer_of(End(1), sq_psn=0xFFFFFE)
    source = peer.end.buffer(8192)
    sent = peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge(0, 4096)])
    assert [p["psn"] for p in sent] == [0xFFFFFE, 0xFFFFFF, 0, 1]
    peer.give(peer.ack(1))
    assert peer.end.statuses(peer.q) == [(1, 0)]


# ---- READs ----------------------------------------------------------------------------------------------------------


def test_a_long_read_is_asked_for_in_chunks() -> None:
    peer = peer_of(End(1, {"read_chunk_bytes": 4096}))
    into = peer.end.buffer(10_000)
    sent = peer.post(opcode=L.WR_RDMA_READ, sges=[into.sge()], rva=1 << 40, rkey=5)
    assert [(p["psn"], p["reth"]) for p in sent] == [
        (500, (1 << 40, 5, 4096)),
        (504, ((1 << 40) + 4096, 5, 4096)),
        (508, ((1 << 40) + 8192, 5, 1808)),
    ]


def test_two_reads_fit_the_window() -> None:
    """However large the chunk: with one at a time the wire would idle for every round trip."""
    peer = peer_of(End(1, {"window_bytes": 1 << 16}))
    into = peer.end.buffer(1 << 18)
    sent = peer.post(opcode=L.WR_RDMA_READ, sges=[into.sge()])
    assert [p["reth"][2] for p in sent] == [1 << 15, 1 << 15]


def test_no_more_reads_and_atomics_than_agreed() -> None:
    peer = peer_of(End(1), max_rd_atomic=2)
    into = peer.end.buffer(4096)
    for i in range(3):
        peer.post(wr_id=i, opcode=L.WR_ATOMIC_FETCH_AND_ADD, sges=[into.sge(8 * i, 8)], compare=1)
    assert [p["psn"] for p in peer.heard] == [500, 501]
    (sent,) = peer.give(peer.packet(O.RC_ATOMIC_ACK, 500, aeth=(0x1F, 1), original=-2, ackreq=0))
    assert sent["psn"] == 502


@pytest.mark.parametrize("opcode", [L.WR_RDMA_READ, L.WR_ATOMIC_CMP_AND_SWP, L.WR_ATOMIC_FETCH_AND_ADD])
def test_where_no_reads_and_atomics_were_agreed_none_goes_out(opcode: int) -> None:
    peer = peer_of(End(1), max_rd_atomic=0)
    target = peer.end.buffer(8)
    assert [a["psn"] for a in peer.post(opcode=L.WR_RDMA_WRITE, sges=[target.sge()])] == [500], "others do"
    assert peer.post(opcode=opcode, sges=[target.sge()], rva=8, rkey=1) == []
    peer.give(peer.ack(500))
    assert peer.end.statuses(peer.q) == [(1, L.WC_SUCCESS), (1, L.WC_LOC_QP_OP_ERR)]


def test_a_fence_waits_for_reads_and_atomics() -> None:
    peer = peer_of(End(1))
    into = peer.end.buffer(4096)
    peer.post(wr_id=1, opcode=L.WR_RDMA_READ, sges=[into.sge(0, 8)])
    assert peer.post(wr_id=2, opcode=L.WR_RDMA_WRITE, sges=[into.sge(0, 8)], flags=L.SEND_FENCE) == []
    (sent,) = peer.give(peer.packet(O.RC_READ_RESPONSE_ONLY, 500, b"response", aeth=(0x1F, 1), ackreq=0))
    assert sent["opcode"] == O.RC_WRITE_ONLY and sent["payload"] == b"response", "and sees what they brought"


# ---- windows --------------------------------------------------------------------------------------------------------


def test_a_quarter_of_the_window_asks_for_an_acknowledgement() -> None:
    peer = peer_of(End(1, {"waiting_per_qp": 16}))
    source = peer.end.buffer(1 << 16)
    sent = peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    assert len(sent) == 16 and [p["psn"] for p in sent if p["ackreq"]] == [500, 504, 508, 512]
    more = peer.give(peer.ack(503))
    assert [p["psn"] for p in more] == [516, 517, 518, 519]


def test_a_queue_pair_that_finds_the_device_s_window_full_has_an_answer_coming() -> None:
    """Else it would wait for its timer once the others are done."""
    end = End(1, {"window_bytes": 16384, "burst": 4})
    source = end.buffer(1 << 16)
    peers = [peer_of(end, sq_psn=501) for _ in range(8)]
    for peer in peers:
        peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    for peer in peers:
        if end.h[peer.q + L.QP_SQ_NEXT] < end.h[peer.q + L.QP_SQ_TAIL]:
            assert end.h[peer.q + L.QP_ASKED] >= end.h[peer.q + L.QP_UNA]
    assert end.h[L.H_INFLIGHT] <= 16384 + 8 * 1024


def test_a_crowd_of_reads_asks_for_two_windows_at_most() -> None:
    """Else the answers, which nobody bounds, overflow the socket's buffer on a wire that loses nothing."""
    end = End(1, {"window_bytes": 1 << 18})
    into = end.buffer(1 << 20)
    peers = [peer_of(end, depth=4) for _ in range(62)]
    sent = [p for peer in peers for p in peer.post(opcode=L.WR_RDMA_READ, sges=[into.sge()])]
    assert len(sent) >= 62, "each has one under way"
    assert sum(p["reth"][2] for p in sent) == end.h[L.H_INFLIGHT] <= 2 * (1 << 18) + 62 * 1024


def test_what_is_spare_is_for_reads_of_many() -> None:
    """As long as it lasts, each asks for a piece and not for a packet."""
    end = End(1, {"window_bytes": 1 << 18, "spare_bytes": 1 << 19})
    into = end.buffer(1 << 20)
    peers = [peer_of(end, depth=4) for _ in range(62)]
    first = [peer.post(opcode=L.WR_RDMA_READ, sges=[into.sge()])[0]["reth"][2] for peer in peers]
    # The first fills the window, eight find 64 KiB that are spare, and the others have a share each.
    assert first == [1 << 17] + [1 << 16] * 8 + [4096] * 53
    assert end.h[L.H_INFLIGHT] <= (1 << 18) + (1 << 19) + 62 * 4096


@pytest.mark.parametrize("opcode", [L.WR_RDMA_WRITE, L.WR_RDMA_READ])
def test_who_waits_with_a_full_window_leaves_the_others_a_share(opcode: int) -> None:
    """Its peer is dead or waits for a page: one packet at a time is not enough for the others."""
    end = End(1, {"window_bytes": 1 << 18})
    source = end.buffer(1 << 20)
    waiting, other = peer_of(end), peer_of(end)
    waiting.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    assert end.h[L.H_INFLIGHT] == 1 << 18
    other.post(opcode=opcode, sges=[source.sge()])
    assert end.h[L.H_INFLIGHT] == (1 << 18) + (1 << 16), "one of four shares"


def test_a_repetition_asks_across_no_boundary() -> None:
    """A responder may know each READ by where it began and ended, and not answer anything else."""
    end = End(1, {"window_bytes": 1 << 18})
    into = end.buffer(1 << 18)
    waiting, peer = peer_of(end), peer_of(end)
    waiting.post(opcode=L.WR_RDMA_WRITE, sges=[into.sge()])
    sent = peer.post(opcode=L.WR_RDMA_READ, sges=[into.sge()])
    setup.remove_qp(end.t, waiting.q)
    make_ready(end.h, peer.q)
    sent += peer.give()
    assert [(p["psn"], p["reth"][2]) for p in sent] == [(500, 1 << 16), (564, 1 << 16), (628, 1 << 17)]
    assert peer.give(peer.ack(500, L.SYNDROME_RNR | 1)) == []
    again = [(p["psn"], p["reth"][2]) for p in peer.wait(MS)]
    assert again == [(psn, 1 << 16) for psn in (500, 564, 628, 692)]


def test_a_foreign_peer_is_asked_again_for_one_read_at_a_time() -> None:
    """Linux's responder forgets what lies before the latest repetition of a READ."""
    peer = peer_of(End(1, {"window_bytes": 1 << 16, "read_chunk_bytes": 1 << 14}), foreign=True)
    into = peer.end.buffer(1 << 16)
    sent = peer.post(opcode=L.WR_RDMA_READ, sges=[into.sge()])
    assert [p["psn"] for p in sent] == [500, 516, 532, 548], "what is new is not held back"
    assert peer.give(peer.ack(500, L.NAK_SEQUENCE)) != []
    assert [p["psn"] for p in peer.heard[4:]] == [500]
    size = peer.heard[4]["reth"][2] // 1024
    for psn in range(500, 500 + size):
        opcode = O.RC_READ_RESPONSE_FIRST if psn == 500 else O.RC_READ_RESPONSE_MIDDLE if psn < 499 + size else O.RC_READ_RESPONSE_LAST
        aeth = {} if opcode == O.RC_READ_RESPONSE_MIDDLE else {"aeth": (0x1F, 1)}
        peer.give(peer.packet(opcode, psn, bytes(1024), ackreq=0, **aeth))
    assert [p["psn"] for p in peer.heard[4:]] == [500, 500 + size], "the next when all of it has come"


def test_the_budget_is_shared_in_turns() -> None:
    end = End(1, {"burst": 64})
    source = end.buffer(1 << 17)
    peers = [peer_of(end) for _ in range(2)]
    for peer in peers:
        setup.post_send(end.h, peer.q, wr_id=1, opcode=L.WR_RDMA_WRITE, flags=0, sges=[source.sge()])
        make_ready(end.h, peer.q)
    end.deliver([], MS)
    assert [int(end.h[peer.q + L.QP_SEND_PSN]) for peer in peers] == [530, 530]


# ---- errors of our own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"opcode": L.WR_LOCAL_INV}, L.WC_LOC_QP_OP_ERR),
        ({"opcode": 8}, L.WC_LOC_QP_OP_ERR),
        ({"opcode": 99}, L.WC_LOC_QP_OP_ERR),
        ({"opcode": L.WR_ATOMIC_FETCH_AND_ADD}, L.WC_LOC_LEN_ERR),
        ({"opcode": L.WR_ATOMIC_CMP_AND_SWP, "length": 16}, L.WC_LOC_LEN_ERR),
        ({"opcode": L.WR_RDMA_WRITE, "length": (1 << 31) + 1}, L.WC_LOC_LEN_ERR),
        ({"opcode": L.WR_RDMA_WRITE, "length": 65}, L.WC_LOC_PROT_ERR),
        ({"opcode": L.WR_RDMA_READ, "length": 65}, L.WC_LOC_PROT_ERR),
        ({"opcode": L.WR_SEND, "length": 4, "key": 1}, L.WC_LOC_PROT_ERR),
    ],
)
def test_a_request_that_cannot_be_sent(request_: dict, status: int) -> None:
    peer = peer_of(End(1))
    source = peer.end.buffer(64)
    length, key = request_.pop("length", 0), request_.pop("key", 0)
    sges = [(source.va, length, source.key + key)] if length else []
    assert peer.post(**request_, sges=sges) == []
    assert peer.end.statuses(peer.q) == [(1, status)] and peer.end.h[peer.q + L.QP_STATE] == L.QPS_ERR


def test_a_read_into_memory_that_may_not_be_written() -> None:
    peer = peer_of(End(1))
    into = peer.end.buffer(64, L.ACCESS_REMOTE_READ)
    assert peer.post(opcode=L.WR_RDMA_READ, sges=[into.sge()]) == []
    assert peer.end.statuses(peer.q) == [(1, L.WC_LOC_PROT_ERR)]


def broken_second(peer: Peer) -> None:
    source = peer.end.buffer(2048)
    assert len(peer.post(wr_id=1, opcode=L.WR_RDMA_WRITE, sges=[source.sge()])) == 2
    assert peer.post(wr_id=2, opcode=L.WR_RDMA_WRITE, sges=[(1, 4, 0xBAD)]) == []
    assert peer.post(wr_id=3, opcode=L.WR_RDMA_WRITE, sges=[source.sge()]) == []
    assert peer.end.statuses(peer.q) == []


def test_a_local_error_waits_for_what_was_sent_before() -> None:
    peer = peer_of(End(1))
    broken_second(peer)
    peer.give(peer.ack(501))
    assert peer.end.statuses(peer.q) == [(1, 0), (2, L.WC_LOC_PROT_ERR), (3, L.WC_WR_FLUSH_ERR)]


def test_a_local_error_survives_a_retransmission_of_what_was_sent_before() -> None:
    peer = peer_of(End(1))
    broken_second(peer)
    assert [p["psn"] for p in peer.give(peer.ack(500, L.NAK_SEQUENCE))] == [500, 501]
    assert peer.end.statuses(peer.q) == []
    peer.give(peer.ack(501))
    assert peer.end.statuses(peer.q) == [(1, 0), (2, L.WC_LOC_PROT_ERR), (3, L.WC_WR_FLUSH_ERR)]


def test_a_gather_whose_copy_fails_ends_its_own_request() -> None:
    peer = peer_of(End(1))
    source, gone = peer.end.buffer(2048), peer.end.buffer(PAGE)
    peer.end.gone |= set(gone.pages())
    peer.post(wr_id=1, opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    assert peer.post(wr_id=2, opcode=L.WR_RDMA_WRITE, sges=[source.sge(0, 1024), gone.sge(0, 1024)])[0]["psn"] == 502
    peer.post(wr_id=3, opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    assert peer.end.statuses(peer.q) == []
    peer.give(peer.ack(501))
    assert peer.end.statuses(peer.q) == [(1, 0), (2, L.WC_LOC_PROT_ERR), (3, L.WC_WR_FLUSH_ERR)]
    peer.end.quiet()


def test_what_was_lost_before_a_copy_that_fails_is_sent_again() -> None:
    peer = peer_of(End(1), timeout=10)
    source, gone = peer.end.buffer(64), peer.end.buffer(PAGE)
    peer.end.gone |= set(gone.pages())
    peer.post(wr_id=1, opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    assert peer.post(wr_id=2, opcode=L.WR_RDMA_WRITE, sges=[gone.sge()]) == []
    assert [p["psn"] for p in peer.wait(setup.timeout_ns(10))] == [500], "the peer may never have seen it"
    peer.give(peer.ack(500))
    assert peer.end.statuses(peer.q) == [(1, 0), (2, L.WC_LOC_PROT_ERR)]


def test_without_an_answer_a_copy_that_fails_ends_with_the_retries() -> None:
    peer = peer_of(End(1), timeout=10, retry_cnt=1)
    source, gone = peer.end.buffer(64), peer.end.buffer(PAGE)
    peer.end.gone |= set(gone.pages())
    for i, buffer in enumerate((source, gone)):
        peer.post(wr_id=i, opcode=L.WR_RDMA_WRITE, sges=[buffer.sge()])
    for _ in range(2):
        assert peer.end.statuses(peer.q) == []
        peer.wait(setup.timeout_ns(10))
    assert peer.end.statuses(peer.q) == [(0, L.WC_RETRY_EXC_ERR), (1, L.WC_WR_FLUSH_ERR)]


def test_our_own_missing_page_holds_nobody_else_up_and_costs_no_timeout() -> None:
    end = End(1)
    end.fault_after = 500 * MS
    source, there = end.buffer(1 << 16, pinned=False), end.buffer(4096)
    end.absent -= set(source.pages(0, PAGE))
    peer, other = peer_of(end, timeout=10), peer_of(end)
    assert len(peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge(0, 3 * PAGE)])) == 4
    assert len(other.post(opcode=L.WR_RDMA_WRITE, sges=[there.sge()])) == 4
    other.give(other.ack(503))
    for _ in range(60):
        assert peer.wait(8 * MS) == []
    assert end.counter("timeouts") == 0
    assert len(peer.wait(20 * MS)) == 8
    peer.give(peer.ack(511))
    assert end.statuses(peer.q) == [(1, 0)]


def test_a_read_is_not_asked_for_before_its_landing_pages_are_there() -> None:
    end = End(1)
    end.fault_after = 2 * MS
    into = end.buffer(4 * PAGE, pinned=False)
    peer = peer_of(end)
    assert peer.post(opcode=L.WR_RDMA_READ, sges=[into.sge()]) == []
    (sent,) = peer.wait(2 * MS)
    assert sent["opcode"] == O.RC_READ_REQUEST and not end.absent
