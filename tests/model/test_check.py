"""The matrix against what paging/causes.py says of each cause; the sometimes; the reduction; traces that run again."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from unpinned.check import matrix, replay
from unpinned.check.mutant_worlds import WORLDS
from unpinned.check.search import Plan, answers
from unpinned.check.worlds import SCENES, worlds_of
from unpinned.model.search import explore
from unpinned.model.world import WorldError
from unpinned.paging.causes import MEANINGS, Cause, Verdict
from unpinned.paging.policy import POLICIES, Row

pytestmark = pytest.mark.model


def ask(*cells: matrix.Cell) -> dict[matrix.Cell, matrix.Answer]:
    return {answer.cell: answer for answer in answers(cells, Plan(quick=True, processes=1))}


def test_with_an_exact_notifier_each_verdict_is_as_safe_as_its_cause_says() -> None:
    """The table in causes.py is a claim about the protocol; every interleaving of the small worlds agrees with it."""
    cells = [cell for cell in matrix.cells(modes=("exact",)) if cell.cause is not Cause.UNKNOWN]
    found = {(cell.cause, cell.row.verdict): answer.verdict for cell, answer in ask(*cells).items()}
    claimed = {}
    for cause, verdict in found:
        meaning = MEANINGS[cause]
        safe = {
            Verdict.NOW: True, Verdict.DEFER: meaning.deferrable, Verdict.DOWNGRADE: meaning.downgradable,
            Verdict.REFUSE_IF_BUSY: meaning.refusable,
        }[verdict]  # fmt: skip
        claimed[cause, verdict] = "SAFE" if safe else "UNSAFE"
    assert found == claimed


@pytest.mark.parametrize("name", ["zap_everything", "by_cause", "by_cause_batching"])
def test_the_ready_made_policies_are_safe(name: str) -> None:
    cells = matrix.cells(POLICIES[name], modes=("exact", "spurious"))
    assert {answer.verdict for answer in ask(*cells).values()} == {"SAFE"}


def test_a_host_that_keeps_no_obligation_is_refuted() -> None:
    (answer,) = ask(*matrix.cells(None, [Cause.UNMAP], [Verdict.DEFER], ["exact"], keeps=False)).values()
    assert answer.worst is not None and answer.worst.broke == "I1"
    assert replay.trace_of(answer).command == "unpinned check --cause UNMAP --verdict DEFER --mode exact --careless"


def test_what_is_refused_and_comes_again_finds_the_device_flushed() -> None:
    """One try would be SAFE: a device that has the page cached refuses, and the kernel gives up."""
    for cause in (Cause.MIGRATE, Cause.MERGE):
        (again,) = [w for w in worlds_of(matrix.Cell(cause, Row(Verdict.DOWNGRADE), "unsleepable")) if w.name.endswith("again")]
        assert explore(again).property == "I3"


def test_blind_batching_is_refuted() -> None:
    (answer,) = ask(*matrix.cells(POLICIES["blind_batching"], [Cause.UNKNOWN])).values()
    assert answer.verdict == "UNSAFE" and answer.worst is not None and answer.worst.broke in ("I1", "I2", "I3")


@pytest.mark.slow
def test_the_whole_quick_matrix() -> None:
    """As a user runs it, in processes. Nothing is cut, every `sometimes` is reached, the counts are what they were."""
    command = [sys.executable, "-m", "unpinned", "check", "--quick", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    assert [name for name, seen in found["sometimes"].items() if not seen] == []
    counts = {name: sum(cell["answer"] == name for cell in found["cells"]) for name in ("SAFE", "BOUNDED", "UNSAFE")}
    assert counts == {"SAFE": 105, "BOUNDED": 0, "UNSAFE": 158}
    assert (found["worlds"], found["states"], found["transitions"]) == (857, 404_297, 868_459)
    late = {cell["cause"] for cell in found["cells"] if cell["mode"] == "late" and cell["answer"] == "SAFE"}
    assert late == set(), "nothing makes a late notifier safe for a device that copies to frames"


def test_every_scene_makes_its_cause_happen() -> None:
    """A world in which nothing happens would be SAFE: of each cause every scene raises it."""
    for cause in SCENES:
        cell = matrix.Cell(cause, matrix.DEFAULT_ROWS[0], "exact")
        for world in worlds_of(cell):
            result = explore(world)
            assert f"cause {cause.name}" in result.reached, world.name
            assert "acknowledged" in result.reached, world.name


@pytest.mark.parametrize("world", [WORLDS["unmap"], dataclasses.replace(WORLDS["unmap"], mode="late")])
def test_the_reduction_agrees_with_the_full_search(world) -> None:
    reduced, full = explore(world), explore(world, reduce=False)
    assert (reduced.verdict, reduced.property, len(reduced.trace)) == (full.verdict, full.property, len(full.trace))
    assert reduced.reached == full.reached and reduced.states <= full.states


# --- traces --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def late():
    (answer,) = ask(matrix.Cell(Cause.UNMAP, matrix.DEFAULT_ROWS[0], "late")).values()
    return replay.trace_of(answer)


def test_the_late_notifier_s_trace(late) -> None:
    assert late.verdict == "I3" and len(late.events) <= 9
    changed = next(i for i, event in enumerate(late.events) if "changes the page table" in event.text)
    used = len(late.events) - 1
    assert changed < used and "copies page 0" in late.events[used].text and late.events[used].tone == "bad"
    assert not any("invalidate_start" in event.text for event in late.events[:used]), "nobody was told before"


def test_a_trace_runs_again_and_a_changed_one_is_named(late) -> None:
    assert replay.again(late).events == late.events
    events = list(late.events)
    events[2] = dataclasses.replace(events[2], text="sleeps")
    with pytest.raises(replay.ReplayError, match="step 3: kept was .*sleeps"):
        replay.again(dataclasses.replace(late, events=tuple(events)))


def test_a_trace_that_does_not_fit_its_world_is_refused(late) -> None:
    for world, path, message in (
        ({}, (99,), "there is no actor 99"), ({"policy": 5}, (), "a world needs policy"), ({"frames": 9}, (), "frames: 9: must be"),
    ):  # fmt: skip
        with pytest.raises((replay.ReplayError, WorldError), match=message):
            replay.again(dataclasses.replace(late, world={**late.world, **world}, path=path))


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_survives_being_written_down(name: str) -> None:
    text = json.dumps(replay.world_data(WORLDS[name]))
    assert replay.world_from(json.loads(text)) == WORLDS[name]


# --- what the live device does about a late notifier ---------------------------------------------------------------------


@pytest.mark.parametrize("device, verdict", [("hca", "UNSAFE"), ("vm", "UNSAFE"), ("alias", "SAFE")])
def test_only_memory_that_is_reached_through_a_mapping_of_our_own_survives_a_late_notifier(device, verdict) -> None:
    """Private memory of the application can be replaced under a copy; another mapping of the same object cannot."""
    cell = matrix.Cell(Cause.UNMAP, matrix.DEFAULT_ROWS[0], "late", device)
    scenes = [world for world in worlds_of(cell) if "overlap" not in world.name and "two-devices" not in world.name]
    broken = [result for world in scenes if (result := explore(world)).verdict == "UNSAFE"]
    assert bool(broken) == (verdict == "UNSAFE")
    assert {result.property for result in broken} <= {"I3"}
    if device == "vm":
        shortest = min(broken, key=lambda result: len(result.trace))
        assert shortest.world.name.endswith(("replace", "mapped-again")), "what is replaced, not what is gone"
