"""Every seeded defect dies, of what it should die of, soon; and what is no defect lives."""

from __future__ import annotations

import pytest

from unpinned.check.kills import kill
from unpinned.check.mutant_worlds import WORLDS
from unpinned.check.mutants import CANARY, MUTANTS
from unpinned.check.trace import loads
from unpinned.model.search import explore

pytestmark = pytest.mark.model

STEPS_MOST = 30

# The worlds as they are, unmutated: states, transitions, depth.
PINNED: dict[str, tuple[int, int, int]] = {
    "unmap": (147, 226, 20),
    "migrate": (210, 323, 23),
    "absent": (248, 386, 31),
    "wide": (230, 355, 29),
    "second-page": (136, 214, 22),
    "overlap": (2_253, 5_132, 33),
    "readonly": (56, 86, 12),
    "readonly-absent": (67, 96, 19),
    "region": (2, 1, 1),
    "prefetch": (57, 81, 14),
    "prefetch-joined": (38, 53, 13),
    "reaper": (156, 269, 18),
    "unsleepable": (342, 793, 24),
    "discard-three-times": (805, 1_432, 38),
    "unrelated": (96, 180, 18),
    "protect": (154, 231, 24),
    "reclaim-refused": (172, 280, 22),
    "reclaim-refused-at-last": (142, 228, 21),
    "reclaim-twice": (1_598, 2_728, 49),
    "reclaim-twice-uncached": (1_433, 2_461, 43),
    "reclaim-deferred": (485, 972, 25),
    "unmap-deferred-twice": (324, 652, 24),
    "soft-dirty-twice": (795, 1_728, 29),
    "remap-deferred": (875, 1901, 28),
    "discard-deferred": (518, 1_067, 24),
    "discard-bounded": (2_478, 5_510, 47),
    "discard-two-pages": (3_975, 8_948, 41),
    "two-devices": (2_920, 8_123, 37),
}


@pytest.mark.slow
def test_every_mutant_is_killed_by_a_short_trace() -> None:
    ended = {found.mutant.name: found for found in kill([*MUTANTS, CANARY.name])}
    alive = [name for name, found in ended.items() if not found.killed]
    assert alive == [CANARY.name], "unpinned check --mutant NAME shows each"
    assert {name: found.broke for name, found in ended.items()} == {
        **{name: mutant.kills for name, mutant in MUTANTS.items()}, CANARY.name: "",
    }  # fmt: skip
    assert max(found.steps for found in ended.values()) <= STEPS_MOST
    for name in MUTANTS:
        trace = loads(ended[name].trace)
        assert trace.world["mutant"] == name and len(trace.events) == ended[name].steps > 0


@pytest.mark.parametrize("world", WORLDS.values(), ids=lambda world: world.name)
def test_the_worlds_of_the_mutants_are_safe_without_them(world) -> None:
    result = explore(world)
    assert result.verdict == "SAFE", result.message
    assert (result.states, result.transitions, result.depth) == PINNED[world.name]


def test_every_world_is_some_mutant_s() -> None:
    assert set(WORLDS) == {mutant.world for mutant in MUTANTS.values() if not mutant.of_requests}
