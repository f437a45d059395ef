"""Closing and collecting: at any moment, in any order, nothing hangs, crashes or stays."""

import errno
import gc
import itertools
import random
import threading

import numpy as np
import pytest

from support.leaks import holdings, leaked, resident
from support.python import run_python
from support.scripts import run
from support.verbs import ALL, End, connect, pair
from unpinned import verbs as v

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


# ---- closing -------------------------------------------------------------------------------------------------------


def test_close_cascades_and_is_idempotent(no_leaks):
    end = End.open(channel=True)
    other = End.open()
    connect(end, other)
    for _ in range(2):
        end.context.close()
    made = (end.context, end.pd, end.cq, end.qp, end.mr, end.cq.comp_channel)
    assert all(thing.closed for thing in made)
    for use in (
        lambda: end.context.query_device(), lambda: v.PD(end.context), lambda: v.CQ(end.context, 1), lambda: v.MR(end.pd, 10),
        lambda: end.cq.poll(), lambda: end.cq.req_notify(), lambda: end.qp.post_send(v.SendWR()),
        lambda: end.qp.post_recv(v.RecvWR()), lambda: end.qp.qp_state, lambda: end.qp.query(), lambda: end.mr.write(b"x"),
        lambda: end.cq.comp_channel.fileno(), lambda: v.QP(end.pd, v.QPInitAttr(scq=end.cq, rcq=end.cq)),
    ):  # fmt: skip
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.ENODEV
    assert "closed" in repr(end.qp) and "closed" in repr(end.mr) and "closed" in repr(end.context)
    other.context.close()


def test_each_kind_may_be_closed_first(no_leaks):
    names = ("context", "pd", "cq", "qp", "mr")
    for order in itertools.permutations(names, 3):
        end, other = End.open(), End.open()
        connect(end, other)
        end.remote(v.IBV_WR_RDMA_WRITE, other.mr, 0, 0, 4096)
        for name in order:
            getattr(end, name).close()
        end.context.close()
        other.context.close()


def test_a_queue_pair_closed_under_load_leaves_the_others_alone():
    with pair() as (a, b):
        for _ in range(20):
            qps = []
            for end in (a, b):
                qps.append(v.QP(end.pd, v.QPInitAttr(scq=end.cq, rcq=end.cq, cap=v.QPCap(64, 1))))
            qps[0].connect(qps[1].info(), 0)
            qps[1].connect(qps[0].info(), v.IBV_ACCESS_REMOTE_WRITE)
            one = End(a.context, a.pd, a.cq, qps[0], a.mr)
            for _ in range(30):
                one.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 60_000)
            qps[1].close()
            qps[0].close()
        a.cq.poll(256)
        a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 64, wr_id=77)
        while a.wait().wr_id != 77:
            pass


def test_contexts_on_one_address_share_a_device(no_leaks):
    first = v.Context()
    second = v.Context(name=first.name)
    third = v.Context(address=first.address)
    assert first.device is second.device is third.device
    first.close()
    assert second.query_gid().address == third.query_gid().address
    second.close()
    v.PD(third)
    third.close()


def test_a_second_process_on_the_address_gets_a_clear_error():
    with v.Context() as context:
        printed = run_python(f"""
from unpinned import verbs as v
try:
    v.Context(address="{context.address}")
except OSError as error:
    print(error.errno, error)
""")
    number, text = printed.split(maxsplit=1)
    assert int(number) == errno.EADDRINUSE
    assert f"UDP port 4791 on {context.address} is in use, perhaps by another unpinned process" in text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_times_open_and_close(no_leaks):
    def once(i: int) -> None:
        end, other = End.open(4096, channel=True), End.open(np.zeros(4096, "u1"))
        connect(end, other)
        end.remote(v.IBV_WR_RDMA_WRITE, other.mr, 0, 0, 8)
        if i % 3:
            end.wait()
        if i % 2:
            end.context.close()
            other.context.close()

    for i in range(20):
        once(i)
    before, memory = holdings(), resident()
    for i in range(500):  # two contexts each
        once(i)
    gc.collect()
    assert not leaked(before, mappings_slack=8)
    assert resident() - memory < 32 << 20


def test_memory_goes_back_at_the_close():
    """Without the collector, and where the C library takes large blocks from its heap (as it does once one was freed)."""
    printed = run("""
import gc
from pathlib import Path
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
gc.collect(); gc.disable()
del a, b
np.ones(30 << 20, "u1")
def once():
    end = End.open(4096)
    with_another = End.open(4096)
    connect(end, with_another)
    end.context.close()
    with_another.context.close()
for i in range(30): once()  # until the C library has its share for each thread that opens one
before = resident()
keep = []
for i in range(30):
    once()
    keep.append(bytearray(100_000))  # small things between the blocks hold up a heap
print((resident() - before) >> 20)
""")
    assert int(printed) < 8, f"{printed.strip()} MiB after 30 pairs"


def test_queues_and_regions_come_and_go_without_end(no_leaks):
    with pair() as (a, b):
        free = [len(getattr(a.context.device.tables, name)) for name in ("free_qps", "free_mrs", "free_cqs")]
        for _ in range(300):
            cq = v.CQ(a.context, 16)
            qp = v.QP(a.pd, v.QPInitAttr(scq=cq, rcq=cq))
            mr = v.MR(a.pd, bytearray(100))
            del cq, qp, mr
        gc.collect()
        a.context.device.check()
        v.PD(a.context).close()
        assert [len(getattr(a.context.device.tables, name)) for name in ("free_qps", "free_mrs", "free_cqs")] == free


