"""Errors: which request gets which status, in which order the rest is flushed, and what the other side hears."""

import pytest

from support.ends import ALL_ACCESS, End
from support.peer import peer_of
from support.wire_world import World
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.hca.qp import fail_qp
from unpinned.wire import opcodes as O

NO_REMOTE = L.ACCESS_LOCAL_WRITE
KINDS = ("write", "read", "add", "swap")


def post(world: World, q: int, kind: str, mine, theirs, *, wr_id: int = 1, to: int = 0, length: int = 64) -> None:
    if kind == "write":
        world.write(q, mine, theirs, length, wr_id=wr_id, to=to)
    elif kind == "read":
        world.read(q, mine, theirs, length, wr_id=wr_id, to=to)
    elif kind == "add":
        world.atomic(q, mine, theirs, add=1, wr_id=wr_id, to=to)
    else:
        world.atomic(q, mine, theirs, compare=0, swap=1, wr_id=wr_id, to=to)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("why", ["key", "domain", "rights", "bounds", "before", "wrap", "closed", "queue pair"])
def test_remote_access_error(kind: str, why: str) -> None:
    """Wrong key, another protection domain, a right that is missing, every way out of bounds: nothing is read or written."""
    world = World()
    qa, qz = world.connect(access=NO_REMOTE if why == "queue pair" else ALL_ACCESS)
    mine = world.a.buffer(4096)
    mine.array[:] = 0xEE
    theirs = world.z.buffer(4096, NO_REMOTE if why == "rights" else ALL_ACCESS, pd=2 if why == "domain" else 1)
    if why == "key":
        theirs.key += 1
    if why == "closed":
        setup.remove_mr(world.z.t, theirs.mr)
    to = {"bounds": 4096 - 32, "before": -8, "wrap": (1 << 63) - 8 - theirs.va}.get(why, 0)
    to = 4096 if why == "bounds" and kind in ("add", "swap") else to
    for i in range(3):
        post(world, qa, "write" if i == 1 else kind, mine, theirs, wr_id=i, to=to)
    world.run()
    assert world.a.statuses(qa) == [(0, L.WC_REM_ACCESS_ERR), (1, L.WC_WR_FLUSH_ERR), (2, L.WC_WR_FLUSH_ERR)]
    assert world.z.counter("nak_access") == 1 and world.z.h[qz + L.QP_STATE] == L.QPS_ERR
    assert not theirs.array.any() and (mine.array == 0xEE).all()
    world.quiet()


@pytest.mark.parametrize("kind", KINDS)
def test_what_came_before_the_error_succeeds(kind: str) -> None:
    world = World(mtu=256)
    qa, _ = world.connect()
    mine, theirs = world.a.buffer(4096), world.z.buffer(4096)
    for i in range(3):
        world.write(qa, mine, theirs, 1000, wr_id=i)
        world.read(qa, mine, theirs, 1000, wr_id=10 + i)
    post(world, qa, kind, mine, theirs, wr_id=99, to=4096)
    world.write(qa, mine, theirs, 8, wr_id=100)
    world.run()
    assert world.a.statuses(qa) == [
        (0, 0),
        (10, 0),
        (1, 0),
        (11, 0),
        (2, 0),
        (12, 0),
        (99, L.WC_REM_ACCESS_ERR),
        (100, L.WC_WR_FLUSH_ERR),
    ]
    world.quiet()


def test_an_error_in_the_middle_of_a_message() -> None:
    """The region ends with the first packets written: its owner closed it."""
    world = World(mtu=256)
    qa, _ = world.connect()
    mine, theirs = world.a.buffer(8192), world.z.buffer(8192)
    mine.array[:] = 7
    world.write(qa, mine, theirs)
    closed = False

    def close(wire: list[bytes], end: End) -> list[bytes]:
        nonlocal closed
        if end is world.a and not closed and theirs.array.any():
            setup.remove_mr(world.z.t, theirs.mr)
            closed = True
        return wire[:8] if end is world.a and not closed else wire

    world.middleware = close
    world.run()
    assert closed and world.a.statuses(qa) == [(1, L.WC_REM_ACCESS_ERR)] and not theirs.array[-1]


def test_the_responder_s_receives_are_flushed_in_order_with_those_in_flight() -> None:
    """Receives whose messages are being copied when the connection ends complete once, before the later ones."""
    end = End(2)
    target = end.buffer(4096)
    peer = peer_of(end)
    for i in range(5):
        setup.post_recv(end.h, peer.q, wr_id=i, sges=[target.sge()])
    sends = [peer.packet(O.RC_SEND_ONLY, 100 + i, bytes(8)) for i in range(2)]
    end.gone |= set(target.pages())
    answers = peer.give(*sends)
    assert [(a["psn"], a["aeth"][0]) for a in answers] == [(100, L.NAK_ACCESS)]
    assert end.statuses(peer.q) == [(i, L.WC_WR_FLUSH_ERR) for i in range(5)]


def test_a_queue_pair_put_into_error_flushes_both_sides() -> None:
    world = World()
    qa, qz = world.connect(timeout=10, retry_cnt=1)
    mine, theirs = world.a.buffer(4096), world.z.buffer(4096)
    for i in range(3):
        world.recv(qz, [theirs.sge()], wr_id=100 + i)
    world.write(qa, mine, theirs, wr_id=1)
    fail_qp(world.z.h, world.z.p, qz, L.WC_WR_FLUSH_ERR)
    world.run()
    assert world.z.statuses(qz) == [(100 + i, L.WC_WR_FLUSH_ERR) for i in range(3)]
    assert world.a.statuses(qa) == [(1, L.WC_RETRY_EXC_ERR)] and world.z.counter("bad_state") > 0
    world.quiet()


