"""Which permutations of pages, devices, requests and threads leave a world as it is. Found by trying them: worlds are small.

A permutation is one of the world's if whatever can happen in it still can when everything in it has its new name:

* **Requests and threads** go to such as do the same, line by line, on pages and devices with the new names, as often.
* **A range that is walked** (a request's, a READ's, a WRITE's, a collapse's, a mremap's with its target) keeps its order: page
  ``start + i`` goes to ``start + i`` of the other's. So pages of one request are never exchanged with each other. **A range that changes
  in one step** goes to a range, in any order. fork and exit are about all pages.
* **What is there at the beginning** is so after it: mappings, rights, resident pages, the region. A file's blocks go with their pages.
* **Contents** that only differ in who wrote them are renamed with their writers (they are copied and compared, nothing else; zero stays).
* **Neighbours** stay neighbours where anything is deferred: deferrals of ranges side by side become one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Final

from unpinned.model.world import Op, Request, World
from unpinned.paging.causes import Verdict

WALKED: Final = ("READ", "WRITE", "COLLAPSE", "REMAP")  #: page after page; every other range changes in one step
ALL_PAGES: Final = ("FORK", "EXIT")


@dataclass(frozen=True)
class Automorphism:
    """Where each page, device, request and thread of the world goes, and each content."""

    pages: tuple[int, ...]
    devices: tuple[int, ...]
    requests: tuple[int, ...]
    threads: tuple[int, ...]  #: those with a script; a worker goes where its device goes
    contents: tuple[int, ...]

    @property
    def names_pages(self) -> bool:
        """Does it rename anything that a page has?"""
        return any(to != at for at, to in enumerate(self.pages)) or any(to != at for at, to in enumerate(self.contents))

    @property
    def moves(self) -> bool:
        """Is it more than the identity? (Contents alone never move.)"""
        named = (self.pages, self.devices, self.requests, self.threads)
        return any(to != at for names in named for at, to in enumerate(names))


def automorphisms(world: World) -> list[Automorphism]:
    """Each one but the identity. They are a group: what two of them do, one after the other, is one of them, too."""
    used = _mentioned(world)
    found = []
    for devices in permutations(range(world.devices)):
        for pages in _page_permutations(world, used):
            requests = _matches(world, pages, devices)
            threads = _thread_matches(world, pages)
            for chosen in product(requests, threads):
                contents = _contents(world, pages, *chosen)
                if contents is not None:
                    made = Automorphism(pages, devices, *chosen, contents)
                    if made.moves:
                        found.append(made)
    return found


# --- pages ---------------------------------------------------------------------------------------------------------------


def _pages_of(thing: Op | Request) -> range:
    return range(thing.start, max(thing.end, thing.start + 1))


def _mentioned(world: World) -> set[int]:
    """Pages that somebody does something to alone; the others are left where they are, for nothing is gained by their exchange."""
    ops = [op for script in world.threads for op in script if op.name not in ALL_PAGES]
    found = {page for op in ops for page in _pages_of(op)} | {page for asked in world.requests for page in _pages_of(asked)}
    found |= {op.arg + i for op in ops if op.name == "REMAP" for i in range(len(_pages_of(op)))}
    return found | {op.arg for op in ops if op.name == "MERGE"}


def _page_permutations(world: World, used: set[int]) -> Iterator[tuple[int, ...]]:
    """Permutations of the pages that are mentioned which the beginning, the region and deferrals do not tell apart."""
    first, last = world.region or (0, world.pages)
    kinds = [
        (page in world.mapping, page in world.touched, page in world.readonly, first <= page < last) for page in range(world.pages)
    ]
    deferred = world.deferrals and any(row.verdict is Verdict.DEFER for row in world.policy.rows.values())
    inside = sorted(used)
    for images in permutations(inside):
        pages = list(range(world.pages))
        for page, image in zip(inside, images):
            pages[page] = image
        if any(kinds[page] != kinds[image] for page, image in enumerate(pages)):
            continue
        if deferred and any((abs(a - b) == 1) != (abs(pages[a] - pages[b]) == 1) for a in used for b in used):
            continue
        yield tuple(pages)


def _walks_to(pages: Sequence[int], start: int, other: int, count: int) -> bool:
    return all(pages[start + i] == other + i for i in range(count))


# --- requests and threads ------------------------------------------------------------------------------------------------


def _same_request(a: Request, b: Request, pages: Sequence[int], devices: Sequence[int]) -> bool:
    """Does b ask for what a asks for, under the new names?"""
    walks = len(_pages_of(a)) == len(_pages_of(b)) and _walks_to(pages, a.start, b.start, len(_pages_of(a)))
    return walks and (a.name, a.repeat, devices[a.device]) == (b.name, b.repeat, b.device)


def _same_op(a: Op, b: Op, pages: Sequence[int]) -> bool:
    """Does b do what a does, under the new names? (What a WRITE writes is renamed: _contents.)"""
    if (a.name, a.process) != (b.name, b.process):
        return False
    if a.name in ALL_PAGES:
        return True
    of_a, of_b = _pages_of(a), _pages_of(b)
    if len(of_a) != len(of_b):
        return False
    if a.name in ("REMAP", "MERGE") and not _walks_to(pages, a.arg, b.arg, len(of_a)):
        return False
    if a.name not in ("WRITE", "REMAP", "MERGE") and a.arg != b.arg:
        return False
    if a.name in WALKED:
        return _walks_to(pages, a.start, b.start, len(of_a))
    return {pages[page] for page in of_a} == set(of_b)


def _bijections(alike: Sequence[Sequence[int]], chosen: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Ways to send each i to one of alike[i], no two to the same."""
    if len(chosen) == len(alike):
        yield chosen
        return
    for image in alike[len(chosen)]:
        if image not in chosen:
            yield from _bijections(alike, (*chosen, image))


def _matches(world: World, pages: Sequence[int], devices: Sequence[int]) -> list[tuple[int, ...]]:
    asked = world.requests
    return list(_bijections([[k for k, b in enumerate(asked) if _same_request(a, b, pages, devices)] for a in asked]))


def _thread_matches(world: World, pages: Sequence[int]) -> list[tuple[int, ...]]:
    def same(t: int, u: int) -> bool:
        one, other = world.threads[t], world.threads[u]
        alike = len(one) == len(other) and (t in world.loops) == (u in world.loops)
        return alike and all(_same_op(a, b, pages) for a, b in zip(one, other))

    count = range(len(world.threads))
    return list(_bijections([[u for u in count if same(t, u)] for t in count]))


# --- contents ------------------------------------------------------------------------------------------------------------


def _contents(
    world: World, pages: Sequence[int], requests: Sequence[int], threads: Sequence[int]
) -> tuple[int, ...] | None:
    """The new name of each content, 0 to the largest there is; None: two would get one, or one two."""
    names = {0: 0}
    pairs = [(world.content(page), world.content(pages[page])) for page in world.touched]
    pairs += [(world.carries(r), world.carries(k)) for r, k in enumerate(requests) if world.requests[r].name == "WRITE"]
    for t, u in enumerate(threads):
        writes = [i for i, op in enumerate(world.threads[t]) if op.name == "WRITE"]
        pairs += [(world.writes(t, i), world.writes(u, i)) for i in writes]
    for old, new in pairs:
        if names.setdefault(old, new) != new:
            return None
    if len(set(names.values())) < len(names):
        return None
    return tuple(names.get(value, value) for value in range(max(names) + 1))
