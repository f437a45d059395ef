"""The listening half: acknowledgements, NAKs, READ and atomic responses, and what is stale."""

import numpy as np
import pytest

from support.ends import MS, PAGE, End
from support.peer import Peer, peer_of
from unpinned.hca import layout as L
from unpinned.wire import opcodes as O


def writer(count: int, end: End | None = None, **kw: int) -> Peer:
    """A peer that has been sent ``count`` WRITEs of one packet, PSNs 500 and up."""
    peer = peer_of(end or End(1), **kw)
    source = peer.end.buffer(4096)
    for i in range(count):
        peer.post(wr_id=i, opcode=L.WR_RDMA_WRITE, sges=[source.sge(0, 64)])
    return peer


def statuses(peer: Peer) -> list[tuple[int, int]]:
    return peer.end.statuses(peer.q)


def response(peer: Peer, psn: int, payload: bytes, opcode: int = O.RC_READ_RESPONSE_ONLY) -> bytes:
    headers = {} if opcode == O.RC_READ_RESPONSE_MIDDLE else {"aeth": (0x1F, 1)}
    return peer.packet(opcode, psn, payload, ackreq=0, **headers)


def reader(length: int, count: int = 1, **kw: int) -> tuple[Peer, list]:
    """A peer that has been asked for ``count`` READs of ``length`` bytes, PSNs 500 and up."""
    peer = peer_of(End(1), **kw)
    buffers = [peer.end.buffer(length) for _ in range(count)]
    for i, buffer in enumerate(buffers):
        peer.post(wr_id=i, opcode=L.WR_RDMA_READ, sges=[buffer.sge()], rva=4096 * i)
    return peer, buffers


def test_an_acknowledgement_covers_everything_before_it() -> None:
    peer = writer(5)
    peer.give(peer.ack(502))
    assert statuses(peer) == [(0, 0), (1, 0), (2, 0)]
    peer.give(peer.ack(501), peer.ack(502), peer.ack(504))
    assert statuses(peer) == [(3, 0), (4, 0)] and peer.end.counter("duplicate") == 2


@pytest.mark.parametrize("psn", [499, 505, 500 + (1 << 23), 500 - (1 << 23)])
def test_an_answer_to_nothing_outstanding_is_stale(psn: int) -> None:
    peer = writer(5)
    peer.give(peer.ack(psn))
    assert statuses(peer) == [] and peer.end.counter("duplicate") == 1


@pytest.mark.parametrize("syndrome", [0x40, 0x5F, 0x65, 0x7F])
def test_a_reserved_syndrome_is_no_answer(syndrome: int) -> None:
    peer = writer(1)
    assert peer.give(peer.ack(500, syndrome)) == [] and peer.end.counter("bad_response") == 1


# ---- NAKs -----------------------------------------------------------------------------------------------------------


def test_a_sequence_nak_is_an_acknowledgement_and_a_way_back() -> None:
    peer = writer(5)
    again = peer.give(peer.ack(502, L.NAK_SEQUENCE))
    assert statuses(peer) == [(0, 0), (1, 0)] and [p["psn"] for p in again] == [502, 503, 504]
    assert peer.end.counter("retransmitted") == 3 and peer.end.counter("nak_received") == 1


@pytest.mark.parametrize(
    ("syndrome", "status"),
    [
        (L.NAK_INVALID, L.WC_REM_INV_REQ_ERR),
        (L.NAK_ACCESS, L.WC_REM_ACCESS_ERR),
        (L.NAK_OPERATION, L.WC_REM_OP_ERR),
        (0x64, L.WC_REM_OP_ERR),
    ],
)
def test_a_terminal_nak_ends_its_request_and_the_queue_pair(syndrome: int, status: int) -> None:
    peer = writer(4)
    peer.give(peer.ack(501, syndrome))
    assert statuses(peer) == [(0, 0), (1, status), (2, L.WC_WR_FLUSH_ERR), (3, L.WC_WR_FLUSH_ERR)]
    peer.end.quiet()


def test_a_terminal_nak_to_what_we_went_back_before() -> None:
    """The peer is gone: sending again would end in a timeout instead of the reason."""
    peer = writer(4)
    peer.end.receive([(peer.ack(500, L.NAK_SEQUENCE), 1), (peer.ack(502, L.NAK_ACCESS), 1)])
    peer.give()
    assert statuses(peer) == [(0, 0), (1, 0), (2, L.WC_REM_ACCESS_ERR), (3, L.WC_WR_FLUSH_ERR)]


