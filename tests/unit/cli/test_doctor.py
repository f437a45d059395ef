"""unpinned doctor: what it prints for what is there and for what is missing."""

from __future__ import annotations

import json

import pytest

from unpinned import cli
from unpinned.host import capabilities
from unpinned.host.capabilities import Capability

THERE = Capability("wings", True, "two of them", "it walks", "grow some")
MISSING = Capability("gills", False, "no water found here", "it drowns " * 12, "stay ashore")


def test_every_facility_is_told_within_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < 80
    for capability in capabilities.probe_all():
        assert any(capability.name in line for line in lines)


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {c["name"] for c in document["capabilities"]} == {c.name for c in capabilities.probe_all()}


def test_what_is_missing_says_cost_and_mend_and_fails_when_strict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capabilities, "probe_all", lambda: [THERE, MISSING])
    assert cli.main(["doctor", "--strict"]) == 1
    text = capsys.readouterr().out
    assert "it drowns" in text and "stay ashore" in text and "grow some" not in text
    assert max(map(len, text.splitlines())) < 80
