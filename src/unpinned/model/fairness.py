"""Livelock: a cycle that every actor may keep to, fairly, while somebody is never done.

A *party* is a thread or a request. Take the states in which it is not done, and the steps between them by which it does not
complete anything; a strongly connected part of that graph with at least one step is a place where the world can stay for ever
without progress of that party. It counts when staying there is weakly fair: every actor either makes a step inside it, or is unable
to in at least one of its states. If a part is not fair no smaller one is (an actor that is always able, and never acts, is so there too),
so looking at the maximal parts is exact. They are found by Tarjan's algorithm, iteratively, over the edges that the search kept.

**Where devices and pages are exchanged** an edge says by which automorphism (group.py), and the graph is one of pairs: a state and who the
party is there, one of its orbit. With every pair that it finds the search notes the names under which it came there, and who acts or is
able is looked at under these. (After Emerson and Sistla, "Utilizing symmetry when model-checking under fairness assumptions: an
automata-theoretic approach", 1997.)

* Two ways to one pair may differ in names, by a permutation k of the world that leaves the party where it is. All k of the edges inside a
  part generate a group K. Of the full search the part stands for one part or several, alike: in each is every pair, under all names
  k after h, where h are those that were noted. So an actor acts in it if one of its K-orbit does under the names that were noted,
  and is unable somewhere in it if one of these is.
* So the part is unfair only if all actors of some K-orbit are always able, and none of them ever acts. Without K a
  fair part could be taken for an unfair one: of two requests that are exchanged on every round each makes a step on every other.
* One party of an orbit is enough: what one can suffer, all can.

Renaming frames renames no actor, so of frames nothing need be noted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import interleavings as E
from unpinned.model.group import Group
from unpinned.model.layout import Block

# --- the table about one orbit of parties ------------------------------------------------------------------------------
T_SHIFT = 0  #: a node is state << T_SHIFT | which of the orbit
T_ORBIT = 1  #: how many parties
T_SIZE = 2  #: elements of the group
T_ACTORS = 3  #: actors of the explorer
T_FAIR = 4  #: fair actors
T_BITS = 5  #: where stands for each of the orbit the bit of its party
T_MOVE = 6  #: for each element and each of the orbit which one it becomes
T_AFTER = 7  #: for each h and g: h after g^-1
T_ACTS = 8  #: for each element and actor the bit of the fair actor under its names
T_IMAGE = 9  #: for each element and fair actor whose image it is
T_ALIKE = 10  #: scratch, a word per fair actor: its K-orbit
T_SEEN = 11  #: scratch, a word per element: is it one of K? (That of the identity: is any other?)
T_WORDS = 12

NAME_BITS = 8  #: of a node's third word: names below its next edge
NAME_MASK = 255


def fairness_table(group: Group, orbit: Sequence[int]) -> Block:
    """What `fair_part` is told about one orbit of parties."""
    elements, actors, fair = range(group.size), range(group.actors), range(group.fair_actors)
    once = [next(a for a in actors if group.fair_actor(0, a) == f) for f in fair]  # an actor of each fair one
    parts = {
        T_BITS: [1 << party for party in orbit],
        T_MOVE: [orbit.index(group.party(g, party)) for g in elements for party in orbit],
        T_AFTER: group.after.ravel().tolist(),
        T_ACTS: [1 << group.fair_actor(g, a) for g in elements for a in actors],
        T_IMAGE: [group.fair_actor(g, a) for g in elements for a in once],
        T_ALIKE: list(fair),
        T_SEEN: [0] * group.size,
    }
    words = [(len(orbit) - 1).bit_length(), len(orbit), group.size, group.actors, len(fair), *(0 for _ in parts)]
    for word, part in parts.items():
        words[word] = len(words)
        words += part
    return np.array(words, np.int64)


# --- parts ---------------------------------------------------------------------------------------------------------------


@kernel
def follow(pending: Block, t: Block, edge: int, which: int) -> int:
    """The node to which an edge leads from one where the party is `which` of the orbit; -1: it completes something, or is done there."""
    target = edge >> 32
    if edge >> 8 & t[t[T_BITS] + which]:
        return -1
    if t[T_SIZE] == 1:
        return target if pending[target] & t[t[T_BITS]] else -1
    to = t[t[T_MOVE] + (edge >> 24 & 0xFF) * t[T_ORBIT] + which]
    return target << t[T_SHIFT] | to if pending[target] & t[t[T_BITS] + to] else -1


@kernel
def renamed(t: Block, names: int, edge: int) -> int:
    """The names after an edge."""
    return t[t[T_AFTER] + names * t[T_SIZE] + (edge >> 24 & 0xFF)]


@kernel
def fair_part(c: Block, n: Block, order: Block, t: Block) -> int:
    """The first fair part for the parties of table t; -> its number of nodes (they are ``order[:that]``), or 0.

    n: 3 words per node, zeroed: index, low link, next edge with names. order: 2 * (nodes + 1) words. t: see `fairness_table`.
    """
    edges = words_at(c[E.C_EDGES], c[E.C_EDGES + 1])
    first = words_at(c[E.C_FIRST], c[E.C_FIRST + 1])
    pending = words_at(c[E.C_PENDING], c[E.C_PENDING + 1])
    shift = t[T_SHIFT]
    mask = (1 << shift) - 1
    nodes = c[E.C_STATES] << shift
    clock = 0
    stack = 0  # Tarjan's stack: order[0 : stack]; the path of the search: order[nodes + 1 ...]
    for root in range(nodes):
        which = root & mask
        if n[3 * root] or which >= t[T_ORBIT] or pending[root >> shift] & t[t[T_BITS] + which] == 0:
            continue
        depth = 1
        path = nodes + 1
        order[path] = root
        clock += 1
        n[3 * root] = clock
        n[3 * root + 1] = clock
        n[3 * root + 2] = first[root >> shift] << NAME_BITS
        order[stack] = root
        stack += 1
        while depth:
            node = order[path + depth - 1]
            if n[3 * node + 2] >> NAME_BITS < first[(node >> shift) + 1]:
                edge = edges[n[3 * node + 2] >> NAME_BITS]
                n[3 * node + 2] += 1 << NAME_BITS
                target = follow(pending, t, edge, node & mask)
                if target < 0:
                    continue
                if n[3 * target] == 0:
                    clock += 1
                    n[3 * target] = clock
                    n[3 * target + 1] = clock
                    names = renamed(t, n[3 * node + 2] & NAME_MASK, edge)
                    n[3 * target + 2] = first[target >> shift] << NAME_BITS | names
                    order[stack] = target
                    stack += 1
                    order[path + depth] = target
                    depth += 1
                elif n[3 * target] > 0:
                    n[3 * node + 1] = min(n[3 * node + 1], n[3 * target])
                continue
            depth -= 1
            if depth:
                above = order[path + depth - 1]
                n[3 * above + 1] = min(n[3 * above + 1], n[3 * node + 1])
            if n[3 * node + 1] == n[3 * node]:
                begin = stack - 1
                while order[begin] != node:
                    begin -= 1
                if is_fair(c, n, order, t, begin, stack):
                    for i in range(begin, stack):
                        order[i - begin] = order[i]
                    return stack - begin
                for i in range(begin, stack):
                    n[3 * order[i]] = -1 - n[3 * order[i]]  # closed: no longer on the stack
                stack = begin
    return 0


@kernel
def is_fair(c: Block, n: Block, order: Block, t: Block, begin: int, end: int) -> int:
    """1 when the part ``order[begin:end]`` has a step and can be kept to fairly."""
    edges = words_at(c[E.C_EDGES], c[E.C_EDGES + 1])
    first = words_at(c[E.C_FIRST], c[E.C_FIRST + 1])
    pending = words_at(c[E.C_PENDING], c[E.C_PENDING + 1])
    low = n[3 * order[begin]]  # the part's nodes are those on the stack from here on
    if t[t[T_SEEN]]:
        tell_apart(t)
    alone = t[T_SIZE] == 1
    acts = 0
    always = -1
    for i in range(begin, end):
        node = order[i]
        state = node >> t[T_SHIFT]
        names = n[3 * node + 2] & NAME_MASK
        able = 0
        for k in range(first[state], first[state + 1]):
            edge = edges[k]
            bit = t[t[T_ACTS] + names * t[T_ACTORS] + (edge & 0xFF)]
            able |= bit
            target = follow(pending, t, edge, node & ((1 << t[T_SHIFT]) - 1))
            if target >= 0 and n[3 * target] >= low:
                acts |= bit
                if not alone:
                    other = n[3 * target + 2] & NAME_MASK
                    take_for_one(t, t[t[T_AFTER] + renamed(t, names, edge) * t[T_SIZE] + other])
        always &= able
    return 1 if acts and starved(t, always, acts) == 0 else 0


# --- actors that are alike in a part -------------------------------------------------------------------------------------


@kernel
def tell_apart(t: Block) -> int:
    """Every actor is alone in its orbit."""
    for i in range(t[T_FAIR]):
        t[t[T_ALIKE] + i] = i
    for k in range(t[T_SIZE]):
        t[t[T_SEEN] + k] = 0
    return 0


@kernel
def take_for_one(t: Block, k: int) -> int:
    """Element k is one of the part's K: actors that it exchanges are in one orbit."""
    if k == 0 or t[t[T_SEEN] + k]:
        return 0
    t[t[T_SEEN]] = 1
    t[t[T_SEEN] + k] = 1
    alike = t[T_ALIKE]
    for i in range(t[T_FAIR]):
        one = t[alike + i]
        other = t[alike + t[t[T_IMAGE] + k * t[T_FAIR] + i]]
        for j in range(t[T_FAIR] if one != other else 0):
            if t[alike + j] == other:
                t[alike + j] = one
    return 0


@kernel
def starved(t: Block, always: int, acts: int) -> int:
    """1 when there is an orbit of which all are always able, and none acts."""
    for orbit in range(t[T_FAIR]):
        who = 0
        for i in range(t[T_FAIR]):
            if t[t[T_ALIKE] + i] == orbit:
                who |= 1 << i
        if who and who & ~always == 0 and who & acts == 0:
            return 1
    return 0
