"""The control plane: queues, regions and queue pairs come and go, and leave nothing behind."""

import pytest

from support.ends import MS, End
from support.peer import peer_of
from support.wire_world import World
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.paging import layout as P


def test_no_queue_pair_is_the_multicast_one() -> None:
    end = End(1, {"qps": 8, "mrs": 8, "cqs": 8, "ring_words": 1 << 14})
    cq = setup.add_cq(end.t, 16)
    numbers = []
    for _ in range(6):
        q = setup.add_qp(
            end.t, random=-1, pd=1, send_cq=cq, recv_cq=cq, sends=1, recvs=1, send_sges=1, recv_sges=1, sig_all=True
        )
        numbers.append(int(end.h[q + L.QP_NUMBER]))
    assert numbers == [0xFFFFFA, 0xFFFFFB, 0xFFFFFC, 0xFFFFFD, 0xFFFFFE, 7]


def test_opened_and_closed_many_times_nothing_is_used_up() -> None:
    end = End(1, {"qps": 8, "mrs": 8, "cqs": 8, "ring_words": 1 << 14})
    numbers = set()
    for round_ in range(1000):
        cq = setup.add_cq(end.t, 16)
        q = setup.add_qp(
            end.t,
            random=round_,
            pd=1,
            send_cq=cq,
            recv_cq=cq,
            sends=16,
            recvs=16,
            send_sges=2,
            recv_sges=2,
            sig_all=True,
        )
        mr = setup.add_mr(
            end.t, pd=1, key=1000 + round_, start=0, length=64, access=15, delta=0, path=1, pinned=True, region=0
        )
        assert mr and not h_slice(end, q)["epsn"]
        numbers.add(int(end.h[q + L.QP_NUMBER]))
        setup.remove_mr(end.t, mr)
        setup.remove_qp(end.t, q)
        setup.remove_cq(end.t, cq)
    assert len(numbers) == 1000, "a queue pair number comes back only when its random part does"
    assert not numbers & {0, 1}, "QP0 and QP1 are the management queue pairs"
    assert (len(end.t.free_qps), len(end.t.free_mrs), len(end.t.free_cqs)) == (6, 8, 8)
    assert end.h[L.H_QP_LIVE] == 0


def h_slice(end: End, q: int):
    return end.h[q : q + L.QP_WORDS].view(L.QP)[0]


