"""A livelock as a trace: a way to the fair part, and a closed walk in it, both of the real world.

What the reduced search knows of a walk are its states, and the names under which each of them is the real world's (group.py). A walk is
closed when it comes back to its state under the same names; it may go round the reduced graph several times until then. On it everybody
acts who acts anywhere in the part, and each of the others is once unable to: so the walk itself is weakly fair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unpinned.model import interleavings as E
from unpinned.model.fairness import fair_part, fairness_table
from unpinned.model.group import Group
from unpinned.model.layout import Block

if TYPE_CHECKING:
    from unpinned.model.search import Search

Place = tuple[int, int]  #: a node of the part (fairness.py), and the names under which it is meant


class Move(NamedTuple):
    """A step inside a part."""

    actor: int  #: as the reduced search numbers them
    fair: int  #: the fair actor under the walk's names
    to: Place


def node_bytes(group: Group) -> int:
    """Bytes per state that the analysis takes while it lasts: five words for each party that may have to be told apart."""
    widest = max((len(orbit) for orbit in group.orbits()), default=1)
    return 5 * 8 << (widest - 1).bit_length()


def find_livelock(search: Search) -> tuple[int, list[int], list[int]] | None:
    """(party, way to the cycle, cycle) as actor numbers of the real world, or None. Of parties that are alike the first is named."""
    group = search.group
    n, order = np.empty((2, 0), np.int64)
    for orbit in group.orbits():
        nodes = int(search.c[E.C_STATES]) << (len(orbit) - 1).bit_length()
        if len(n) < 3 * nodes:
            n, order = np.empty(3 * nodes, np.int64), np.empty(2 * nodes + 2, np.int64)
        n[: 3 * nodes] = 0
        size = int(fair_part(search.c, n, order, fairness_table(group, orbit)))
        if size:
            graph = search.blocks[E.C_EDGES], search.blocks[E.C_FIRST]
            part = Part(group, graph, orbit, {int(node) for node in order[:size]})
            entry = min(part.nodes)
            stem = search.path(entry >> part.shift)
            _, names = search.real(stem)
            starves = group.party(names, orbit[entry & part.mask])
            back = next(g for g in range(group.size) if group.party(g, starves) == orbit[0])
            numbers, _ = search.real([*stem, *part.round(entry)], back)
            return orbit[0], numbers[: len(stem)], numbers[len(stem) :]
    return None


class Part:
    """A strongly connected part of the graph for one orbit of parties. graph: the search's edges, and the first one of each state."""

    def __init__(self, group: Group, graph: tuple[Block, Block], orbit: Sequence[int], nodes: set[int]) -> None:
        self.group, self.orbit, self.nodes = group, orbit, nodes
        self.shift = (len(orbit) - 1).bit_length()
        self.mask = (1 << self.shift) - 1
        self._edges, self._first = graph

    def edges(self, at: Place) -> list[int]:
        """All that the search kept of the place's state."""
        state = at[0] >> self.shift
        return [int(edge) for edge in self._edges[int(self._first[state]) : int(self._first[state + 1])]]

    def moves(self, at: Place) -> Iterator[Move]:
        """The steps inside the part."""
        node, names = at
        party = self.orbit[node & self.mask]
        for edge in self.edges(at):
            g, actor = edge >> 24 & 0xFF, edge & 0xFF
            target = edge >> 32 << self.shift | self.orbit.index(self.group.party(g, party))
            if target in self.nodes and edge >> (8 + party) & 1 == 0:
                yield Move(actor, self.group.fair_actor(names, actor), (target, int(self.group.after[names, g])))

    def able(self, at: Place) -> set[int]:
        """Fair actors that can make a step, inside the part or out of it."""
        return {self.group.fair_actor(at[1], edge & 0xFF) for edge in self.edges(at)}

    def way(self, start: Place, hit: Callable[[Move], bool]) -> list[Move]:
        """The shortest way to a step that hits; empty if there is none."""
        came: dict[Place, tuple[Place, Move] | None] = {start: None}
        queue = deque([start])
        while queue:
            at = queue.popleft()
            for move in self.moves(at):
                if hit(move):
                    found = [move]
                    while (before := came[at]) is not None:
                        at, move = before
                        found.append(move)
                    return found[::-1]
                if move.to not in came:
                    came[move.to] = (at, move)
                    queue.append(move.to)
        return []

    def round(self, node: int) -> list[int]:
        """A fair closed walk from a node: actors of the reduced search. Greedy, not the shortest."""
        entry = (node, 0)
        acting = self.acting(entry)
        others = self.able(entry) - acting  # who must be unable once
        walk: list[Move] = []

        def go(hit: Callable[[Move], bool]) -> None:
            way = self.way(walk[-1].to if walk else entry, hit)
            assert way, "what a fair part promises is not in it"
            for move in way:
                walk.append(move)
                acting.discard(move.fair)
                others.intersection_update(self.able(move.to))

        while acting:
            go(lambda move: move.fair in acting)
        while others:
            go(lambda move: not others <= self.able(move.to))
        if walk[-1].to != entry:
            go(lambda move: move.to == entry)
        return [move.actor for move in walk]

    def acting(self, start: Place) -> set[int]:
        """Fair actors that make a step anywhere inside the part."""
        found: set[int] = set()

        def noted(move: Move) -> bool:
            found.add(move.fair)
            return False

        self.way(start, noted)  # looks at every step
        return found
