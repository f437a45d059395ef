"""A world's automorphisms as a group, in numbers: what one does after another is undone, and whose image is whom.

The reduced search keeps one state s for all that are its images h(s), and with every edge s -> t the automorphism g that brought the
step's result t' into canonical form: t = g(t'). So the step that actor a makes from s stands for one that h(a) makes from each
h(s), and that one leads to h(t') = h(g^-1(t)): on a way through the reduced search the *names*, h, become h after g^-1 with every edge.
Who is called i in s is called g(i) in t.

0 is the identity, g + 1 row g of the table of symmetry.py. *Parties* are those who can be not done: a thread t is party t, a request r
party ``threads + r`` (workers are threads, and always done). Weak fairness is asked of *fair actors*: threads and workers, whichever
device they turn to, requests, and driver, flush and host of each device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np

from unpinned.model import layout as M
from unpinned.model.automorphisms import Automorphism
from unpinned.model.layout import Block
from unpinned.model.world import World

NAMES_MAX: Final = 256  #: elements of a group that an edge has room for


class Group:
    """The identity and `found`: all automorphisms of the world or none, where `after` is asked for."""

    def __init__(self, world: World, found: Sequence[Automorphism] = ()) -> None:
        self.cpus, self.devices, self.requests = len(world.threads), world.devices, len(world.requests)
        self.threads = self.cpus + self.devices
        self.size = 1 + len(found)
        identity = tuple(map(tuple, (range(world.pages), range(self.devices), range(self.requests), range(self.cpus))))
        self._pages = [identity[0], *(g.pages for g in found)]
        self._devices = [identity[1], *(g.devices for g in found)]
        self._requests = [identity[2], *(g.requests for g in found)]
        self._threads = [
            (*scripts, *(self.cpus + d for d in devices))
            for scripts, devices in zip([identity[3], *(g.threads for g in found)], self._devices)
        ]

    @cached_property
    def after(self) -> Block:
        """``after[h, g]``: h after g^-1, as a number."""
        rows = [self._flat(g) for g in range(self.size)]
        number = {row: g for g, row in enumerate(rows)}
        table = np.empty((self.size, self.size), np.int64)
        made = [0] * len(rows[0])
        for h, of in enumerate(rows):
            for g, by in enumerate(rows):
                for old, new in enumerate(by):
                    made[new] = of[old]
                table[h, g] = number[tuple(made)]
        return table

    def _flat(self, g: int) -> tuple[int, ...]:
        """Where everything goes, numbered through."""
        flat: list[int] = []
        for names in (self._pages[g], self._devices[g], self._requests[g], self._threads[g]):
            first = len(flat)
            flat += [first + name for name in names]
        return tuple(flat)

    # --- parties ---------------------------------------------------------------------------------------------------------

    def party(self, g: int, party: int) -> int:
        """Who is party `party` under the names of g?"""
        return self._threads[g][party] if party < self.threads else self.threads + self._requests[g][party - self.threads]

    def orbits(self) -> list[list[int]]:
        """Parties that are images of each other, each orbit and all of them in ascending order."""
        found: dict[int, list[int]] = {}
        for party in [*range(self.cpus), *(self.threads + r for r in range(self.requests))]:
            orbit = sorted({self.party(g, party) for g in range(self.size)})
            found[orbit[0]] = orbit
        return [found[first] for first in sorted(found)]

    # --- actors ----------------------------------------------------------------------------------------------------------

    @property
    def actors(self) -> int:
        """How many actors the explorer has: threads and workers once per device."""
        return self.threads * self.devices + self.requests + 3 * self.devices

    @property
    def fair_actors(self) -> int:
        return self.threads + self.requests + 3 * self.devices

    def fair_actor(self, g: int, actor: int) -> int:
        """The fair actor that makes the steps of the explorer's `actor`, under the names of g."""
        if actor < self.threads * self.devices:
            return self._threads[g][actor // self.devices]
        rest = actor - self.threads * self.devices
        if rest < self.requests:
            return self.threads + self._requests[g][rest]
        d, kind = divmod(rest - self.requests, 3)
        return self.threads + self.requests + 3 * self._devices[g][d] + kind

    def actor(self, g: int, w: Block, actor: int) -> int:
        """Who makes, under the names of g, the step that `actor` makes in state w. (A thread turns to a device only when it notifies.)"""
        threads = self.threads * self.devices
        if actor >= threads:
            return self.fair_actor(g, actor) + threads - self.threads
        t, d = divmod(actor, self.devices)
        a = int(w[M.W_THREAD] + t * w[M.W_THREAD_WORDS])
        notifies = w[a + M.T_OP] and w[a + M.T_PHASE] in (M.PHASE_START, M.PHASE_FINISH)
        return self._threads[g][t] * self.devices + (self._devices[g][d] if notifies else d)