def test_a_full_device_says_what_is_used_up() -> None:
    end = End(1, {"qps": 4, "mrs": 2, "cqs": 2, "ring_words": 1 << 12})
    cqs = [setup.add_cq(end.t, 8), setup.add_cq(end.t, 8)]
    with pytest.raises(OSError, match="completion queue"):
        setup.add_cq(end.t, 8)
    for key in (1, 2):
        assert setup.add_mr(end.t, pd=1, key=key, start=0, length=1, access=0, delta=0, path=1, pinned=True, region=0)
    with pytest.raises(OSError, match="memory region"):
        setup.add_mr(end.t, pd=1, key=3, start=0, length=1, access=0, delta=0, path=1, pinned=True, region=0)

    def qp(sends: int) -> int:
        return setup.add_qp(
            end.t,
            random=0,
            pd=1,
            send_cq=cqs[0],
            recv_cq=cqs[0],
            sends=sends,
            recvs=1,
            send_sges=1,
            recv_sges=1,
            sig_all=True,
        )

    first = qp(4)
    with pytest.raises(MemoryError):
        qp(1 << 10)
    second = qp(4)  # the failure gave its index and its rings back
    with pytest.raises(OSError, match="queue pair"):
        qp(4)
    assert {(q - end.h[L.H_QP_BASE]) // L.QP_WORDS for q in (first, second)} == {2, 3}


def test_a_key_must_be_free_and_not_zero() -> None:
    end = End(1)
    common = {"pd": 1, "start": 0, "length": 1, "access": 0, "delta": 0, "path": 1, "pinned": True, "region": 0}
    assert setup.add_mr(end.t, key=0, **common) == 0
    assert setup.add_mr(end.t, key=5, **common)
    assert setup.add_mr(end.t, key=5, **common) == 0
    assert len(end.t.free_mrs) == 63, "a refused key costs no record"


def test_depths_are_rounded_up_and_kept() -> None:
    end = End(1)
    cq = setup.add_cq(end.t, 9)
    assert end.h[cq + L.CQ_MASK] == 15
    q = setup.add_qp(
        end.t, random=0, pd=1, send_cq=cq, recv_cq=cq, sends=3, recvs=1, send_sges=16, recv_sges=1, sig_all=False
    )
    assert end.h[q + L.QP_SQ_MASK] == 3 and end.h[q + L.QP_RQ_MASK] == 0
    assert end.h[q + L.QP_SQ_STRIDE] >= L.W_SGE + 16 * L.SGE_WORDS
    posted = [setup.post_recv(end.h, q, wr_id=i, sges=[]) for i in range(2)]
    assert posted == [True, False]
    assert [setup.post_send(end.h, q, wr_id=i, opcode=0, flags=0, sges=[]) for i in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize(("code", "ns"), [(0, 0), (1, 8192), (14, 67_108_864), (31, 4096 << 31)])
def test_timeout_codes(code: int, ns: int) -> None:
    assert setup.timeout_ns(code) == ns


def test_the_window_is_bounded_by_what_the_peer_keeps_waiting() -> None:
    end = End(1, {"window_bytes": 1 << 16, "waiting_per_qp": 32})
    assert end.h[peer_of(end, mtu=4096).q + L.QP_CWND] == 16
    assert end.h[peer_of(end, mtu=1024).q + L.QP_CWND] == 32


def test_a_reset_forgets_the_connection_and_keeps_the_rings() -> None:
    world = World()
    qa, qz = world.connect()
    source, target = world.a.buffer(5000), world.z.buffer(5000)
    world.write(qa, source, target)
    world.step()
    before = [int(world.a.h[qa + w]) for w in (L.QP_NUMBER, L.QP_SQ_RING, L.QP_SQ_MASK, L.QP_SEND_CQ)]
    setup.reset_qp(world.a.t, qa)
    world.run(limit_ns=10 * MS)
    assert world.a.completions(qa) == [] and world.a.h[qa + L.QP_STATE] == L.QPS_RESET
    assert before == [int(world.a.h[qa + w]) for w in (L.QP_NUMBER, L.QP_SQ_RING, L.QP_SQ_MASK, L.QP_SEND_CQ)]
    world.a.quiet()


@pytest.mark.parametrize("how", ["reset", "remove"])
def test_what_a_batch_still_has_to_finish_meets_no_newcomer(how: str) -> None:
    """Between two rounds of the device its actions name queue pairs; one that was reset meanwhile has no part in them."""
    end = End(2)
    target = end.buffer(8192)
    peer = peer_of(end)
    end.receive([(peer.packet(0x0A, 100, bytes(64), reth=(target.va, target.key, 64)), 1)])
    now = peer.now
    from unpinned.hca import device

    device.receive(end.h, end.p, end.b, now)
    assert end.h[L.H_ACT_COUNT] == 1
    setup.reset_qp(end.t, peer.q) if how == "reset" else setup.remove_qp(end.t, peer.q)
    setup.to_rtr(end.t, peer.q, setup.Path(9, 0, 1, 7, access=15))
    setup.to_rts(end.t, peer.q, setup.Sending(9))
    end._execute()
    assert peer.give() == [], "no answer for a request that the old connection took"
    assert end.h[peer.q + L.QP_EPSN] == 7
    end.quiet()


def test_closing_a_parked_queue_pair_gives_everything_back() -> None:
    end = End(2, fault_slots=4)
    target = end.buffer(1 << 16, pinned=False)
    end.fault_after = 1000 * MS
    for _ in range(20):
        peer = peer_of(end)
        middle = [peer.packet(0x07, 101 + i, bytes(1024)) for i in range(5)]
        peer.give(peer.packet(0x06, 100, bytes(1024), reth=(target.va, target.key, 65536)), *middle)
        assert end.h[L.H_POOL_USED] == 6 and end.p[P.FAULT_LIVE] == 1
        setup.remove_qp(end.t, peer.q)
        assert end.h[L.H_POOL_USED] == 0
        peer.now += 1000 * MS
        end.deliver([], peer.now)
        assert end.p[P.FAULT_LIVE] == 0
