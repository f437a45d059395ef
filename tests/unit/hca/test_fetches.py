"""READ and atomic requests, and requests that come again."""

import numpy as np
import pytest

from support.ends import End
from support.peer import Peer, peer_of
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.wire import opcodes as O


@pytest.fixture
def peer() -> Peer:
    return peer_of(End(2))


def verdict(answers: list) -> list[tuple[int, int, int]]:
    return [(a["opcode"], a["psn"], a["aeth"][0] if "aeth" in a else -1) for a in answers]


def read(peer: Peer, psn: int, va: int, key: int, length: int) -> bytes:
    return peer.packet(O.RC_READ_REQUEST, psn, reth=(va, key, length))


def add(peer: Peer, psn: int, va: int, key: int, value: int) -> bytes:
    return peer.packet(O.RC_FETCH_ADD, psn, atomiceth=(va, key, value, 0))


def swap(peer: Peer, psn: int, va: int, key: int, compare: int, new: int) -> bytes:
    return peer.packet(O.RC_CMP_SWAP, psn, atomiceth=(va, key, new, compare))


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 5000])
def test_a_read_takes_as_many_psns_as_it_has_responses(peer: Peer, length: int) -> None:
    source = peer.end.buffer(8192)
    source.array[:] = np.arange(8192) % 253
    answers = peer.give(read(peer, 100, source.va + 3, source.key, length))
    count = max(1, -(-length // 1024))
    assert [a["psn"] for a in answers] == list(range(100, 100 + count))
    assert b"".join(a["payload"] for a in answers) == source.array[3 : 3 + length].tobytes()
    assert peer.end.h[peer.q + L.QP_EPSN] == 100 + count and answers[0]["aeth"] == (0x1F, 1)


@pytest.mark.parametrize(
    ("length", "syndrome"), [((1 << 31) + 1, L.NAK_INVALID), (1 << 31, L.NAK_ACCESS), (8193, L.NAK_ACCESS)]
)
def test_a_read_of_too_much(peer: Peer, length: int, syndrome: int) -> None:
    source = peer.end.buffer(8192)
    assert verdict(peer.give(read(peer, 100, source.va, source.key, length))) == [(O.RC_ACK, 100, syndrome)]


def test_rights_to_read() -> None:
    end = End(2)
    unreadable = end.buffer(64, L.ACCESS_REMOTE_WRITE | L.ACCESS_LOCAL_WRITE)
    readable = end.buffer(64)
    for source, access, length, opcode in (
        (unreadable, 15, 4, O.RC_ACK),
        (readable, L.ACCESS_REMOTE_WRITE, 4, O.RC_ACK),
        (unreadable, 0, 0, O.RC_READ_RESPONSE_ONLY),
    ):
        peer = peer_of(end, access=access)
        assert peer.give(read(peer, 100, source.va, source.key, length))[0]["opcode"] == opcode


def test_where_no_reads_and_atomics_were_agreed_none_is_taken() -> None:
    for atomic in (False, True):
        peer = peer_of(End(2), max_dest_rd_atomic=0)
        target = peer.end.buffer(64)
        make = add(peer, 101, target.va, target.key, 1) if atomic else read(peer, 101, target.va, target.key, 8)
        write = peer.packet(O.RC_WRITE_ONLY, 100, b"data", reth=(target.va, target.key, 4))
        assert verdict(peer.give(write, make)) == [(O.RC_ACK, 101, L.NAK_INVALID)]
        assert target.array.tobytes() == b"data" + bytes(60)


# ---- atomics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        (5, 37, 42),
        (-1, 1, 0),
        ((1 << 63) - 1, 1, -(1 << 63)),
        (-(1 << 63), -1, (1 << 63) - 1),
        (0, -(1 << 63), -(1 << 63)),
    ],
)
def test_fetch_add_wraps(peer: Peer, before: int, value: int, after: int) -> None:
    target = peer.end.buffer(64)
    cell = target.array[8:16].view(np.int64)
    cell[0] = before
    (answer,) = peer.give(add(peer, 100, target.va + 8, target.key, value))
    assert answer["opcode"] == O.RC_ATOMIC_ACK and answer["original"] == before and answer["aeth"] == (0x1F, 1)
    assert cell[0] == after


@pytest.mark.parametrize(("compare", "after"), [(7, -3), (8, 7), (-7, 7)])
def test_compare_and_swap(peer: Peer, compare: int, after: int) -> None:
    target = peer.end.buffer(8)
    cell = target.array.view(np.int64)
    cell[0] = 7
    (answer,) = peer.give(swap(peer, 100, target.va, target.key, compare, -3))
    assert answer["original"] == 7 and cell[0] == after


@pytest.mark.parametrize(
    ("offset", "access", "syndrome"),
    [(1, 15, L.NAK_INVALID), (4, 15, L.NAK_INVALID), (64, 15, L.NAK_ACCESS), (0, 7, L.NAK_ACCESS)],
)
def test_atomics_that_are_refused(offset: int, access: int, syndrome: int) -> None:
    peer = peer_of(End(2), access=access)
    target = peer.end.buffer(64)
    assert verdict(peer.give(add(peer, 100, target.va + offset, target.key, 1))) == [(O.RC_ACK, 100, syndrome)]
    assert not target.array.any()


# ---- again ----------------------------------------------------------------------------------------------------------


