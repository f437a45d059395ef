"""Closing, collecting, forking, exiting, interrupting: at any moment, in any order, nothing hangs, crashes or stays."""

import errno
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from support.leaks import holdings, leaked, resident
from support.python import SOURCES, run_python
from support.verbs import ALL, PATIENCE, End, connect, pair
from unpinned import verbs as v

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
TESTS = Path(__file__).resolve().parents[1]

SETUP = """
import os, sys, time, threading, signal, mmap
import numpy as np
from support.verbs import End, connect, pair, ALL
from unpinned import verbs as v
a, b = End.open(1 << 20), End.open(1 << 20)
connect(a, b)
def hammer(count=1 << 60):
    wrs = np.zeros(32, a.qp.send_dtype)
    wrs["opcode"], wrs["flags"], wrs["num_sge"] = v.IBV_WR_RDMA_WRITE, 2, 1
    wrs["remote_addr"], wrs["rkey"] = b.mr.buf, b.mr.rkey
    wrs["sge"]["addr"], wrs["sge"]["length"], wrs["sge"]["lkey"] = a.mr.buf, 16384, a.mr.lkey
    out = np.zeros(64, v.WC_DTYPE)
    done = 0
    while done < count:
        a.qp.post_send_many(wrs)
        got = a.cq.poll_into(out, 10.0)
        assert got and not out["status"][:got].any(), out["status"][:got]
        done += got
"""


def run(code: str) -> str:
    return run_python(SETUP + code, path=TESTS)


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


# ---- fork ----------------------------------------------------------------------------------------------------------


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


# ---- exit and interruption -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "keep = [np.zeros(1 << 22, 'u1')]; mr = v.MR(b.pd, keep[0], ALL)",
        "threading.Thread(target=hammer, daemon=True).start(); time.sleep(0.2)",
        "threading.Thread(target=a.cq.wait, daemon=True).start(); time.sleep(0.1)",
        "print('fine', flush=True); sys.exit(0)",
        "import atexit; atexit.register(lambda: a.context.close())",
        "del a, b; import gc; gc.disable()",
        "sys.loop = [a, b]; sys.loop.append(sys.loop)",
        "class Late:\n    def __del__(self, a=a): a.mr.close(); a.context.close()\nsys.late = Late()",
    ],
)
def test_exit_with_everything_open(end):
    assert run(f"{end}\nprint('fine')\n").startswith("fine")


