"""Each thing that a process does to its memory, against each operation in flight, on each kind of memory.

A peer process keeps READ, WRITE, SEND and atomics going over four lanes of a region, and a bystander over the rest of it (see
`support.mmu`), while this process strikes the middle of every lane, by system calls that hold the GIL. Afterwards the peer visits
every block once more, and what is in memory is compared with what it was told.
"""

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from support import mmu
from support.mmu import Filler, Memory
from support.mmu_actions import (
    CELLS,
    REACHED,
    Action,
    Outcome,
    events,
    forked,
    lost,
    outcome,
    restore,
    targets,
    wait_for,
)
from support.mmu_owner import Fire, Owner, fire, invalidations, judge_lanes, judge_others, judge_words
from support.mmu_peer import Peer
from support.verbs import nonzero

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


@pytest.fixture(scope="module")
def owner() -> Iterator[Owner]:
    opened = Owner.open()
    yield opened
    opened.context.close()


@pytest.mark.parametrize(("action", "kind"), CELLS, ids=[f"{action.name}-{kind}" for action, kind in CELLS])
def test_cell(
    action: Action, kind: str, owner: Owner, peer: Peer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if action.name == "page_out" and kind not in ("file", "path"):
        request.getfixturevalue("swap_space")
    what = outcome(action, kind)
    zeroed = list(targets(action)) if what in (Outcome.ZEROED, Outcome.CUT) else []
    newest = int(action.rewrites)
    with ExitStack() as stack:
        memory = stack.enter_context(mmu.memory(kind, owner.pd, tmp_path))
        other = Filler()
        stack.callback(other.close)
        with fire(owner, peer, memory, request.config.option.seed, zeroed, newest) as found:
            with forked(memory) if action.name == "fork" else nullcontext(lambda: 0) as child:
                moved = strike(action, memory, other, owner)
                owner.packets_flow()
        judge_lanes(memory, found, REACHED[what])
        judge_others(memory, other, moved)
        restore(action, memory)
        judge_words(memory, found, lost(action, memory), zeroed, newest)
        judge_counters(action, memory, found)
        assert child() == 0, "the child's private memory changed"


def strike(action: Action, memory: Memory, other: Filler, owner: Owner) -> dict[int, bytes]:
    """Do it, each time with packets flowing; what moved memory held when it was out of reach."""
    held = {}
    for low, high in targets(action):
        owner.packets_flow()
        action.strike(memory, other, low, high)
        if low in memory.elsewhere and outcome(action, memory.kind) is Outcome.GONE:
            held[low] = bytes(mmu.words_at(memory.elsewhere[low], high - low))
    if action.name == "page_out":
        seen = came_back(memory, owner)
        wait_for(lambda: came_back(memory, owner) > seen, lambda: f"a page came back: {nonzero(memory.mr.counters)}")
    return held


def came_back(memory: Memory, owner: Owner) -> int:
    """Faults that a worker served, and pages that were mapped no more but in the swap cache still."""
    return memory.mr.counters["faults_major"] + owner.context.counters()["nearby_pages"]


def judge_counters(action: Action, memory: Memory, found: Fire) -> None:
    """One invalidation for each event, one refusal for each lane that was refused, and a revoked extent where memory went."""
    counters, what = memory.mr.counters, outcome(action, memory.kind)
    assert invalidations(memory) == events(action, memory.kind), nonzero(counters)
    refused = found.ours["nak_access"] + found.ours["nak_operation"]
    assert refused == len(mmu.LANES) - len(REACHED[what]), nonzero(found.ours)
    revokes = what is Outcome.GONE and bool(invalidations(memory))
    assert bool(counters["revoked"]) == revokes, nonzero(counters)
    assert counters["faults_read"] and counters["faults_write"] and counters["pages_in"]
