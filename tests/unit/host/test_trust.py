"""How the horizon grows while nothing leaves unnoticed, and falls back at the first sign that something does."""

import mmap
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from support.memory import PAGE
from unpinned.host import engine_words as E
from unpinned.host.trust import HORIZON_MAX_NS, HORIZON_NS, SLEPT_NS, distrust, looked, major_faults, took
from unpinned.paging import layout as P
from unpinned.paging.collisions import remember_discard
from unpinned.paging.table import install, translate
from unpinned.recording import layout as R
from unpinned.recording.ring import put_run, take

START, END = 64 * PAGE, 128 * PAGE
BEGAN = 1 << 40


class World:
    """A table whose entries [START, END) were just validated, and the clock."""

    def __init__(self) -> None:
        self.p = P.create(levels=2, bits=9, leaves=8, provisional=4)
        self.e = np.zeros(E.E_WORDS, np.int64)
        self.p[P.HORIZON_NS] = self.p[P.PROVISIONAL_NS] = HORIZON_NS
        self.p[P.PROVISIONAL_TRUST_NS] = HORIZON_NS // 10
        self.now = self.e[E.E_HORIZON_SINCE] = BEGAN
        install(self.p, START, END, P.PRESENT, self.now)

    def look(self, after: int, upto: int = END) -> int:
        """A look *after* ns that finds pages up to *upto*; the horizon then."""
        self.now += after
        looked(self.e, self.p, START, END, upto, 0, self.now)
        return int(self.p[P.HORIZON_NS])


@pytest.fixture
def world() -> World:
    return World()


def test_it_doubles_once_a_horizon_up_to_its_maximum(world: World) -> None:
    assert world.look(HORIZON_NS - 1) == HORIZON_NS
    assert world.look(1) == 2 * HORIZON_NS
    assert world.look(2 * HORIZON_NS - 1) == 2 * HORIZON_NS
    horizon = 2 * HORIZON_NS
    while horizon < HORIZON_MAX_NS:
        assert world.look(horizon) == 2 * horizon
        horizon *= 2
    assert world.look(10 * HORIZON_MAX_NS) == HORIZON_MAX_NS


def test_a_page_that_left_unnoticed_ends_it_for_all_entries(world: World) -> None:
    for _ in range(3):
        world.look(HORIZON_MAX_NS)
    install(world.p, START, END, P.PRESENT, world.now)
    world.now += 4 * HORIZON_NS
    assert translate(world.p, START, END - START, 0, world.now) == END - START
    assert world.look(0, END - PAGE) == HORIZON_NS
    assert translate(world.p, START, END - START, 0, world.now) == 0
    assert world.look(HORIZON_NS - 1) == HORIZON_NS


def test_a_page_that_was_never_known_or_was_told_to_leave_ends_nothing(world: World) -> None:
    assert world.look(HORIZON_NS) == 2 * HORIZON_NS
    looked(world.e, world.p, START, END + PAGE, END, 0, world.now)
    assert world.p[P.HORIZON_NS] == 2 * HORIZON_NS


def test_a_look_for_writing_says_something_of_what_could_be_written(world: World) -> None:
    """Memory that was never touched may be read, and is not there."""
    assert world.look(HORIZON_NS) == 2 * HORIZON_NS
    looked(world.e, world.p, START, END, START, 1, world.now)
    assert world.p[P.HORIZON_NS] == 2 * HORIZON_NS
    install(world.p, START, END, P.PRESENT | P.WRITE, world.now)
    looked(world.e, world.p, START, END, START, 1, world.now)
    assert world.p[P.HORIZON_NS] == HORIZON_NS


def test_a_look_at_what_the_table_has_not_says_nothing(world: World) -> None:
    looked(world.e, world.p, END, END + PAGE, END + PAGE, 0, world.now + HORIZON_NS)
    assert world.p[P.HORIZON_NS] == HORIZON_NS


def test_it_is_short_beside_memory_without_events(world: World) -> None:
    assert world.look(HORIZON_NS) == 2 * HORIZON_NS
    world.e[E.E_UNTOLD] = 1
    for _ in range(2):
        assert world.look(2 * HORIZON_NS) == HORIZON_NS


def test_what_a_discard_dated_back_does_not_come_to_life_again(world: World) -> None:
    remember_discard(world.p, 0, START, world.now)
    until = world.now + HORIZON_NS
    assert world.look(3 * HORIZON_NS - 1) == HORIZON_NS
    world.now = until + 2 * HORIZON_NS
    assert world.look(0) == 2 * HORIZON_NS


def test_a_recording_has_each_change_behind_the_copies_before_it(world: World) -> None:
    ring = R.create(64)
    world.e[E.E_RECORD], world.e[E.E_RECORD + 1] = ring.ctypes.data, ring.size
    put_run(ring, 7, P.OP_READ, START, START + PAGE, PAGE, world.now)  # under way: more of its message is to come
    for after in (HORIZON_NS, 1, 2 * HORIZON_NS):
        world.look(after)
    distrust(world.e, world.p, world.now)
    distrust(world.e, world.p, world.now)
    found = [(int(row[R.KIND]), int(row[R.A])) for row in take(ring)]
    changes = [(R.HORIZON, ns) for ns in (2 * HORIZON_NS, 4 * HORIZON_NS, HORIZON_NS)]
    assert found == [(R.ACCESS, START), *changes]


def test_slow_copies_end_it_only_if_something_was_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.e[E.E_MAJOR_FAULTS] = major_faults()
    world.look(HORIZON_NS)
    assert took(world.e, world.p, SLEPT_NS, world.now) == 0
    world.e[E.E_MAJOR_FAULTS] -= 1
    assert took(world.e, world.p, SLEPT_NS - 1, world.now) == 0
    assert world.p[P.HORIZON_NS] == 2 * HORIZON_NS
    assert took(world.e, world.p, SLEPT_NS, world.now + 5) == 1
    assert world.p[P.HORIZON_NS] == HORIZON_NS and world.e[E.E_HORIZON_SINCE] == world.now + 5
    assert took(world.e, world.p, SLEPT_NS, world.now) == 0


def test_major_faults_are_those_of_getrusage(tmp_path: Path) -> None:
    path = tmp_path / "cold"
    path.write_bytes(bytes(64 * PAGE))
    for _ in range(2):
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert mapping[0] == 0  # from the disk, where there is one below
        before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        assert before <= major_faults() <= resource.getrusage(resource.RUSAGE_SELF).ru_majflt
