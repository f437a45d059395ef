"""The end that strikes its own memory: a device, a queue pair for each lane, and the judgement of what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unpinned import verbs as v

from . import mmu
from .mmu import Filler, Lane, Memory
from .mmu_actions import wait_for
from .mmu_peer import SEND_BLOCKS, TIMEOUT, Peer, record, send_place
from .verbs import REMOTE, End, nonzero

RECEIVES = 1024
SMALL = {"max_send_wr": 16, "max_recv_wr": 16}
Ranges = Sequence[tuple[int, int]]
REFUSED = {"bystander": (), "read": (10,), "write": (10,), "atomic": (10,), "send": (10, 11)}
"""Statuses that say "out of reach": Remote Access Error; for a SEND it is the receiver's own, a Remote Operation Error."""


def link(a: End, b: End, timeout: int = 17, cap: dict[str, int] = SMALL) -> tuple[End, End]:
    """One more queue pair at each end, connected, with a completion queue of its own."""
    made = []
    for end in (a, b):
        cq = v.CQ(end.context, 2048)
        qp = v.QP(end.pd, v.QPInitAttr(scq=cq, rcq=cq, cap=v.QPCap(**cap)))
        made.append(End(end.context, end.pd, cq, qp, end.mr))
    one, two = made
    one.qp.connect(two.qp.info(timeout), REMOTE, timeout=timeout)
    two.qp.connect(one.qp.info(timeout), REMOTE, timeout=timeout)
    return one, two


@dataclass
class Owner:
    """A device with the queue pairs of one cell."""

    context: v.Context
    pd: v.PD
    cq: v.CQ
    qps: list[v.QP] = field(default_factory=list)

    @classmethod
    def open(cls) -> Owner:
        context = v.Context()
        return cls(context, v.PD(context), v.CQ(context, 4 * RECEIVES))

    def make(self) -> list[Any]:
        for lane in mmu.lanes():
            cap = v.QPCap(max_send_wr=1, max_recv_wr=RECEIVES if lane.op == "send" else 1)
            self.qps.append(v.QP(self.pd, v.QPInitAttr(scq=self.cq, rcq=self.cq, cap=cap)))
        return [qp.info(TIMEOUT).as_dict() for qp in self.qps]

    def connect(self, infos: list[Any], memory: Memory) -> None:
        for lane, qp, info in zip(mmu.lanes(), self.qps, infos):
            qp.connect(v.PeerInfo(**info), REMOTE, timeout=TIMEOUT)
            if lane.op == "send":
                self._receive(lane, qp, memory)

    def _receive(self, lane: Lane, qp: v.QP, memory: Memory) -> None:
        rows = np.zeros(RECEIVES, qp.recv_dtype)
        rows["num_sge"] = 1
        rows["sge"]["length"], rows["sge"]["lkey"] = SEND_BLOCKS * mmu.BLOCK, memory.mr.lkey
        places = [send_place(i, lane.blocks) for i in range(RECEIVES)]
        rows["sge"]["addr"] = memory.mr.buf + lane.shift + mmu.BLOCK * np.array(places)[:, None]
        assert qp.post_recv_many(rows) == RECEIVES

    def packets_flow(self) -> None:
        """Wait until more packets have come."""
        seen = self.context.counters()["rx_packets"]
        wait_for(lambda: self.context.counters()["rx_packets"] > seen + 8, lambda: f"packets: {self.state()}")

    def received(self) -> list[v.WC]:
        """The completions of all receives; each must have one once its queue pair has ended."""
        wcs: list[v.WC] = []

        def all_there() -> bool:
            wcs.extend(self.cq.poll(256)[1])
            return len(wcs) >= RECEIVES

        wait_for(all_there, lambda: f"{len(wcs)} of {RECEIVES} receives completed: {self.state()}")
        return wcs

    def state(self) -> str:
        return f"{[record(qp) for qp in self.qps]} {nonzero(self.context.counters())}"

    def reset(self) -> None:
        while self.qps:
            self.qps.pop().close()
        while self.cq.poll(256)[0]:
            pass


@dataclass
class Fire:
    """What came of it: the peer's reports, and how both devices' counters moved."""

    reports: list[dict[str, Any]] = field(default_factory=list)
    ours: dict[str, int] = field(default_factory=dict)
    theirs: dict[str, int] = field(default_factory=dict)


