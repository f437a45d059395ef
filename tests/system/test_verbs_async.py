"""Asynchronous events: what no completion tells, on the descriptor of the context whose queue it is about."""

import asyncio
import errno
import gc
import select
import threading

import pytest

from support.memory import mapped
from support.slow_pages import slow_pages
from support.verbs import ALL, PATIENCE, REMOTE, End, connect, pair
from unpinned import verbs as v
from unpinned.host import system
from unpinned.host.system import PAGE

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


def nothing_more(context: v.Context) -> bool:
    try:
        event = context.get_async_event(timeout=0)
    except TimeoutError:
        return not select.select([context.async_fd], [], [], 0)[0]
    raise AssertionError(str(event))


def next_event(context: v.Context) -> tuple[int, object]:
    event = context.get_async_event(timeout=PATIENCE)
    event.ack()
    return event.event_type, event.element


def ah(end: End) -> v.AHAttr:
    """The way to *end*."""
    return v.AHAttr(is_global=1, gr=v.GlobalRoute(dgid=v.GID(end.qp.info().gid)))


def broken(a: End, b: End) -> None:
    """*a* asks for what *b* does not allow."""
    a.remote(v.IBV_WR_RDMA_WRITE, (b.mr.buf, b.mr.rkey ^ 1), 0, 0, 8)
    a.wait(v.IBV_WC_REM_ACCESS_ERR)


def test_a_connection_is_established_by_a_request_before_rts(no_leaks):
    with End.open().context as first, End.open().context as second:
        ends = []
        for context in (first, second):
            pd, cq = v.PD(context), v.CQ(context, 64)
            ends.append(End(context, pd, cq, v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq, sq_sig_all=1)), v.MR(pd, 4096, ALL)))
        a, b = ends
        a.qp.connect(b.qp.info(), REMOTE)
        info = a.qp.info()
        attr = v.QPAttr(
            path_mtu=info.mtu, rq_psn=info.psn, dest_qp_num=info.qpn, dest_port=info.port, qp_access_flags=REMOTE,
            ah_attr=ah(a),
        )  # fmt: skip
        b.qp.to_rtr(attr)
        for _ in range(3):
            a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 8)
            a.wait()
        assert next_event(b.context) == (v.IBV_EVENT_COMM_EST, b.qp)
        assert nothing_more(b.context) and nothing_more(a.context)
        b.qp.to_rts(attr)
        a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 8)
        a.wait()
        assert nothing_more(b.context)


def test_who_refuses_a_request_is_told_and_who_made_it_has_a_completion(no_leaks):
    with pair() as (a, b):
        broken(a, b)
        assert select.select([b.context.async_fd], [], [], PATIENCE)[0]
        event = b.context.get_async_event()
        assert event.event_type == v.IBV_EVENT_QP_ACCESS_ERR and event.element is b.qp
        assert str(event).startswith("IBV_EVENT_QP_ACCESS_ERR of <QP")
        assert b.qp.qp_state == v.IBV_QPS_ERR
        assert nothing_more(a.context) and nothing_more(b.context)


def test_memory_that_went_is_an_access_error(no_leaks):
    base = system.map_anonymous(4 * PAGE)
    with pair() as (a, b):
        mr = v.MR(b.pd, 4 * PAGE, ALL, address=base)
        a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 0, 8)
        a.wait()
        assert nothing_more(b.context)
        system.unmap(base, 4 * PAGE)
        a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 0, 8)
        a.wait(v.IBV_WC_REM_ACCESS_ERR)
        assert next_event(b.context) == (v.IBV_EVENT_QP_ACCESS_ERR, b.qp)


def test_a_read_from_one_that_serves_none_is_no_valid_request(no_leaks):
    with pair() as (a, b):
        c, d = End.open(), End.open()
        with c.context, d.context:
            c.qp.connect(d.qp.info(), REMOTE)
            d.qp.connect(c.qp.info(), REMOTE, max_dest_rd_atomic=0)
            c.remote(v.IBV_WR_RDMA_READ, d.mr, 0, 0, 8)
            c.wait(v.IBV_WC_REM_INV_REQ_ERR)
            assert next_event(d.context) == (v.IBV_EVENT_QP_REQ_ERR, d.qp)
        assert nothing_more(a.context) and nothing_more(b.context)


