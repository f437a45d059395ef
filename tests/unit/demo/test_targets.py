"""The peer's judgement of ranges that go away, with the wire replaced by a list: every wrong answer must be counted."""

import types

import numpy as np
import pytest

from unpinned import verbs as v
from unpinned.demo import contents as C
from unpinned.demo.ledger import GONE, LIVE, STRIKING, Ledger
from unpinned.demo.targets import FIRE, ROLES, SHOT_BYTES, Target
from unpinned.demo.traffic import Desk


class Wire:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.posted = []

    def post(self, opcode, slot, local, lkey, remote, rkey, length):
        self.posted.append((opcode, slot, local, remote))


@pytest.fixture
def scene():
    """A target that fires at a range which is there: (target, ledger, desk)."""
    ledger = Ledger.create()
    memory = np.zeros(len(ROLES) * FIRE * SHOT_BYTES, np.uint8)
    desk = Desk(ledger, types.SimpleNamespace(buf=0, lkey=1), memory)
    message = {"target": 1, "address": 1 << 40, "rkey": 2, "half": 1 << 19, "foreign": False, "readable_after": False}
    target = Target(message, [Wire() for _ in ROLES], desk, 0)
    ledger.set_slot(1, LIVE)
    target.fire()
    yield target, ledger, desk
    ledger.close()


def land(target, role, slot, tag, generation=1):
    """What a READ brought."""
    _, offset = target.asked[role, slot]
    at = (role * FIRE + slot) * SHOT_BYTES
    C.fill(target.desk.memory[at : at + SHOT_BYTES].view(np.int64), C.word(tag, generation, offset // 8))


def test_right_words_from_a_range_that_is_there_are_right(scene):
    target, ledger, desk = scene
    land(target, 0, 0, C.Tag.VICTIM)
    target.completed(0, 0, v.IBV_WC_SUCCESS)
    target.completed(1, 0, v.IBV_WC_SUCCESS)
    assert not desk.complaints and ledger["stale_reads"] == ledger["late_writes"] == 0
    assert ledger.shots(1) == 2 and ledger["bytes_verified"] == SHOT_BYTES


@pytest.mark.parametrize("foreign", [False, True])
def test_words_of_what_was_mapped_instead_are_counted_by_whose_range_it_was(scene, foreign):
    target, ledger, desk = scene
    target.foreign = foreign
    ledger.set_slot(1, STRIKING)
    land(target, 0, 0, C.Tag.OTHER, 0)
    target.completed(0, 0, v.IBV_WC_SUCCESS)
    assert (ledger["stale_reads"], ledger["stale_reads_foreign"]) == (int(not foreign), int(foreign))
    assert "mapped there instead" in desk.complaints[0]


@pytest.mark.parametrize("foreign", [False, True])
def test_an_answer_after_the_end_is_wrong_even_if_its_words_are_right(scene, foreign):
    target, ledger, _ = scene
    target.foreign = foreign
    ledger.set_slot(1, GONE)
    target.probe()
    land(target, 2, 0, C.Tag.VICTIM)
    target.completed(2, 0, v.IBV_WC_SUCCESS)
    target.completed(3, 0, v.IBV_WC_SUCCESS)
    assert ledger["stale_reads"] == 1 and ledger["late_writes"] == 1


def test_what_was_asked_before_the_end_may_be_answered_after_it(scene):
    target, ledger, desk = scene
    ledger.set_slot(1, GONE)
    land(target, 0, 0, C.Tag.VICTIM)
    target.completed(0, 0, v.IBV_WC_SUCCESS)
    target.completed(1, 0, v.IBV_WC_SUCCESS)
    assert not desk.complaints


def test_protected_memory_may_still_be_read_but_not_written(scene):
    target, ledger, _ = scene
    target.readable_after = True
    ledger.set_slot(1, GONE)
    target.probe()
    land(target, 2, 0, C.Tag.VICTIM)
    target.completed(2, 0, v.IBV_WC_SUCCESS)
    assert ledger["stale_reads"] == 0
    target.completed(3, 0, v.IBV_WC_SUCCESS)
    assert ledger["late_writes"] == 1


def test_only_a_remote_access_error_is_the_right_error(scene):
    target, ledger, desk = scene
    target.completed(0, 0, v.IBV_WC_REM_ACCESS_ERR)
    target.completed(0, 1, v.IBV_WC_WR_FLUSH_ERR)  # of the same link: it has ended
    assert ledger["access_errors"] == 1 and ledger["other_errors"] == 0
    target.completed(1, 0, v.IBV_WC_RETRY_EXC_ERR)
    assert ledger["other_errors"] == 1 and "retry" in desk.complaints[0]
    assert target.waiting == 2 * FIRE - 3