def test_exit_by_an_exception_and_by_a_signal():
    for last, status in (("raise SystemExit(3)", 3), ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", -signal.SIGTERM)):
        code = SETUP + "threading.Thread(target=hammer, daemon=True).start(); time.sleep(0.1)\n" + last
        environment = {**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{TESTS}"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=100, stderr=subprocess.PIPE)
        assert done.returncode == status, done.stderr[-2000:]


@pytest.mark.parametrize("what", ["a.cq.wait()", "channel.get_cq_event()", "hammer()"])
def test_ctrl_c_ends_a_wait(what):
    code = SETUP + f"""
channel = v.CompChannel(a.context)
try:
    print("waiting", flush=True)
    {what}
except KeyboardInterrupt:
    pass
a.context.close()
b.context.close()
print("fine")
"""
    environment = {**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{TESTS}"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "fine\n" and process.wait(PATIENCE) == 0
    process.stdout.close()


INTERRUPTED = """
def interrupted(work, hits, rounds, after=lambda: None):
    \"\"\"Call *work*, with a signal at a random moment of the time it takes, until it was hit so often: how often it was.

    The time is what it took when it was last left alone: the first calls load code, and machines change their pace.
    \"\"\"
    takes, hit = 1e-3, 0
    for _ in range(rounds):
        if hit == hits:
            break
        try:
            began = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, takes))
            work()
            signal.setitimer(signal.ITIMER_REAL, 0)
            takes = max(time.perf_counter() - began, 2e-5)
        except Rain:
            hit += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        after()
    return hit
"""


def test_ctrl_c_at_any_moment_of_the_control_plane():
    """Signals rain on a loop that opens, registers and closes; what survives still works and closes."""
    printed = run(INTERRUPTED + """
import random
class Rain(Exception): pass
def drop(*_): raise Rain
signal.signal(signal.SIGALRM, drop)
chance = random.Random(5)
def work():
    cq = v.CQ(a.context, 16)
    qp = v.QP(a.pd, v.QPInitAttr(scq=cq, rcq=cq))
    mr = v.MR(a.pd, bytearray(5000))
    mr.close(); qp.close(); cq.close()
hits = interrupted(work, 100, 1000)
assert hits == 100, hits
hammer(100)
array = np.zeros(1 << 22, "u1")
mr = v.MR(a.pd, array, ALL)
del array, mr
a.context.close()
b.context.close()
print("fine")
""")
    assert printed == "fine\n"


def test_ctrl_c_while_a_context_opens_or_closes():
    """What an interruption leaves half done looks at no memory that has gone, and the next context is whole."""
    printed = run(INTERRUPTED + """
import gc, random
class Rain(Exception): pass
def drop(*_): raise Rain
signal.signal(signal.SIGALRM, drop)
chance = random.Random(6)
def work():
    context = v.Context()
    context.close()
hits = interrupted(work, 30, 300, gc.collect)
assert hits == 30, hits
with pair() as (c, d):
    c.remote(v.IBV_WR_RDMA_WRITE, d.mr, 0, 0, 4096)
    c.wait()
hammer(100)
a.context.close()
b.context.close()
print("fine")
""")
    assert printed == "fine\n"


@pytest.mark.parametrize("work", ["v.CompChannel(v.Context())", "owned.empty(1 << 16)"])
def test_what_is_interrupted_while_it_opens_leaves_nothing(work: str) -> None:
    """Ctrl-C before any instruction of the main thread, one after the other; first the lines, then one instruction in a few."""
    printed = run(f"""
import gc, sys
from support.leaks import holdings, leaked
from unpinned.host import owned, process
class Stop(BaseException): pass
def work():
    return {work}
def interrupted(at):
    left, made = at, None
    def trace(frame, what, argument):
        nonlocal left
        frame.f_trace_opcodes = True
        if what == "opcode":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise Stop
        return trace
    sys.settrace(trace)
    try:
        made = work()
    except Stop:
        return True
    finally:  # what is made goes when nobody interrupts any more
        sys.settrace(None)
    return False
work()
gc.collect()
before = holdings()
at = 1
while interrupted(at):
    gc.collect()
    at += 1 if at < 200 else 7
process.settle()
deadline = time.monotonic() + 10
while leaked(before) and time.monotonic() < deadline:
    time.sleep(0.01)
    process.settle()
assert at > 50, at
assert not leaked(before) and not process.immortal, (at, leaked(before))
with pair() as (c, d):
    c.remote(v.IBV_WR_RDMA_WRITE, d.mr, 0, 0, 4096)
    c.wait()
a.context.close()
b.context.close()
print("fine")
""")
    assert printed == "fine\n"


INTERRUPTED_EVERYWHERE = """
import sys
class Stop(BaseException): pass
def interrupted(work, at):
    \"\"\"Call *work* and raise where a handler would: at the *at*th beginning of a function, or end of a call to C. Was there one?\"\"\"
    left = at
    def watch(frame, what, argument):
        nonlocal left
        if what in ("call", "c_return"):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise Stop
    sys.setprofile(watch)
    try:
        work()
    except Stop:
        pass
    finally:
        sys.setprofile(None)
    return left <= 0
"""


def test_an_array_that_goes_while_ctrl_c_falls_leaves_nothing():
    """Wherever its finalizer may be interrupted. What comes next sees to the rest, and frees nothing twice."""
    printed = run_python(INTERRUPTED_EVERYWHERE + """
from support.leaks import holdings, leaked
from unpinned.host import owned
stops = []
sys.unraisablehook = lambda unraisable: stops.append(unraisable.exc_type)
held = [owned.empty(1 << 16)]
interrupted(held.clear, 1 << 20)
before = holdings()
at, others = 1, []
while True:
    held.append(owned.empty(1 << 16))
    others.append(owned.empty(1 << 16))  # its descriptor and addresses may be those that went last
    if not interrupted(held.clear, at):
        break
    at += 1
owned.empty(1)
for i, other in enumerate(others):
    other[:] = i
assert [other[-1] for other in others] == list(range(len(others)))
assert len(owned._blocks) == len(others)
del other, others
assert at > 10 and set(stops) == {Stop}, (at, stops)
assert not leaked(before, mappings_slack=8), (at, leaked(before, mappings_slack=8))
print("fine")
""", path=TESTS)
    assert printed == "fine\n"


def test_what_is_made_undisturbed_is_returned_or_undone():
    printed = run_python(INTERRUPTED_EVERYWHERE + """
from unpinned.host.undisturbed import undisturbed
at = 1
while True:
    made, given, undone = [], [], []
    def make():
        made.append(at)
        return at
    def take():
        given[:] = (undisturbed(make, undone.append),)
    stopped = interrupted(take, at)
    assert given + undone == made, (at, made, given, undone)
    if not stopped:
        break
    at += 1
assert made and at > 8, at
print("fine")
""")
    assert printed == "fine\n"


def test_a_departure_that_is_interrupted_anywhere_is_carried_on():
    """Also as it has just taken its turn, which nobody else would get then."""
    printed = run_python(INTERRUPTED_EVERYWHERE + """
from unpinned.host import process
class Thing: pass
left = []
def leave(wait):
    left.append(wait)
    return True
at = 1
while True:
    thing = Thing()
    departure = process.Departure(thing, leave)
    if not interrupted(lambda: departure.begin(False), at):
        break
    del thing  # if it had not begun, it does now
    process.settle()
    assert departure.done and not process._departures and departure not in process._expected, at
    at += 1
assert at > 5
print("fine")
""")
    assert printed == "fine\n"


@pytest.mark.parametrize("end", ["held.clear()", "for thing in held: thing.close()"])
def test_what_goes_while_ctrl_c_falls_goes_all_the_same(end: str) -> None:
    """Collected or closed, wherever that is interrupted, from its first instruction on: the next call of the control plane sees to the
    rest, of what was not even begun when the collector takes it."""
    printed = run(INTERRUPTED_EVERYWHERE + f"""
import gc
from support.leaks import holdings, leaked
from unpinned.host import process
stops = []
sys.unraisablehook = lambda unraisable: stops.append(unraisable.exc_type)
device, pd = a.context.device, a.pd
gc.collect()
gc.disable()
def one():
    channel = v.CompChannel(a.context)
    cq = v.CQ(a.context, 4, channel=channel)
    return [v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq)), v.MR(pd, 1 << 16, v.IBV_ACCESS_ON_DEMAND), v.CQ(a.context, 4, channel=channel)]
def free():
    memory = open("/proc/self/maps").read().count("memfd:unpinned")
    return len(device.tables.free_qps), len(device.tables.free_cqs), len(device.tables.free_mrs), memory
before, holds, at = free(), holdings(), 1
def work():
    {end}
while True:
    held = one()
    if not interrupted(work, at):
        break
    held.clear()
    process.settle()
    assert free() == before and not process._departures, (at, free(), before, process._departures)
    at += 1
held.clear()
assert at > 60 and set(stops) <= {{Stop}}, (at, stops)
assert free() == before and not leaked(holds), (free(), before, leaked(holds))
with pair() as (c, d):
    c.remote(v.IBV_WR_RDMA_WRITE, d.mr, 0, 0, 4096)
    c.wait()
a.context.close()
b.context.close()
assert not process._departures and all(departure() is not None for departure in process._expected)
print("fine")
""")
    assert printed == "fine\n"


def test_a_region_whose_opening_ctrl_c_interrupts_is_whole_or_gone():
    """The peers know its key already, where it is registered anew: they must not reach it without its mapping."""
    printed = run(INTERRUPTED_EVERYWHERE + """
from unpinned.host import process
places = [mmap.mmap(-1, 1 << 16) for _ in range(2)]
buffers = [np.frombuffer(place, "u1") for place in places]
def reached(address):
    ends = []
    for end in (a, b):
        qp = v.QP(end.pd, v.QPInitAttr(scq=end.cq, rcq=end.cq, sq_sig_all=1))
        ends.append(End(end.context, end.pd, end.cq, qp, end.mr))
    connect(*ends)
    ends[0].remote(v.IBV_WR_RDMA_WRITE, (address, mr.rkey), 0, 0, 4096)
    got, [wc] = a.cq.wait(1, 20)
    for end in ends:
        end.qp.close()
    assert wc.status in (v.IBV_WC_SUCCESS, v.IBV_WC_REM_ACCESS_ERR), str(wc)
    return wc.status == v.IBV_WC_SUCCESS
mr, at, seen = v.MR(b.pd, buffers[0], ALL), 1, set()
while True:
    place = buffers[at % 2].ctypes.data
    if not interrupted(lambda: mr.rereg(v.IBV_REREG_MR_CHANGE_TRANSLATION, addr=place, length=1 << 16), at):
        break
    seen.add((mr.closed, sum(reached(buffer.ctypes.data) for buffer in buffers)))
    if mr.closed:
        mr.close()  # completely
        process.settle()
        assert not any(reached(buffer.ctypes.data) for buffer in buffers)
        mr = v.MR(b.pd, buffers[at % 2], ALL)
    at += 1
assert {(False, 1), (True, 0)} <= seen and at > 60, (at, seen)
assert reached(place)
print("fine")
""")
    assert printed == "fine\n"


def test_two_that_close_each_other_s_things_from_finalizers_both_end():
    """Each is in the middle of one departure when it begins the other's."""
    printed = run_python("""
import threading
from unpinned.host import process
class Thing: pass
things, met = [Thing(), Thing()], threading.Barrier(2)
def leave(i, wait):
    met.wait(60)
    departures[1 - i].begin()
    met.wait(60)
    return True
departures = [process.Departure(thing, lambda wait, i=i: leave(i, wait)) for i, thing in enumerate(things)]
threads = [threading.Thread(target=departure.begin, daemon=True) for departure in departures]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(60)
assert not any(thread.is_alive() for thread in threads)
assert all(departure.done for departure in departures)
print("fine")
""")
    assert printed == "fine\n"


def test_a_context_that_finds_no_descriptor_left_says_so_and_leaves_none():
    """Nor does it go on with less than this kernel can do: a shortage passes."""
    printed = run("""
import resource
from support.leaks import holdings, leaked
from unpinned.host import layout as H
def had(device): return device.notifier.refused, device._scratch[2][H.SCAN_MODE]
plenty = had(a.context.device)
a.context.close()
b.context.close()
before, hard = holdings(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(64)]  # a limit is one of numbers: fill the gaps
limit = taken[-1] + 1
failures = 0
while True:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit + failures, hard))
    try:
        context = v.Context()
        break
    except OSError as error:
        assert "Too many open files" in str(error), error
        failures += 1
assert had(context.device) == plenty
context.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
for fd in taken: os.close(fd)
assert not leaked(before), leaked(before)
print(failures)
""")
    assert int(printed) >= 4


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
