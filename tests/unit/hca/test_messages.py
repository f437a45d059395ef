"""SEND and WRITE packets at the responder: sequence, lengths, keys, receives."""

import pytest

from support.ends import PAGE, End
from support.peer import Peer, peer_of
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.wire import opcodes as O


@pytest.fixture
def peer() -> Peer:
    return peer_of(End(2))


def write(
    peer: Peer, psn: int, opcode: int, payload: bytes, reth: tuple[int, int, int] | None = None, **kw: int
) -> bytes:
    headers = {"reth": reth} if reth else {}
    return peer.packet(opcode, psn, payload, **headers, **kw)


def verdict(answers: list) -> list[tuple[int, int]]:
    return [(a["psn"], a["aeth"][0]) for a in answers]


ACKED, INVALID, ACCESS = 0x1F, L.NAK_INVALID, L.NAK_ACCESS
F, M, LAST, ONLY = O.RC_WRITE_FIRST, O.RC_WRITE_MIDDLE, O.RC_WRITE_LAST, O.RC_WRITE_ONLY


@pytest.mark.parametrize(
    ("packets", "length", "last"),
    [
        ([(F, 1024), (M, 1024), (LAST, 1)], 2049, (102, ACKED)),
        ([(F, 1024), (LAST, 1024)], 2048, (101, ACKED)),
        ([(ONLY, 0)], 0, (100, ACKED)),
        ([(ONLY, 1024)], 1024, (100, ACKED)),
        ([(F, 1023), (LAST, 1)], 1024, (100, INVALID)),  # FIRST must be full
        ([(F, 1024), (M, 512), (LAST, 1)], 2049, (101, INVALID)),
        ([(F, 1024), (LAST, 0)], 1024, (100, INVALID)),  # LAST may not be empty, FIRST was all there is
        ([(F, 1024), (LAST, 2)], 1025, (101, INVALID)),  # more than RETH said
        ([(F, 1024), (LAST, 1)], 1026, (101, INVALID)),  # less
        ([(F, 1024), (M, 1024), (LAST, 1)], 2048, (101, INVALID)),  # MIDDLE would be the last
        ([(ONLY, 5)], 6, (100, INVALID)),
        ([(ONLY, 5)], 4, (100, INVALID)),
        ([(M, 1024)], 0, (100, INVALID)),  # nothing under way
        ([(LAST, 4)], 0, (100, INVALID)),
        ([(F, 1024), (ONLY, 4)], 2048, (101, INVALID)),  # a start within a message
        ([(F, 1024), (O.RC_SEND_MIDDLE, 1024)], 2048, (101, INVALID)),
        ([(F, 1024), (O.RC_SEND_LAST, 4)], 2048, (101, INVALID)),
        ([(F, 1024), (O.RC_READ_REQUEST, 0)], 2048, (101, INVALID)),
        ([(O.RC_FLUSH, 0)], 0, (100, INVALID)),
        ([(O.RC_ATOMIC_WRITE, 8)], 8, (100, INVALID)),
    ],
)
def test_sequences_and_lengths(peer: Peer, packets: list[tuple[int, int]], length: int, last: tuple[int, int]) -> None:
    target = peer.end.buffer(8192)
    setup.post_recv(peer.end.h, peer.q, wr_id=9, sges=[target.sge()])
    reth = (target.va, target.key, length)
    made = []
    for i, (opcode, size) in enumerate(packets):
        extra = {"reth": reth} if O.OPCODE[opcode] & O.RETH else {}
        extra |= {"feth": (1, 0)} if opcode == O.RC_FLUSH else {}
        made.append(peer.packet(opcode, 100 + i, bytes([i + 1]) * size, **extra))
    answers = peer.give(*made)
    assert verdict(answers)[-1] == last
    assert peer.end.h[peer.q + L.QP_STATE] == (L.QPS_RTS if last[1] == ACKED else L.QPS_ERR)
    if last[1] == ACKED:
        assert target.array[:length].tobytes() == b"".join(bytes([i + 1]) * size for i, (_, size) in enumerate(packets))


def test_nothing_of_a_refused_packet_is_written(peer: Peer) -> None:
    target = peer.end.buffer(8192)
    peer.give(write(peer, 100, ONLY, b"\x01" * 1000, (target.va, target.key, 999)))
    assert not target.array.any() and peer.end.counter("nak_invalid") == 1


@pytest.mark.parametrize(
    ("va", "length", "key", "syndrome"),
    [
        (0, 64, 0, ACKED),
        (-1, 64, 0, ACCESS),
        (8192 - 63, 64, 0, ACCESS),
        (0, 64, 1, ACCESS),
        (1 << 62, 64, 0, ACCESS),
        (0, 1 << 31, 0, ACCESS),
        (0, (1 << 31) + 1, 0, INVALID),
        (0, (1 << 32) - 1, 0, INVALID),
        (-(1 << 62), 0, 77, ACKED),
    ],
)
def test_bounds_and_keys(peer: Peer, va: int, length: int, key: int, syndrome: int) -> None:
    """Zero bytes name no memory: neither their address nor their key is looked at."""
    target = peer.end.buffer(8192)
    payload = bytes(min(length, 1024))
    opcode = ONLY if length <= 1024 else F
    assert verdict(peer.give(write(peer, 100, opcode, payload, (target.va + va, target.key + key, length)))) == [
        (100, syndrome)
    ]


