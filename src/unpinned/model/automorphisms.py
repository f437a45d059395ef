"""Which permutations of devices, requests and threads leave a world as it is. Found by trying them all: worlds are small."""

from __future__ import annotations

from itertools import permutations

from unpinned.model import layout as M
from unpinned.model.layout import Block
from unpinned.model.world import World


def automorphisms(world: World, w: Block) -> list[list[int]]:
    """Each one but the identity: for every device, request and thread (workers last) where it goes.

    Threads that write different values are different; requests are the same if they do the same on devices that are
    exchanged (a READ), so two WRITEs never are: what they write tells them apart.
    """
    found = []
    cpus = len(world.threads)
    identity = [*range(world.devices), *range(len(world.requests)), *range(cpus + world.devices)]
    for devices in permutations(range(world.devices)):
        for requests in permutations(range(len(world.requests))):
            same = all(
                (a.name, a.start, a.end, a.repeat) == (b.name, b.start, b.end, b.repeat)
                and devices[a.device] == b.device
                and (a.name != "WRITE" or i == requests[i])
                for i, a in enumerate(world.requests)
                for b in (world.requests[requests[i]],)
            )
            if same:
                first = int(w[M.W_CPUS])
                g = [*devices, *requests, *range(cpus), *(first + d for d in devices)]
                if g != identity:
                    found.append(g)
    return found