# ---- the collector -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", range(6))
def test_collected_in_any_order(no_leaks, shuffle):
    ends = [End.open(channel=True), End.open(np.zeros(1 << 16, "u1"))]
    connect(*ends)
    ends[0].remote(v.IBV_WR_RDMA_WRITE, ends[1].mr, 0, 0, 60_000)
    ends[0].remote(v.IBV_WR_RDMA_READ, ends[1].mr, 0, 0, 60_000)
    things = [thing for end in ends for thing in (end.context, end.pd, end.cq, end.qp, end.mr)]
    for thing in things:
        thing.cycle = things  # one cycle: only the collector can free it, in an order of its own
    del thing, ends
    if shuffle:
        random.Random(shuffle).shuffle(things)
        while len(things) > shuffle:
            things.pop().cycle = None
            gc.collect()
    del things
    gc.collect()


def test_collected_while_the_control_plane_works(no_leaks):
    class Trouble:
        """Closes things from a finalizer, whenever the collector runs."""

        def __init__(self, end: End) -> None:
            self.end, self.me = end, self

        def __del__(self) -> None:
            self.end.qp.close()
            self.end.mr.close()

    threshold = gc.get_threshold()
    gc.set_threshold(5, 2, 2)
    try:
        with v.Context() as context:
            pd, cq = v.PD(context), v.CQ(context, 16)
            for _ in range(60):
                end = End(context, pd, cq, v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq)), v.MR(pd, 4096, ALL))
                Trouble(end)
                del end
    finally:
        gc.set_threshold(*threshold)
    gc.collect()


def test_threads_open_use_and_close_at_once(no_leaks):
    failures = []

    def work(seed: int) -> None:
        try:
            for _ in range(10):
                with pair() as (a, b):
                    a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 4096)
                    a.wait()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not failures and not any(thread.is_alive() for thread in threads)


def test_munmap_with_the_gil_held_beside_the_control_plane():
    """NumPy frees large arrays holding the GIL; registering and closing in another thread must not be in its way."""
    printed = run("""
stop = False
def churn():
    while not stop:
        with v.MR(b.pd, bytearray(10000), ALL): pass
        cq = v.CQ(b.context, 8); v.QP(b.pd, v.QPInitAttr(scq=cq, rcq=cq)).close(); cq.close()
threads = [threading.Thread(target=churn), threading.Thread(target=hammer, daemon=True)]
for thread in threads: thread.start()
for i in range(300):
    array = np.zeros(1 << 21, "u1")
    mr = v.MR(b.pd, array.ctypes.data and 1 << 21, ALL, address=array.ctypes.data)
    array[:] = 1
    del array
    mr.close()
stop = True
threads[0].join()
print("fine")
""")
    assert printed == "fine\n"


# ---- a page that never comes -----------------------------------------------------------------------------------------

STUCK = """
import ctypes, fcntl, struct
from unpinned.host import device as D, regions, system
regions.PATIENCE_SECONDS = D.STOP_SECONDS = 0.5
handler = ctypes.CDLL(None).syscall(323 if "x86" in os.uname().machine else 282, os.O_CLOEXEC | os.O_NONBLOCK)
if handler < 0: print("cannot"); sys.exit()
fcntl.ioctl(handler, 0xC018AA3F, bytearray(struct.pack("=QQQ", 0xAA, 0, 0)))
base = system.map_anonymous(1 << 16)
fcntl.ioctl(handler, 0xC020AA00, bytearray(struct.pack("=QQQQ", base, 1 << 16, 1, 0)))  # missing pages: nobody serves them
mr = v.MR(b.pd, 1 << 16, ALL, address=base)
a.remote(v.IBV_WR_RDMA_READ, mr, 0, 0, 8)
while not mr.counters["faults_major"]: time.sleep(0.001)
time.sleep(0.05)
"""


@pytest.mark.parametrize("way", ["close the region", "close the context", "exit"])
def test_a_fault_that_never_ends_holds_up_nobody(way):
    """Behind a userfaultfd whose owner never answers. Closing waits a moment, then leaves it to whoever comes later."""
    last = {
        "close the region": """
mr.close()
a.qp.to_error()
os.close(handler)  # now the fault ends
deadline = time.monotonic() + 20
while mr.region.mr in b.context.device.regions.open and time.monotonic() < deadline:
    time.sleep(0.01)
    v.MR(b.pd, 10).close()  # whatever the control plane does carries on with it
    from unpinned.host import process; process.settle()
assert mr.region.mr not in b.context.device.regions.open
b.context.close()
a.context.close()
""",
        "close the context": "b.context.close(); a.context.close(); assert b.context.closed",
        "exit": "",
    }[way]
    printed = run(f"{STUCK}{last}\nprint('fine')\n")
    if printed.startswith("cannot"):
        pytest.skip("userfaultfd for faults of the kernel needs root (or vm.unprivileged_userfaultfd=1)")
    assert printed == "fine\n"
