"""Every opcode over a real wire: two contexts in one process, and two processes."""

import socket
import time

import numpy as np
import pytest

from support.mmu_actions import wait_for
from support.verbs import ALL, PATIENCE, End, Peer, connect, pair
from unpinned import verbs as v

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


@pytest.fixture
def ends(no_leaks):
    with pair() as found:
        yield found


def test_send_with_immediate(ends):
    a, b = ends
    a.mr.write("hello", offset=10)
    b.receive(100, 64, wr_id=7)
    a.send(10, 5, v.IBV_WR_SEND_WITH_IMM, wr_id=3, imm_data=socket.htonl(0x01020304))
    sent, received = a.wait(), b.wait()
    assert (sent.wr_id, sent.opcode, sent.qp_num) == (3, v.IBV_WC_SEND, a.qp.qp_num)
    assert (received.wr_id, received.opcode, received.byte_len) == (7, v.IBV_WC_RECV, 5)
    assert received.wc_flags == v.IBV_WC_WITH_IMM and socket.ntohl(received.imm_data) == 0x01020304
    assert b.mr.read(5, 100) == b"hello"


def test_ping_pong(ends):
    a, b = ends
    for i in range(200):
        b.receive(0, 8)
        a.mr.write(i.to_bytes(8, "little"))
        a.send(0, 8)
        assert a.wait().opcode == v.IBV_WC_SEND and b.wait().byte_len == 8
        a.receive(16, 8)
        b.send(0, 8)
        assert b.wait().opcode == v.IBV_WC_SEND and a.wait().byte_len == 8
        assert a.mr.read(8, 16) == i.to_bytes(8, "little")


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 40_000])
def test_write_and_read_of_any_length(ends, length):
    a, b = ends
    data = np.random.default_rng(length).bytes(length)
    a.mr.write(data)
    a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 8, length)
    assert a.wait().opcode == v.IBV_WC_RDMA_WRITE
    assert b.mr.read(length, 8) == data
    a.mr.write(bytes(length))
    a.remote(v.IBV_WR_RDMA_READ, b.mr, 0, 8, length)
    wc = a.wait()
    assert (wc.opcode, wc.byte_len) == (v.IBV_WC_RDMA_READ, length)
    assert a.mr.read(length) == data


def test_write_with_immediate_takes_a_receive(ends):
    a, b = ends
    a.mr.write("abc")
    b.receive(0, 0, wr_id=9)
    a.remote(v.IBV_WR_RDMA_WRITE_WITH_IMM, b.mr, 0, 50, 3, imm_data=socket.htonl(77))
    a.wait()
    wc = b.wait()
    assert (wc.wr_id, wc.opcode, wc.byte_len) == (9, v.IBV_WC_RECV_RDMA_WITH_IMM, 3)
    assert socket.ntohl(wc.imm_data) == 77 and b.mr.read(3, 50) == b"abc"


def test_atomics(ends):
    a, b = ends
    cell = (40).to_bytes(8, "little")
    b.mr.write(cell, offset=64)
    a.atomic(b.mr, 64, add=2, here=8)
    assert a.wait().opcode == v.IBV_WC_FETCH_ADD
    assert a.mr.read(8, 8) == cell and b.mr.read(1, 64) == b"\x2a"
    a.atomic(b.mr, 64, compare=42, swap=2**64 - 1, here=16)
    assert a.wait().opcode == v.IBV_WC_COMP_SWAP
    assert a.mr.read(1, 16) == b"\x2a" and b.mr.read(8, 64) == b"\xff" * 8
    a.atomic(b.mr, 64, compare=42, swap=0)
    a.wait()
    assert b.mr.read(8, 64) == b"\xff" * 8


def test_gather_and_scatter(ends):
    a, b = ends
    a.mr.write(b"AABBBCCCC")
    b.qp.post_recv(v.RecvWR(sg=[b.piece(100, 4), b.piece(200, 100)]))
    a.qp.post_send(v.SendWR(sg=[a.piece(5, 4), a.piece(0, 2), a.piece(2, 3)]))
    a.wait()
    assert b.wait().byte_len == 9
    assert b.mr.read(4, 100) == b"CCCC" and b.mr.read(5, 200) == b"AABBB"


