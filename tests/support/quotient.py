"""Graphs such as the search keeps, drawn at random, with a group that acts on them; and the graph that each stands for, written out."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np

from unpinned.model import interleavings as E
from unpinned.model.automorphisms import automorphisms
from unpinned.model.fairness import T_AFTER, T_FAIR, T_IMAGE, T_MOVE, T_ORBIT, T_SIZE, fair_part, fairness_table
from unpinned.model.group import Group
from unpinned.model.layout import Block
from unpinned.model.livelock import Part
from unpinned.model.world import Op, Request, World

_READ: Final = Request("READ")
WORLDS: Final = (
    World("two requests", requests=(_READ, _READ)),
    World("three requests", requests=(_READ, _READ, _READ)),
    World("two threads, two requests", threads=((Op("UNMAP"),), (Op("UNMAP"),)), requests=(_READ, _READ)),
    World("two devices", devices=2, threads=((Op("UNMAP"),),), requests=(_READ, Request("READ", device=1))),
    World("nothing is alike", threads=((Op("UNMAP"),),), requests=(_READ,)),
)  # fmt: skip


@dataclass(frozen=True)
class Edge:
    target: int
    renamed: int  #: an element of the group: what brought the result into canonical form
    completed: int  #: bits of parties
    actor: int  #: a fair one


@dataclass
class Graph:
    """Who is not done in each state (bits), and the steps from it."""

    group: Group
    pending: list[int]
    edges: list[list[Edge]]

    def blocks(self) -> dict[int, Block]:
        """As the search keeps them."""
        count = range(self.group.actors)
        numbers = {self.group.fair_actor(0, actor): actor for actor in reversed(count)}
        flat = [e.target << 32 | e.renamed << 24 | e.completed << 8 | numbers[e.actor] for edges in self.edges for e in edges]
        first = np.cumsum([0, *(len(edges) for edges in self.edges)])
        return {
            E.C_EDGES: np.array(flat, np.int64), E.C_FIRST: first.astype(np.int64), E.C_PENDING: np.array(self.pending, np.int64)
        }  # fmt: skip

    def fair_part(self, orbit: list[int], table: Block | None = None) -> list[int]:
        """The nodes of the first fair part for an orbit of parties."""
        blocks = self.blocks()
        c = np.zeros(E.CONTROL_WORDS, np.int64)
        for word, block in blocks.items():
            c[word], c[word + 1] = block.ctypes.data, len(block)
        c[E.C_STATES] = len(self.pending)
        nodes = len(self.pending) << (len(orbit) - 1).bit_length()
        order = np.zeros(2 * nodes + 2, np.int64)
        table = fairness_table(self.group, orbit) if table is None else table
        size = int(fair_part(c, np.zeros(3 * nodes, np.int64), order, table))
        return [int(node) for node in order[:size]]

    def part(self, orbit: list[int], nodes: list[int]) -> Part:
        blocks = self.blocks()
        return Part(self.group, (blocks[E.C_EDGES], blocks[E.C_FIRST]), orbit, set(nodes))

    def parties(self, g: int, bits: int) -> int:
        """Bits of parties under the names of g."""
        return sum(1 << self.group.party(g, party) for party in range(16) if bits >> party & 1)

    def written_out(self, world: World) -> Graph:
        """What it stands for: state s under the names h is state s * size + h, and nothing is renamed between two of them."""
        size, after = self.group.size, self.group.after
        made = Graph(Group(world), [], [])
        of_fair = {self.group.fair_actor(0, actor): actor for actor in range(self.group.actors)}
        for pending, edges in zip(self.pending, self.edges):
            for h in range(size):
                made.pending.append(self.parties(h, pending))
                made.edges.append([
                    Edge(e.target * size + int(after[h, e.renamed]), 0, self.parties(h, e.completed),
                         self.group.fair_actor(h, of_fair[e.actor]))
                    for e in edges
                ])  # fmt: skip
        return made


def drawn(world: World, choose: Random) -> Graph:
    """A few states with a few steps each; of each actor at most one. Completed and done are rare, so that much is strongly connected."""
    group = Group(world, automorphisms(world))
    parties = [party for orbit in group.orbits() for party in orbit]
    states = choose.randint(1, 4)
    some = choose.sample(range(group.fair_actors), choose.randint(1, min(5, group.fair_actors)))

    def bits(chance: float) -> int:
        return sum(1 << party for party in parties if choose.random() < chance)

    def edge(actor: int) -> Edge:
        return Edge(choose.randrange(states), choose.randrange(group.size), bits(0.1), actor)

    edges = [[edge(actor) for actor in choose.sample(some, choose.randint(0, len(some)))] for _ in range(states)]
    return Graph(group, [bits(0.85) for _ in range(states)], edges)


# --- wrong analyses ------------------------------------------------------------------------------------------------------


def names_forgotten(group: Group, orbit: list[int]) -> Block:
    """As if no edge said what it renames."""
    t = fairness_table(group, orbit)
    t[t[T_MOVE] : t[T_MOVE] + t[T_SIZE] * t[T_ORBIT]] = np.tile(np.arange(t[T_ORBIT]), t[T_SIZE])
    t[t[T_AFTER] : t[T_AFTER] + t[T_SIZE] ** 2] = 0
    return t


def actors_as_in_the_search(group: Group, orbit: list[int]) -> Block:
    """As if the party had its names, and actors those of the reduced search."""
    t = fairness_table(group, orbit)
    t[t[T_AFTER] : t[T_AFTER] + t[T_SIZE] ** 2] = 0
    return t


def ways_taken_for_one(group: Group, orbit: list[int]) -> Block:
    """As if all ways to a node led there under the same names."""
    t = fairness_table(group, orbit)
    t[t[T_IMAGE] : t[T_IMAGE] + t[T_SIZE] * t[T_FAIR]] = np.tile(np.arange(t[T_FAIR]), t[T_SIZE])
    return t


WRONG: Final = (names_forgotten, actors_as_in_the_search, ways_taken_for_one)