def test_a_receive_that_failed_is_told_by_its_completion_alone(no_leaks):
    with pair() as (a, b):
        b.receive(0, 8)
        a.send(0, 64)
        a.wait(v.IBV_WC_REM_INV_REQ_ERR)
        b.wait(v.IBV_WC_LOC_LEN_ERR)
        assert nothing_more(b.context)


def test_a_completion_queue_overruns(no_leaks):
    """Once for the queue, and once for each queue pair that it ended."""
    with End.open().context as context, End.open().context as there:
        pd, cq = v.PD(context), v.CQ(context, 8)
        cap = v.QPCap(max_send_wr=16)
        a = End(context, pd, cq, v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq, cap=cap, sq_sig_all=1)), v.MR(pd, 4096, ALL))
        pd, cq = v.PD(there), v.CQ(there, 64)
        b = End(there, pd, cq, v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq)), v.MR(pd, 4096, ALL))
        connect(a, b)
        for _ in range(a.cq.cqe + 2):
            a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 8)
        found = {next_event(context), next_event(context)}
        assert found == {(v.IBV_EVENT_CQ_ERR, a.cq), (v.IBV_EVENT_QP_FATAL, a.qp)}
        assert nothing_more(context) and nothing_more(there)
        assert [wc.status for wc in a.cq.poll(64)[1]] == [v.IBV_WC_SUCCESS] * a.cq.cqe


def test_each_context_has_the_events_of_its_own_queues(no_leaks):
    """Also where two share a device."""
    with pair() as (a, b), v.Context(address=b.context.address) as beside:
        assert beside.device is b.context.device
        pd, cq = v.PD(beside), v.CQ(beside, 64)
        c = End(beside, pd, cq, v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq)), v.MR(pd, 4096, ALL))
        d = End.open()
        with d.context:
            connect(c, d)
            broken(d, c)
            assert next_event(beside) == (v.IBV_EVENT_QP_ACCESS_ERR, c.qp)
            assert nothing_more(b.context)
        broken(a, b)
        assert next_event(b.context) == (v.IBV_EVENT_QP_ACCESS_ERR, b.qp) and nothing_more(beside)


def test_a_send_queue_drains_and_goes_on_with_other_timers(no_leaks):
    with pair(cap=v.QPCap(max_send_wr=64, max_recv_wr=4)) as (a, b):
        for _ in range(40):
            a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 1 << 16)
        asked = v.QPAttr(qp_state=v.IBV_QPS_SQD, en_sqd_async_notify=1)
        a.qp.modify(asked, v.IBV_QP_STATE | v.IBV_QP_EN_SQD_ASYNC_NOTIFY)
        assert a.qp.state == "SQD"
        a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 8, wr_id=99)  # queued
        assert next_event(a.context) == (v.IBV_EVENT_SQ_DRAINED, a.qp)
        assert a.qp.query()[0].sq_draining == 0
        done = len(a.cq.poll(64)[1])
        b.remote(v.IBV_WR_RDMA_READ, a.mr, 0, 0, 1 << 16)  # what the peer asks for is served
        b.wait()
        attr = v.QPAttr(timeout=17, retry_cnt=3, rnr_retry=2, max_rd_atomic=4, max_dest_rd_atomic=3, ah_attr=ah(b))
        masks = v.IBV_QP_TIMEOUT | v.IBV_QP_RETRY_CNT | v.IBV_QP_RNR_RETRY | v.IBV_QP_MAX_QP_RD_ATOMIC
        a.qp.modify(attr, masks | v.IBV_QP_MAX_DEST_RD_ATOMIC | v.IBV_QP_AV)
        now = a.qp.query()[0]
        assert (now.timeout, now.retry_cnt, now.rnr_retry, now.max_rd_atomic, now.max_dest_rd_atomic) == (17, 3, 2, 4, 3)
        a.qp.modify(v.QPAttr(qp_state=v.IBV_QPS_RTS), v.IBV_QP_STATE)
        while done < 41:
            last = a.wait()
            done += 1
        assert last.wr_id == 99 and nothing_more(a.context)


