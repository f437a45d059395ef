"""Two hosts (network namespaces) with a link between them: both IP versions, small frames, the warning that goes with them."""

import sys

import pytest

from support.network import Pair, namespace_pair
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
    assert "2001:db8::2 cannot be reached from 192.0.2.1" in printed