def test_inline_data_is_free_at_once(ends):
    a, b = ends
    for i in range(70):  # more than the queue is deep
        b.receive(0, 256)
        a.mr.write(bytes([i]) * 100)
        a.qp.post_send(v.SendWR(sg=v.SGE(a.mr.buf, 100, 0), send_flags=v.IBV_SEND_INLINE | v.IBV_SEND_SIGNALED))
        a.mr.write(bytes(100))
        a.wait()
        assert b.wait().byte_len == 100 and b.mr.read(100) == bytes([i]) * 100
    b.receive(0, 256)
    a.mr.write(b"A" * 64 + b"B" * 64)
    piece = a.piece(0, 64)
    wr = v.SendWR(sg=piece, send_flags=v.IBV_SEND_INLINE | v.IBV_SEND_SIGNALED)
    piece.addr, piece.length = a.mr.buf + 64, 8  # another request's by now
    a.qp.post_send(wr)
    a.wait()
    assert b.wait().byte_len == 64 and b.mr.read(64) == b"A" * 64
    with pytest.raises(ValueError, match="max_inline_data is 256"):
        a.qp.post_send(v.SendWR(sg=a.piece(0, 257), send_flags=v.IBV_SEND_INLINE))
    wr = v.SendWR(opcode=v.IBV_WR_RDMA_READ, sg=a.piece(0, 8), send_flags=v.IBV_SEND_INLINE)
    with pytest.raises(ValueError, match="INLINE is for SEND"):
        a.qp.post_send(wr)


def test_batches(ends):
    a, b = ends
    b.mr.write(np.arange(8192, dtype="<i8").tobytes())
    wrs = np.zeros(64, a.qp.send_dtype)
    order = np.random.default_rng(1).permutation(64)
    wrs["wr_id"], wrs["opcode"], wrs["flags"] = np.arange(64), v.IBV_WR_RDMA_READ, v.IBV_SEND_SIGNALED
    wrs["remote_addr"], wrs["rkey"], wrs["num_sge"] = b.mr.buf + order * 800, b.mr.rkey, 1
    wrs["sge"]["addr"][:, 0] = a.mr.buf + np.arange(64) * 80
    wrs["sge"]["length"][:, 0], wrs["sge"]["lkey"][:, 0] = 80, a.mr.lkey
    assert a.qp.post_send_many(wrs) == 64
    out, got = np.zeros(64, v.WC_DTYPE), 0
    while got < 64:
        more = a.cq.poll_into(out[got:], PATIENCE)
        assert more
        got += more
    assert not out["status"].any() and out["wr_id"].tolist() == list(range(64)) and set(out["byte_len"]) == {80}
    rows = np.frombuffer(a.mr.read(64 * 80), "<i8").reshape(64, 10)
    assert (rows == order[:, None] * 100 + np.arange(10)).all()


@pytest.mark.parametrize(
    ("out", "error", "why"),
    [
        (np.zeros((8, 8), v.WC_DTYPE)[:, :4], v.ArgumentError, "out: the array is not contiguous"),
        (np.zeros(64, np.int64)[::2], v.ArgumentError, "out: the array is not contiguous"),
        (np.frombuffer(bytes(128), v.WC_DTYPE), v.ArgumentError, "out: the array is read-only"),
        (np.zeros(8), v.ArgumentError, "out: records of WC_DTYPE .* not float64"),
        ([], TypeError, "out: a ndarray is needed, not list"),
    ],
)
def test_a_batch_that_cannot_be_filled_loses_no_completion(ends, out, error, why):
    a, b = ends
    a.remote(v.IBV_WR_RDMA_READ, b.mr, 0, 0, 8, wr_id=7)
    with pytest.raises(error, match=why):
        a.cq.poll_into(out, PATIENCE)
    assert a.wait().wr_id == 7


def test_who_asks_for_no_completion_gets_none_though_some_wait(ends):
    a, _ = ends
    a.qp.to_error()
    a.send(0, 8, wr_id=7)  # completes at once
    assert a.cq.poll(0) == a.cq.wait(0, PATIENCE) == (0, [])
    assert a.cq.poll_into(np.zeros(0, v.WC_DTYPE)) == 0
    assert a.wait(v.IBV_WC_WR_FLUSH_ERR).wr_id == 7


