"""Livelock: a cycle that every actor may keep to, fairly, while somebody is never done.

A *party* is a thread or a request. Take the states in which it is not done, and the steps between them by which it does not
complete anything; a strongly connected part of that graph with at least one step is a place where the world can stay for ever
without progress of that party. It counts when staying there is weakly fair: every actor either makes a step inside it, or is unable
to in at least one of its states. If a part is not fair no smaller one is (an actor that is always able, and never acts, is so there too),
so looking at the maximal parts is exact.

The parts are found by Tarjan's algorithm, iteratively, over the edges that the search kept. Renaming frames does not rename actors,
so this holds in the reduced search as well; nothing else is exchanged while it is asked for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import interleavings as E
from unpinned.model import layout as M
from unpinned.model.layout import Block

if TYPE_CHECKING:
    from unpinned.model.search import Search


@kernel
def fair_part(c: Block, n: Block, order: Block, g: Block) -> int:
    """The first fair part for party g[0]; -> its number of states (they are ``order[:that]``), or 0.

    n: 3 words per state, zeroed: index, low link, next edge. order: 2 * (states + 1) words. g: [party, how many actors,
    choices per thread, threads].
    """
    edges = words_at(c[E.C_EDGES], c[E.C_EDGES + 1])
    first = words_at(c[E.C_FIRST], c[E.C_FIRST + 1])
    pending = words_at(c[E.C_PENDING], c[E.C_PENDING + 1])
    states = c[E.C_STATES]
    party = g[0]
    done = 1 << (8 + party)
    clock = 0
    stack = 0  # Tarjan's stack: order[0 : stack]; the path of the search: order[states + 1 ...]
    for root in range(states):
        if n[3 * root] or (pending[root] >> party) & 1 == 0:
            continue
        depth = 1
        path = states + 1
        order[path] = root
        clock += 1
        n[3 * root] = clock
        n[3 * root + 1] = clock
        n[3 * root + 2] = first[root]
        order[stack] = root
        stack += 1
        while depth:
            state = order[path + depth - 1]
            if n[3 * state + 2] < first[state + 1]:
                edge = edges[n[3 * state + 2]]
                n[3 * state + 2] += 1
                target = edge >> 24
                if edge & done or (pending[target] >> party) & 1 == 0:
                    continue
                if n[3 * target] == 0:
                    clock += 1
                    n[3 * target] = clock
                    n[3 * target + 1] = clock
                    n[3 * target + 2] = first[target]
                    order[stack] = target
                    stack += 1
                    order[path + depth] = target
                    depth += 1
                elif n[3 * target] > 0:
                    n[3 * state + 1] = min(n[3 * state + 1], n[3 * target])
                continue
            depth -= 1
            if depth:
                above = order[path + depth - 1]
                n[3 * above + 1] = min(n[3 * above + 1], n[3 * state + 1])
            if n[3 * state + 1] == n[3 * state]:
                begin = stack - 1
                while order[begin] != state:
                    begin -= 1
                if is_fair(c, n, order, g, begin, stack):
                    for i in range(begin, stack):
                        order[i - begin] = order[i]
                    return stack - begin
                for i in range(begin, stack):
                    n[3 * order[i]] = -1 - n[3 * order[i]]  # closed: no longer on the stack
                stack = begin
    return 0


@kernel
def actor_of(g: Block, actor: int) -> int:
    """Whose step it is: the choices of one thread are one actor."""
    return actor // g[2] if actor < g[2] * g[3] else g[3] + actor - g[2] * g[3]


@kernel
def is_fair(c: Block, n: Block, order: Block, g: Block, begin: int, end: int) -> int:
    """1 when the part ``order[begin:end]`` has a step and can be kept to fairly."""
    edges = words_at(c[E.C_EDGES], c[E.C_EDGES + 1])
    first = words_at(c[E.C_FIRST], c[E.C_FIRST + 1])
    pending = words_at(c[E.C_PENDING], c[E.C_PENDING + 1])
    done = 1 << (8 + g[0])
    low = n[3 * order[begin]]  # the part's states are those on the stack from here on
    acts = 0
    always = -1
    for i in range(begin, end):
        state = order[i]
        able = 0
        for k in range(first[state], first[state + 1]):
            edge = edges[k]
            bit = 1 << actor_of(g, edge & 0xFF)
            able |= bit
            target = edge >> 24
            if edge & done == 0 and (pending[target] >> g[0]) & 1 and n[3 * target] >= low:
                acts |= bit
        always &= able
    return 1 if acts and always & ~acts == 0 else 0


def find_livelock(search: Search) -> tuple[int, list[int], list[int]] | None:
    """(party, way to the cycle, cycle) as actor numbers of the real world, or None.

    The cycle goes once round inside the part and lets everybody act who acts in it; in a reduced search frames may have other
    names after it.
    """
    c = search.c
    states = int(c[E.C_STATES])
    w = search.start
    n = np.zeros(3 * states, np.int64)
    order = np.zeros(2 * states + 2, np.int64)
    devices = max(1, int(w[M.W_DEVICES]))
    threads = int(w[M.W_THREADS])
    for party in [*range(int(w[M.W_CPUS])), *(threads + r for r in range(int(w[M.W_REQUESTS])))]:
        n[:] = 0
        size = int(fair_part(c, n, order, np.array([party, search.actors, devices, threads], np.int64)))
        if size:
            part = {int(state) for state in order[:size]}
            entry = min(part)
            stem = search.path(entry)
            numbers = search.real([*stem, *_round(search, part, entry, party)])
            return party, numbers[: len(stem)], numbers[len(stem) :]
    return None


def _inside(search: Search, part: set[int], party: int) -> dict[int, list[tuple[int, int]]]:
    """The steps inside the part: state -> (actor, target)."""
    edges, first = search.blocks[E.C_EDGES], search.blocks[E.C_FIRST]
    found = {}
    for state in part:
        steps = [int(edge) for edge in edges[int(first[state]) : int(first[state + 1])]]
        found[state] = [(e & 0xFF, e >> 24) for e in steps if e >> 24 in part and not e >> (8 + party) & 1]
    return found


def _round(search: Search, part: set[int], entry: int, party: int) -> list[int]:
    """A closed walk from `entry` on which every actor that acts in the part does so at least once: greedy, not the shortest."""
    inside = _inside(search, part, party)
    wanted = {actor for steps in inside.values() for actor, _ in steps}
    walk: list[int] = []
    at = entry

    def go(goal: set[int] | None) -> bool:
        """Append the shortest way to a step of a wanted actor (goal None), or to a state of `goal`."""
        nonlocal at
        seen: dict[int, tuple[int, int] | None] = {at: None}
        queue = deque([at])
        while queue:
            state = queue.popleft()
            for actor, target in inside[state]:
                hit = actor in wanted if goal is None else target in goal
                if hit or target not in seen:
                    back = (state, actor)
                    if hit:
                        way = [actor]
                        while seen[state] is not None:
                            state, step = seen[state]  # type: ignore[misc]
                            way.append(step)
                        walk.extend(reversed(way))
                        wanted.difference_update(way)
                        at = target
                        return True
                    seen[target] = back
                    queue.append(target)
        return False

    while wanted and go(None):
        pass
    if at != entry or not walk:
        go({entry})
    return walk
