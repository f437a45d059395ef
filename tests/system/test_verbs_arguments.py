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
        (lambda end, other: v.CQ(end.context, 8, None, 5), "channel: a CompChannel"),
        (lambda end, other: v.CQ(end.context, 8, None, v.CompChannel(other.context)), "channel.*another device"),
        (lambda end, other: v.QP(None, queues(end)), "creator: a PD"),
        (lambda end, other: v.QP(end.pd, None), "init_attr"),
        (lambda end, other: v.QP(end.pd, queues(end, cap=None)), "cap: a QPCap"),
        (lambda end, other: v.QP(end.pd, queues(other)), "scq.*another device"),
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
