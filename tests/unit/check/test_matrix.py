"""Which questions are asked, and how answers print."""

from __future__ import annotations

import pytest

from unpinned.check import matrix
from unpinned.check.explain import text
from unpinned.check.matrix import Answer, Cell, Outcome, Row
from unpinned.paging.causes import Cause, Verdict
from unpinned.paging.policy import POLICIES, PolicyError


def outcome(verdict: str, broke: str = "", steps: int = 0) -> Outcome:
    return Outcome("w", verdict, 10, 20, 3, 0.1, broke, path=tuple(range(steps)), cut="w: after 10 states" if verdict == "BOUNDED" else "")


def test_every_cause_verdict_and_mode_is_asked_but_the_impossible() -> None:
    asked = matrix.cells()
    assert len(asked) == len(set(asked)) == 4 + 9 * 4 * 7 + 7
    assert {cell.row.verdict for cell in asked if cell.cause is Cause.RELEASE} == {Verdict.NOW}
    assert {cell.mode for cell in asked if cell.cause is Cause.UNKNOWN} == {"blind"}


def test_a_policy_asks_for_its_own_rows() -> None:
    asked = matrix.cells(POLICIES["by_cause"], modes=("exact",))
    assert {cell.cause: cell.row for cell in asked} == {
        cause: row for cause, row in POLICIES["by_cause"].rows.items() if cause is not Cause.UNKNOWN
    }
    blind = [cell for cell in matrix.cells(POLICIES["by_cause"]) if cell.mode == "blind"]
    assert [cell.cause for cell in blind] == [Cause.UNKNOWN], "who is told no cause has one verdict"


@pytest.mark.parametrize(
    "asked, reason",
    [
        ({"causes": [Cause.RELEASE], "verdicts": [Verdict.DEFER]}, "RELEASE: DEFER is impossible: an exiting process"),
        ({"causes": [Cause.UNKNOWN], "modes": ["exact"]}, "UNKNOWN: .* mode blind only"),
        ({"policy": POLICIES["by_cause"], "causes": [Cause.COW], "modes": ["blind"]}, "COW: in mode blind .* UNKNOWN"),
        ({"causes": [Cause.MERGE], "device": "alias"}, "MERGE: device alias: a shared object is neither"),
        ({"verdicts": []}, "no cause, verdict or mode is left"),
    ],
)
def test_nothing_to_ask_is_an_error_with_the_reason(asked: dict, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        matrix.cells(**asked)


def test_the_worst_world_decides_and_the_shortest_trace_is_shown() -> None:
    cell = Cell(Cause.UNMAP, Row(), "exact")
    assert Answer(cell, (outcome("SAFE"), outcome("SAFE"))).brief() == "safe"
    assert Answer(cell, (outcome("SAFE"), outcome("BOUNDED"))).brief() == "cut"
    broken = Answer(cell, (outcome("UNSAFE", "I3", 9), outcome("UNSAFE", "LIVELOCK", 14), outcome("BOUNDED")))
    assert broken.verdict == "UNSAFE" and broken.brief() == "I3/9" and broken.as_dict()["steps"] == 9
    assert Answer(cell, (outcome("UNSAFE", "DEADLOCK", 7),)).brief() == "DEAD/7"
    assert broken.line() == "UNMAP/NOW/exact: UNSAFE: I3 after 9 steps in w (3 worlds, 30 states, depth 3)"
    cut = Answer(cell, (outcome("SAFE"), outcome("BOUNDED")))
    assert cut.line() == "UNMAP/NOW/exact: BOUNDED: 2 worlds, 20 states, depth 3; cut: w: after 10 states"


def test_the_table_and_the_explanations_fit_the_screen() -> None:
    answers = [Answer(cell, (outcome("UNSAFE", "LIVELOCK", 100),)) for cell in matrix.cells()]
    printed = matrix.table(answers)
    assert max(map(len, printed.splitlines())) < 80 and "LIVE/100" in printed
    assert max(map(len, text(79).splitlines())) < 80 and "I10" in text(79)