def test_a_send_queue_that_drains_takes_no_other_state_but_the_end(no_leaks):
    """The peer's page is behind a handler that sleeps, so a request is under way for long."""
    with mapped(1) as base, slow_pages(base, PAGE, 0x33) as slow, pair() as (a, b):
        mr = v.MR(b.pd, PAGE, ALL, address=base)
        a.remote(v.IBV_WR_RDMA_READ, mr, 0, 0, 8)
        assert slow.touched.wait(PATIENCE)
        a.qp.modify(v.QPAttr(qp_state=v.IBV_QPS_SQD), v.IBV_QP_STATE)
        assert a.qp.query()[0].sq_draining == 1
        for state in (v.IBV_QPS_RTS, v.IBV_QPS_SQD):
            with pytest.raises(OSError, match="still draining") as refusal:
                a.qp.modify(v.QPAttr(qp_state=state), v.IBV_QP_STATE)
            assert refusal.value.errno == errno.EINVAL
        slow.release()
        a.wait()
        assert a.qp.query()[0].sq_draining == 0 and nothing_more(a.context)
        a.qp.modify(v.QPAttr(qp_state=v.IBV_QPS_RTS), v.IBV_QP_STATE)
        a.remote(v.IBV_WR_RDMA_READ, mr, 0, 0, 8)
        a.wait()


def test_an_event_stays_over_a_reset_and_goes_with_its_queue_pair(no_leaks):
    with pair() as (a, b):
        broken(a, b)
        assert select.select([b.context.async_fd], [], [], PATIENCE)[0]
        b.qp.modify(v.QPAttr(qp_state=v.IBV_QPS_RESET), v.IBV_QP_STATE)
        assert next_event(b.context) == (v.IBV_EVENT_QP_ACCESS_ERR, b.qp)
        a.qp.modify(v.QPAttr(qp_state=v.IBV_QPS_RESET), v.IBV_QP_STATE)
        connect(a, b)
        broken(a, b)
        assert select.select([b.context.async_fd], [], [], PATIENCE)[0]
        b.qp.close()
        with pytest.raises(TimeoutError, match="asynchronous event"):
            b.context.get_async_event(timeout=0)


def test_who_waits_is_told_that_the_context_is_closed(no_leaks):
    outcomes = []

    def wait(context: v.Context) -> None:
        try:
            context.get_async_event()
        except OSError as error:
            outcomes.append(error.errno)

    async def serve(context: v.Context) -> int | None:
        waiting = asyncio.ensure_future(context.async_event())
        await asyncio.sleep(0)
        context.close()
        [outcome] = await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), PATIENCE)
        return outcome.errno if isinstance(outcome, OSError) else None

    context = v.Context()
    threads = [threading.Thread(target=wait, args=(context,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    context.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert outcomes == [errno.ENODEV] * 3
    assert asyncio.run(serve(v.Context())) == errno.ENODEV
    for ask in (lambda: context.async_fd, context.get_async_event):
        with pytest.raises(OSError, match="closed") as refusal:
            ask()
        assert refusal.value.errno == errno.ENODEV


def test_events_can_be_awaited(no_leaks):
    async def serve(context: v.Context) -> v.AsyncEvent:
        return await asyncio.wait_for(context.async_event(), PATIENCE)

    with pair() as (a, b):
        broken(a, b)
        event = asyncio.run(serve(b.context))
        assert (event.event_type, event.element) == (v.IBV_EVENT_QP_ACCESS_ERR, b.qp)


def test_the_numbers_of_a_thousand_contexts_are_given_back(no_leaks):
    """A context's descriptor goes with it, by hand or by the collector, while its device lives on."""
    with v.Context() as first:
        for i in range(1000):
            context = v.Context(address=first.address)
            qp = v.QP(v.PD(context), v.QPInitAttr(scq=(cq := v.CQ(context, 8)), rcq=cq))
            assert context.async_fd < 100
            if i % 2:
                context.close()
            del context, qp, cq
        gc.collect()
