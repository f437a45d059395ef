"""Closed or opened at odd moments: by another thread between the look at whether it is open and its use, in the middle of a step, where
Ctrl-C falls, at the end of the interpreter."""

import errno
import mmap
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from support.scripts import INTERRUPTED_EVERYWHERE, run
from support.verbs import pair
from unpinned import verbs as v
from unpinned.hca import layout as L
from unpinned.host import system

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


class _ClosedMeanwhile:
    """What another thread may do between the look at whether a queue is open and its use: close it, and open others."""

    due = 0
    """It strikes at so many looks from now."""

    def seen(self, found):
        """A look has found that."""
        self.due -= 1
        if self.due == 0:
            self.strike()
        return found

    def then(self) -> None:
        """Nothing more."""

    def strike(self) -> None:
        thread = threading.Thread(target=self._closer)
        thread.start()
        thread.join()

    def _closer(self) -> None:
        self.close()
        self.then()


class _ClosingCQ(_ClosedMeanwhile, v.CQ):
    @property
    def device(self):
        return self.seen(super().device)


@pytest.mark.parametrize("use", ["poll", "req_notify"])
def test_a_completion_queue_that_is_closed_as_it_is_used_leaves_the_device_alone(use):
    with pair() as (a, b):
        cq = _ClosingCQ(a.context, 16, channel=v.CompChannel(a.context))
        header = a.context.device.h[: L.H_CQ_COUNT].tolist()
        cq.due = 1
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


class _ClosingAsItIsJoined(_ClosedMeanwhile, v.CQ):
    @property
    def closed(self):
        return self.seen(super().closed)


def test_a_queue_pair_whose_completion_queue_is_closed_as_it_is_made_is_refused():
    with pair() as (a, b):
        cq = _ClosingAsItIsJoined(a.context, 16)
        free = len(a.context.device.tables.free_qps)
        cq.due = 1
        with pytest.raises(OSError, match="completion queue is closed") as refused:
            v.QP(a.pd, v.QPInitAttr(scq=a.cq, rcq=cq))
        assert refused.value.errno == refused.value.error_code == errno.ENODEV
        assert len(a.context.device.tables.free_qps) == free
        b.receive(0, 8)
        a.send(0, 8)
        a.wait()


class _ClosingAsItIsModified(_ClosedMeanwhile, v.QP):
    @property
    def device(self):
        return self.seen(super().device)

    def then(self) -> None:
        free = self._device.tables.free_qps
        free.append(free.pop(0))  # the record's next turn has come
        self.heir = v.QP(self.pd, v.QPInitAttr(scq=self.scq, rcq=self.rcq, cap=self._cap), v.QPAttr())


@pytest.mark.parametrize("state", [v.IBV_QPS_RESET, v.IBV_QPS_ERR, v.IBV_QPS_INIT])
def test_a_queue_pair_that_is_closed_as_it_is_modified_leaves_its_heir_alone(state):
    with pair() as (a, _):
        qp = _ClosingAsItIsModified(a.pd, v.QPInitAttr(scq=a.cq, rcq=a.cq), v.QPAttr())
        qp.due = 2  # the first look is at its state
        with pytest.raises(OSError, match="queue pair is closed") as refused:
            qp.modify(v.QPAttr(qp_state=state, qp_access_flags=v.IBV_ACCESS_REMOTE_READ), v.IBV_QP_STATE)
        assert refused.value.errno == refused.value.error_code == errno.ENODEV
        assert qp.heir._pair.q == qp._pair.q, "the test needs the record to be taken again"
        assert qp.heir.state == "INIT"


