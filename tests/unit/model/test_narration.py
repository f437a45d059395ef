"""What a trace says of a step is what the step did."""

from __future__ import annotations

import pytest

from unpinned.model.search import explore
from unpinned.model.world import Op, Request, World
from unpinned.paging.causes import Cause, Verdict
from unpinned.paging.policy import Policy, Row

pytestmark = pytest.mark.compiled_only


def refused_by_one_of_two() -> list[str]:
    """The steps of a livelock in which devices refuse in turn."""
    world = World(
        "refused", pages=1, frames=2, devices=2, mode="unsleepable", threads=((Op("DISCARD"),),),
        requests=(Request("WRITE"), Request("READ", device=1)), policy=Policy("no", {Cause.DISCARD: Row(Verdict.REFUSE_IF_BUSY)}),
    )  # fmt: skip
    found = explore(world)
    assert found.property == "LIVELOCK"
    return [step.action for step in found.trace]


def test_only_a_device_that_had_begun_is_told_to_finish() -> None:
    open_: dict[str, bool] = {}
    seen = set()
    for action in refused_by_one_of_two():
        device = action.partition(" on ")[2][:8]
        if "invalidate_start" in action:
            open_[device] = "REFUSED" not in action
        elif "invalidate_finish" in action:
            assert open_.pop(device), "it had refused"
            seen.add("finish")
        elif "has nothing to finish" in action:
            assert not open_.pop(device, False)
            seen.add("nothing")
    assert seen == {"finish", "nothing"}


def test_who_was_refused_does_not_say_that_all_devices_are_out() -> None:
    actions = refused_by_one_of_two()
    assert any("was refused; those that had begun are out of the range" in action for action in actions)
    refused = False
    for action in actions:
        refused = "REFUSED" in action or (refused and "takes its locks" not in action)
        assert not (refused and "all devices are out" in action)
