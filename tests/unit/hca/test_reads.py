"""What the responder sends: READ responses, and giving up a park."""

import pytest

from support.ends import MS, PAGE, Buffer, End
from support.peer import Peer, peer_of
from unpinned.hca import device, setup
from unpinned.hca import layout as L
from unpinned.hca.ready import make_ready
from unpinned.paging import layout as P
from unpinned.paging import regions
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O


def read(peer: Peer, psn: int, source, at: int, length: int) -> bytes:
    return peer.packet(O.RC_READ_REQUEST, psn, reth=(source.va + at, source.key, length))


def post_recv(peer: Peer, target: Buffer) -> None:
    assert setup.post_recv(peer.end.h, peer.q, wr_id=7, sges=[target.sge()])


@pytest.mark.parametrize(
    ("length", "opcodes"),
    [
        (0, [O.RC_READ_RESPONSE_ONLY]),
        (1024, [O.RC_READ_RESPONSE_ONLY]),
        (1025, [O.RC_READ_RESPONSE_FIRST, O.RC_READ_RESPONSE_LAST]),
        (3000, [O.RC_READ_RESPONSE_FIRST, O.RC_READ_RESPONSE_MIDDLE, O.RC_READ_RESPONSE_LAST]),
    ],
)
def test_opcodes_and_aeth(length: int, opcodes: list[int]) -> None:
    peer = peer_of(End(2))
    source = peer.end.buffer(4096)
    answers = peer.give(read(peer, 100, source, 0, length))
    assert [a["opcode"] for a in answers] == opcodes
    assert ["aeth" in a for a in answers] == [o != O.RC_READ_RESPONSE_MIDDLE for o in opcodes]


def test_a_long_read_takes_turns_with_other_queue_pairs() -> None:
    end = End(2)
    source = end.buffer(1 << 17)
    one, two = peer_of(end), peer_of(end)
    packets = [read(one, 100, source, 0, 1 << 17), read(two, 100, source, 0, 4096)]
    queue = [(p, 1) for p in packets]
    end.deliver(queue, MS)
    assert len(end.out) == end.h[L.H_TX_BURST] + 4, "the second was served in the first's first burst"
    one.give()
    end.quiet()


def test_a_missing_page_parks_the_read_and_what_is_there_goes_out_first() -> None:
    end = End(2)
    end.fault_after = 2 * MS
    source = end.buffer(4 * PAGE, pinned=False)
    end.absent -= set(source.pages(0, PAGE))
    peer = peer_of(end, park_ns=16 * MS)
    assert [a["psn"] for a in peer.give(read(peer, 100, source, 0, 4 * PAGE))] == [100, 101, 102, 103]
    assert [a["psn"] for a in peer.wait(2 * MS)] == list(range(104, 116))
    end.quiet()


def test_past_the_longest_park_the_peer_is_asked_to_come_again() -> None:
    end = End(2)
    end.fault_after = 50 * MS
    source = end.buffer(4 * PAGE, pinned=False)
    peer = peer_of(end, park_ns=4 * MS)
    request = read(peer, 100, source, 0, 4 * PAGE)
    behind = peer.packet(O.RC_WRITE_ONLY, 116, reth=(0, 0, 0))
    assert peer.give(request, behind) == []
    (nak,) = peer.wait(4 * MS)
    assert nak["psn"] == 100 and nak["aeth"][0] == L.SYNDROME_RNR | W.rnr_code(4 * MS)
    assert end.counter("rnr_nak_fault") == 1 and end.h[L.H_POOL_USED] == 0
    waits = [int(W.rnr_ns(nak["aeth"][0]))]
    while not (answers := peer.give(request)):
        (nak,) = peer.wait(4 * MS)
        waits.append(int(W.rnr_ns(nak["aeth"][0])))
        peer.now += waits[-1]
    assert [a["psn"] for a in answers] == list(range(100, 116))
    assert waits == sorted(waits) and len(waits) <= 5, "each wait is as long as the fault has lasted"
    assert P.view(end.p, "totals")["faults_read"][0] == 1, "every retry met the same fault"
    end.quiet()


