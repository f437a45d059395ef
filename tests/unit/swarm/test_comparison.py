"""Today's adapters, imitated, beside ours: damming and flood are there, and gone."""

import pytest

from unpinned.swarm.comparison import EXPERIMENTS, FAULT_NS, measure

DAMMED = [e for e in EXPERIMENTS if "behind it" in e.name or "never set" in e.name]
FLOOD = EXPERIMENTS[-1]


@pytest.mark.compiled_only
@pytest.mark.parametrize("experiment", DAMMED, ids=lambda e: e.name)
def test_damming_costs_three_orders_of_magnitude_and_is_gone_with_ours(experiment) -> None:
    theirs, ours = measure(experiment, adapter=True), measure(experiment, adapter=False)
    assert theirs.time_ns > 1_000 * FAULT_NS
    assert ours.time_ns < 2 * FAULT_NS and ours.timeouts == 0 and ours.verdict == 0


@pytest.mark.compiled_only
def test_flood() -> None:
    theirs, ours = measure(FLOOD, adapter=True), measure(FLOOD, adapter=False)
    assert theirs.packets > 3 * ours.packets and theirs.time_ns > 10 * ours.time_ns
    assert ours.timeouts == 0 and ours.verdict == 0