def test_records_that_cannot_be_written_are_named(ends):
    frozen = np.zeros(2, ends[0].qp.send_dtype)
    frozen.flags.writeable = False
    with pytest.raises(v.ArgumentError, match="wrs: the array is read-only"):
        ends[0].qp.post_send_many(frozen)


def test_a_full_queue_says_how_many_fitted():
    with pair(cap=v.QPCap(max_send_wr=4, max_recv_wr=4)) as (a, b):
        wrs = np.zeros(8, b.qp.recv_dtype)
        assert b.qp.post_recv_many(wrs) == 4
        first = v.RecvWR(1)
        bad = v.RecvWR()
        with pytest.raises(OSError, match="receive queue is full") as caught:
            b.qp.post_recv(first, bad)
        assert caught.value.errno == 12 and bad.wr_id == 1
        # A send that waits for its receive keeps the queue full.
        chain = None
        for i in reversed(range(8)):
            chain = v.SendWR(i, sg=a.piece(0, 8), next_wr=chain)
        bad_send = v.SendWR()
        connect_later = pytest.raises(OSError, match="send queue is full")
        b.qp.to_error()
        with connect_later:
            a.qp.post_send(chain, bad_send)
        assert bad_send.wr_id >= 4


def test_unsignaled_requests_complete_silently():
    with pair(sig_all=0) as (a, b):
        for i in range(20):
            a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 8, wr_id=i, send_flags=0 if i < 19 else v.IBV_SEND_SIGNALED)
        assert a.wait().wr_id == 19
        assert a.cq.poll(10) == (0, [])


def test_send_with_invalidate_of_a_key_that_may_not_be_is_refused(ends):
    a, b = ends
    b.receive(0, 64)
    a.send(0, 8, v.IBV_WR_SEND_WITH_INV, imm_data=b.mr.rkey)
    assert a.wait(v.IBV_WC_REM_ACCESS_ERR)
    b.wait(v.IBV_WC_LOC_QP_OP_ERR)
    assert a.qp.state == b.qp.state == "ERR"


def test_send_with_invalidate_ends_a_key_that_may_be_until_it_is_registered_anew(ends):
    a, b = ends
    window = v.MR(b.pd, 4096, ALL | v.ACCESS_REMOTE_INVALIDATE)
    for round_ in range(2):
        a.remote(v.IBV_WR_RDMA_WRITE, window, 0, 0, 64)
        a.wait()
        b.receive(0, 64)
        a.send(0, 8, v.IBV_WR_SEND_WITH_INV, imm_data=window.rkey)
        a.wait()
        wc = b.wait()
        assert wc.wc_flags & v.IBV_WC_WITH_INV and wc.invalidated_rkey == window.rkey
        if round_ == 0:
            window.rereg(v.IBV_REREG_MR_CHANGE_ACCESS, access=window.access)
    a.remote(v.IBV_WR_RDMA_WRITE, window, 0, 0, 64)
    assert a.wait(v.IBV_WC_REM_ACCESS_ERR)
    window.close()


@pytest.mark.parametrize("kind", ["key", "range", "rights", "domain"])
def test_a_denied_access_is_an_error_at_the_requester(kind):
    with pair() as (a, b):
        target = b.mr
        address, key = b.mr.buf, b.mr.rkey
        if kind == "key":
            key ^= 1
        elif kind == "range":
            address += b.mr.length - 7
        elif kind == "rights":
            target = v.MR(b.pd, 4096, v.IBV_ACCESS_LOCAL_WRITE | v.IBV_ACCESS_REMOTE_READ | v.IBV_ACCESS_ON_DEMAND)
            address, key = target.buf, target.rkey
        else:
            target = v.MR(v.PD(b.context), 4096, ALL)
            address, key = target.buf, target.rkey
        a.remote(v.IBV_WR_RDMA_WRITE, (address, key), 0, 0, 8, wr_id=5)
        assert a.wait(v.IBV_WC_REM_ACCESS_ERR).wr_id == 5
        with pytest.raises(v.CompletionError, match="reading: Work Request Flushed Error"):
            a.send(0, 8)
            a.wait(v.IBV_WC_WR_FLUSH_ERR).check("reading")


