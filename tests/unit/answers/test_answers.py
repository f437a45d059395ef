"""The answers follow their evidence: small worlds and small runs, then the same text with another verdict."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from unpinned.answers import evidence, text
from unpinned.check import matrix
from unpinned.cli import main
from unpinned.compiled import INTERPRETED

pytestmark = [pytest.mark.model, pytest.mark.compiled_only]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def found():
    if INTERPRETED:
        pytest.skip("explores too much for interpreted kernels")
    patch = pytest.MonkeyPatch()
    sizes = {"PAGES": 256, "PAGES_DISCARD": 512, "PAGES_BUSY": 256, "BUSY_NS": 2_000_000, "FLUSH_TIMES_NS": (1_000, 1_000_000)}
    for name, value in sizes.items():
        patch.setattr(evidence, name, value)
    real = evidence._run
    patch.setattr(evidence, "_run", lambda w, p, f, pages=256, plan=None, ns=2_000_000: real(w, p, f, pages, plan, min(ns, 2_000_000)))
    cells = matrix.cells(modes=("exact", "late", "unsleepable"))
    patch.setattr(matrix, "cells", lambda: cells)
    made = evidence.gather(quick=True)
    patch.undo()
    return made


def test_every_question_is_answered_with_its_evidence(found):
    made = text.render(found)
    for heading in ("user space", "1. Are", "2. Can invalidations", "3. Can an invalidation be refused", "4. Should the notifier"):
        assert re.search(rf"^## .*{re.escape(heading)}", made, re.MULTILINE)
    assert f"{found.states:,}" in made
    assert f"{found.discard['batching']['flushes']:,} with batching" in made.replace("\n", " ")
    assert found.unkept.broke == "I1"
    assert found.late_trace.strip() in made


def test_a_verdict_that_changes_changes_the_text(found):
    before = text.render(found)
    assert "| UNMAP | SAFE |" in before
    cell = found.cell("UNMAP", "DEFER")
    broken = replace(cell.outcomes[0], verdict="UNSAFE", broke="I1", path=(1, 2, 3))
    changed = replace(found, cells={**found.cells, ("UNMAP", "DEFER", "exact"): replace(cell, outcomes=(broken,))})
    after = text.render(changed)
    assert "| UNMAP | **I1** in 3 steps |" in after
    assert re.search(r"For [^:]*UNMAP[^:]*:\s+never", after)


def test_lines_are_filled_and_tables_are_whole(found):
    for line in text.render(found).splitlines():
        assert len(line) <= text.WIDTH or line.startswith("|")
    rows = [line for line in text.render(found).splitlines() if line.startswith("|")]
    assert all(row.endswith("|") for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="explores too much for interpreted kernels")
def test_the_page_in_docs_is_what_the_command_says_now(capsys):
    """All of it, half a minute: whatever changes an answer changes the page, or this fails with what differs."""
    status = main(["answers", "--check", str(ROOT / "docs" / "answers.md")])
    assert status == 0, capsys.readouterr().out


def test_a_page_that_says_something_else_is_told_where(found, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evidence, "gather", lambda quick, say: found)
    page = tmp_path / "answers.md"
    page.write_text(text.render(found))
    assert main(["answers", "--check", str(page)]) == 0
    assert capsys.readouterr().out == ""
    page.write_text(text.render(found).replace("| UNMAP | SAFE |", "| UNMAP | UNSAFE |"))
    assert main(["answers", "--check", str(page)]) == 1
    said = capsys.readouterr()
    assert "\n-| UNMAP | UNSAFE |" in said.out and "\n+| UNMAP | SAFE |" in said.out and "no longer what" in said.err


def test_a_folder_that_is_not_there_is_told_before_anything_is_run(tmp_path, capsys):
    assert main(["answers", "--out", str(tmp_path / "no" / "x.md")]) == 1
    assert "there is no folder" in capsys.readouterr().err