@pytest.mark.parametrize(("how", "number"), [("close", errno.ENODEV), ("reset", errno.EINVAL)])
def test_a_queue_pair_that_another_thread_ends_as_it_goes_to_rts_is_refused(how, number):
    with pair() as (a, b):
        qp = _ClosingAsItIsModified(a.pd, v.QPInitAttr(scq=a.cq, rcq=a.cq))
        attr = v.QPAttr(dest_qp_num=b.qp.qp_num, ah_attr=v.AHAttr(is_global=1, gr=v.GlobalRoute(v.GID(b.context.address))))
        qp.to_rtr(attr)
        if how == "reset":
            qp._closer = lambda: qp.modify(v.QPAttr(qp_state=v.IBV_QPS_RESET), v.IBV_QP_STATE)
        qp.due = 3  # two looks at its state
        with pytest.raises(OSError, match="queue pair") as refused:
            qp.to_rts(attr)
        assert refused.value.errno == refused.value.error_code == number


class _ClosingChannel(_ClosedMeanwhile, v.CompChannel):
    def fileno(self) -> int:
        found = super().fileno()
        self.strike()
        return found


def test_a_channel_that_is_closed_as_a_queue_joins_it_has_no_queue():
    """The number of its descriptor may be anything's by then, and the device would write to that."""
    with pair() as (a, _):
        free = len(a.context.device.tables.free_cqs)
        with pytest.raises(OSError, match="completion channel is closed") as refused:
            v.CQ(a.context, 16, channel=_ClosingChannel(a.context))
        assert refused.value.errno == refused.value.error_code == errno.ENODEV
        assert len(a.context.device.tables.free_cqs) == free


class _ClosingDomain(_ClosedMeanwhile, v.PD):
    @property
    def device(self):
        return self.seen(super().device)


@pytest.mark.parametrize("make", [lambda pd, a: v.MR(pd, 4096), lambda pd, a: v.QP(pd, v.QPInitAttr(scq=a.cq, rcq=a.cq))])
def test_what_is_made_of_a_domain_that_is_closed_meanwhile_is_closed_too(make):
    with pair() as (a, _):
        pd = _ClosingDomain(a.context)
        tables = a.context.device.tables
        free = len(tables.free_mrs), len(tables.free_qps)
        pd.due = 1
        with pytest.raises(OSError, match="protection domain is closed") as refused:
            make(pd, a)
        assert refused.value.errno == refused.value.error_code == errno.ENODEV
        assert (len(tables.free_mrs), len(tables.free_qps)) == free


def test_a_close_cascades_while_another_thread_makes_more():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    over = threading.Event()
    made: list[v.PD] = []

    def make(context):
        while not over.is_set():
            try:
                made.append(v.PD(context))
                v.PD(context)  # dropped at once
            except OSError as refused:
                assert refused.errno == errno.ENODEV
                return

    try:
        with v.Context() as keeper:  # the device stays
            for _ in range(100):
                context = v.Context(address=keeper.address)
                maker = threading.Thread(target=make, args=(context,))
                maker.start()
                while len(made) < 50 and maker.is_alive():
                    pass
                context.close()
                maker.join()
                assert made and all(pd.closed for pd in made)
                made.clear()
    finally:
        over.set()
        sys.setswitchinterval(interval)


def test_what_closes_or_opens_at_the_very_end_of_the_interpreter():
    """Objects whose ``__del__`` is called then may close their contexts, or try to make more: a thread begun then never runs."""
    printed = run("""
from unpinned.host.owned import empty
class Late:
    def __del__(self, a=a, b=b, makes=(v.Context, lambda empty=empty: empty(1 << 20)), write=os.write):
        a.context.close()
        b.context.close()
        for make in makes:
            try:
                make()
                write(1, b"made,")
            except OSError as error:
                write(1, b"refused,")
        write(1, b"closed")
late = Late()
""")
    assert printed == "refused,made,closed"


def test_a_context_opened_by_what_interrupts_the_control_plane():
    """A signal handler, or a finalizer, that runs in the middle of a step has its thread's lock; another thread would wait for it."""
    assert run("""
from unpinned.host import process
with process.control:
    with v.Context() as c:
        v.MR(v.PD(c), 4096)
print("opened")
""") == "opened\n"