def test_a_local_key_of_another_domain_is_a_local_error(ends):
    a, b = ends
    other = v.MR(v.PD(a.context), 4096, ALL)
    wr = v.SendWR(opcode=v.IBV_WR_RDMA_WRITE, sg=v.SGE(other.buf, 8, other.lkey))
    wr.set_wr_rdma(b.mr.rkey, b.mr.buf)
    a.qp.post_send(wr)
    a.wait(v.IBV_WC_LOC_PROT_ERR)


def test_two_processes(no_leaks):
    peer, end = Peer(), End.open()
    try:
        address, key = peer.connect(end)
        peer.ask("write", "from the peer", 100)
        end.remote(v.IBV_WR_RDMA_READ, (address, key), 0, 100, 13)
        end.wait()
        assert end.mr.read(13) == b"from the peer"
        end.mr.write("to the peer")
        end.remote(v.IBV_WR_RDMA_WRITE, (address, key), 0, 200, 11)
        end.wait()
        assert peer.ask("read", 11, 200) == "to the peer"
        for i in range(50):
            peer.ask("receive", 0, 16)
            end.receive(300, 16)
            end.send(0, i % 16)
            end.wait()
            assert peer.ask("wait")[:2] == [v.IBV_WC_RECV, i % 16]
            peer.ask("send", 200, 11)
            assert end.wait().byte_len == 11 and end.mr.read(11, 300) == b"to the peer"
            assert peer.ask("wait")[0] == v.IBV_WC_SEND
        peer.close()
    finally:
        end.context.close()


def test_a_peer_that_dies_is_a_timeout():
    peer = Peer()
    with End.open().context as context:
        pd, cq = v.PD(context), v.CQ(context, 16)
        end = End(context, pd, cq, v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq)), v.MR(pd, 4096, ALL))
        peer.ask("connect", end.qp.info(timeout=8).as_dict())
        end.qp.connect(v.PeerInfo(**peer.info["qp"]), timeout=8, retry_cnt=2)
        peer.kill()
        end.remote(v.IBV_WR_RDMA_READ, peer.region, 0, 0, 8)
        end.wait(v.IBV_WC_RETRY_EXC_ERR)
        assert end.qp.state == "ERR"


def test_ends_that_stood_still_have_no_timeout():
    """Ctrl-Z and fg, a debugger, a machine that is moved: nobody listened meanwhile, and nothing was lost."""
    a, b = Peer(timeout=18), Peer(timeout=18)  # 1.07 s
    a.meet(b, timeout=18)
    b.stop()
    wait_for(b.stopped, lambda: "it is stopped")
    a.ask("remote", v.IBV_WR_RDMA_WRITE, b.region, 0, 0, 64)
    a.tell("stand_still", b.pid)
    wait_for(a.stopped, lambda: "it stops itself")
    time.sleep(2)  # longer than the timeout
    a.go_on()
    counters = a.answer()
    assert (counters["stood_still"], counters["timeouts"], counters["retransmitted"]) == (1, 0, 0)
    a.close()
    b.close()


def test_a_queue_pair_begins_elsewhere_after_each_reset(ends):
    """What it sent before, and what answers that, may still be under way: it must not pass for what comes then."""
    a, b = ends
    begun = set()
    for _ in range(8):
        begun.add(a.qp.psn)
        for end in ends:
            end.qp.modify(v.QPAttr(qp_state=v.IBV_QPS_RESET), v.IBV_QP_STATE)
        connect(a, b)
        assert a.qp.query()[0].sq_psn == b.qp.query()[0].rq_psn == a.qp.info().psn
        a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 64)
        a.wait()
    assert len(begun) > 6  # of 2^24: hardly ever two the same


def test_a_receiver_that_is_not_ready_is_retried_and_given_up():
    a, b = End.open(), End.open()
    with a.context, b.context:
        connect(a, b, rnr_retry=1, min_rnr_timer=1)
        a.send(0, 8)
        a.wait(v.IBV_WC_RNR_RETRY_EXC_ERR)