def test_a_region_closed_while_the_peer_waits_to_ask_again() -> None:
    """It learns why at once, not from its own timeouts."""
    end = End(2)
    end.fault_after = 50 * MS
    source = end.buffer(4 * PAGE, pinned=False)
    end.absent -= set(source.pages(0, PAGE))
    peer = peer_of(end, park_ns=4 * MS)
    assert len(peer.give(read(peer, 100, source, 0, 4 * PAGE))) == 4
    (nak,) = peer.wait(4 * MS)
    assert nak["psn"] == 104 and nak["aeth"][0] & W.SYNDROME_KIND_MASK == L.SYNDROME_RNR
    setup.remove_mr(end.t, source.mr)
    (nak,) = peer.give(read(peer, 104, source, PAGE, 3 * PAGE))
    assert (nak["opcode"], nak["psn"], nak["aeth"][0]) == (O.RC_ACK, 104, L.NAK_ACCESS)
    assert end.h[peer.q + L.QP_STATE] == L.QPS_ERR, "as if it had been closed a moment earlier"


def test_a_copy_of_the_read_does_not_hold_up_its_not_ready() -> None:
    """Behind the responses to the copy it would be stale, and what it dropped be lost (I9; found by the swarm, seed 192400)."""
    end = End(2)
    end.fault_after = 50 * MS
    source = end.buffer(2 * PAGE, pinned=False)
    end.absent -= set(source.pages(0, PAGE))
    peer = peer_of(end, park_ns=4 * MS)
    request = read(peer, 100, source, 0, 2 * PAGE)
    assert [a["psn"] for a in peer.give(request)] == [100, 101, 102, 103]
    peer.now += 4 * MS
    end.deliver([], peer.now)
    answers = peer.give(request)
    assert [a["psn"] for a in answers] == [104, 100, 101, 102, 103]
    assert answers[0]["aeth"][0] & W.SYNDROME_KIND_MASK == L.SYNDROME_RNR


def test_a_copy_of_the_read_does_not_end_it() -> None:
    """A page that the READ had sent is gone for the copy, and its peer waits for the rest (I9; found by the swarm, seed 850979)."""
    end = End(2)
    end.fault_after = 6 * MS
    source = end.buffer(2 * PAGE, pinned=False)
    end.absent -= set(source.pages(0, PAGE))
    peer = peer_of(end, park_ns=4 * MS)
    request = read(peer, 100, source, 0, 2 * PAGE)
    assert [a["psn"] for a in peer.give(request)] == [100, 101, 102, 103]
    end.discard(source.pages(0, PAGE))
    assert peer.give(request) == []
    (nak,) = peer.wait(4 * MS)
    assert nak["psn"] == 100 and nak["aeth"][0] & W.SYNDROME_KIND_MASK == L.SYNDROME_RNR
    assert [a["psn"] for a in peer.wait(3 * MS)] == [104, 105, 106, 107]
    end.quiet()


def test_a_copy_of_the_read_that_overtakes_it_is_all_that_is_sent() -> None:
    end = End(2)
    end.fault_after = 2 * MS
    source = end.buffer(2 * PAGE, pinned=False)
    end.absent -= set(source.pages(0, PAGE))
    peer = peer_of(end, park_ns=4 * MS)
    request = read(peer, 100, source, 0, 2 * PAGE)
    assert [a["psn"] for a in peer.give(request)] == [100, 101, 102, 103]
    assert [a["psn"] for a in peer.give(request)] == [100, 101, 102, 103]
    assert [a["psn"] for a in peer.wait(2 * MS)] == [104, 105, 106, 107]
    end.quiet()


def test_a_fault_that_ends_as_its_park_does_is_served() -> None:
    end = End(2)
    end.fault_after = 4 * MS
    source = end.buffer(PAGE, pinned=False)
    peer = peer_of(end, park_ns=4 * MS + 1000)
    assert peer.give(read(peer, 100, source, 0, 8)) == []
    peer.now += 4 * MS + 1000
    end._faults(peer.now)
    device.timers(end.h, end.p, peer.now)
    assert [a["psn"] for a in peer.give()] == [100] and end.counter("rnr_nak_fault") == 0


