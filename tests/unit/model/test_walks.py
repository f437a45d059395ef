"""Random runs through every kind of world: the model's own book-keeping, and what steps promise to the search."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from support.worlds import EVERYTHING, same_state, walk
from unpinned.model import layout as M
from unpinned.model.audit import audit
from unpinned.model.world import World, state_words
from unpinned.paging import layout as P
from unpinned.paging.audit import audit as audit_paging


def paging_blocks(w):
    for d in range(int(w[M.W_DEVICES])):
        at = int(w[w[M.W_DEVICE] + d * w[M.W_DEVICE_WORDS] + M.D_OFFSET])
        yield w[at : at + w[M.W_BLOCK_WORDS]]


@pytest.mark.parametrize("world", EVERYTHING, ids=lambda world: world.name)
def test_steps_keep_the_books(world: World, seed: int) -> None:
    changeable = set(state_words(world.build()).tolist())
    for run in range(6):
        for before, actor, after, w in walk(world, Random(f"{seed}.{run}")):
            where = f"world {world.name!r}, walk {seed}.{run}, actor {actor}"
            assert w[M.W_BROKEN] == 0, where
            if after is None:
                assert same_state(before, w), f"{where}: a step that was not made changed something"
                continue
            assert audit(w) == [], where
            for p in paging_blocks(w):
                assert audit_paging(p) == [], where
            changed = set(np.flatnonzero(before != w).tolist())
            outside = [i for i in changed - changeable if M.W_STATE < i < w[M.W_SCRATCH] and i >= w[M.W_STATE]]
            for d in range(int(w[M.W_DEVICES])):
                at = int(w[w[M.W_DEVICE] + d * w[M.W_DEVICE_WORDS] + M.D_OFFSET])
                counters = range(at + int(w[at + P.COUNTERS]), at + int(w[M.W_BLOCK_WORDS]))
                outside = [i for i in outside if i not in counters]
            assert outside == [], f"{where}: words that the search does not keep have changed"


@pytest.mark.parametrize("mode", M.MODES)
def test_books_are_kept_in_every_mode(mode: str, seed: int) -> None:
    for world in EVERYTHING[:4]:
        told = World(**{**world.__dict__, "mode": mode, "keep": False})
        for before, actor, after, w in walk(told, Random(f"{seed}.{mode}"), 120):
            if after is None:
                assert same_state(before, w), f"{told.name}, {mode}, actor {actor}"
            else:
                assert audit(w) == [], f"{told.name}, {mode}, actor {actor}"
