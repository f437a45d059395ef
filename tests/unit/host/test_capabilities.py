"""Probing finds what is here and leaves nothing behind."""

import os
import threading

import pytest

from unpinned.host import capabilities, system
from unpinned.host.vmas import MAPS

MAY_BE_MISSING = {"swap", "memory cgroup", "IPv6", "cores"}


def test_every_probe_answers_in_one_line() -> None:
    for found in capabilities.probe_all():
        for text in (found.name, found.detail, found.cost, found.remedy):
            assert text and "\n" not in text and len(text) < 100, found


@pytest.mark.system
def test_this_kernel_has_it_all() -> None:
    missing = {found.name: found.detail for found in capabilities.probe_all() if not found.available}
    if set(missing) - MAY_BE_MISSING:
        pytest.skip(str(missing))  # an older kernel, a container: what `doctor` is for


def test_one_by_name() -> None:
    assert capabilities.probe("kernel").available
    with pytest.raises(KeyError):
        capabilities.probe("no such thing")


def test_nothing_is_left_behind() -> None:
    def held() -> tuple[list[str], int]:
        return sorted(os.listdir("/proc/self/fd")), threading.active_count()

    capabilities.probe_all()
    before = held()
    with open(MAPS) as maps:
        mappings = sum(1 for _ in maps)
    for _ in range(20):
        capabilities.probe_all()
    assert held() == before
    with open(MAPS) as maps:
        assert sum(1 for _ in maps) < mappings + 10


def test_a_refusal_is_reported_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(1, "seccomp says no")

    monkeypatch.setattr(system, "alias", refused)
    found = capabilities.probe("aliases")
    assert not found.available and found.detail == "seccomp says no"
    assert "mremap" in found.remedy