def test_a_read_of_a_range_that_fails_sends_what_there_is() -> None:
    end = End(2)
    source = end.buffer(4 * PAGE, pinned=False)
    end.gone |= set(source.pages(2 * PAGE))
    end.absent -= set(source.pages(0, PAGE))
    peer = peer_of(end)
    answers = peer.give(read(peer, 100, source, 0, 4 * PAGE))
    assert answers[-1]["opcode"] == O.RC_ACK and answers[-1]["aeth"][0] == L.NAK_ACCESS
    assert [a["psn"] for a in answers] == [100, 101, 102, 103, 104]
    end.quiet()


def lose(end: End, source: Buffer, at: int, how: str) -> None:
    """The page at byte ``at`` goes for good."""
    pages = source.pages(at, PAGE)
    if how == "gone":
        end.discard(pages)
        end.gone |= set(pages)
    else:
        regions.revoke(end.p, source.region, pages.start * PAGE, pages.stop * PAGE)
        end.h[source.mr + L.MR_HOLES] = 1


@pytest.mark.parametrize("how", ["gone", "revoked", "closed"])
def test_a_stray_copy_of_a_read_whose_memory_went_since_ends_nothing(how: str) -> None:
    """Its peer has the bytes, and has told the owner, perhaps; if it does not have them, it learns from the NAK why."""
    end = End(2)
    source, target = end.buffer(64 * PAGE, pinned=False), end.buffer(64)
    end.absent.clear()
    peer = peer_of(end)
    request = read(peer, 100, source, 0, 32 * PAGE)
    assert len(peer.give(request)) == 128
    if how == "closed":
        end.deliver([(request, 1)], peer.now)
        setup.remove_mr(end.t, source.mr)
        answers = peer.give()
    else:
        lose(end, source, 16 * PAGE, how)
        answers = peer.give(request)
    assert [a["opcode"] for a in answers[-2:]] == [O.RC_READ_RESPONSE_MIDDLE, O.RC_ACK]
    assert answers[-1]["aeth"][0] == L.NAK_ACCESS and answers[-1]["psn"] == answers[-2]["psn"] + 1
    (ack,) = peer.give(peer.packet(O.RC_WRITE_ONLY, 228, b"data", reth=(target.va, target.key, 4)))
    assert (ack["psn"], ack["aeth"][0]) == (228, L.SYNDROME_ACK) and target.array[:4].tobytes() == b"data"
    end.quiet()


def test_a_read_goes_on_after_a_stray_copy_that_was_turned_down() -> None:
    end = End(2)
    end.fault_after = 2 * MS
    old, source = end.buffer(PAGE, pinned=False), end.buffer(2 * PAGE, pinned=False)
    end.absent -= set(old.pages()) | set(source.pages(0, PAGE))
    peer = peer_of(end, park_ns=16 * MS)
    first = read(peer, 100, old, 0, 8)
    assert [a["psn"] for a in peer.give(first)] == [100]
    lose(end, old, 0, "revoked")
    assert [a["psn"] for a in peer.give(read(peer, 101, source, 0, 2 * PAGE))] == [101, 102, 103, 104]
    assert [(a["opcode"], a["psn"]) for a in peer.give(first)] == [(O.RC_ACK, 100)]
    assert [a["psn"] for a in peer.wait(2 * MS)] == [105, 106, 107, 108]
    end.quiet()