def test_a_terminal_nak_behind_an_unanswered_read_ends_that() -> None:
    peer, (buffer,) = reader(64)
    peer.post(wr_id=7, opcode=L.WR_RDMA_WRITE, sges=[buffer.sge()])
    peer.give(peer.ack(501, L.NAK_ACCESS))
    assert statuses(peer) == [(0, L.WC_REM_ACCESS_ERR), (7, L.WC_WR_FLUSH_ERR)]


# ---- going back -----------------------------------------------------------------------------------------------------


def test_an_acknowledgement_beyond_the_place_we_went_back_to_counts() -> None:
    """With a window that shrank below what the peer has, it would be stale for ever."""
    peer = writer(40, timeout=10)
    peer.end.h[peer.q + L.QP_CWND] = 16
    assert len(peer.wait(5 * MS)) == 16 and peer.end.counter("timeouts") == 1
    peer.give(peer.ack(539))
    assert statuses(peer) == [(i, 0) for i in range(40)]
    peer.end.quiet()


def test_it_does_not_count_for_a_read_whose_answer_is_missing() -> None:
    peer, (buffer,) = reader(64, timeout=10)
    peer.post(wr_id=7, opcode=L.WR_RDMA_WRITE, sges=[buffer.sge()])
    peer.now += 5 * MS
    peer.end.deliver([], peer.now)  # the timer expires; nothing has been sent again yet
    assert [p["psn"] for p in peer.give(peer.ack(501))] == [500, 501]
    assert statuses(peer) == []
    peer.give(response(peer, 500, bytes(64)), peer.ack(501))
    assert statuses(peer) == [(0, 0), (7, 0)]
    peer.end.quiet()


def test_an_acknowledgement_behind_a_read_that_is_repeated_is_not_used_up() -> None:
    """It cannot be taken before the READ's answer; then the WRITE behind it is sent again, not waited for (found by the swarm)."""
    peer, (buffer,) = reader(64, timeout=10)
    peer.post(wr_id=7, opcode=L.WR_RDMA_WRITE, sges=[buffer.sge()])
    peer.end.h[peer.q + L.QP_CWND] = peer.end.h[peer.q + L.QP_CWND_MAX] = 1
    assert [p["psn"] for p in peer.wait(5 * MS)] == [500], "the READ again; no room yet for the WRITE"
    assert peer.give(peer.ack(501)) == []
    assert [p["psn"] for p in peer.give(response(peer, 500, bytes(64)))] == [501]
    peer.give(peer.ack(501))
    assert statuses(peer) == [(0, 0), (7, 0)] and peer.end.counter("timeouts") == 1
    peer.end.quiet()


def test_the_window_halves_on_loss_and_grows_again() -> None:
    peer = writer(0, End(1, {"waiting_per_qp": 64}))
    source = peer.end.buffer(1 << 17)
    peer.post(opcode=L.WR_RDMA_WRITE, sges=[source.sge()])
    window = lambda: int(peer.end.h[peer.q + L.QP_CWND])  # noqa: E731
    assert window() == 64
    for expected in (32, 16, 16):
        peer.give(peer.ack(500, L.NAK_SEQUENCE))
        assert window() == expected
    peer.give(peer.ack(515))
    assert window() == 32 and peer.end.h[peer.q + L.QP_SEND_PSN] == 516 + 32


# ---- READ responses -------------------------------------------------------------------------------------------------


def parts(data: bytes, mtu: int = 1024) -> list[tuple[int, bytes]]:
    pieces = [data[i : i + mtu] for i in range(0, len(data), mtu)] or [b""]
    if len(pieces) == 1:
        return [(O.RC_READ_RESPONSE_ONLY, pieces[0])]
    codes = [O.RC_READ_RESPONSE_FIRST] + [O.RC_READ_RESPONSE_MIDDLE] * (len(pieces) - 2) + [O.RC_READ_RESPONSE_LAST]
    return list(zip(codes, pieces))


def test_responses_land_where_their_psn_says() -> None:
    peer, (buffer,) = reader(3001)
    data = bytes(i % 251 for i in range(3001))
    peer.give(*[response(peer, 500 + i, piece, code) for i, (code, piece) in enumerate(parts(data))])
    assert buffer.array.tobytes() == data and peer.end.completions(peer.q)[0][:4] == (0, 0, L.WC_RDMA_READ, 3001)