def test_rights_of_the_region_and_of_the_queue_pair() -> None:
    end = End(2)
    readable = end.buffer(64, L.ACCESS_REMOTE_READ | L.ACCESS_LOCAL_WRITE)
    writable = end.buffer(64, L.ACCESS_REMOTE_WRITE)
    foreign = end.buffer(64, pd=2)
    for target, access, syndrome in (
        (readable, 15, ACCESS),
        (writable, 15, ACKED),
        (foreign, 15, ACCESS),
        (writable, L.ACCESS_REMOTE_READ, ACCESS),
    ):
        peer = peer_of(end, access=access)
        assert verdict(peer.give(write(peer, 100, ONLY, bytes(4), (target.va, target.key, 4)))) == [(100, syndrome)]


def test_a_region_that_goes_between_two_packets_is_not_mistaken_for_its_successor(peer: Peer) -> None:
    """The record of a closed region serves the next one: a message under way must not reach that."""
    target = peer.end.buffer(2048)
    va, key = target.va, target.key
    assert peer.give(write(peer, 100, F, bytes(1024), (va, key, 2048), ackreq=0)) == []
    setup.remove_mr(peer.end.t, target.mr)
    other = peer.end.buffer(64)
    assert other.mr == target.mr
    assert verdict(peer.give(write(peer, 101, LAST, b"\xff" * 1024))) == [(101, ACCESS)]
    assert not other.array.any()


def test_immediate_data_takes_a_receive_at_the_last_packet(peer: Peer) -> None:
    target = peer.end.buffer(8192)
    packets = [
        write(peer, 100, F, bytes(1024), (target.va, target.key, 1025), ackreq=0),
        write(peer, 101, O.RC_WRITE_LAST_IMM, b"x", immdt=0xDEADBEEF),
    ]
    assert verdict(peer.give(*packets)) == [(101, L.SYNDROME_RNR | 1)] and peer.end.counter("rnr_nak") == 1
    setup.post_recv(peer.end.h, peer.q, wr_id=9, sges=[])
    assert verdict(peer.give(packets[1])) == [(101, ACKED)]
    assert peer.end.completions(peer.q) == [(9, 0, L.WC_RECV_RDMA_WITH_IMM, 1025, peer.qpn, 0xDEADBEEF, L.WC_WITH_IMM)]


def test_a_send_is_scattered_over_its_receive(peer: Peer) -> None:
    target = peer.end.buffer(8192)
    sges = [target.sge(0, 1), target.sge(100, 0), target.sge(200, 1500), target.sge(4000, 2000)]
    setup.post_recv(peer.end.h, peer.q, wr_id=9, sges=sges)
    data = bytes(i % 251 for i in range(3001))
    packets = [
        peer.packet(O.RC_SEND_FIRST, 100, data[:1024]),
        peer.packet(O.RC_SEND_MIDDLE, 101, data[1024:2048]),
        peer.packet(O.RC_SEND_LAST, 102, data[2048:]),
    ]
    assert verdict(peer.give(*packets))[-1] == (102, ACKED)
    assert target.array[0:1].tobytes() == data[:1] and target.array[200:1700].tobytes() == data[1:1501]
    assert target.array[4000:5500].tobytes() == data[1501:] and not target.array[5500:].any()
    assert peer.end.completions(peer.q) == [(9, 0, L.WC_RECV, 3001, peer.qpn, 0, 0)]


def test_a_send_longer_than_its_receive_ends_both(peer: Peer) -> None:
    target = peer.end.buffer(8192)
    for i in (8, 9):
        setup.post_recv(peer.end.h, peer.q, wr_id=i, sges=[target.sge(0, 1500)])
    packets = [peer.packet(O.RC_SEND_FIRST, 100, bytes(1024)), peer.packet(O.RC_SEND_LAST, 101, b"\xff" * 477)]
    assert verdict(peer.give(*packets))[-1] == (101, INVALID)
    assert peer.end.statuses(peer.q) == [(8, L.WC_LOC_LEN_ERR), (9, L.WC_WR_FLUSH_ERR)]
    assert not target.array.any(), "nothing of the packet that does not fit"


@pytest.mark.parametrize("key", [77, 0])
def test_a_receive_into_memory_that_may_not_be_written(peer: Peer, key: int) -> None:
    target = peer.end.buffer(64, L.ACCESS_REMOTE_WRITE)  # no local write
    setup.post_recv(peer.end.h, peer.q, wr_id=8, sges=[(target.va, 64, target.key + key)])
    assert verdict(peer.give(peer.packet(O.RC_SEND_ONLY, 100, bytes(4)))) == [(100, L.NAK_OPERATION)]
    assert peer.end.statuses(peer.q) == [(8, L.WC_LOC_PROT_ERR)]


def test_an_empty_send_needs_a_receive_too(peer: Peer) -> None:
    assert verdict(peer.give(peer.packet(O.RC_SEND_ONLY, 100))) == [(100, L.SYNDROME_RNR | 1)]
    setup.post_recv(peer.end.h, peer.q, wr_id=8, sges=[])
    assert verdict(peer.give(peer.packet(O.RC_SEND_ONLY, 100))) == [(100, ACKED)]
    assert peer.end.completions(peer.q) == [(8, 0, L.WC_RECV, 0, peer.qpn, 0, 0)]


def test_an_implicit_page_is_asked_for_only_where_the_packet_goes() -> None:
    """The tail of a large receive need not exist: nobody knows yet how long the message is."""
    end = End(2)
    target = end.buffer(16 * PAGE, pinned=False)
    end.gone |= set(target.pages(8 * PAGE))
    peer = peer_of(end, park_ns=1 << 40)
    setup.post_recv(end.h, peer.q, wr_id=8, sges=[target.sge()])
    assert verdict(peer.give(peer.packet(O.RC_SEND_ONLY, 100, b"data"))) == [(100, ACKED)]
    assert target.array[:4].tobytes() == b"data"