def test_the_fault_of_a_stray_copy_that_fails_is_no_later_request_s() -> None:
    end = End(2)
    end.fault_after = 9 * MS
    source, target = end.buffer(PAGE, pinned=False), end.buffer(PAGE, pinned=False)
    end.absent -= set(source.pages())
    peer = peer_of(end, park_ns=4 * MS)
    request = read(peer, 100, source, 0, 8)
    peer.give(request)
    lose(end, source, 0, "gone")
    assert peer.give(request) == []
    (nak,) = peer.wait(4 * MS)
    assert nak["psn"] == 100 and nak["aeth"][0] & W.SYNDROME_KIND_MASK == L.SYNDROME_RNR
    write = peer.packet(O.RC_WRITE_ONLY, 101, b"data", reth=(target.va, target.key, 4))
    answers = peer.give(write)
    while not answers or answers[-1]["aeth"][0] & W.SYNDROME_KIND_MASK == L.SYNDROME_RNR:
        answers = peer.give(write) if answers else peer.wait(4 * MS)
    assert (answers[-1]["psn"], answers[-1]["aeth"][0]) == (101, L.SYNDROME_ACK)
    assert target.array[:4].tobytes() == b"data"
    end.quiet()


def test_a_fault_that_fails_after_its_read_is_no_later_write_s() -> None:
    """Somebody else's fault brought the page in first; then the owner took it away for good."""
    end = End(2)
    end.fault_after = iter([9 * MS, MS, MS]).__next__
    shared, later = end.buffer(2 * PAGE, pinned=False), end.buffer(PAGE, pinned=False)
    one, two = peer_of(end, park_ns=16 * MS), peer_of(end, park_ns=16 * MS)
    assert one.give(read(one, 100, shared, PAGE, 8)) == []
    assert two.give(read(two, 100, shared, 0, 2 * PAGE)) == []
    assert [a["psn"] for a in two.wait(MS)] == list(range(100, 108))
    make_ready(end.h, one.q)  # as any packet of its peer's would
    one.now = two.now
    assert [a["psn"] for a in one.give()] == [100]
    lose(end, shared, PAGE, "gone")
    assert one.wait(9 * MS) == []
    assert one.give(one.packet(O.RC_WRITE_ONLY, 101, b"data", reth=(later.va, later.key, 4))) == []
    assert [(a["psn"], a["aeth"][0]) for a in one.wait(MS)] == [(101, L.SYNDROME_ACK)]
    end.quiet()


