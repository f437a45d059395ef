"""A fork: the child has nothing, the parent loses nothing."""

import errno
import gc
import os

import numpy as np
import pytest

from support.python import run_python
from support.scripts import TESTS, run
from support.verbs import ALL, End, pair
from unpinned import verbs as v

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


def test_a_forked_child_has_nothing_and_the_parent_loses_nothing(no_leaks):
    with pair(channel=True) as (a, b):
        a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 4096)
        a.wait()
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = in_child(a, b)
            finally:
                os.write(ready[1], bytes([status]))
                os.read(go[0], 1)  # lives on while the parent closes and unmaps
                os._exit(status)
        try:
            assert os.read(ready[0], 1) == b"\0"
            array = np.zeros(1 << 22, "u1")
            with v.MR(b.pd, array, ALL) as mr:
                a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 0, 4096)
                a.wait()
                del array
            array = np.zeros(1 << 22, "u1")
            v.MR(b.pd, array, ALL)
            del array  # unmapped here; the child must not keep the event unread
            a.remote(v.IBV_WR_RDMA_READ, b.mr, 0, 0, 4096)
            a.wait()
        finally:
            os.write(go[1], b"x")
            assert os.waitpid(child, 0)[1] == 0
            for fd in (*ready, *go):
                os.close(fd)


def in_child(a: End, b: End) -> int:
    names = {name for name in os.listdir("/proc/self/fd") if "userfaultfd" in (os.readlink(f"/proc/self/fd/{name}") if
             os.path.lexists(f"/proc/self/fd/{name}") else "")}  # fmt: skip
    if names or len(os.listdir("/proc/self/task")) != 1:
        return 2
    for use in (lambda: a.qp.post_send(v.SendWR()), lambda: a.cq.poll(), lambda: v.MR(a.pd, 10), lambda: a.context.query_port()):
        try:
            use()
            return 3
        except OSError as error:
            if error.errno != errno.ENODEV:
                return 4
    a.context.close()
    del b
    gc.collect()
    with pair() as (c, d):  # devices of its own
        c.remote(v.IBV_WR_RDMA_WRITE, d.mr, 0, 0, 4096)
        c.wait()
    return 0


@pytest.mark.parametrize("after_s", [0, 0.005, 0.02])
def test_a_fork_while_the_first_device_s_threads_begin(after_s):
    """They load their kernels under the compiler's lock; a child that opens a device of its own needs it."""
    printed = run_python(f"""
import os, signal, time
from support.verbs import pair
from unpinned import verbs as v
context = v.Context()
began = time.monotonic()
while time.monotonic() - began < {after_s}: pass
child = os.fork()
if child == 0:
    signal.alarm(60)
    with pair() as (a, b):
        a.remote(v.IBV_WR_RDMA_WRITE, b.mr, 0, 0, 4096)
        a.wait()
    os._exit(0)
print(os.waitpid(child, 0)[1])
""", path=TESTS)  # fmt: skip
    assert printed == "0\n"


def test_fork_under_load():
    printed = run("""
thread = threading.Thread(target=hammer, daemon=True)
thread.start()
children = []
for i in range(20):
    child = os.fork()
    if child == 0:
        time.sleep(0.2)
        os._exit(0)
    children.append(child)
    array = np.zeros(1 << 21, "u1")
    with v.MR(b.pd, array, ALL): pass
    del array
for child in children:
    assert os.waitpid(child, 0)[1] == 0
assert thread.is_alive()
print("fine")
""")
    assert printed == "fine\n"


COLLECTED_BY_A_FORK_HANDLER = """
import os, signal, threading
held = []
def collect():
    signal.alarm(20)
    held.clear()
os.register_at_fork(after_in_child=collect)  # before ours, so it runs before ours
from support.verbs import ALL, End
from unpinned import verbs as v
from unpinned.host import process
end = End.open()
cq = v.CQ(end.context, 8)
held += [v.MR(end.pd, 5000, ALL), v.QP(end.pd, v.QPInitAttr(scq=cq, rcq=cq)), cq, v.Context()]
del cq
taken, over = threading.Event(), threading.Event()
def hold():
    with process.control:
        taken.set()
        over.wait()
threading.Thread(target=hold).start()
taken.wait()
if os.fork() == 0:
    assert end.mr.closed
    with v.Context() as context, v.PD(context) as pd, v.MR(pd, 5000):
        os._exit(0)
status = os.wait()[1]
over.set()
assert status == 0, status
held.clear()
end.context.close()
assert not process.devices
print("fine")
"""


def test_what_a_forked_child_collects_before_it_forgets():
    """Finalizers in somebody's fork handler, or by the collector in one: another thread of the parent had the locks."""
    assert run_python(COLLECTED_BY_A_FORK_HANDLER, path=TESTS) == "fine\n"


def test_a_multiprocessing_pool_beside_an_open_device():
    printed = run("""
import multiprocessing
def double(x): return 2 * x
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(sum(pool.map(double, range(100))))
a.remote(v.IBV_WR_RDMA_READ, b.mr, 0, 0, 4096)
a.wait()
""")
    assert printed == "9900\n"
