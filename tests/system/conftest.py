"""Fixtures of several system tests."""

from collections.abc import Iterator

import pytest

from support.mmu_peer import Peer


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """A process that reads and writes the owner's memory (`support.mmu_peer`)."""
    opened = Peer()
    yield opened
    opened.close()
