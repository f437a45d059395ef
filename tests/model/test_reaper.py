"""The OOM reaper may not sleep: refused, it gives up, and a script has a line for each of the kernel's tries (MAX_OOM_REAP_RETRIES)."""

from __future__ import annotations

import pytest

from unpinned.model import Op, Request, World, explore
from unpinned.paging.causes import Cause, Verdict
from unpinned.paging.policy import Policy, Row

pytestmark = pytest.mark.model

NOW = Policy("now", {Cause.RELEASE: Row(Verdict.NOW)})
REQUESTS = (Request("READ"), Request("WRITE"))


@pytest.mark.compiled_only
@pytest.mark.parametrize("tries, states", [(1, 1504), (2, 5246), (10, 59010)])
def test_more_tries_are_more_interleavings_of_the_same_answer(tries: int, states: int) -> None:
    world = World("reaper", pages=1, frames=2, slots=2, touched=(0,), policy=NOW, threads=((Op("OOM"),) * tries,), requests=REQUESTS)
    result = explore(world)
    assert (result.verdict, result.states) == ("SAFE", states)
    assert {"verdict REFUSED", "abandoned"} <= result.reached, "nobody refused the reaper, so there was nothing to try again"