def test_a_lost_response_is_asked_for_again_with_all_after_it() -> None:
    peer, (buffer,) = reader(4096)
    data = bytes(i % 251 for i in range(4096))
    stream = [response(peer, 500 + i, piece, code) for i, (code, piece) in enumerate(parts(data))]
    (again,) = peer.give(stream[0], stream[2], stream[3])
    assert (again["psn"], again["reth"]) == (501, (1024, 0, 3072)) and peer.end.counter("implied_nak") >= 1
    assert peer.give(stream[2], stream[3]) == [], "what comes now was sent before"
    rest = [response(peer, 501 + i, piece, code) for i, (code, piece) in enumerate(parts(data[1024:]))]
    (again,) = peer.give(rest[0], rest[2])
    assert (again["psn"], again["reth"][2]) == (502, 2048), "a second loss does not wait for the timer"
    peer.give(*[response(peer, 502 + i, piece, code) for i, (code, piece) in enumerate(parts(data[2048:]))])
    assert buffer.array.tobytes() == data and statuses(peer) == [(0, 0)]


def test_an_acknowledgement_past_an_unanswered_read_implies_its_loss() -> None:
    peer, (buffer,) = reader(64)
    peer.post(wr_id=7, opcode=L.WR_RDMA_WRITE, sges=[buffer.sge()])
    again = peer.give(peer.ack(501))
    assert [(p["opcode"], p["psn"]) for p in again] == [(O.RC_READ_REQUEST, 500), (O.RC_WRITE_ONLY, 501)]


def test_a_response_acknowledges_what_precedes_it() -> None:
    peer = writer(2)
    into = peer.end.buffer(64)
    peer.post(wr_id=7, opcode=L.WR_RDMA_READ, sges=[into.sge()])
    peer.give(response(peer, 502, bytes(64)))
    assert statuses(peer) == [(0, 0), (1, 0), (7, 0)]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: response(p, 500, bytes(1024), O.RC_READ_RESPONSE_MIDDLE),
        lambda p: response(p, 500, bytes(1024), O.RC_READ_RESPONSE_ONLY),
        lambda p: response(p, 500, bytes(1024), O.RC_READ_RESPONSE_LAST),
        lambda p: p.packet(O.RC_READ_RESPONSE_FIRST, 500, bytes(1024), aeth=(0x62, 1), ackreq=0),
    ],
)
def test_a_response_out_of_its_place_is_ignored(make) -> None:
    peer, (buffer,) = reader(3000)
    assert peer.give(make(peer)) == []
    assert statuses(peer) == [] and peer.end.counter("bad_response") == 1 and not buffer.array.any()


@pytest.mark.parametrize("size", [0, 4, 1020])
def test_a_response_of_the_wrong_length_ends_the_request(size: int) -> None:
    peer, (buffer,) = reader(3000)
    peer.give(response(peer, 500, b"\xff" * size, O.RC_READ_RESPONSE_FIRST))
    assert statuses(peer) == [(0, L.WC_BAD_RESP_ERR)] and not buffer.array.any()


def test_an_answer_of_the_wrong_kind_ends_the_request() -> None:
    peer, _ = reader(8)
    peer.give(peer.packet(O.RC_ATOMIC_ACK, 500, aeth=(0x1F, 1), original=1, ackreq=0))
    assert statuses(peer) == [(0, L.WC_BAD_RESP_ERR)]
    peer = peer_of(End(1))
    into = peer.end.buffer(8)
    peer.post(opcode=L.WR_ATOMIC_FETCH_AND_ADD, sges=[into.sge()])
    peer.give(response(peer, 500, bytes(8)))
    assert statuses(peer) == [(1, L.WC_BAD_RESP_ERR)]


def test_a_bad_response_ends_its_own_request_not_the_one_before() -> None:
    peer = writer(1)
    into = peer.end.buffer(64)
    peer.post(wr_id=7, opcode=L.WR_RDMA_READ, sges=[into.sge()])
    peer.give(response(peer, 501, bytes(60)))
    assert statuses(peer) == [(0, 0), (7, L.WC_BAD_RESP_ERR)]


def test_an_unasked_response_is_ignored() -> None:
    peer = writer(2)
    assert peer.give(response(peer, 500, bytes(64))) == [] and peer.end.counter("bad_response") == 1
    assert statuses(peer) == []


@pytest.mark.parametrize("value", [0, 1, -1, 0x1122334455667788, -(1 << 63)])
def test_an_atomic_answer_lands_in_native_order(value: int) -> None:
    peer = peer_of(End(1))
    into = peer.end.buffer(64)
    peer.post(opcode=L.WR_ATOMIC_FETCH_AND_ADD, sges=[into.sge(8, 8)], compare=1)
    peer.give(peer.packet(O.RC_ATOMIC_ACK, 500, aeth=(0x1F, 1), original=value, ackreq=0))
    assert into.array.view(np.int64)[1] == value and statuses(peer) == [(1, 0)]


