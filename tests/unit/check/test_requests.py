"""Every small request against every state of two pages."""

from __future__ import annotations

from collections import Counter

import pytest

from unpinned.check import requests
from unpinned.compiled import INTERPRETED
from unpinned.hca.regions import DENIED, HIT, MISS

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="one kernel a call: compiling takes longer than the requests")


def test_every_answer_is_what_the_rules_say() -> None:
    assert [f"{request}: {wrong}" for request, wrong in requests.violations()] == []


def test_the_requests_are_not_vacuous() -> None:
    answers = Counter((request.kind, requests.expected(request)) for request in requests.requests())
    assert set(answers) == {(kind, answer) for kind in ("READ", "WRITE", "ATOMIC") for answer in (HIT, MISS, DENIED)}
    assert sum(answers.values()) == 28352


def test_a_wrong_answer_is_told_in_words() -> None:
    """The judge itself: it must be able to say no."""
    request = requests.Request("WRITE", requests.ON_DEMAND, 8, 8, (requests.WRITE, requests.READ, 0, 0))
    assert requests.expected(request) == MISS and requests.judge(request) == ""
    told = requests._compare(request, HIT)
    assert "a hit, and should be a fault" in told and "pages write read absent absent" in told
