"""Fair parts of graphs whose edges rename: the same as of the graph that is written out, with walks that are fair there."""

from __future__ import annotations

from random import Random

import pytest

from support.quotient import WORLDS, WRONG, Edge, Graph, drawn, names_forgotten, ways_taken_for_one
from unpinned.model.automorphisms import automorphisms
from unpinned.model.group import Group
from unpinned.model.world import Request, World

GRAPHS = 200
ALL = pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)


def graphs(world: World, seed: int) -> list[Graph]:
    choose = Random(f"{world.name} {seed}")
    return [drawn(world, choose) for _ in range(GRAPHS)]


@ALL
def test_a_party_starves_where_it_does_in_the_graph_that_is_written_out(world: World, seed: int) -> None:
    both = set()
    for graph in graphs(world, seed):
        full = graph.written_out(world)
        for orbit in graph.group.orbits():
            found = bool(graph.fair_part(orbit))
            assert {found} == {bool(full.fair_part([party])) for party in orbit}, graph
            both.add(found)
    assert both == {True, False}


def unable_once(full: Graph, states: list[int]) -> set[int]:
    """Fair actors that cannot make a step in one of these states."""
    able = [{edge.actor for edge in full.edges[state]} for state in states]
    return set(range(full.group.fair_actors)) - set.intersection(*able)


@ALL
def test_its_walk_is_closed_and_fair_in_the_graph_that_is_written_out(world: World, seed: int) -> None:
    """The walk says which actor of the reduced search makes each step. Every actor acts on it, or is unable on it."""
    walked = 0
    for graph in graphs(world, seed):
        full = graph.written_out(world)
        for orbit in graph.group.orbits():
            nodes = graph.fair_part(orbit)
            if not nodes:
                continue
            part = graph.part(orbit, nodes)
            entry = min(nodes)
            party = orbit[entry & part.mask]
            state, names = entry >> part.shift, 0
            states, acted = [state * graph.group.size], set()
            for actor in part.round(entry):
                (k,) = (k for k, edge in enumerate(graph.edges[state]) if edge.actor == graph.group.fair_actor(0, actor))
                edge, real = graph.edges[state][k], full.edges[states[-1]][k]
                assert not real.completed >> party & 1 and full.pending[real.target] >> party & 1
                state, names = edge.target, int(graph.group.after[names, edge.renamed])
                assert real.target == state * graph.group.size + names
                states.append(real.target)
                acted.add(real.actor)
            assert len(states) > 1 and states[0] == states[-1]
            assert acted | unable_once(full, states) == set(range(full.group.fair_actors)), graph
            walked += 1
    assert walked


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_an_analysis_that_forgets_names_is_noticed(wrong) -> None:  # type: ignore[no-untyped-def]
    """The canary of the tests above: each finds livelocks that are none, or misses one, in graphs that they look at."""
    differs = set()
    for world in WORLDS:
        for graph in graphs(world, 1):
            for orbit in graph.group.orbits():
                right, found = bool(graph.fair_part(orbit)), bool(graph.fair_part(orbit, wrong(graph.group, orbit)))
                differs |= {(right, found)} if right != found else set()
    assert differs == ({(True, False)} if wrong is WRONG[2] else {(True, False), (False, True)})


# --- by hand: graphs of one state --------------------------------------------------------------------------------------------


class Equal:
    """So many equal requests, as parties and as fair actors: the only thread is a worker."""

    def __init__(self, count: int) -> None:
        world = World("equal", requests=count * (Request("READ"),))
        self.group = Group(world, automorphisms(world))
        (self.requests,) = self.group.orbits()

    def swap(self, r: int, k: int) -> int:
        """The element that exchanges these two requests, and nothing else."""
        images = [self.requests[{r: k, k: r}.get(i, i)] for i in range(len(self.requests))]
        return next(g for g in range(self.group.size) if [self.group.party(g, party) for party in self.requests] == images)

    def step(self, r: int, completed: tuple[int, ...], renamed: int = 0) -> Edge:
        """Request r makes a step by which these complete something."""
        return Edge(0, renamed, sum(1 << self.requests[k] for k in completed), self.requests[r])

    def graph(self, *edges: Edge) -> Graph:
        return Graph(self.group, [sum(1 << party for party in self.requests)], [list(edges)])


def test_who_is_exchanged_on_every_round_acts_on_every_other() -> None:
    """Request 1 completes something and is called 2 then; request 2 could always complete something for all, and never does."""
    three = Equal(3)
    for_all = three.step(2, (0, 1, 2))
    graph = three.graph(three.step(1, (1,), three.swap(1, 2)), for_all)
    (node,) = graph.fair_part(three.requests)
    assert graph.part(three.requests, [node]).round(node) == 2 * [three.requests[1]], "twice round, until the names are what they were"
    assert three.graph(three.step(1, (1,)), for_all).fair_part(three.requests) == [], "with no exchange request 2 is starved"
    for wrong in (names_forgotten, ways_taken_for_one):
        assert graph.fair_part(three.requests, wrong(three.group, three.requests)) == []


def test_who_takes_turns_in_completing_something_does_not_starve() -> None:
    """Request 1 completes something and is called 0 then: whoever was called 0 comes next."""
    two = Equal(2)
    graph = two.graph(two.step(1, (1,), two.swap(0, 1)))
    assert graph.fair_part(two.requests) == []
    assert graph.fair_part(two.requests, names_forgotten(two.group, two.requests)) != []