@pytest.mark.parametrize("work", ["v.MR(a.pd, buffer).close()", "v.FileMR(a.pd, path).close()"])
def test_the_mapping_of_a_region_whose_opening_ctrl_c_interrupts_goes(work: str, tmp_path: Path) -> None:
    """It is ours, made before there is a region that could close it; and it keeps the file's space."""
    (tmp_path / "memory").write_bytes(bytes(1 << 16))
    printed = run(f"""
path = {str(tmp_path / "memory")!r}
with open(path, "r+b") as file:
    buffer = mmap.mmap(file.fileno(), 0)
{INTERRUPTED_EVERYWHERE}
from unpinned.host import process
def mapped():
    process.settle()
    with open("/proc/self/maps") as maps:
        return sum(path in line for line in maps)
def work():
    {work}
work()
assert mapped() == 1
at = 1
while interrupted(work, at):
    assert mapped() == 1, at
    at += 1
print("fine", at > 100)
""")
    assert printed == "fine True\n"


def test_what_is_left_of_memory_is_watched_no_more_once_its_region_is_closed():
    """Also where a mapping that cannot be watched has come into its middle: the kernel then refuses to let go of the whole range."""
    size, flags = 16 * mmap.PAGESIZE, system.MAP_PRIVATE | system.MAP_FIXED
    with pair() as (a, _), open(sys.executable, "rb") as program:
        start = system.map_anonymous(size)
        try:
            mr = v.MR(a.pd, size, None, start)
            if mr.unnotified:
                pytest.skip(mr.unnotified)
            middle = start + size // 2
            assert system._mmap(middle, mmap.PAGESIZE, system.PROT_READ, flags, program.fileno(), 0) == middle
            assert watched(start, start + size) == size // mmap.PAGESIZE - 1
            mr.close()
            assert watched(start, start + size) == 0
        finally:
            system.unmap(start, size)


def watched(start: int, end: int) -> int:
    """Pages of the range that a userfaultfd watches."""
    low = high = pages = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head, *rest = line.split()
        if not head.endswith(":"):
            low, high = (min(max(int(word, 16), start), end) for word in head.split("-"))
        elif head == "VmFlags:" and "uw" in rest:
            pages += (high - low) // mmap.PAGESIZE
    return pages


def test_a_signal_handler_posts_wherever_it_interrupts_a_post():
    """Of the same queue pair; where it would come between inline data and the entry beside it, it is told so. No byte is another's."""
    printed = run("""
import errno, itertools
def write(byte, flags):
    at = byte * 64
    here = a.mr.buf + at
    a.mr.write(bytes([byte]) * 64, offset=at)
    wr = v.SendWR(byte, opcode=v.IBV_WR_RDMA_WRITE, sg=v.SGE(here, 64, a.mr.lkey), send_flags=v.IBV_SEND_SIGNALED | flags)
    wr.set_wr_rdma(b.mr.rkey, b.mr.buf + at)
    return wr
told = posted = 0
for outer, inner in itertools.product((0, v.IBV_SEND_INLINE), repeat=2):
    for at in itertools.count(1):
        b.mr.write(bytes(1024))
        first, second = write(1, outer), write(2, inner)
        left, took = at, []
        def watch(frame, what, argument):  # where a handler may run
            global left, told
            if what in ("call", "return", "c_return"):
                left -= 1
                if left == 0:
                    sys.setprofile(None)
                    try:
                        a.qp.post_send(second)
                        took.append(2)
                    except OSError as error:
                        assert error.errno == errno.EAGAIN and outer, error
                        told += 1
        sys.setprofile(watch)
        a.qp.post_send(first)
        sys.setprofile(None)
        a.mr.write(bytes([9]) * 64, offset=64) if outer else None  # inline data is free at once
        a.mr.write(bytes([9]) * 64, offset=128) if inner and took else None
        for _ in [1, *took]:
            a.wait()
        for byte in [1, *took]:
            assert b.mr.read(64, byte * 64) == bytes([byte]) * 64, (outer, inner, at, byte)
        posted += len(took)
        if left > 0:
            break
print(told > 0, posted > 40)
""")
    assert printed == "True True\n"