@contextmanager
def fire(owner: Owner, peer: Peer, memory: Memory, seed: int, zeroable: Ranges = (), newest: int = 0) -> Iterator[Fire]:
    """Operations over every lane as long as this lasts; then once more over every block, and `Fire` is filled.

    *zeroable*: bytes of the region that may turn to zeros. *newest*: the generation to which the owner brings the lane of the
    READs meanwhile.
    """
    found = Fire()
    before = owner.context.counters()
    try:
        theirs = peer.ask("make", seed)
        peer.ask("start", owner.make(), memory.mr.buf, memory.mr.rkey, list(zeroable), newest)
        owner.connect(theirs, memory)
        assert peer.ask("hammer") == "busy"
        yield found
        try:
            found.reports = peer.ask("finish", newest)
        except AssertionError as error:
            raise AssertionError(f"{error}; {owner.state()}") from None
        found.theirs = peer.ask("end")
        found.ours = {name: count - before.get(name, 0) for name, count in owner.context.counters().items()}
        for counters in (found.ours, found.theirs):
            assert counters["paging_violations"] == counters["timeouts"] == 0, nonzero(counters)
        if found.reports[3]["status"]:
            filled = sum(wc.status == 0 for wc in owner.received())
            assert found.reports[3]["done"] <= filled <= found.reports[3]["sent"]
    finally:
        owner.reset()


# ---- judgement -----------------------------------------------------------------------------------------------------


def judge_lanes(memory: Memory, found: Fire, reached: tuple[str, ...]) -> None:
    """The lanes in *reached* never failed, the others were refused; none saw a word that was not its own, nor, over memory
    that is not at the application's own address, one of another mapping."""
    for lane, report in zip(mmu.lanes(), found.reports):
        status = report["status"]
        assert report["done"] > 0, lane.op
        assert status == 0 if lane.op in reached else status in REFUSED[lane.op], f"{lane.op}: status {status}"
        assert memory.private or report["others"] == 0, f"{lane.op}: saw another mapping"
        assert report["bad"] == [], f"{lane.op}: {report['bad']}"


def judge_others(memory: Memory, other: Filler, moved: dict[int, bytes]) -> None:
    """What lies where the memory was has not changed, nor what was moved away (*moved*: as it was then)."""
    strays = other.strays()
    assert memory.private or strays == 0, f"{strays} words of another mapping changed"
    for low, was in moved.items():
        assert bytes(mmu.words_at(memory.elsewhere[low], len(was))) == was, "moved memory changed"


def judge_words(memory: Memory, found: Fire, lost: Ranges, zeroed: Ranges, newest: int = 0) -> None:
    """Every word of the lanes is as the peer wrote it last, except in bytes *lost*; those *zeroed* may be 0."""
    for lane, report in zip(mmu.lanes(), found.reports):
        there, zero = np.ones((lane.blocks, mmu.BLOCK_WORDS), bool), np.zeros((lane.blocks, mmu.BLOCK_WORDS), bool)
        for span in lost:
            there &= ~lane.within(*span)
        for span in zeroed:
            zero |= lane.within(*span)
        words = np.zeros(there.size, np.int64)
        for first, last in _runs(there.reshape(-1)):
            words[first:last] = memory.read(lane.shift + 8 * first, 8 * (last - first))
        words = words.reshape(there.shape)
        wrong = there & ~_right(lane, words, report, newest) & ~(zero & (words == 0))
        if wrong.any():
            block, word = np.argwhere(wrong)[0]
            expected = f"block {block} word {word}, acked {report['acked'][block]}, posted {report['posted'][block]}"
            raise AssertionError(f"{lane.op}: {wrong.sum()} words, the first {words[block, word]:#x}: {expected}")


def _right(lane: Lane, words: Any, report: dict[str, Any], newest: int) -> Any:
    acked, posted = np.array(report["acked"]), np.array(report["posted"])
    base = mmu.pattern(lane.index, lane.blocks)
    if lane.op == "atomic":
        right = words == base
        cells = words[:, mmu.CELL]
        right[:, mmu.CELL] = (cells >= acked) & (cells <= np.maximum(acked, posted))
        return right
    generation = words >> mmu.GENERATION & mmu.GENERATIONS
    right = words - (generation << mmu.GENERATION) == base
    if lane.op == "read":
        return right & (generation == newest)
    return right & (generation >= acked[:, None]) & (generation <= posted[:, None])


def _runs(mask: Any) -> Iterator[tuple[int, int]]:
    """Where *mask* is true: [first, last) each."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.view(np.int8), [0]))))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist())


def invalidations(memory: Memory) -> dict[str, int]:
    """How many of the region, by cause."""
    counted = memory.mr.counters.items()
    return {name.removeprefix("invalidations_"): n for name, n in counted if name.startswith("invalidations_")}
