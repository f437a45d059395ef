"""Exits, exceptions and Ctrl-C, wherever they fall: nothing hangs, crashes or stays."""

import os
import signal
import subprocess
import sys
import time

import pytest

from support.python import SOURCES, run_python
from support.scripts import INTERRUPTED_EVERYWHERE, SETUP, TESTS, run
from support.verbs import PATIENCE

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


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
another_pair_works()
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
another_pair_works()
a.context.close()
b.context.close()
print("fine")
""")
    assert printed == "fine\n"


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
another_pair_works()
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
