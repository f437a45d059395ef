"""What the page table must know of a memory region: its bounds, what of it is revoked, and its counters.

Keys and rights are the transport's (`hca.regions`); here a region is a slot number with bounds, so that a fault never
reaches beyond them (a mutant that the model must kill), reads ahead inside them, and is counted. Opening costs the
same for a page and for a terabyte.

A *revoked extent* is a part of a region whose memory is gone for good: the application unmapped what we reach through
a mapping of our own, so the bytes are still there but no longer the application's. Nothing can bring them back short of
registering again, so a request over them ends in a Remote Access Error, and never in a fault.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.layout import Block


@kernel
def counter(p: Block, region: int) -> int:
    """The word where a region's counters begin (region NONE: the totals): ``p[counter(p, r) + P.COUNT_RETRIES]``."""
    return p[P.TOTALS] + (region + 1) * P.COUNT_WORDS


@kernel
def count(p: Block, region: int, which: int, amount: int) -> None:
    """Add to one counter of the totals and, unless `region` is NONE, of the region."""
    p[p[P.TOTALS] + which] += amount
    if region >= 0:
        p[counter(p, region) + which] += amount


@kernel
def region_open(p: Block, region: int, start: int, end: int, flags: int) -> int:
    """Open slot `region` over table addresses ``[start, end)`` and zero its counters; -> DONE, or PROTOCOL (in use,
    bad bounds).

    flags: REGION_WRITE_BY_SCAN, and the world's from REGION_WORLD on.
    """
    at = p[P.REGIONS] + region * P.REGION_WORDS
    if region < 0 or region >= p[P.REGION_CAPACITY] or start < 0 or start >= end or p[at + P.REGION_OPEN]:
        p[p[P.TOTALS] + P.COUNT_VIOLATIONS] += 1
        return P.PROTOCOL
    p[at + P.REGION_OPEN] = 1
    p[at + P.REGION_START] = start
    p[at + P.REGION_END] = end
    p[at + P.REGION_FLAGS] = flags
    p[at + P.REGION_NEXT] = P.NONE
    p[P.REGION_COUNT] = max(p[P.REGION_COUNT], region + 1)
    for i in range(counter(p, region), counter(p, region) + P.COUNT_WORDS):
        p[i] = 0
    return P.DONE


@kernel
def region_close(p: Block, region: int) -> int:
    """Close the slot and forget its revoked extents; its counters stay until the next open. -> DONE, or PROTOCOL (not
    open).

    Faults of the region that are still under way end by themselves; the table keeps what it knows (others may share
    it).
    """
    at = p[P.REGIONS] + region * P.REGION_WORDS
    if region < 0 or region >= p[P.REGION_CAPACITY] or not p[at + P.REGION_OPEN]:
        p[p[P.TOTALS] + P.COUNT_VIOLATIONS] += 1
        return P.PROTOCOL
    region_unrevoke(p, region)
    for i in range(at, at + P.REGION_WORDS):
        p[i] = 0
    while p[P.REGION_COUNT] > 0 and not p[p[P.REGIONS] + (p[P.REGION_COUNT] - 1) * P.REGION_WORDS]:
        p[P.REGION_COUNT] -= 1
    return P.DONE


@kernel
def revoke(p: Block, region: int, start: int, end: int) -> int:
    """From now on nothing of ``[start, end)`` may be reached through the open region; -> DONE or PROTOCOL.

    Extents that touch are merged. Without a free record the region's first extent grows to cover this one too, and
    without any the whole region is revoked: more is refused than asked, never less.
    """
    at = p[P.REGIONS] + region * P.REGION_WORDS
    if region < 0 or region >= p[P.REGION_COUNT] or not p[at + P.REGION_OPEN] or start >= end:
        p[p[P.TOTALS] + P.COUNT_VIOLATIONS] += 1
        return P.PROTOCOL
    count(p, region, P.COUNT_REVOKED, 1)
    full = p[P.REVOKED_COUNT] == p[P.REVOKED_CAPACITY]
    for i in range(p[P.REVOKED_COUNT]):
        r = p[P.REVOKED] + i * P.REVOKED_WORDS
        if p[r + P.REVOKED_REGION] == region + 1 and (
            full or (p[r + P.REVOKED_START] <= end and start <= p[r + P.REVOKED_END])
        ):
            p[r + P.REVOKED_START] = min(p[r + P.REVOKED_START], start)
            p[r + P.REVOKED_END] = max(p[r + P.REVOKED_END], end)
            return P.DONE
    if full:
        p[at + P.REGION_FLAGS] |= P.REGION_ALL_REVOKED
        return P.DONE
    r = p[P.REVOKED] + p[P.REVOKED_COUNT] * P.REVOKED_WORDS
    p[r + P.REVOKED_REGION] = region + 1
    p[r + P.REVOKED_START] = start
    p[r + P.REVOKED_END] = end
    p[P.REVOKED_COUNT] += 1
    return P.DONE


@kernel
def is_revoked(p: Block, region: int, start: int, end: int) -> int:
    """1 when a byte of ``[start, end)`` is revoked for the region."""
    if p[p[P.REGIONS] + region * P.REGION_WORDS + P.REGION_FLAGS] & P.REGION_ALL_REVOKED:
        return 1
    for i in range(p[P.REVOKED_COUNT]):
        r = p[P.REVOKED] + i * P.REVOKED_WORDS
        if p[r + P.REVOKED_REGION] == region + 1 and p[r + P.REVOKED_START] < end and start < p[r + P.REVOKED_END]:
            return 1
    return 0


@kernel
def region_unrevoke(p: Block, region: int) -> int:
    """Forget the region's revoked extents (its memory was mapped again, by us); -> how many records that freed."""
    p[p[P.REGIONS] + region * P.REGION_WORDS + P.REGION_FLAGS] &= ~P.REGION_ALL_REVOKED
    kept = 0
    for i in range(p[P.REVOKED_COUNT]):
        r = p[P.REVOKED] + i * P.REVOKED_WORDS
        if p[r + P.REVOKED_REGION] != region + 1:
            for k in range(P.REVOKED_WORDS):
                p[p[P.REVOKED] + kept * P.REVOKED_WORDS + k] = p[r + k]
            kept += 1
    freed = p[P.REVOKED_COUNT] - kept
    for i in range(p[P.REVOKED] + kept * P.REVOKED_WORDS, p[P.REVOKED] + p[P.REVOKED_COUNT] * P.REVOKED_WORDS):
        p[i] = 0
    p[P.REVOKED_COUNT] = kept
    return freed
