"""A failing schedule made small: what it does not need is left out, kind by kind, until nothing more can be.

Delta debugging (Zeller, Hildebrandt 2002): halves first, then smaller parts, then one by one. A smaller schedule counts if it
breaks the same invariant; the choices that stay do not change, for each is drawn by its own number (`chance`).
"""

from __future__ import annotations

from collections.abc import Callable

from unpinned.swarm.cases import KINDS, Case, Outcome, play

PLAYS_MAX = 4_000


def shrink(failing: Outcome, *, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """The smallest schedule found that breaks what *failing* broke.

    Raises:
        ValueError: *failing* broke nothing.
    """
    if not failing.verdict:
        raise ValueError("this schedule breaks nothing: there is nothing to shrink")
    plays = 0
    best = failing

    def attempt(case: Case) -> bool:
        nonlocal plays, best
        plays += 1
        outcome = play(case)
        if outcome.verdict == best.verdict:
            best = outcome
            return True
        return False

    for _ in range(3):  # what one kind gives up may let go of another
        before = size(best)
        for kind in reversed(KINDS):
            _shrink_kind(kind, lambda: best, attempt, lambda: plays < PLAYS_MAX)
        say(f"{sum(size(best).values())} left after {plays} plays: {describe(best)}")
        if size(best) == before or plays >= PLAYS_MAX:
            break
    return best


def _shrink_kind(
    kind: str, best: Callable[[], Outcome], attempt: Callable[[Case], bool], go_on: Callable[[], bool]
) -> None:
    part = max(1, len(present(best(), kind)))
    while go_on():
        there = present(best(), kind)
        at = 0
        while at < len(there) and go_on():
            attempt(best().case.minus(kind, tuple(there[at : at + part])))
            at += part
        if part == 1:
            return
        part = max(1, part // 2)


def present(outcome: Outcome, kind: str) -> list[int]:
    """The numbers of a kind that a schedule still has."""
    without = set(outcome.case.without.get(kind, ()))
    return [number for number in range(min(outcome.counts[kind], 512)) if number not in without]


def size(outcome: Outcome) -> dict[str, int]:
    """How much of each kind is left."""
    return {kind: len(present(outcome, kind)) for kind in KINDS}


def describe(outcome: Outcome) -> str:
    """What a schedule consists of, in a line."""
    return ", ".join(f"{count} {kind}" for kind, count in size(outcome).items() if count and kind != "death")
