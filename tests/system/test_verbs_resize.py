"""A completion queue that changes its size: nothing is lost, nothing changes its place, whoever is at work in it meanwhile."""

import errno
import threading

import numpy as np
import pytest

from support.verbs import PATIENCE, pair
from unpinned import verbs as v
from unpinned.hca import layout as L

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


def fill(a, b, first: int, count: int) -> None:
    """WRITEs *first* to *first* + *count*, their completions left in the queue."""
    for wr_id in range(first, first + count):
        a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 8, wr_id=wr_id)


def waiting(cq: v.CQ) -> list[int]:
    """The wr_ids that are in the queue, in order."""
    return [wc.wr_id for wc in cq.poll(256)[1]]


def rest(a, count: int) -> None:
    """Wait until *count* completions wait."""
    words, cq = a.context.device.h, a.cq._queue.cq
    for _ in range(int(PATIENCE * 1000)):
        if words[cq + L.CQ_TAIL] - words[cq + L.CQ_HEAD] == count:
            return
        a.context.device.drive()
    raise AssertionError("the completions never came")


@pytest.mark.parametrize("entries", [16, 40, 1000], ids="to_{}".format)
def test_what_waits_stays_in_its_order(entries):
    with pair() as (a, b):
        assert a.cq.cqe == 256
        for start in range(0, 250, 50):  # so that the ring's end lies among those that wait
            fill(a, b, start, 50)
            rest(a, 50)
            assert waiting(a.cq) == list(range(start, start + 50))
        fill(a, b, 250, 12)
        rest(a, 12)
        a.cq.resize(entries)
        assert entries <= a.cq.cqe < 2 * entries
        fill(a, b, 262, 4)
        rest(a, 16)
        assert waiting(a.cq) == list(range(250, 266))


def test_room_for_less_than_waits_is_refused():
    with pair() as (a, b):
        fill(a, b, 0, 20)
        rest(a, 20)
        with pytest.raises(OSError, match="cqe: more than 19") as refusal:
            a.cq.resize(19)
        assert refusal.value.errno == refusal.value.error_code == errno.EINVAL and a.cq.cqe == 256
        a.cq.resize(20)
        assert a.cq.cqe == 32 and waiting(a.cq) == list(range(20))
        for wrong in (0, -1, 1 << 30):
            with pytest.raises(v.ArgumentError, match="cqe"):
                a.cq.resize(wrong)


def test_a_larger_queue_takes_what_the_smaller_one_would_have_lost():
    with pair() as (a, b):
        a.cq.resize(16)
        fill(a, b, 0, 16)
        rest(a, 16)
        a.cq.resize(64)
        fill(a, b, 16, 40)
        rest(a, 56)
        assert waiting(a.cq) == list(range(56)) and a.context.counters()["cq_overrun"] == 0


def test_the_old_ring_is_given_back():
    with pair() as (a, _):
        rings = a.context.device.tables.rings
        a.cq.resize(512)
        a.cq.resize(256)
        used = rings._next
        for _ in range(1000):
            a.cq.resize(512)
            with pytest.raises(v.ArgumentError):
                a.cq.resize(0)
            a.cq.resize(256)
        assert rings._next == used


def test_no_memory_leaves_it_as_it_was():
    with pair() as (a, b):
        more = []
        with pytest.raises(OSError) as full:
            while True:
                more.append(v.CQ(a.context, 1 << 20))
        assert full.value.errno == full.value.error_code == errno.ENOMEM
        with pytest.raises(OSError) as refusal:
            a.cq.resize(1 << 20)
        assert refusal.value.errno == errno.ENOMEM and a.cq.cqe == 256
        fill(a, b, 0, 3)
        rest(a, 3)
        assert waiting(a.cq) == [0, 1, 2]


def test_a_queue_in_use_changes_its_size_again_and_again():
    """A thread posts and polls, another resizes: each completion comes once, in order."""
    with pair() as (a, b):
        over = threading.Event()
        sizes, failed = [16, 300, 64, 4000], []

        def resize() -> None:
            try:
                at = 0
                while not over.is_set():
                    a.cq.resize(sizes[at % 4])
                    at += 1
                failed.append(at)
            except BaseException as error:
                failed.append(error)

        resizer = threading.Thread(target=resize)
        resizer.start()
        got: list[int] = []
        out = np.empty(64, v.WC_DTYPE)
        posted = 0
        try:
            while len(got) < 20_000:
                while posted < 20_000 and posted - len(got) < 16:
                    a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 8, wr_id=posted)
                    posted += 1
                count = a.cq.poll_into(out, PATIENCE)
                assert count, "a completion was lost"
                assert (out["status"][:count] == 0).all()
                got += out["wr_id"][:count].tolist()
        finally:
            over.set()
            resizer.join()
        assert got == list(range(20_000))
        assert isinstance(failed[0], int) and failed[0] > 10, failed


def test_a_closed_queue_and_a_closed_device():
    with pair() as (a, _):
        cq = v.CQ(a.context, 16)
        cq.close()
        with pytest.raises(OSError) as refusal:
            cq.resize(32)
        assert refusal.value.errno == refusal.value.error_code == errno.ENODEV
    with pytest.raises(OSError) as refusal:
        a.cq.resize(32)
    assert refusal.value.errno == errno.ENODEV
