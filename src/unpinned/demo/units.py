"""Numbers as people read them."""

from __future__ import annotations

import math
from contextlib import suppress

CAUSES = (
    "unknown", "unmap", "remap", "discard", "reclaim", "migrate", "cow", "protect", "soft_dirty", "merge", "release",
)  # fmt: skip
"""As `unpinned.paging.causes.Cause`, without importing it; a test holds them together."""


def bytes_text(size: float) -> str:
    """
    >>> bytes_text(0), bytes_text(2048), bytes_text(5 << 30)
    ('0 B', '2.0 KiB', '5.0 GiB')
    """
    if size < 1024:
        return f"{int(size)} B"
    power = min(int(math.log(size, 1024)), 4)
    return f"{size / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def cause_names(counts: list[int]) -> dict[str, int]:
    """Counts by cause, without those that never came."""
    return {name: count for name, count in zip(CAUSES, counts) if count}


def parse_size(text: str) -> int:
    """Bytes of "256M", "2G" (powers of 1024; a plain number is bytes). ValueError when it is none.

    >>> parse_size("2G") == 2 << 30, parse_size("1.5M")
    (True, 1572864)
    >>> parse_size("two")
    Traceback (most recent call last):
    ValueError: 'two' is no size
    """
    number, factor = text.strip(), 1
    suffixes = {"K": 10, "M": 20, "G": 30, "T": 40}
    if number[-1:].upper() in suffixes:
        number, factor = number[:-1], 1 << suffixes[number[-1].upper()]
    with suppress(ValueError):
        value = float(number) * factor
        if math.isfinite(value) and value >= 1:
            return int(value)
    raise ValueError(f"{text!r} is no size")
