"""The same actions on the requester's own memory: what it sends from, and what the answers land in.

Four queue pairs work from lanes of the struck region (see `support.mmu`): READ and atomics land in it, WRITE and SEND are sent from
it. Everything is posted before each strike, so it is in flight meanwhile; the system calls hold the GIL.
"""

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import mmu
from support.mmu import BLOCK, CELL, GENERATION, OTHER, Filler, Lane, Memory
from support.mmu_actions import ACTIONS, Action, Outcome, events, forked, lost, outcome, restore, targets
from support.mmu_owner import invalidations, link
from support.mmu_peer import MESSAGE, TIMEOUT
from support.verbs import PATIENCE, End, nonzero
from unpinned import verbs as v
from unpinned.host.owned import empty

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
NAMES = (
    "munmap",
    "map_fixed",
    "move",
    "shrink",
    "discard",
    "remove",
    "page_out",
    "protect_read",
    "fork",
    "truncate",
    "collapse",
)
KINDS = ("private", "memfd", "owned", "file")
CELLS = [(action, kind) for action in ACTIONS if action.name in NAMES for kind in KINDS if kind in action.kinds]
OPCODES = {
    "read": v.IBV_WR_RDMA_READ, "write": v.IBV_WR_RDMA_WRITE, "send": v.IBV_WR_SEND, "atomic": v.IBV_WR_ATOMIC_FETCH_AND_ADD,
}  # fmt: skip
FAILING = {Outcome.GONE: ("read", "write", "send", "atomic"), Outcome.CUT: ("read", "write", "send", "atomic"),
           Outcome.FROZEN: ("read", "atomic")}  # fmt: skip
CAP = {"max_send_wr": 256, "max_recv_wr": 256, "max_send_sge": 1, "max_recv_sge": 1}


@dataclass
class Sweep:
    """A lane's queue pair, and its requests over every block: posted again and again."""

    lane: Lane
    end: End
    peer: End
    rows: Any
    receives: Any
    posted: int = 0
    succeeded: int = 0
    status: int = 0
    left: int = 0

    @classmethod
    def of(cls, lane: Lane, a: End, b: End, memory: Memory) -> "Sweep":
        one, two = link(a, b, TIMEOUT, CAP)
        step = 1 if lane.op == "atomic" else MESSAGE
        starts = np.arange(0, lane.blocks, step)
        lengths = np.minimum(starts + step, lane.blocks) - starts
        rows = np.zeros(len(starts), one.qp.send_dtype)
        rows["opcode"], rows["flags"], rows["num_sge"] = OPCODES[lane.op], v.IBV_SEND_SIGNALED, 1
        cell = 8 * CELL if lane.op == "atomic" else 0
        rows["sge"]["addr"][:, 0] = memory.mr.buf + lane.shift + starts * BLOCK + cell
        rows["sge"]["length"][:, 0] = 8 if cell else lengths * BLOCK
        rows["sge"]["lkey"] = memory.mr.lkey
        rows["remote_addr"] = b.mr.buf + lane.shift + starts * BLOCK + cell
        rows["rkey"], rows["compare_add"] = b.mr.rkey, 1
        receives = np.zeros(len(starts), two.qp.recv_dtype)
        receives["num_sge"] = 1
        receives["sge"]["addr"][:, 0] = rows["remote_addr"]
        receives["sge"]["length"], receives["sge"]["lkey"] = MESSAGE * BLOCK, b.mr.lkey
        return cls(lane, one, two, rows, receives)

    def post(self) -> None:
        """Every block once more, unless the lane has ended."""
        if self.status:
            return
        if self.lane.op == "send":
            assert self.peer.qp.post_recv_many(self.receives) == len(self.receives)
        assert self.end.qp.post_send_many(self.rows) == len(self.rows)
        self.left += len(self.rows)
        self.posted += len(self.rows)

    def settle(self) -> None:
        """Wait for all answers; the first error counts, the rest is flushed."""
        while self.left:
            got, wcs = self.end.cq.wait(64, PATIENCE)
            assert got, f"{self.lane.op}: no completion: {nonzero(self.end.context.counters())}"
            self.left -= got
            for wc in wcs:
                self.succeeded += wc.status == 0
                self.status = self.status or wc.status
        while self.peer.cq.poll(64)[0]:
            pass


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[End, End]]:
    a, b = End.open(4096), End.open(empty(mmu.SIZE, "u1"))
    yield a, b
    a.context.close()
    b.context.close()


