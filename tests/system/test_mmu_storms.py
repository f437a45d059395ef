"""Memory that goes away or changes again and again, page by page, beside processes that leave us half a processor at best."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext

import pytest

from support import Missing, mmu
from support.mmu import Filler
from support.mmu_actions import ACTIONS, REACHED, Action, Outcome, events, forked, lost, outcome, restore, targets
from support.mmu_owner import Owner, fire, invalidations, judge_lanes, judge_others, judge_words
from support.python import run_python
from support.verbs import ALL
from unpinned import verbs as v

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
PAGE, SIZE = mmu.PAGE, mmu.SIZE
GIL_ROUNDS = int(os.environ.get("UNPINNED_GIL_ROUNDS", "2000"))


@pytest.fixture
def owner() -> Iterator[Owner]:
    opened = Owner.open()
    yield opened
    opened.context.close()


@pytest.fixture
def busy_neighbour() -> Iterator[None]:
    """Processes that have nothing to do with us and never stop, one for each processor."""
    spinners = [subprocess.Popen([sys.executable, "-SEc", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    yield
    for spinner in spinners:
        spinner.kill()
        spinner.wait()


def test_munmap_by_a_thread_that_holds_the_gil(owner, peer, tmp_path):
    """The notifier needs no GIL, or the first of thousands would never return."""
    base = mmu.map_anew(GIL_ROUNDS * PAGE, 0x22)
    mmu.words_at(base, GIL_ROUNDS * PAGE)[::512] = 1
    with mmu.memory("owned", owner.pd, tmp_path) as memory, v.MR(owner.pd, GIL_ROUNDS * PAGE, ALL, address=base) as mr:
        with fire(owner, peer, memory, 1) as found:
            seen = owner.context.counters()["rx_packets"]
            for page in reversed(range(GIL_ROUNDS)):
                mmu.unmap(base + page * PAGE, PAGE)
            assert owner.context.counters()["rx_packets"] > seen
        assert mr.counters["invalidations_unmap"] == mr.counters["revoked"] == GIL_ROUNDS
        assert found.ours["halts"] > 0 and invalidations(memory) == {}
        judge_lanes(memory, found, mmu.LANES)
        judge_words(memory, found, [], [])


STORMS = {
    "munmap": "private", "move": "private", "discard": "private", "remove": "memfd", "page_out": "file",
    "protect_read": "private", "fork": "private", "truncate": "memfd", "map_fixed": "private", "shrink": "private",
    "grow": "private", "grow_by_moving": "private", "merge": "private", "collapse": "private", "punch": "memfd",
}  # fmt: skip
REWRITES = 4
COLLAPSES = 32


@pytest.mark.parametrize("name", STORMS)
def test_a_storm_of_events_beside_a_busy_neighbour(name, owner, peer, tmp_path, busy_neighbour):
    """Page by page what the matrix does to a range at once, by a process that gets half a processor at best."""
    kind = STORMS[name]
    action = next(action for action in ACTIONS if action.name == name)
    what = outcome(action, kind)
    zeroed = list(targets(action)) if what in (Outcome.ZEROED, Outcome.CUT) else []
    newest = REWRITES if action.rewrites else 0
    with ExitStack() as stack:
        memory = stack.enter_context(mmu.memory(kind, owner.pd, tmp_path))
        other = Filler()
        stack.callback(other.close)
        try:
            with fire(owner, peer, memory, 1, zeroed, newest) as found:
                strikes = storm(action, memory, other, owner)
        except Missing as missing:
            pytest.skip(str(missing))
        judge_lanes(memory, found, REACHED[what])
        judge_others(memory, other, {})
        restore(action, memory)
        judge_words(memory, found, lost(action, memory), zeroed, newest)
        assert invalidations(memory) == dict.fromkeys(events(action, kind), strikes)


def storm(action: Action, memory: mmu.Memory, other: Filler, owner: Owner) -> int:
    """Strike page after page, the last first (a truncation goes that way), with packets flowing; how many strikes that were."""
    if action.rewrites:
        for _ in range(REWRITES):
            owner.packets_flow()
            with forked(memory) if action.name == "fork" else nullcontext(lambda: 0) as child:
                action.strike(memory, other, 0, SIZE)
                owner.packets_flow()
            assert child() == 0, "the child's private memory changed"
        return REWRITES
    if action.name == "collapse":
        return collapse_and_split(action, memory, other, owner)
    strikes = 0
    for low, high in targets(action):
        owner.packets_flow()
        for page in reversed(range(low, high, PAGE)):
            action.strike(memory, other, page, page + PAGE)
            strikes += 1
    return strikes


def collapse_and_split(action: Action, memory: mmu.Memory, other: Filler, owner: Owner) -> int:
    """Huge pages come and go: rights that one page alone has, for a moment, take the huge page's mapping apart."""
    collapsed = 0
    for page in range(0, SIZE, SIZE // COLLAPSES):
        owner.packets_flow()
        action.strike(memory, other, 0, SIZE)
        collapsed += mmu.huge_bytes(memory.base) > 0
        for rights in (mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, mmap.PROT_READ | mmap.PROT_WRITE):
            mmu.protect(memory.base + page, PAGE, rights)
    assert collapsed, f"none of {COLLAPSES} collapses made a huge page"
    return COLLAPSES


AT_ONCE = """
import ctypes, mmap, os, signal, sys
from unpinned import verbs as v
with v.Context():
    pass  # the kernels are loaded
python = ctypes.PyDLL(None)  # its calls hold the GIL
python.mmap.restype = ctypes.c_void_p
python.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
base = python.mmap(None, 1 << 20, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
signal.alarm(20)
sys.setswitchinterval(1000)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # and who is started by it: none of them runs before it sleeps
with v.Context() as context, v.PD(context) as pd, v.MR(pd, 1 << 20, v.IBV_ACCESS_ON_DEMAND, address=base) as mr:
    assert mr.unnotified == ""
    assert python.munmap(base, 1 << 20) == 0
    print(context.counters()["halts"])
"""


def test_memory_that_is_registered_and_unmapped_at_once(root):
    """The notifier's thread needs the GIL to begin. An munmap that holds it, before, would wait for ever."""
    assert int(run_python(AT_ONCE)) >= 1