# ---- landing memory -------------------------------------------------------------------------------------------------


def landing(fault_ns: int = 2 * MS, **geometry: int) -> tuple[Peer, object]:
    """A READ of 16 KiB whose landing pages were there when it was asked for, and left."""
    end = End(1, geometry)
    into = end.buffer(4 * PAGE, pinned=False)
    peer = peer_of(end, timeout=10)
    assert len(peer.post(opcode=L.WR_RDMA_READ, sges=[into.sge()])) == 1
    end.discard(into.pages())
    end.fault_after = fault_ns
    return peer, into


DATA = bytes(i % 249 for i in range(4 * PAGE))


def stream_of(peer: Peer, data: bytes = DATA, psn: int = 500) -> list[bytes]:
    return [response(peer, psn + i, piece, code) for i, (code, piece) in enumerate(parts(data))]


def test_responses_wait_for_their_landing_page() -> None:
    peer, into = landing()
    assert peer.give(*stream_of(peer)) == [] and peer.end.h[L.H_POOL_USED] == 16
    assert peer.wait(2 * MS) == []
    assert into.array.tobytes() == DATA and statuses(peer) == [(1, 0)]
    peer.end.quiet()


@pytest.mark.parametrize("fault_ns", [60_000, 5 * MS, 500 * MS])
def test_a_fault_of_any_length_is_no_timeout(fault_ns: int) -> None:
    peer, into = landing(fault_ns)
    peer.give(*stream_of(peer))
    left = fault_ns
    while left > 0:
        assert peer.wait(min(left, 3 * MS)) == []
        left -= 3 * MS
    assert statuses(peer) == [(1, 0)] and peer.end.counter("timeouts") == 0


def test_responses_that_find_no_place_are_asked_for_again_once_the_page_is_there() -> None:
    peer, into = landing()
    peer.end.h[L.H_POOL_LIMIT] = 4
    assert peer.give(*stream_of(peer)[:8]) == [] and peer.end.counter("pool_drops") > 0
    (again,) = peer.wait(2 * MS)
    at = again["psn"] - 500
    peer.give(*stream_of(peer, DATA[at * 1024 : at * 1024 + again["reth"][2]], again["psn"]))
    assert at == 4 and into.array[: 4096 + again["reth"][2]].tobytes() == DATA[: 4096 + again["reth"][2]]
    assert peer.end.counter("timeouts") == 0


def test_without_any_place_it_is_the_same() -> None:
    peer, into = landing()
    peer.end.h[L.H_POOL_FREE], free = -1, peer.end.h[L.H_POOL_FREE]
    assert peer.give(*stream_of(peer)[:1]) == []
    peer.end.h[L.H_POOL_FREE] = free
    for _ in range(9):
        if again := peer.wait(2 * MS):
            break
        assert peer.end.counter("timeouts") == 0
    assert again[0]["psn"] == 500


def test_a_landing_page_that_cannot_be_had_ends_the_request() -> None:
    peer, into = landing()
    peer.end.gone |= set(into.pages(2 * PAGE))
    peer.end.absent -= set(into.pages(0, 2 * PAGE))
    peer.give(*stream_of(peer))
    peer.wait(2 * MS)
    assert statuses(peer) == [(1, L.WC_LOC_PROT_ERR)]
    peer.end.quiet()


def test_a_landing_copy_that_fails_ends_its_own_request() -> None:
    end = End(1)
    peer = writer(1, end)
    into = end.buffer(PAGE)
    peer.post(wr_id=7, opcode=L.WR_RDMA_READ, sges=[into.sge(0, 64)])
    end.gone |= set(into.pages())
    peer.give(response(peer, 501, bytes(64)))
    assert statuses(peer) == [(0, 0), (7, L.WC_LOC_PROT_ERR)]


def test_an_atomic_answer_waits_for_its_landing_page_unharmed() -> None:
    end = End(1)
    into = end.buffer(PAGE, pinned=False)
    peer = peer_of(end)
    peer.post(opcode=L.WR_ATOMIC_FETCH_AND_ADD, sges=[into.sge(8, 8)], compare=1)
    end.discard(into.pages())
    end.fault_after = 2 * MS
    peer.give(peer.packet(O.RC_ATOMIC_ACK, 500, aeth=(0x1F, 1), original=0x0102030405060708, ackreq=0))
    assert statuses(peer) == []
    peer.wait(2 * MS)
    assert into.array.view(np.int64)[1] == 0x0102030405060708 and statuses(peer) == [(1, 0)]
