"""What a caller decides in a seed's place: every bound can be played, and nothing outside of them."""

from __future__ import annotations

import pytest

from unpinned.swarm import jobs
from unpinned.swarm import layout as S
from unpinned.swarm.cases import overrides
from unpinned.swarm.settings import SETTINGS, SettingError, demand

IN_EARNEST = ("retry", "rnr_retry")  # with too few, an operation fails that a strict schedule lets nobody fail
BOUNDS = [
    (name, value) for name, setting in SETTINGS.items() for value in {setting.least, setting.most} if name != "park_ns"
]


def test_every_word_of_the_configuration_has_a_name_and_bounds() -> None:
    words = {name[2:].lower(): value for name, value in vars(S).items() if name.startswith("C_")}
    assert {name: setting.word for name, setting in SETTINGS.items()} == words


@pytest.mark.compiled_only
@pytest.mark.parametrize(("name", "value"), [*BOUNDS, ("park_ns", 0), ("park_ns", 262_144)])
def test_a_world_at_a_bound_can_be_played(name: str, value: int) -> None:
    settings = {name: value, **({"strict": 0} if name in IN_EARNEST else {})}
    if name == "fixed" and value:
        settings |= {"length": 512}
    assert jobs.run_range(1, 20, 2, 2, settings)["failures"] == []


@pytest.mark.parametrize("name", SETTINGS)
def test_what_lies_outside_is_refused_by_name(name: str) -> None:
    setting = SETTINGS[name]
    for value in (setting.least - 1, setting.most + 1, 1 << 70):
        with pytest.raises(SettingError, match=f"{name}={value}: must be"):
            overrides({name: value})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mtu": 300}, "mtu=300: must be a power of two"),
        ({"loss": True}, "loss: expected an integer, got True"),
        ({"frames": 3}, "frames: no such setting; there are by_scan"),
        ({"park_ns": 262_145}, "park_ns=262145: must be at most 262144, a quarter of the timeout"),
        ({"park_ns": 600_000, "timeout": 9}, "park_ns=600000: must be at most 524288"),
    ],
)
def test_what_no_world_can_have_is_refused_with_the_reason(settings: dict, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        demand(settings)


@pytest.mark.compiled_only
def test_a_request_parks_no_longer_than_a_quarter_of_the_timeout_that_was_set() -> None:
    """The park was drawn for the seed's own timeout: with a shorter one, requests that waited for pages timed out."""
    assert jobs.run_range(1, 300, 2, 2, {"timeout": 8})["failures"] == []
