"""stub"""
from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.layout import Block


@kernel
def region_open(p: Block, region: int, start: int, end: int, flags: int) -> int:
    """Open region slot `region` over table addresses ``[start, end)`` and zero its counters; -> DONE or PROTOCOL (in use, bad bounds)."""
    return P.DONE


@kernel
def region_close(p: Block, region: int) -> int:
    """Close the slot and forget its revoked extents. Its counters stay readable until the next open; -> DONE or PROTOCOL."""
    return P.DONE


@kernel
def revoke(p: Block, region: int, start: int, end: int) -> int:
    """From now on nothing of ``[start, end)`` may be reached through the region; -> DONE.

    When the extents are full, the region's are merged into one that covers them all: more is refused, never less.
    """
    return P.DONE


@kernel
def is_revoked(p: Block, region: int, start: int, end: int) -> int:
    """1 when a byte of ``[start, end)`` is revoked for the region."""
    return 0


@kernel
def region_unrevoke(p: Block, region: int) -> int:
    """Forget the region's revoked extents; -> how many."""
    return 0


@kernel
def counter(p: Block, region: int) -> int:
    """The word where a region's counters begin (region NONE: the totals): ``p[counter(p, r) + P.COUNT_RETRIES]``."""
    return p[P.TOTALS] + (region + 1) * P.COUNT_WORDS


@kernel
def count(p: Block, region: int, which: int, amount: int) -> None:
    """Add to one counter of the totals and, unless `region` is NONE, of the region."""
