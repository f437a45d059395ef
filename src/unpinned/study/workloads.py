"""Workloads: who touches which page, and what the CPU side does to the memory meanwhile. Arrays, made from a seed.

A workload is a function of how many pages there are and of a random generator; it returns a `Plan`. Popularity is Zipf's
law with exponent 0.99 over pages in random order, as in YCSB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unpinned.study import layout as S

Words = NDArray[np.int64]
Random = np.random.Generator

ACCESSES: Final = 1 << 18  #: words of an access stream before it repeats


@dataclass
class Plan:
    """What happens: the accesses of all streams, a script a processor, and how things stand at the beginning."""

    accesses: Words
    scripts: list[Words] = field(default_factory=list)
    loop: bool = True  #: scripts repeat
    accesses_loop: bool = True
    frames: float = 1.25  #: of the pages
    resident: float = 1.0  #: of the pages, the first of them
    installed: bool = True  #: the device knows what is resident
    think_ns: int = 2_000
    streams: int = 8
    until_scripts_end: bool = False
    # What a recording has instead of a seed
    moments: Words | None = None  #: when each access is due, ns; the scripts' pauses are moments then
    edges: Words | None = None  #: where each stream's accesses begin, and the end; else they get equal parts
    given_up: int = 0  #: pages that the owner gives up in all, as often as it does: where memory is pinned they stay for good
    present: NDArray[np.bool_] | None = None  #: the pages that are there at the beginning, instead of `resident`


def accesses(pages: Words, write: NDArray[np.bool_] | bool = False, count: Words | int = 1) -> Words:
    """Access words: `count` pages from each of `pages` on."""
    return pages.astype(np.int64) | count << S.ACCESS_COUNT_SHIFT | np.where(write, S.ACCESS_WRITE, 0)


def rows(kind: int, pages: Words | int, count: int = 1, think_ns: int = 0) -> Words:
    """Script rows, one for each of `pages`."""
    each = np.atleast_1d(np.asarray(pages, np.int64))
    made = np.zeros((each.size, S.OP_WORDS), np.int64)
    made[:, S.OP_KIND], made[:, S.OP_PAGE], made[:, S.OP_COUNT], made[:, S.OP_THINK] = kind, each, count, think_ns
    return made


def interleave(*parts: Words) -> Words:
    """Rows of equally long scripts, by turns."""
    return np.stack(parts, axis=1).reshape(-1, S.OP_WORDS)


def zipf(random: Random, pages: int, count: int, exponent: float = 0.99) -> Words:
    """`count` pages by Zipf's law; which page is popular is random."""
    weights = np.cumsum(np.arange(1, pages + 1, dtype=float) ** -exponent)
    ranks = np.searchsorted(weights, random.random(count) * weights[-1])
    return np.asarray(random.permutation(pages)[np.minimum(ranks, pages - 1)], np.int64)


def hot(pages: int, random: Random) -> Plan:
    """Everything is there, nothing changes: what translation itself costs."""
    chosen = zipf(random, pages, ACCESSES)
    return Plan(accesses(chosen, random.random(ACCESSES) < 0.1))


def reclaim(pages: int, random: Random) -> Plan:
    """Steady reclaim: more is registered than there is memory, and the CPU side uses its share."""
    chosen = zipf(random, pages, ACCESSES)
    touched = zipf(random, pages, 4_096)
    script = rows(S.DO_READ, touched, think_ns=20_000)
    return Plan(accesses(chosen, random.random(ACCESSES) < 0.2), [script], frames=0.75, resident=0.7)


def discard(pages: int, random: Random) -> Plan:
    """The owner gives its memory back page by page (MADV_DONTNEED), while peers read the eighth that stays."""
    stays = max(1, pages // 8)
    script = rows(S.DO_DISCARD, np.arange(stays, pages), think_ns=100)
    chosen = random.integers(0, stays, ACCESSES)
    return Plan(accesses(chosen), [script], loop=False, until_scripts_end=True, streams=2)


def churn(pages: int, random: Random) -> Plan:
    """An allocator: chunks of 64 pages are unmapped, mapped again and written; peers use the same arena."""
    chunk = min(64, max(1, pages // 8))
    chunks = random.permutation(pages // chunk) * chunk
    script = interleave(
        rows(S.DO_UNMAP, chunks, chunk, think_ns=20_000),
        rows(S.DO_MAP, np.roll(chunks, 4), chunk, think_ns=1_000),
        rows(S.DO_WRITE, np.roll(chunks, 4), chunk, think_ns=1_000),
    )
    chosen = zipf(random, pages, ACCESSES)
    return Plan(accesses(chosen, random.random(ACCESSES) < 0.5), [script], think_ns=5_000)


def fork(pages: int, random: Random) -> Plan:
    """A fork server: a child every 20 ms that lives for 8 ms; peers read a read-mostly region, the parent writes a little."""
    script = [rows(S.DO_SLEEP, 0, think_ns=4_000_000), rows(S.DO_FORK, 0, pages)]
    chosen = zipf(random, pages, ACCESSES)
    script += [rows(S.DO_WRITE, random.choice(chosen, 64), think_ns=125_000), rows(S.DO_EXIT, 0)]
    script += [rows(S.DO_SLEEP, 0, think_ns=8_000_000)]
    return Plan(accesses(chosen), [np.concatenate(script)], frames=1.5)


def numa(pages: int, random: Random) -> Plan:
    """NUMA balancing: pages move to another node, some 20,000 a second."""
    script = rows(S.DO_MIGRATE, random.permutation(pages)[: 1 << 15], think_ns=50_000)
    chosen = zipf(random, pages, ACCESSES)
    return Plan(accesses(chosen, random.random(ACCESSES) < 0.3), [script])


def kv(pages: int, random: Random) -> Plan:
    """A key-value store: 95 % reads, values expire (discard), a checkpoint reads the dirty log, memory is a little short."""
    chosen = zipf(random, pages, ACCESSES)
    slab = min(8, pages)
    slabs = random.integers(0, max(1, pages // slab), 2_048) * slab
    expiry = interleave(rows(S.DO_DISCARD, slabs, slab, 40_000), rows(S.DO_WRITE, np.roll(slabs, 8), slab, 40_000))
    part = max(1, pages // 16)
    log = interleave(rows(S.DO_SOFT_DIRTY, np.arange(16) * part % pages, min(part, pages), 5_000_000),
                     rows(S.DO_WRITE, random.integers(0, pages, 16), 1, 100_000))  # fmt: skip
    log[:, S.OP_COUNT] = np.minimum(log[:, S.OP_COUNT], pages - log[:, S.OP_PAGE])
    return Plan(accesses(chosen, random.random(ACCESSES) < 0.05), [expiry, log], frames=0.95, resident=0.9)


WORKLOADS: Final[dict[str, Callable[[int, Random], Plan]]] = {
    each.__name__: each for each in (reclaim, discard, churn, fork, numa, kv, hot)
}
