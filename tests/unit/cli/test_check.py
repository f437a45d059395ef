"""`unpinned check`: what is wrong with a question is said before anything is explored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from unpinned import cli
from unpinned.check import search
from unpinned.check.matrix import Answer, Cell, Outcome


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["check", *words]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize(
    "policy, message",
    [
        ('[causes]\nUNMAP = "DEFER"', "UNMAP: .* a deferral needs a bound in pages and one in time"),
        ('[causes]\nRELEASE = "REFUSE_IF_BUSY"', "RELEASE: REFUSE_IF_BUSY: an exiting process cannot be refused"),
        ('[causes]\nSWAP = "NOW"', "causes.SWAP: no such cause"),
        ('[causes]\nCOW = "SOON"', "causes.COW: verdict 'SOON': expected"),
        ('default = "DEFER"', "default: DEFER 0 pages 0 ns: a deferral needs a bound"),
        ("[causes]\nUNMAP = 3", "causes.UNMAP: expected a verdict in quotes, got 3"),
        ('[causes]\ndefault = "NOW"', "causes.default: no such cause"),
        ("name = 7", "name: expected a text in quotes, got 7"),
        ("speed = 1", "speed: unknown field"),
        ("\x00", "TOML or JSON"),
        ("\n", "the file is empty; expected name, default or causes"),
    ],
)
def test_an_impossible_policy_names_the_file_the_field_and_the_reason(capsys, tmp_path, policy, message) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(policy)
    error = refused(capsys, "--policy", str(path))
    assert error.startswith(f"unpinned check: {path}: ") and __import__("re").search(message, error)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--policy", "/nowhere/mine.toml"], "No such file, nor is it a ready-made policy: zap-now, by-cause, batching, blind"),
        (["--policy", "pin"], "pin: pinned memory is told of nothing"),
        (["--cause", "SWAP"], "--cause SWAP: there are UNKNOWN, UNMAP"),
        (["--verdict", "LATER"], "--verdict LATER: there are NOW, DOWNGRADE"),
        (["--mode", "never"], "--mode never: there are exact, late"),
        (["--mutant", "none"], "--mutant none: there are commit-without-recheck"),
        (["--mutant", ""], "--mutant : there are commit-without-recheck"),
        (["--cause", "UNMAP", "--html", "/nowhere/late.html"], "--html '/nowhere/late.html': no file can be made there"),
        (["--cause", "UNMAP", "--trace", "/tmp"], "--trace '/tmp': no file can be made there"),
        (["--states", "-1"], "--states -1: must be between"),
        (["--cause", "RELEASE", "--verdict", "DEFER"], "RELEASE: DEFER is impossible: an exiting process"),
        (["--quick", "--states", "2000000000"], "would take up to .* --states [0-9]+ fits"),
        (["--replay", __file__], "expected the JSON of a trace"),
    ],
)
def test_an_impossible_question_is_refused_with_the_reason(capsys, words, message) -> None:
    assert __import__("re").search(message, refused(capsys, *words))


def test_a_list_of_mutants_and_an_explanation_need_no_exploration(capsys) -> None:
    assert cli.main(["check", "--mutant", "list"]) == 0
    assert "no-flush\n  in paging.notifier.invalidate_start" in capsys.readouterr().out
    assert cli.main(["check", "--explain"]) == 0
    assert "late" in capsys.readouterr().out


def test_names_are_known_however_they_are_written(capsys) -> None:
    words = ["check", "--quick", "--json", "--processes", "1"]
    assert cli.main([*words, "--cause", "unmap", "--verdict", "Now", "--mode", "EXACT"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert (cell["cause"], cell["verdict"], cell["mode"]) == ("UNMAP", "NOW", "exact")


def test_what_is_answered_before_an_interruption_is_printed(capsys, monkeypatch) -> None:
    def interrupted(asked: Sequence[Cell], *_: object) -> Iterator[Answer]:
        yield Answer(asked[0], (Outcome("w", "SAFE", 10, 20, 3, 0.1),))
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "answers", interrupted)
    assert cli.main(["check"]) == 130
    said = capsys.readouterr()
    assert "1 SAFE, 0 BOUNDED, 0 UNSAFE; 1 worlds, 10 states" in said.out
    assert "interrupted: 1 of 263 cells were answered" in said.err


@pytest.mark.compiled_only
def test_one_cell_is_answered_drawn_kept_and_run_again(capsys, tmp_path: Path) -> None:
    page, kept = tmp_path / "late.html", tmp_path / "late.json"
    words = ["--cause", "UNMAP", "--verdict", "NOW", "--mode", "late", "--quick", "--processes", "1"]
    assert cli.main(["check", *words, "--html", str(page), "--trace", str(kept)]) == 1
    said = capsys.readouterr()
    assert "UNMAP/NOW/late: UNSAFE: I3 after 7 steps" in said.out and f"replay: unpinned check --replay {kept}" in said.out
    assert "I3/7" in said.out and "changes the page table" in said.out and f"--replay {kept}" in said.err
    assert "<svg" in page.read_text()
    assert cli.main(["check", "--replay", str(kept), "--json"]) == 1
    assert '"verdict": "I3"' in capsys.readouterr().out
    kept.write_text(kept.read_text()[:100])
    assert "cut off" in refused(capsys, "--replay", str(kept))


@pytest.mark.compiled_only
def test_a_ready_made_policy_has_one_name_everywhere_and_says_where_it_is_safe(capsys) -> None:
    words = ["--cause", "UNMAP", "--quick", "--processes", "1"]
    assert cli.main(["check", "--policy", "batching", *words]) == 0
    assert "every row is SAFE in mode: exact, spurious, unsleepable\n" in capsys.readouterr().out
    assert cli.main(["check", "--policy", "batching", *words, "--mode", "late"]) == 1
    assert "every row is SAFE in mode: none of those asked\n" in capsys.readouterr().out


@pytest.mark.compiled_only
def test_a_policy_is_judged_by_the_notifiers_that_a_kernel_has(capsys, tmp_path) -> None:
    drawn = tmp_path / "trace.html"
    words = ["--cause", "COW", "--quick", "--processes", "1", "--html", str(drawn)]
    assert cli.main(["check", "--policy", "by-cause", *words]) == 0 and not drawn.exists()
    assert cli.main(["check", "--policy", "blind", *words]) == 1
    assert "COW, DEFER, notifier exact" in capsys.readouterr().out and drawn.exists()


@pytest.mark.compiled_only
def test_worlds_that_were_cut_are_named_or_at_least_counted(capsys) -> None:
    words = ["--cause", "COW", "--verdict", "NOW", "--mode", "exact", "--states", "50", "--processes", "1"]
    assert cli.main(["check", *words]) == 0
    said = capsys.readouterr().out
    assert said.count("cut: COW/NOW/exact/") == 6 and "cut: 1 more worlds\n" in said
