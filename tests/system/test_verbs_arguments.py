"""Verbs are asked for what cannot be, as code written for pyverbs may: the error names the argument. What it may ask for works."""

import pytest

from support.verbs import End
from unpinned import verbs as v
from unpinned.verbs import enums as e

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


@pytest.fixture(scope="module")
def end():
    opened = End.open()
    yield opened
    opened.context.close()


@pytest.fixture(scope="module")
def other():
    opened = End.open()
    yield opened
    opened.context.close()


def route(**parts):
    """Attributes of a queue pair whose way to the peer has *parts* that differ."""
    return v.QPAttr(ah_attr=v.AHAttr(is_global=1, gr=v.GlobalRoute(**{"dgid": v.GID("127.0.0.1"), **parts})))


def queues(end, **more):
    return v.QPInitAttr(scq=end.cq, rcq=end.cq, **more)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda end, other: v.Context(5), "name"),
        (lambda end, other: v.Context(address=b"::1"), "address"),
        (lambda end, other: v.Context(address="0.0.0.0"), "address: 0.0.0.0 is every address"),
        (lambda end, other: v.Context(address="::"), "address: :: is every address"),
        (lambda end, other: v.PD(end.pd), "creator: a Context"),
        (lambda end, other: v.MR(None, 4096), "creator: a PD"),
        (lambda end, other: v.MR(end.pd, 4096, "rw"), "access"),
        (lambda end, other: v.FileMR(end.context, "/etc/passwd"), "creator: a PD"),
        (lambda end, other: v.CompChannel(None), "context"),
        (lambda end, other: v.CQ(None, 8), "context"),
        (lambda end, other: v.CQ(end.context, "8"), "cqe"),
        (lambda end, other: end.cq.wait(1, "1"), "timeout: seconds are needed, not str"),
        (lambda end, other: end.cq.wait(1, float("nan")), "timeout: nan"),
        (lambda end, other: v.CompChannel(end.context).get_cq_event(None, "1"), "timeout"),
        (lambda end, other: v.CQ(end.context, 8, None, 5), "channel: a CompChannel"),
        (lambda end, other: v.CQ(end.context, 8, None, v.CompChannel(other.context)), "channel.*another device"),
        (lambda end, other: v.QP(None, queues(end)), "creator: a PD"),
        (lambda end, other: v.QP(end.pd, None), "init_attr"),
        (lambda end, other: v.QP(end.pd, queues(end, cap=5)), "cap: a QPCap"),
        (lambda end, other: v.QP(end.pd, queues(other)), "scq.*another device"),
        (lambda end, other: v.QP(end.pd, queues(end)).to_rtr(route(dgid="127.0.0.1")), "dgid: a GID is needed, not str"),
        (lambda end, other: v.QP(end.pd, queues(end)).to_rtr(route(sgid_index=3)), "sgid_index: 3"),
        (lambda end, other: v.QP(end.pd, queues(end)).to_rtr(v.QPAttr(ah_attr=None)), "ah_attr: a AHAttr is needed"),
        (lambda end, other: end.qp.modify(v.QPAttr(), None), "comp_mask"),
        (lambda end, other: end.qp.modify(v.QPAttr(), 1 << 32), "comp_mask"),
        (lambda end, other: v.QPAttr(qp_state="RTS"), "qp_state"),
        (lambda end, other: v.QPAttr(max_rd_atomic=end.context.query_device().max_qp_init_rd_atom + 1), "max_rd_atomic: 17"),
        (lambda end, other: v.QPAttr(max_dest_rd_atomic=end.context.query_device().max_qp_rd_atom + 1), "max_dest_rd_atomic: 17"),
        (lambda end, other: end.mr.write(5), "data: a buffer is needed, not int"),
        (lambda end, other: end.mr.write(memoryview(b"abcd")[::2]), "data: the buffer is not contiguous"),
        (lambda end, other: end.pd.advise_mr(0, 0, [5]), r"sg_list\[0\]: a SGE"),
        (lambda end, other: end.pd.advise_mr(0, 0, end.piece(0, 8)), "sg_list"),
    ],
)
def test_what_is_wrong_is_named(end, other, call, named):
    with pytest.raises((TypeError, v.ArgumentError), match=named):
        call(end, other)


def test_names_are_pyverbs(end):
    names: dict[str, object] = {}
    exec("from unpinned.verbs import *", names)
    assert names["IBV_ACCESS_ON_DEMAND"] == e.IBV_ACCESS_ON_DEMAND and "QP" in names
    with v.MR(end.pd, length=4096, access=v.IBV_ACCESS_LOCAL_WRITE | v.IBV_ACCESS_ON_DEMAND) as mr:
        piece = v.SGE(mr.buf, 4096, mr.lkey)
        assert end.pd.advise_mr(e._IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, e._IBV_ADVISE_MR_FLAG_FLUSH, [piece]) == 0
        assert mr.counters["prefetches"] == 1
        with piece, v.RecvWR(sg=piece) as receive, v.SendWR(sg=piece) as send:
            assert receive.num_sge == send.num_sge == 1
    attr = v.QPInitAttr(scq=end.cq, rcq=end.cq, cap=None)
    attr.max_send_wr, attr.max_recv_sge = 5, 3
    with v.QP(end.pd, attr) as qp:
        assert (attr.cap.max_send_wr, attr.max_send_wr, qp.query()[0].cap.max_recv_sge) == (8, 8, 3)


def test_a_request_can_be_cut_to_its_first_pieces(end):
    for wr in v.RecvWR(sg=[end.piece(0, 8), end.piece(8, 16)]), v.SendWR(sg=[end.piece(0, 8), end.piece(8, 16)]):
        wr.num_sge = 1
        assert [piece.length for piece in wr.sg_list] == [8] and wr.num_sge == 1
        with pytest.raises(ValueError, match="num_sge"):
            wr.num_sge = 2


def test_errors_of_every_floor_have_pyverbs_error_code(end, tmp_path):
    calls = [
        lambda: v.Context(address="203.0.113.7"),
        lambda: v.MR(end.pd, 4096, v.IBV_ACCESS_ON_DEMAND, address=1 << 40),
        lambda: v.FileMR(end.pd, tmp_path / "missing"),
        lambda: v.QP(end.pd, v.QPInitAttr(qp_type=v.IBV_QPT_UD, scq=end.cq, rcq=end.cq)),
        lambda: end.pd.advise_mr(0, 0, [v.SGE(0, 8, 1)]),
        lambda: end.qp.modify(v.QPAttr(qp_state=v.IBV_QPS_INIT), v.IBV_QP_STATE),
        lambda: [end.qp.post_recv(v.RecvWR()) for _ in range(100)],
        lambda: end.mr.read(1 << 20),
        lambda: v.CQ(end.context, 0),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.error_code == caught.value.errno, number