def test_an_atomic_that_comes_again_is_answered_from_memory(peer: Peer) -> None:
    target = peer.end.buffer(64)
    requests = [add(peer, 100 + i, target.va, target.key, 1) for i in range(L.READ_RING + 1)]
    for request in requests:
        peer.give(request)
    for i, request in reversed(list(enumerate(requests))[1:]):
        (answer,) = peer.give(request)
        assert (answer["psn"], answer["original"]) == (100 + i, i)
    assert peer.give(requests[0]) == [], "older than what is kept: dropped, never executed"
    assert target.array.view(np.int64)[0] == L.READ_RING + 1
    assert peer.end.counter("duplicate_atomic") == L.READ_RING


@pytest.mark.parametrize("late", ["write again", "gap"])
def test_no_other_answer_takes_the_place_of_a_repeated_atomic_s(late: str) -> None:
    end = End(2, {"burst": 1})
    reader, peer = peer_of(end), peer_of(end)
    source, target = end.buffer(1 << 16), end.buffer(64)
    write = peer.packet(O.RC_WRITE_ONLY, 101, b"once", reth=(target.va + 8, target.key, 4))
    atomic = add(peer, 100, target.va, target.key, 1)
    peer.give(atomic, write)
    end.deliver([(read(reader, 100, source.va, source.key, 1 << 16), 1)], peer.now)  # its answers fill each burst
    other = write if late == "write again" else peer.packet(O.RC_SEND_ONLY, 110, b"late")
    answers = [a for a in peer.give(other, atomic) if a["opcode"] in (O.RC_ATOMIC_ACK, O.RC_ACK)]
    assert sorted((a["opcode"], a["psn"]) for a in answers) == [(O.RC_ACK, 101 + (late == "gap")), (O.RC_ATOMIC_ACK, 100)]
    assert end.counter("duplicate") == 1 + (late == "write again"), "however often one is looked at before its turn"
    assert end.h[peer.q + L.QP_BUSY] == 0, "else every older request is judged again and again, and nobody else's is"
    assert target.array.view(np.int64)[0] == 1


@pytest.mark.parametrize("psn", [0, 1])
def test_no_atomic_was_before_the_first(psn: int) -> None:
    peer = peer_of(End(2), psn=psn)
    target = peer.end.buffer(64)
    assert peer.give(add(peer, psn - 1, target.va, target.key, 1)) == [] and not target.array.any()


def test_a_read_that_comes_again_is_executed_again(peer: Peer) -> None:
    source = peer.end.buffer(8192)
    peer.give(read(peer, 100, source.va, source.key, 5000))
    source.array[:] = 9
    answers = peer.give(read(peer, 102, source.va + 2048, source.key, 5000 - 2048))
    assert [(a["opcode"], a["psn"]) for a in answers] == [(13, 102), (14, 103), (15, 104)]
    assert answers[0]["payload"] == b"\x09" * 1024


def test_the_rest_of_a_read_may_come_with_one_that_was_lost(peer: Peer) -> None:
    source = peer.end.buffer(8192)
    peer.give(read(peer, 100, source.va, source.key, 2048))
    assert [a["psn"] for a in peer.give(read(peer, 101, source.va + 1024, source.key, 3072))] == [101, 102, 103]
    assert peer.end.h[peer.q + L.QP_EPSN] == 104


@pytest.mark.parametrize("gone", ["region", "right"])
def test_a_stray_copy_of_a_read_of_a_closed_region_ends_nothing(peer: Peer, gone: str) -> None:
    source = peer.end.buffer(8192)
    request = read(peer, 100, source.va, source.key, 8192)
    assert len(peer.give(request)) == 8
    if gone == "region":
        setup.remove_mr(peer.end.t, source.mr)
    else:
        peer.end.h[peer.q + L.QP_ACCESS] = L.ACCESS_REMOTE_WRITE
    assert verdict(peer.give(request)) == [(O.RC_ACK, 100, L.NAK_ACCESS)]
    target = peer.end.buffer(64)
    write = peer.packet(O.RC_WRITE_ONLY, 108, b"data", reth=(target.va, target.key, 4))
    assert verdict(peer.give(write)) == [(O.RC_ACK, 108, L.SYNDROME_ACK)]


def test_a_read_from_before_the_connection_ends_nothing(peer: Peer) -> None:
    """A packet of the number's last connection, say; its region is long gone."""
    assert verdict(peer.give(read(peer, 40, 4096, 0xBAD, 8))) == [(O.RC_ACK, 40, L.NAK_ACCESS)]
    assert peer.end.h[peer.q + L.QP_STATE] == L.QPS_RTS and peer.end.h[peer.q + L.QP_EPSN] == 100


def test_a_write_that_comes_again_is_acknowledged_up_to_itself(peer: Peer) -> None:
    target = peer.end.buffer(64)
    write = peer.packet(O.RC_WRITE_ONLY, 100, b"once", reth=(target.va, target.key, 4))
    peer.give(write, read(peer, 101, target.va, target.key, 4))
    target.array[:] = 0
    assert verdict(peer.give(write)) == [(O.RC_ACK, 100, 0x1F)]
    assert not target.array.any(), "and not executed"


def test_a_send_that_comes_again_takes_no_second_receive(peer: Peer) -> None:
    target = peer.end.buffer(64)
    for i in range(2):
        setup.post_recv(peer.end.h, peer.q, wr_id=i, sges=[target.sge()])
    send = peer.packet(O.RC_SEND_ONLY, 100, b"once")
    for _ in range(3):
        assert verdict(peer.give(send)) == [(O.RC_ACK, 100, 0x1F)]
    assert peer.end.statuses(peer.q) == [(0, 0)]