def test_a_read_that_goes_on_has_a_park_of_its_own() -> None:
    """A stray atomic ends the park of a stray READ: what both had interrupted is not given up when that would have been."""
    end = End(2)
    end.fault_after = 6 * MS + MS // 2
    cell, old, source = end.buffer(64), end.buffer(PAGE, pinned=False), end.buffer(PAGE, pinned=False)
    end.absent -= set(old.pages())
    peer = peer_of(end, park_ns=4 * MS)
    atomic = peer.packet(O.RC_FETCH_ADD, 100, atomiceth=(cell.va, cell.key, 1, 0))
    first = read(peer, 101, old, 0, 8)
    assert [a["psn"] for a in peer.give(atomic, first)] == [100, 101]
    end.discard(old.pages())
    assert peer.give(read(peer, 102, source, 0, 8)) == []
    peer.now += 2 * MS
    assert peer.give(first) == [], "parked, and the other put aside"
    peer.now += MS
    assert [a["psn"] for a in peer.give(atomic)] == [100]
    assert peer.wait(3 * MS) == [], "the stray copy's park would end here"
    assert [(a["opcode"], a["psn"]) for a in peer.wait(MS // 2)] == [(O.RC_READ_RESPONSE_ONLY, 102)]
    assert end.counter("rnr_nak_fault") == 0
    end.quiet()


def test_a_copy_that_fails_is_a_refusal_and_nothing_after_it_goes_out() -> None:
    end = End(2)
    source = end.buffer(4 * PAGE)
    end.gone |= set(source.pages(2 * PAGE, PAGE))
    peer = peer_of(end)
    answers = peer.give(read(peer, 100, source, 0, 4 * PAGE))
    assert [(a["opcode"], a["psn"]) for a in answers][-2:] == [(O.RC_READ_RESPONSE_MIDDLE, 107), (O.RC_ACK, 108)]
    assert answers[-1]["aeth"][0] == L.NAK_ACCESS and end.h[peer.q + L.QP_STATE] == L.QPS_ERR
    end.quiet()


def test_a_copy_that_fails_for_a_repeated_read_ends_nothing() -> None:
    """The owner has protected the page, of which nobody is told; the peer has the bytes, or learns from the NAK why it has not."""
    end = End(2)
    source, target = end.buffer(64 * PAGE), end.buffer(64)
    peer = peer_of(end)
    request = read(peer, 100, source, 0, 32 * PAGE)
    assert len(peer.give(request)) == 128
    end.gone |= set(source.pages(16 * PAGE, PAGE))
    answers = peer.give(request)
    assert [a["psn"] for a in answers] == list(range(100, 165))
    assert (answers[-1]["opcode"], answers[-1]["aeth"][0]) == (O.RC_ACK, L.NAK_ACCESS)
    (ack,) = peer.give(peer.packet(O.RC_WRITE_ONLY, 228, b"data", reth=(target.va, target.key, 4)))
    assert (ack["psn"], ack["aeth"][0]) == (228, L.SYNDROME_ACK) and target.array[:4].tobytes() == b"data"
    assert end.h[peer.q + L.QP_STATE] == L.QPS_RTS
    end.quiet()


def test_a_copy_that_fails_for_a_repeated_read_costs_our_own_requests_nothing() -> None:
    """Their copies stood behind it in the batch, and were not tried."""
    end = End(2)
    source = end.buffer(PAGE)
    peer = peer_of(end)
    request = read(peer, 100, source, 0, PAGE)
    assert len(peer.give(request)) == 4
    end.gone |= set(source.pages())
    ours = end.buffer(PAGE)
    ours.array[:] = 0x5A
    assert setup.post_send(end.h, peer.q, wr_id=1, opcode=L.WR_RDMA_WRITE, flags=0, sges=[ours.sge()], rva=0x7000, rkey=0x99)
    answers = peer.give(request)
    assert [(a["opcode"], a["psn"]) for a in answers] == [
        (O.RC_ACK, 100), (O.RC_WRITE_FIRST, 500), (O.RC_WRITE_MIDDLE, 501), (O.RC_WRITE_MIDDLE, 502), (O.RC_WRITE_LAST, 503),
    ]  # fmt: skip
    assert answers[0]["aeth"][0] == L.NAK_ACCESS and answers[4]["payload"] == b"\x5a" * 1024
    peer.give(peer.ack(503))
    assert end.statuses(peer.q) == [(1, L.WC_SUCCESS)]
    end.quiet()


@pytest.mark.parametrize("size", [8, PAGE], ids=["whole", "under way"])
def test_what_a_repeated_read_has_interrupted_goes_on_after_a_copy_that_fails(size: int) -> None:
    end = End(2)
    end.fault_after = 2 * MS
    old, source = end.buffer(PAGE), end.buffer(2 * PAGE, pinned=False)
    end.absent -= set(source.pages(0, PAGE))
    peer = peer_of(end, mtu=256, park_ns=16 * MS)
    first = read(peer, 100, old, 0, size)
    count = -(-size // 256)
    assert len(peer.give(first)) == count
    assert len(peer.give(read(peer, 100 + count, source, 0, 2 * PAGE))) == 16
    end.gone |= set(old.pages())
    end.h[L.H_TX_BURST] = 8
    (nak,) = peer.give(first)
    assert (nak["opcode"], nak["psn"], nak["aeth"][0]) == (O.RC_ACK, 100, L.NAK_ACCESS)
    assert [a["psn"] for a in peer.wait(2 * MS)] == list(range(116 + count, 132 + count))
    end.quiet()


def test_what_was_never_sent_is_refused_although_its_read_is_repeated() -> None:
    end = End(2)
    source = end.buffer(4 * PAGE)
    peer = peer_of(end)
    assert len(peer.give(read(peer, 100, source, 0, PAGE))) == 4
    end.gone |= set(source.pages(0, PAGE))
    longer = read(peer, 100, source, 0, 2 * PAGE)
    assert [a["aeth"][0] for a in peer.give(longer)] == [L.NAK_ACCESS]
    assert end.h[peer.q + L.QP_STATE] == L.QPS_RTS, "it had been sent"
    end.gone |= set(source.pages(PAGE, PAGE))
    (nak,) = peer.give(read(peer, 104, source, PAGE, PAGE))
    assert (nak["psn"], nak["aeth"][0]) == (104, L.NAK_ACCESS)
    assert end.h[peer.q + L.QP_STATE] == L.QPS_ERR, "its copy was not tried behind the one that failed, so it was not"
    end.quiet()


def test_a_region_closed_in_the_middle_of_a_read() -> None:
    end = End(2)
    source = end.buffer(1 << 17)
    peer = peer_of(end)
    end.deliver([(read(peer, 100, source, 0, 1 << 17), 1)], MS)
    setup.remove_mr(end.t, source.mr)
    answers = peer.give()
    assert answers[-1]["aeth"][0] == L.NAK_ACCESS and answers[-1]["psn"] == answers[-2]["psn"] + 1


def test_an_acknowledgement_is_not_held_up_by_a_read_that_parks_behind_it() -> None:
    end = End(2)
    end.fault_after = 2 * MS
    there, missing = end.buffer(64), end.buffer(PAGE, pinned=False)
    peer = peer_of(end, park_ns=16 * MS)
    write = peer.packet(O.RC_WRITE_ONLY, 100, b"data", reth=(there.va, there.key, 4))
    assert [a["psn"] for a in peer.give(write, read(peer, 101, missing, 0, 8))] == [100]
    assert [a["psn"] for a in peer.wait(2 * MS)] == [101]


def test_a_send_completes_before_a_response_acknowledges_it() -> None:
    """Else the peer is done with it first (found by the swarm)."""
    end = End(2)
    source, target = end.buffer(64), end.buffer(64)
    peer = peer_of(end)
    post_recv(peer, target)
    end.deliver([(peer.packet(O.RC_SEND_ONLY, 100, b"data"), 1), (read(peer, 101, source, 0, 8), 1)], MS)
    assert end.out == []
    assert [a["psn"] for a in peer.give()] == [100, 101]
    assert end.statuses(peer.q) == [(7, L.WC_SUCCESS)]
    end.quiet()


def test_no_response_acknowledges_a_send_that_cannot_be_completed() -> None:
    end = End(2)
    source, target = end.buffer(64), end.buffer(64)
    peer = peer_of(end, cq_depth=8)
    for _ in range(9):
        post_recv(peer, target)
    for psn in range(100, 108):
        assert [a["psn"] for a in peer.give(peer.packet(O.RC_SEND_ONLY, psn, b"data"))] == [psn]
    (nak,) = peer.give(peer.packet(O.RC_SEND_ONLY, 108, b"more"), read(peer, 109, source, 0, 8))
    assert nak["psn"] == 108 and nak["aeth"][0] == L.NAK_OPERATION
    end.quiet()


def test_without_a_free_fault_slot_the_timer_grows_as_well() -> None:
    """Else a peer asks again every few microseconds for as long as somebody else's page takes (found by the swarm)."""
    end = End(2, fault_slots=1)
    end.fault_after = 500 * MS
    missing = end.buffer(1 << 16, pinned=False)
    hoarder, peer = peer_of(end, park_ns=1000 * MS), peer_of(end, park_ns=MS)
    assert hoarder.give(hoarder.packet(O.RC_WRITE_ONLY, 100, bytes(8), reth=(missing.va, missing.key, 8))) == []
    peer.now += 50 * MS
    far = missing.va + (1 << 15)
    assert peer.give(peer.packet(O.RC_WRITE_ONLY, 100, bytes(8), reth=(far, missing.key, 8))) == []
    (answer,) = peer.wait(MS)
    assert answer["aeth"][0] & 0xE0 == L.SYNDROME_RNR and W.rnr_ns(answer["aeth"][0]) >= 50 * MS
