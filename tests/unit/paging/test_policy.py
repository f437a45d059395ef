"""Causes and policies: complete, readable, and refused with the reason when they ask for too much."""

from __future__ import annotations

import json

import pytest

from unpinned.paging import create
from unpinned.paging.causes import MEANINGS, Cause, Point, Verdict
from unpinned.paging.policy import LIVE, MODEL, POLICIES, Policy, PolicyError, Row, live_policy


def test_every_cause_is_documented() -> None:
    for cause in Cause:
        meaning = MEANINGS[cause]
        assert all((meaning.raised_by, meaning.live, meaning.may_skip, meaning.obligation))


def test_ready_made_policies_and_what_is_unsafe_about_them() -> None:
    assert set(POLICIES) == {"zap_everything", "by_cause", "by_cause_batching", "blind_batching"}
    for policy in POLICIES.values():
        policy.validate(MODEL)
    assert not any(POLICIES[name].unsafe() for name in ("zap_everything", "by_cause", "by_cause_batching"))
    assert {Cause.COW, Cause.MIGRATE, Cause.PROTECT, Cause.MERGE, Cause.UNKNOWN} == set(
        POLICIES["blind_batching"].unsafe()
    )


def test_words_and_text_come_back() -> None:
    for policy in POLICIES.values():
        p = create(leaves=4)
        policy.write(p)
        assert Policy.read(p).rows == policy.rows
        assert Policy.loads(policy.to_json()) == policy
    assert live_policy() == POLICIES["zap_everything"]


def test_a_users_file() -> None:
    policy = Policy.loads(
        """
        name = "patient"
        default = "REFUSE_IF_BUSY"
        [causes]
        UNMAP = "DEFER(64 pages, 20 us)"
        COW = "NOW"
        """
    )
    assert policy.name == "patient"
    assert policy.rows[Cause.UNMAP] == Row(Verdict.DEFER, 64, 20_000) and policy.rows[Cause.UNMAP].point is Point.FLUSH
    assert policy.rows[Cause.COW] == Row() and policy.rows[Cause.COW].point is Point.START
    assert policy.rows[Cause.RECLAIM].verdict is Verdict.REFUSE_IF_BUSY
    assert policy.rows[Cause.RELEASE].verdict is Verdict.NOW, "a default does not reach the exit"


@pytest.mark.parametrize(
    "text, message",
    [
        ("name = ", "TOML or JSON"),
        ("{", "TOML or JSON"),
        ("verdicts = 1", "verdicts: unknown field"),
        ("causes = 1", "causes: expected a table"),
        ('[causes]\nSWAP = "NOW"', "causes.SWAP: no such cause"),
        ("[causes]\nUNMAP = 1", "UNMAP: expected a verdict in quotes"),
        ('[causes]\nUNMAP = "LATER"', "causes.UNMAP: verdict 'LATER'"),
        ('default = "LATER"', "default: verdict 'LATER'"),
        ('[causes]\nUNMAP = "DEFER"', "UNMAP: .* a deferral needs a bound"),
        ('[causes]\nUNMAP = "DEFER 0 pages 1 ms"', "UNMAP: DEFER 0 pages 1000000 ns: a deferral needs a bound"),
        ('[causes]\nUNMAP = "DEFER 1 pages 5000 s"', "UNMAP: .* is none"),
        ('[causes]\nRELEASE = "REFUSE_IF_BUSY"', "RELEASE: REFUSE_IF_BUSY: an exiting process cannot be refused"),
        ('default = "NOW"\n[causes]\nRELEASE = "DEFER 1 pages 1 ms"', "RELEASE: DEFER"),
    ],
)
def test_an_impossible_policy_names_the_field(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy.loads(text)


@pytest.mark.parametrize(
    "cause, verdict, reason",
    [
        (Cause.UNMAP, Verdict.DEFER, "comes when Linux has decided already"),
        (Cause.RECLAIM, Verdict.REFUSE_IF_BUSY, "comes when Linux has decided already"),
        (Cause.MIGRATE, Verdict.REFUSE_IF_BUSY, "raises nothing for it"),
        (Cause.PROTECT, Verdict.DOWNGRADE, "raises nothing for it"),
    ],
)
def test_the_live_world_refuses_what_it_cannot_honour(cause: Cause, verdict: Verdict, reason: str) -> None:
    row = Row(verdict, 1, 1) if verdict is Verdict.DEFER else Row(verdict)
    with pytest.raises(PolicyError, match=f"{cause.name}: the live world cannot {verdict.name} .*{reason}"):
        Policy("mine", {cause: row}).validate(LIVE)


def test_bounds_belong_to_deferrals() -> None:
    with pytest.raises(PolicyError, match="COW: NOW: max_pages and max_ns"):
        Policy("odd", {Cause.COW: Row(Verdict.NOW, 5, 0)})
    assert json.loads(Policy("x").to_json())["causes"]["COW"] == "NOW"
