"""Two hosts (network namespaces) with a link between them: both IP versions, small frames, the warning that goes with them."""

import errno
import json
import os
import sys

import pytest

from support.network import Pair, namespace_pair
from support.python import SOURCES
from support.verbs import Peer
from unpinned import verbs as v

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


@pytest.fixture(params=[9000, 1500], ids=["jumbo", "ethernet"])
def hosts(request, borrow) -> tuple[int, Pair]:
    return request.param, borrow(namespace_pair(request.param))


@pytest.mark.parametrize("version", [4, 6])
def test_messages_cross_a_link(hosts, version):
    frame, pair = hosts
    left, right = (Peer(side.start, side.ipv4 if version == 4 else side.ipv6) for side in pair.sides)
    try:
        left.meet(right)
        expected = v.IBV_MTU_4096 if frame == 9000 else v.IBV_MTU_1024
        assert left.ask("mtu") == right.ask("mtu") == expected
        text = "".join(chr(i % 251) for i in range(30_000))
        left.ask("write", text, 0)
        left.ask("remote", v.IBV_WR_RDMA_WRITE, right.region, 0, 100, 30_000)
        left.ask("wait")
        assert right.ask("read", 30_000, 100) == text
        right.ask("remote", v.IBV_WR_RDMA_READ, left.region, 40_000, 1, 20_001)
        assert right.ask("wait")[:2] == [v.IBV_WC_RDMA_READ, 20_001]
        assert right.ask("read", 20_001, 40_000) == text[1:20_002]
        right.ask("receive", 0, 64)
        left.ask("send", 0, 64)
        assert right.ask("wait")[:2] == [v.IBV_WC_RECV, 64]
        left.ask("wait")
        left.close()
        right.close()
    finally:
        left.kill()
        right.kill()


LOWERED = """
import json, sys
from support.verbs import ALL, REMOTE, End
from unpinned import verbs as v
end = End.open(1 << 16, address={address!r})
print(json.dumps([end.qp.info().as_dict(), end.mr.buf, end.mr.rkey]), flush=True)
peer, address, key = json.loads(sys.stdin.readline())
end.qp.connect(v.PeerInfo(**peer), REMOTE, timeout=10, retry_cnt=3)
print("ready", flush=True)
for line in sys.stdin:
    opcode, length = json.loads(line)
    end.remote(opcode, (address, key), 0, 0, length)
    got, wcs = end.cq.wait(1, 20)
    counters = end.context.counters()
    print(json.dumps([wcs[0].status if got else None, counters["send_too_big"], counters["send_errno"]]), flush=True)
"""


def test_a_link_whose_mtu_is_lowered_meanwhile(borrow):
    """Small messages go on; what does not fit any more is counted by its reason, and its request ends with a status."""
    pair = borrow(namespace_pair(9000))
    started = []
    path = os.pathsep.join((str(SOURCES), str(SOURCES.parent / "tests")))
    for side in pair.sides:
        code = [sys.executable, "-c", LOWERED.format(address=side.ipv4)]
        started.append(side.start(code, stdin=-1, stdout=-1, env={**os.environ, "PYTHONPATH": path}))
    try:
        infos = [process.stdout.readline() for process in started]
        for process, theirs in zip(started, reversed(infos)):
            process.stdin.write(theirs)
            process.stdin.flush()
        assert [process.stdout.readline() for process in started] == ["ready\n"] * 2

        def ask(opcode: int, length: int) -> list[int]:
            print(json.dumps([opcode, length]), file=started[0].stdin, flush=True)
            return json.loads(started[0].stdout.readline())

        assert ask(v.IBV_WR_RDMA_WRITE, 30_000) == [v.IBV_WC_SUCCESS, 0, 0]
        for side in pair.sides:
            side.run(["ip", "link", "set", side.interface, "mtu", "1500"], check=True)
        assert ask(v.IBV_WR_RDMA_WRITE, 1000)[0] == v.IBV_WC_SUCCESS
        status, too_big, error = ask(v.IBV_WR_RDMA_WRITE, 30_000)
        assert status == v.IBV_WC_RETRY_EXC_ERR and too_big > 0 and error == errno.EMSGSIZE
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_a_path_mtu_that_does_not_fit_is_lowered_with_a_warning(borrow):
    pair = borrow(namespace_pair(1500))
    code = f"""
import warnings
from unpinned import verbs as v
with v.Context(address="{pair.left.ipv4}") as context:
    cq = v.CQ(context, 8)
    qp = v.QP(v.PD(context), v.QPInitAttr(scq=cq, rcq=cq))
    peer = v.AHAttr(is_global=1, gr=v.GlobalRoute(dgid=v.GID("{pair.right.ipv4}")))
    with warnings.catch_warnings(record=True) as caught:
        qp.to_rtr(v.QPAttr(path_mtu=v.IBV_MTU_4096, ah_attr=peer, dest_qp_num=5))
    print(context.query_port().active_mtu, qp.query()[0].path_mtu, caught[0].message)
    for by in ("to_rtr", "to_rts", "modify"):
        asked = v.QPAttr(qp_state=v.IBV_QPS_RTR, path_mtu=v.IBV_MTU_4096, ah_attr=peer, dest_qp_num=5)
        mask = v.IBV_QP_STATE | v.IBV_QP_AV | v.IBV_QP_PATH_MTU | v.IBV_QP_DEST_QPN | v.IBV_QP_RQ_PSN
        mask |= v.IBV_QP_MAX_DEST_RD_ATOMIC | v.IBV_QP_MIN_RNR_TIMER
        other = v.QP(v.PD(context), v.QPInitAttr(scq=cq, rcq=cq), v.QPAttr())
        with warnings.catch_warnings(record=True) as caught:
            getattr(other, by)(asked, *([mask] if by == "modify" else []))
        print(by, "warns of", caught[0].filename)
    six = v.AHAttr(is_global=1, gr=v.GlobalRoute(dgid=v.GID("2001:db8::2")))
    try:
        v.QP(v.PD(context), v.QPInitAttr(scq=cq, rcq=cq)).to_rtr(v.QPAttr(ah_attr=six))
    except ValueError as error:
        print(error)
"""
    done = pair.left.run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout
    assert printed.startswith("3 3 path_mtu 4096 does not fit the interface of 192.0.2.1: lowered to 1024, which must be so at the peer")
    assert [line for line in printed.splitlines() if "warns of" in line] == [
        f"{by} warns of <string>" for by in ("to_rtr", "to_rts", "modify")
    ]  # the line that asked, not one of ours
    assert "2001:db8::2 cannot be reached from 192.0.2.1" in printed
