"""Schedules: the same seed is the same world, bit for bit; a canary shows that the harness can fail, and shrinks."""

import json
import os

import pytest

from unpinned.compiled import INTERPRETED
from unpinned.swarm import layout as S
from unpinned.swarm.cases import KINDS, Case, CaseError, play
from unpinned.swarm.jobs import plan, run_range, total
from unpinned.swarm.shrink import present, shrink, size

pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_BOUNDSCHECK") == "1" and not os.environ.get("UNPINNED_SWARM_BOUNDS"),
    reason="compiles for a minute; UNPINNED_SWARM_BOUNDS=1 runs it",
)
SEEDS = 2 if INTERPRETED else 1_500


def test_a_seed_is_a_world_bit_for_bit() -> None:
    first, other, again = play(Case(11)), play(Case(12)), play(Case(11), traced=True)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.events == again.events and first.statistics == again.statistics
    assert again.trace and again.trace == play(Case(11), traced=True).trace


def test_what_a_schedule_is_does_not_depend_on_the_way_kernels_run() -> None:
    """Pinned: compiled, bounds-checked and interpreted runs draw, count and compare the same."""
    outcome = play(Case(3))
    assert outcome.verdict == 0, outcome.text
    assert outcome.events > 100 and outcome.statistics["checked"] > 1_000
    narrow = play(Case(3, without={"notices": tuple(range(S.NOTICES))}))
    assert narrow.verdict == 0 and narrow.counts["notices"] > 0
    assert narrow.statistics["flushes"] == 0


SHAPES = [(2, 1), (2, 2)] if INTERPRETED else [(2, 1), (2, 2), (3, 5), (8, 8)]


@pytest.mark.parametrize(("hosts", "connections"), SHAPES)
def test_every_invariant_holds(hosts: int, connections: int, seed: int) -> None:
    count = max(1, SEEDS // (connections * connections))
    result = run_range(seed, count, hosts, connections, {})
    assert result["failures"] == [], (
        f"unpinned swarm --first {seed} -n {count} --hosts {hosts} --connections {connections}"
    )
    assert result["played"] == count


@pytest.mark.compiled_only
def test_the_schedules_reach_what_they_are_for(seed: int) -> None:
    """`sometimes`: each of these really happens, or the swarm would prove nothing."""
    result = run_range(seed, SEEDS, 2, 2, {})
    for name in (
        "faults", "parked", "rnr", "retries", "waits", "refused", "deferred", "flushes", "deaths", "lost",
        "retransmitted", "implied", "timeouts", "drops", "errors", "skipped",
    ):  # fmt: skip
        assert result["statistics"][name] > 0, name
    assert all(n > 0 for n in result["statistics"]["causes"][1:11])
    assert result["statistics"]["skipped"] < result["statistics"]["checked"] // 20, "little is left unchecked"


@pytest.mark.parametrize("shape", [(1, 1), (9, 1), (2, 0), (2, 65)])
def test_impossible_shapes(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be between"):
        _ = Case(1, *shape).shape


# ---- a canary --------------------------------------------------------------------------------------------------------


def canary() -> Case:
    """A transport without retries on a wire that loses: operations fail, and strict schedules allow no failure."""
    for seed in range(1, 60):
        case = Case(seed, settings={"loss": 4_000, "touch_limit": 6, "strict": 1, "retry": 0, "unmaps": 0, "ops": 6})
        if play(case).verdict == S.VIOLATION_ERROR:
            return case
    raise AssertionError("no seed of 60 fails without retries")


@pytest.mark.compiled_only
def test_the_canary_dies_is_shrunk_and_replays() -> None:
    failing = play(canary())
    small = shrink(failing)
    assert small.verdict == failing.verdict
    assert sum(size(small).values()) < sum(size(failing).values()) / 2
    assert 1 <= len(present(small, "packets")) <= 2 and not present(small, "notices")
    again = play(Case.loads(small.case.to_json()), traced=True)
    assert again.fingerprint == small.fingerprint and again.text == small.text
    assert any("LOST" in line for line in again.trace)


def test_only_what_fails_is_shrunk() -> None:
    with pytest.raises(ValueError, match="nothing to shrink"):
        shrink(play(Case(11)))


# ---- cases as text ---------------------------------------------------------------------------------------------------


def test_a_case_is_read_back() -> None:
    case = Case(5, 3, 4, {"packets": (1, 7), "operations": (0,)}, {"loss": 12})
    assert Case.loads(case.to_json()) == case
    assert case.minus("packets", (3, 1)).without["packets"] == (1, 3, 7)
    assert len(KINDS) == S.MASKS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "else"}, "format"),
        ({"seed": "x"}, "seed"),
        ({"hosts": 99}, "hosts=99"),
        ({"seed": -1}, "seed=-1"),
        ({"settings": {"nonsense": 1}}, "nonsense"),
        ({"settings": {"policy": 99}}, "policy=99: must be between 0 and 2"),
        ({"without": {"nonsense": [1]}}, "without.nonsense"),
        ({"without": {"packets": [9999]}}, "without.packets"),
        ({"more": 1}, "more: no such field"),
    ],
)
def test_what_is_no_case_is_refused_by_field(change: dict, says: str) -> None:
    data = json.loads(Case(5).to_json()) | change
    with pytest.raises(CaseError, match=says):
        Case.loads(json.dumps(data))
    with pytest.raises(CaseError, match="JSON"):
        Case.loads("{")


# ---- campaigns -------------------------------------------------------------------------------------------------------


def test_a_plan_covers_every_seed_once() -> None:
    made = plan(7, 4_321, 2, 2, {})
    seeds = [seed for piece in made.pieces for seed in range(piece["first"], piece["first"] + piece["count"])]
    assert seeds == list(range(7, 7 + 4_321)) and sum(made.units) == 4_321


@pytest.mark.compiled_only
def test_results_add_up() -> None:
    one, two = run_range(1, 2, 2, 2, {}), run_range(3, 2, 2, 2, {})
    both = run_range(1, 4, 2, 2, {})
    added = total({0: one, 1: two})
    assert added["played"] == both["played"] == 4 and added["statistics"] == both["statistics"]
