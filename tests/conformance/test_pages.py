"""Pages that are not there, at either end: requests park and resume in order, bounded, and nobody else notices."""

import numpy as np
import pytest

from support.ends import MS, PAGE, End
from support.wire_world import World
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.paging import layout as P
from unpinned.paging.regions import revoke
from unpinned.wire import headers as W

FAULTS = (60_000, 5 * MS, 500 * MS)
KINDS = ("write", "read", "send", "add")
SIZE = 5 * PAGE


class Scene:
    """A queue pair with ordinary timeouts (code 14: 67 ms), parks of a quarter of that, and memory at both ends."""

    def __init__(self, here: bool, there: bool, fault_ns: int, **geometry: int) -> None:
        self.world = World(mtu=1024, geometry=geometry)
        self.qa, self.qz = self.connect()
        self.mine, self.theirs = self.world.a.buffer(SIZE, pinned=here), self.world.z.buffer(SIZE, pinned=there)
        self.mine.array[:] = np.random.default_rng(1).integers(0, 256, SIZE, dtype=np.uint8)
        self.theirs.array[:] = np.random.default_rng(2).integers(0, 256, SIZE, dtype=np.uint8)
        self.before = self.mine.array.copy(), self.theirs.array.copy()
        for end in self.world.ends:
            end.fault_after = fault_ns

    def connect(self) -> tuple[int, int]:
        return self.world.connect(timeout=14, park_ns=setup.timeout_ns(14) // 4)

    def post(self, kind: str, wr_id: int = 1, length: int = SIZE) -> None:
        world, qa = self.world, self.qa
        if kind == "write":
            world.write(qa, self.mine, self.theirs, length, wr_id=wr_id)
        elif kind == "read":
            world.read(qa, self.mine, self.theirs, length, wr_id=wr_id)
        elif kind == "send":
            world.recv(self.qz, [self.theirs.sge(0, PAGE + 5), self.theirs.sge(PAGE + 5)], wr_id=100 + wr_id)
            world.send(qa, [self.mine.sge(0, length)], wr_id=wr_id)
        else:
            world.atomic(qa, self.mine, self.theirs, add=5, wr_id=wr_id, at=PAGE, to=2 * PAGE)

    def check(self, kind: str) -> None:
        mine, theirs = self.before
        if kind in ("write", "send"):
            theirs = mine
        elif kind == "read":
            mine = theirs
        else:
            mine[PAGE : PAGE + 8] = theirs[2 * PAGE : 2 * PAGE + 8]
            theirs[2 * PAGE : 2 * PAGE + 8].view(np.int64)[0] += 5
        assert (self.mine.array == mine).all() and (self.theirs.array == theirs).all()

    def no_timeouts(self) -> None:
        assert [end.counter("timeouts") for end in self.world.ends] == [0, 0]
        self.world.quiet()


@pytest.mark.parametrize("fault_ns", FAULTS)
@pytest.mark.parametrize("where", ["responder", "requester", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_ends_in_the_right_bytes_and_no_timeout(kind: str, where: str, fault_ns: int) -> None:
    """However long a page takes: no retransmission timer expires whose oldest request was parked or waiting for its RNR."""
    scene = Scene(here=where == "responder", there=where == "requester", fault_ns=fault_ns)
    scene.post(kind)
    scene.world.run()
    assert scene.world.a.statuses(scene.qa) == [(1, 0)]
    scene.check(kind)
    scene.no_timeouts()
    retries = scene.world.z.counter("rnr_nak_fault")
    assert retries == 0 if fault_ns < 16 * MS or where == "requester" else 1 <= retries <= 12


@pytest.mark.parametrize("fault_ns", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_pages_that_leave_while_the_message_is_under_way(kind: str, fault_ns: int) -> None:
    """Gather, scatter and landing meet a page that was there a moment ago."""
    scene = Scene(here=False, there=False, fault_ns=0)
    world, left = scene.world, 6

    def take_pages() -> None:
        nonlocal left
        if left and world.now > MS + 2000:
            left -= 1
            world.a.discard(scene.mine.pages(PAGE * (left % 5), 1), world.now)
            world.z.discard(scene.theirs.pages(PAGE * ((left + 2) % 5), 1), world.now)
            world.a.fault_after = world.z.fault_after = fault_ns

    world.a.before_copies = world.z.before_copies = take_pages
    scene.post(kind)
    world.run()
    assert world.a.statuses(scene.qa) == [(1, 0)]
    scene.check(kind)
    scene.no_timeouts()


@pytest.mark.parametrize("fault_ns", FAULTS)
def test_other_queue_pairs_notice_nothing(fault_ns: int) -> None:
    scene = Scene(here=False, there=False, fault_ns=fault_ns)
    world = scene.world
    other, _ = scene.connect()
    mine, theirs = world.a.buffer(SIZE), world.z.buffer(SIZE)
    for kind in KINDS:
        scene.post(kind)
    world.step()
    for i in range(20):
        began = world.now
        world.write(other, mine, theirs, wr_id=2 * i)
        world.read(other, mine, theirs, wr_id=2 * i + 1)
        world.run(until=lambda i=i: world.a.h[other + L.QP_SQ_HEAD] == 2 * i + 2)
        assert world.now - began < 50_000
    assert world.a.statuses(other) == [(i, 0) for i in range(40)]
    assert world.a.counter("retransmitted") == 0
    world.run()
    scene.no_timeouts()


def test_later_requests_keep_their_order_behind_a_parked_one() -> None:
    scene = Scene(here=True, there=False, fault_ns=5 * MS)
    world = scene.world
    there = world.z.buffer(64)
    scene.post("write", wr_id=0, length=8)
    for i in range(1, 9):
        world.atomic(scene.qa, scene.mine, there, add=1, wr_id=i, at=8 * i)
    world.run(until=lambda: world.now > 4 * MS)
    assert not there.array.any(), "nothing overtakes"
    world.run()
    assert world.a.statuses(scene.qa) == [(i, 0) for i in range(9)]
    assert list(scene.mine.array[8:72].view(np.int64)) == list(range(8))
    scene.no_timeouts()


def test_past_the_park_the_peer_waits_for_the_fault_it_caused() -> None:
    scene = Scene(here=True, there=False, fault_ns=100 * MS)
    scene.post("write", length=8)
    world = scene.world
    world.run()
    assert P.view(world.z.p, "totals")["faults_write"][0] == 1, "the retry meets the same fault"
    assert world.a.counter("rnr_received") == world.z.counter("rnr_nak_fault") > 0
    assert world.a.statuses(scene.qa) == [(1, 0)]
    naks = [data[12] for data in world.sent(world.z) if data[0] == 0x11 and data[12] & 0xE0 == 0x20]
    waits = [int(W.rnr_ns(nak)) for nak in naks]
    assert waits == sorted(waits) and waits[0] >= setup.timeout_ns(14) // 4
    scene.no_timeouts()


def test_a_finite_rnr_retry_survives_a_long_fault() -> None:
    """The timer follows the fault's age, so half a second is a handful of retries."""
    scene = Scene(here=True, there=False, fault_ns=500 * MS)
    world = scene.world
    qa, _ = world.connect(timeout=14, park_ns=setup.timeout_ns(14) // 4, rnr_retry=6)
    world.write(qa, scene.mine, scene.theirs)
    world.run()
    assert world.a.statuses(qa) == [(1, 0)]
    scene.no_timeouts()


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_that_overflows_is_sent_again_without_a_timeout(kind: str) -> None:
    scene = Scene(here=True, there=False, fault_ns=3 * MS, waiting_per_qp=64)
    scene.world.z.h[L.H_POOL_LIMIT] = 2
    scene.post(kind)
    scene.world.run()
    assert scene.world.a.statuses(scene.qa) == [(1, 0)]
    scene.check(kind)
    scene.no_timeouts()


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_without_any_place_or_fault_slot_still_serves(kind: str) -> None:
    """Eight queue pairs, one fault slot, two places: everybody's turn comes."""
    world = World(mtu=1024, geometry={"waiting": 2, "waiting_per_qp": 2}, fault_slots=1)
    world.a.fault_after = world.z.fault_after = 300_000
    scenes = []
    for _ in range(8):
        scene = Scene.__new__(Scene)
        scene.world = world
        scene.qa, scene.qz = scene.connect()
        scene.mine, scene.theirs = world.a.buffer(SIZE, pinned=False), world.z.buffer(SIZE, pinned=False)
        scene.before = scene.mine.array.copy(), scene.theirs.array.copy()
        scene.post(kind)
        scenes.append(scene)
    world.run()
    assert [world.a.statuses(scene.qa) for scene in scenes] == [[(1, 0)]] * 8
    world.quiet()


# ---- pages that cannot be had ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault_ns", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_range_that_is_gone_at_the_responder(kind: str, fault_ns: int) -> None:
    scene = Scene(here=True, there=False, fault_ns=fault_ns)
    scene.world.z.gone |= set(scene.theirs.pages(2 * PAGE))
    scene.post(kind)
    scene.post(kind, wr_id=2)
    scene.world.run()
    status = L.WC_REM_OP_ERR if kind == "send" else L.WC_REM_ACCESS_ERR
    assert scene.world.a.statuses(scene.qa) == [(1, status), (2, L.WC_WR_FLUSH_ERR)]
    if kind == "send":
        assert scene.world.z.statuses(scene.qz) == [(101, L.WC_LOC_PROT_ERR), (102, L.WC_WR_FLUSH_ERR)]
    scene.no_timeouts()


@pytest.mark.parametrize("fault_ns", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_range_that_is_gone_at_the_requester(kind: str, fault_ns: int) -> None:
    scene = Scene(here=False, there=True, fault_ns=fault_ns)
    scene.world.a.gone |= set(scene.mine.pages(PAGE))
    scene.post(kind)
    scene.post(kind, wr_id=2)
    scene.world.run()
    assert scene.world.a.statuses(scene.qa) == [(1, L.WC_LOC_PROT_ERR), (2, L.WC_WR_FLUSH_ERR)]
    assert (scene.theirs.array[2 * PAGE :] == scene.before[1][2 * PAGE :]).all()
    scene.world.a.quiet()


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("kind", ["write", "read", "add"])
@pytest.mark.parametrize("at", [0, 2 * PAGE, 4 * PAGE])
def test_a_revoked_extent_is_a_remote_access_error(kind: str, at: int, pinned: bool) -> None:
    scene = Scene(here=True, there=pinned, fault_ns=60_000)
    world, theirs = scene.world, scene.theirs
    revoke(world.z.p, theirs.region, theirs.va + at, theirs.va + at + PAGE)
    world.z.h[theirs.mr + L.MR_HOLES] = 1
    scene.post(kind)
    world.run()
    refused = kind != "add" or at == 2 * PAGE
    assert world.a.statuses(scene.qa) == [(1, L.WC_REM_ACCESS_ERR if refused else 0)]
    assert (theirs.array[at : at + PAGE] == scene.before[1][at : at + PAGE]).all() or not refused
    scene.no_timeouts()


def test_a_message_beside_a_revoked_extent_is_served() -> None:
    scene = Scene(here=True, there=False, fault_ns=60_000)
    theirs = scene.theirs
    revoke(scene.world.z.p, theirs.region, theirs.va + 3 * PAGE, theirs.va + 4 * PAGE)
    scene.world.z.h[theirs.mr + L.MR_HOLES] = 1
    scene.post("write", length=3 * PAGE)
    scene.world.run()
    assert scene.world.a.statuses(scene.qa) == [(1, 0)]


def test_a_region_revoked_while_its_request_is_parked() -> None:
    scene = Scene(here=True, there=False, fault_ns=5 * MS)
    world, theirs = scene.world, scene.theirs
    scene.post("write")
    world.run(until=lambda: world.now > 2 * MS)
    revoke(world.z.p, theirs.region, theirs.va, theirs.va + SIZE)
    world.z.h[theirs.mr + L.MR_HOLES] = 1
    world.run()
    assert world.a.statuses(scene.qa) == [(1, L.WC_REM_ACCESS_ERR)] and (theirs.array == scene.before[1]).all()
    scene.no_timeouts()


def test_a_queue_pair_closed_while_it_is_parked_leaves_nothing_behind() -> None:
    scene = Scene(here=False, there=False, fault_ns=5 * MS)
    world = scene.world
    for kind in KINDS:
        scene.post(kind)
    world.run(until=lambda: world.now > 2 * MS)
    setup.remove_qp(world.z.t, scene.qz)
    setup.remove_qp(world.a.t, scene.qa)
    world.run()
    world.quiet()


def test_a_peer_that_never_comes_back_for_its_page_holds_no_fault_slot() -> None:
    scene = Scene(here=True, there=False, fault_ns=50 * MS)
    world = scene.world
    scene.post("write", length=8)

    def dies(wire: list[bytes], end: End) -> list[bytes]:
        return wire if world.now < 10 * MS or end is world.z else []

    world.middleware = dies
    world.run(until=lambda: world.now > 200 * MS)
    assert world.z.p[P.FAULT_LIVE] == 0 and world.z.h[L.H_POOL_USED] == 0