@pytest.mark.parametrize(("action", "kind"), CELLS, ids=[f"{action.name}-{kind}" for action, kind in CELLS])
def test_cell(action: Action, kind: str, ends: tuple[End, End], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if action.name == "page_out" and kind != "file":
        request.getfixturevalue("swap_space")
    a, b = ends
    remote = mmu.words_at(b.mr.buf, mmu.SIZE)
    mmu.fill(remote)
    remote += 1 << GENERATION
    with ExitStack() as stack:
        memory = stack.enter_context(mmu.memory(kind, a.pd, tmp_path))
        sweeps = [Sweep.of(lane, a, b, memory) for lane in mmu.lanes()[1:]]
        for sweep in sweeps:
            stack.callback(sweep.peer.qp.close)
            stack.callback(sweep.end.qp.close)
        other = Filler()
        stack.callback(other.close)
        for sweep in sweeps:
            sweep.post()
            sweep.settle()
        before = a.context.counters()
        with forked(memory) if action.name == "fork" else nullcontext(lambda: 0) as child:
            held = strike(action, memory, other, sweeps)
        for _ in range(2):
            for sweep in sweeps:
                sweep.post()
            for sweep in sweeps:
                sweep.settle()
        judge(action, memory, other, held, sweeps, remote)
        assert invalidations(memory) == ({} if action.name == "fork" else events(action, kind))
        after = a.context.counters()
        assert after["paging_violations"] == 0 and after["timeouts"] == before["timeouts"], nonzero(after)
        assert child() == 0, "the child's private memory changed"


def strike(action: Action, memory: Memory, other: Filler, sweeps: list[Sweep]) -> dict[int, bytes]:
    """Strike with requests of all lanes in flight; what moved memory held when it was out of reach."""
    held = {}
    for low, high in targets(action):
        for sweep in sweeps:
            sweep.post()
        if action.name != "fork":
            action.strike(memory, other, low, high)
        if low in memory.elsewhere:
            held[low] = bytes(mmu.words_at(memory.elsewhere[low], high - low))
        for sweep in sweeps:
            sweep.settle()
    return held


def judge(
    action: Action, memory: Memory, other: Filler, held: dict[int, bytes], sweeps: list[Sweep], remote: Any
) -> None:
    what = outcome(action, memory.kind)
    for sweep in sweeps:
        expected = v.IBV_WC_LOC_PROT_ERR if sweep.lane.op in FAILING.get(what, ()) else 0
        assert sweep.status == expected, f"{sweep.lane.op}: status {sweep.status}, not {expected}"
    assert memory.private or other.strays() == 0, f"{other.strays()} words of another mapping changed"
    for low, was in held.items():
        assert bytes(mmu.words_at(memory.elsewhere[low], len(was))) == was, "moved memory changed"
    restore(action, memory)
    zeroed = list(targets(action)) if what in (Outcome.ZEROED, Outcome.CUT) else []
    for sweep in sweeps:
        lane = sweep.lane
        zero, there = spans(lane, zeroed), ~spans(lane, lost(action, memory))
        base = mmu.pattern(lane.index, lane.blocks)
        theirs = remote[lane.shift // 8 :][: base.size].reshape(base.shape)
        if lane.op == "atomic":
            cells = theirs[:, CELL] - (1 << GENERATION)
            assert (cells >= sweep.succeeded // lane.blocks).all() and sweep.succeeded <= cells.sum() <= sweep.posted
        elif lane.op != "read":
            judge_sent(memory, theirs, base, zero, sweep)
        judge_local(memory, lane, base, zero, there, sweep)


def spans(lane: Lane, ranges: list[tuple[int, int]]) -> Any:
    """Which words of the lane's blocks lie in *ranges* of the region."""
    found = np.zeros((lane.blocks, mmu.BLOCK_WORDS), bool)
    for low, high in ranges:
        found |= lane.within(low, high)
    return found


def judge_sent(memory: Memory, theirs: Any, base: Any, zero: Any, sweep: Sweep) -> None:
    """What arrived at the peer is what the lane held, never another mapping's byte."""
    assert memory.private or not (theirs == OTHER).any(), f"{sweep.lane.op}: sent another mapping"
    right = (theirs == base) | (zero & (theirs == 0)) | ((theirs == OTHER) & memory.private & (sweep.status != 0))
    assert right.all(), f"{sweep.lane.op}: {(~right).sum()} words, the first {theirs[~right][0]:#x}"


def judge_local(memory: Memory, lane: Lane, base: Any, zero: Any, there: Any, sweep: Sweep) -> None:
    """What is left of the lane is what was in it, or has landed."""
    words = np.zeros(base.shape, np.int64)
    flat = words.reshape(-1)
    mask = there.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.view(np.int8), [0]))))
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist()):
        flat[first:last] = memory.read(lane.shift + 8 * first, 8 * (last - first))
    landed = base + (1 << GENERATION) if lane.op == "read" else base
    right = words == landed
    if lane.op != "read" or sweep.status:  # else all of it has landed since
        right |= (words == base) | (zero & (words == 0))
    if lane.op == "atomic":
        right[:, CELL] = (words[:, CELL] & ~(1 << GENERATION)) <= sweep.posted
    assert right[there].all(), f"{lane.op}: {(~right & there).sum()} words, the first {words[~right & there][0]:#x}"
