"""Frames are numbered anew also where a device remembers one that is free: every scene, by notifiers that let it."""

from __future__ import annotations

import dataclasses

import pytest

from unpinned.check import matrix
from unpinned.check.worlds import SCENES, worlds_of
from unpinned.model import Limits, World, WorldError, explore
from unpinned.paging.causes import Cause

pytestmark = [pytest.mark.model, pytest.mark.compiled_only]

LIMITS = Limits(states=200_000)


def with_more_frames(world: World) -> list[World]:
    """The world, and one in which more frames are free than any script takes: which of them is taken is then a question of names."""
    try:
        return [world, dataclasses.replace(world, frames=min(7, world.frames + 2))]
    except WorldError:
        return [world]


@pytest.mark.parametrize("mode", ["late", "silent"])
@pytest.mark.parametrize("cause", list(SCENES), ids=lambda cause: cause.name)
def test_the_names_of_frames_change_no_answer(cause: Cause, mode: str) -> None:
    for scene in worlds_of(matrix.Cell(cause, matrix.DEFAULT_ROWS[0], mode)):
        for world in with_more_frames(scene):
            full = explore(world, LIMITS, reduce=False, liveness=False)
            reduced = explore(world, LIMITS, liveness=False)
            assert full.verdict != "BOUNDED", world.name
            assert (full.verdict, full.property, full.reached) == (reduced.verdict, reduced.property, reduced.reached), world.name
            assert len(full.trace) == len(reduced.trace), world.name