# ---- completion queues ------------------------------------------------------------------------------------------------


def test_a_requester_s_completion_queue_overruns() -> None:
    world = World()
    qa, _ = world.connect(cq_depth=8)
    mine, theirs = world.a.buffer(64), world.z.buffer(64)
    for i in range(12):
        world.write(qa, mine, theirs, wr_id=i)
    world.run()
    assert world.a.statuses(qa) == [(i, 0) for i in range(8)] and world.a.h[qa + L.QP_STATE] == L.QPS_ERR
    assert world.a.h[world.a.h[qa + L.QP_SEND_CQ] + L.CQ_STATE] == 2
    world.a.quiet()


def test_a_responder_s_completion_queue_overruns() -> None:
    world = World()
    qa, qz = world.connect(cq_depth=8)
    mine, theirs = world.a.buffer(64), world.z.buffer(64)
    taken: list[tuple[int, int]] = []
    for i in range(12):
        world.recv(qz, [theirs.sge()], wr_id=i)
        world.send(qa, [mine.sge()], wr_id=i)
        world.run()
        taken += world.a.statuses(qa)
    assert world.z.statuses(qz) == [(i, 0) for i in range(8)]
    assert taken[:9] == [(i, 0) for i in range(8)] + [(8, L.WC_REM_OP_ERR)]
    world.quiet()


# ---- SEND with invalidate ----------------------------------------------------------------------------------------------


def invalidate(access: int, pd: int = 1) -> tuple[World, int, int, object]:
    world = World()
    qa, qz = world.connect()
    mine, theirs = world.a.buffer(4096), world.z.buffer(4096)
    window = world.z.buffer(4096, access, pd=pd)
    world.write(qa, mine, window, 64, wr_id=0)
    world.recv(qz, [theirs.sge()])
    world.recv(qz, [theirs.sge()], wr_id=101)
    world.send(qa, [mine.sge(0, 32)], wr_id=1, opcode=L.WR_SEND_WITH_INV, imm=window.key)
    world.write(qa, mine, window, 64, wr_id=2)
    world.run()
    return world, qa, qz, window


def test_send_with_invalidate_closes_the_key() -> None:
    world, qa, qz, window = invalidate(ALL_ACCESS | L.ACCESS_REMOTE_INVALIDATE)
    assert world.a.statuses(qa) == [(0, 0), (1, 0), (2, L.WC_REM_ACCESS_ERR)]
    received = world.z.completions(qz)
    assert received[0][:4] + received[0][5:] == (100, 0, L.WC_RECV, 32, window.key, L.WC_WITH_INV)
    assert received[1][:2] == (101, L.WC_WR_FLUSH_ERR)


@pytest.mark.parametrize(("access", "pd"), [(ALL_ACCESS, 1), (ALL_ACCESS | L.ACCESS_REMOTE_INVALIDATE, 2)])
def test_send_with_invalidate_of_what_is_not_the_peer_s_to_close(access: int, pd: int) -> None:
    world = World()
    qa, qz = world.connect()
    mine, theirs = world.a.buffer(4096), world.z.buffer(4096)
    window = world.z.buffer(4096, access, pd=pd)
    world.recv(qz, [theirs.sge()])
    world.send(qa, [mine.sge(0, 32)], opcode=L.WR_SEND_WITH_INV, imm=window.key)
    world.run()
    assert world.a.statuses(qa) == [(1, L.WC_REM_ACCESS_ERR)]
    assert world.z.statuses(qz) == [(100, L.WC_LOC_QP_OP_ERR)]
    assert world.z.h[window.mr + L.MR_STATE] == 1, "the key still opens"


# ---- lengths -----------------------------------------------------------------------------------------------------------


def test_a_message_longer_than_its_receive() -> None:
    world = World(mtu=256)
    qa, qz = world.connect()
    mine, theirs = world.a.buffer(4096), world.z.buffer(4096)
    world.recv(qz, [theirs.sge(0, 1000)])
    world.send(qa, [mine.sge(0, 1001)])
    world.run()
    assert world.a.statuses(qa) == [(1, L.WC_REM_INV_REQ_ERR)] and world.z.statuses(qz) == [(100, L.WC_LOC_LEN_ERR)]


def test_a_request_that_the_requester_refuses_does_not_reach_the_wire() -> None:
    world = World()
    qa, qz = world.connect()
    mine, theirs = world.a.buffer(4096), world.z.buffer(4096)
    world.write(qa, mine, theirs, 64, wr_id=0)
    world.post(
        world.a,
        qa,
        wr_id=1,
        opcode=L.WR_RDMA_WRITE,
        flags=0,
        sges=[(mine.va, 4097, mine.key)],
        rva=theirs.va,
        rkey=theirs.key,
    )
    world.write(qa, mine, theirs, 64, wr_id=2)
    world.run()
    assert world.a.statuses(qa) == [(0, 0), (1, L.WC_LOC_PROT_ERR), (2, L.WC_WR_FLUSH_ERR)]
    assert world.z.h[qz + L.QP_STATE] == L.QPS_RTS and len(world.sent(world.a)) == 1
    world.quiet()
