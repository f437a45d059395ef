"""Closed by another thread between the look at whether it is open and its use: nothing of the device's changes."""

import errno
import threading

import numpy as np
import pytest

from support.verbs import pair
from unpinned import verbs as v
from unpinned.hca import layout as L

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


class _ClosedMeanwhile:
    """What another thread may do between the look at whether a queue is open and its use: close it, and open others."""

    def strike(self) -> None:
        thread = threading.Thread(target=self._closer)
        thread.start()
        thread.join()

    def _closer(self) -> None:
        self.close()
        self.then()


class _ClosingCQ(_ClosedMeanwhile, v.CQ):
    due = False

    def then(self) -> None:
        """Nothing more."""

    @property
    def device(self):
        found = super().device
        if self.due:
            self.due = False
            self.strike()
        return found


@pytest.mark.parametrize("use", ["poll", "req_notify"])
def test_a_completion_queue_that_is_closed_as_it_is_used_leaves_the_device_alone(use):
    with pair() as (a, b):
        cq = _ClosingCQ(a.context, 16, channel=v.CompChannel(a.context))
        header = a.context.device.h[: L.H_CQ_COUNT].tolist()
        cq.due = True
        if use == "poll":
            assert cq.poll() == (0, [])
        else:
            with pytest.raises(OSError, match="closed"):
                cq.req_notify()
        assert a.context.device.h[: L.H_CQ_COUNT].tolist() == header
        b.receive(0, 8)
        a.send(0, 8)
        a.wait()


class _ClosingQP(_ClosedMeanwhile, v.QP):
    def _ready(self, *what):
        found = super()._ready(*what)
        self.strike()
        return found

    def then(self) -> None:
        self.heir = v.QP(self.pd, v.QPInitAttr(scq=self.scq, rcq=self.rcq, cap=self._cap))
        self.before = self._device.h[self.heir._pair.rings[0][0] :].copy()


@pytest.mark.parametrize("use", ["post_send", "post_recv", "post_send_many", "post_recv_many"])
def test_a_queue_pair_that_is_closed_as_it_is_posted_to_takes_nothing(use):
    """Its rings are another's by then."""
    with pair() as (a, b):
        qp = _ClosingQP(a.pd, v.QPInitAttr(scq=a.cq, rcq=a.cq, cap=v.QPCap(max_send_wr=16, max_recv_wr=16)))
        qp.connect(b.qp.info())
        rings = qp._pair.rings
        work = {
            "post_send": v.SendWR(7, sg=a.piece(0, 8)),
            "post_recv": v.RecvWR(7, sg=a.piece(0, 8)),
            "post_send_many": np.ones(1, qp.send_dtype),
            "post_recv_many": np.ones(1, qp.recv_dtype),
        }[use]
        with pytest.raises(OSError, match="closed") as refused:
            getattr(qp, use)(work)
        assert refused.value.errno == refused.value.error_code == errno.ENODEV
        assert qp.heir._pair.rings == rings, "the test needs them to be taken again"
        assert (qp._device.h[rings[0][0] :] == qp.before).all()
