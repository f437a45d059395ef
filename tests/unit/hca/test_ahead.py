"""READs behind one that waits for its page: their pages are looked for meanwhile, and nothing else happens early."""

from support.ends import MS, PAGE, End
from support.peer import Peer, peer_of
from unpinned.hca import layout as L
from unpinned.hca.ahead import AHEAD_BYTES
from unpinned.paging import layout as P
from unpinned.wire import opcodes as O


def read(peer: Peer, psn: int, source, at: int, length: int, key: int = 0) -> bytes:
    return peer.packet(O.RC_READ_REQUEST, psn, reth=(source.va + at, key or source.key, length))


def totals(end: End, name: str) -> int:
    return int(P.view(end.p, "totals")[name][0])


def waiting(end: End, pages: int) -> tuple[Peer, object]:
    end.fault_after = 2 * MS
    source = end.buffer(pages * PAGE, pinned=False)
    return peer_of(end, park_ns=64 * MS, mtu=4096), source


def test_reads_behind_a_parked_one_wait_once_not_one_after_the_other() -> None:
    end = End(2)
    peer, source = waiting(end, 40)
    requests = [read(peer, 100 + i, source, 3 * i * PAGE, PAGE) for i in range(8)]
    assert peer.give(*requests) == []
    assert totals(end, "faults_read") == 1 and totals(end, "prefetches") == 7 == end.counter("ahead")
    answers = peer.wait(2 * MS)
    assert [a["psn"] for a in answers] == list(range(100, 108)), "in order, and after one fault's time all of them"
    assert end.h[L.H_POOL_USED] == 0 and end.p[P.FAULT_LIVE] == 0
    end.quiet()


def test_only_what_the_key_opens_is_looked_for() -> None:
    end = End(2)
    peer, source = waiting(end, 8)
    other = end.buffer(4 * PAGE, pinned=False, access=0)
    packets = [
        read(peer, 100, source, 0, PAGE),
        read(peer, 101, source, 2 * PAGE, PAGE, key=source.key ^ 1),
        read(peer, 102, source, 7 * PAGE, 2 * PAGE),
        read(peer, 104, other, 0, PAGE),
        peer.packet(O.RC_WRITE_ONLY, 105, reth=(source.va + 3 * PAGE, source.key, 4), payload=b"abcd"),
    ]
    peer.give(*packets)
    assert end.counter("ahead") == totals(end, "prefetches") == 0
    assert end.counter("nak_access") == 0, "each is judged at its turn"


def test_each_is_looked_for_once() -> None:
    end = End(2)
    peer, source = waiting(end, 40)
    peer.give(*[read(peer, 100 + i, source, 2 * i * PAGE, PAGE) for i in range(12)])
    assert end.counter("ahead") == 11
    assert peer.wait(MS) == [] and end.counter("ahead") == 11
    assert len(peer.wait(MS)) == 12 and end.p[P.FAULT_LIVE] == 0


def test_no_more_bytes_than_one_fault_may_cover() -> None:
    end = End(2)
    pages = AHEAD_BYTES // 2 // PAGE
    peer, source = waiting(end, 4 * pages)
    peer.give(*[read(peer, 100 + i * pages, source, i * pages * PAGE, pages * PAGE) for i in range(4)])
    assert end.counter("ahead") == 2, "the first of those that wait, and the second; not the third"


def test_a_device_short_of_fault_slots_does_not_look_ahead() -> None:
    end = End(2, fault_slots=2)
    peer, source = waiting(end, 40)
    peer.give(*[read(peer, 100 + i, source, 3 * i * PAGE, PAGE) for i in range(4)])
    assert end.counter("ahead") == 0 and end.p[P.FAULT_LIVE] == 1
