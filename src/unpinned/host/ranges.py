"""Address ranges that several owners ask for: what Linux counts once (a lock, a registration), counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

Range = tuple[int, int]


class RangeCount:
    """A bag of ranges [start, end); `remove` tells which part of one nobody else needs.

    >>> bag = RangeCount()
    >>> bag.add(0, 100); bag.add(40, 60); bag.add(90, 200)
    >>> bag.remove(0, 100)
    [(0, 40), (60, 90)]
    """

    def __init__(self) -> None:
        self._ranges: Counter[Range] = Counter()

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return self._ranges.total()

    def add(self, start: int, end: int) -> None:
        """Count one more owner of [start, end)."""
        self._ranges[start, end] += 1

    def remove(self, start: int, end: int) -> list[Range]:
        """Count one owner less; the parts that have none left, ascending. A range never added has no owners."""
        if self._ranges[start, end] > 1:
            self._ranges[start, end] -= 1
            return []
        del self._ranges[start, end]
        return self.uncovered(start, end)

    def uncovered(self, start: int, end: int) -> list[Range]:
        """The parts of [start, end) that no range covers, ascending."""
        parts = []
        for low, high in sorted(r for r in list(self._ranges) if r[0] < end and start < r[1]):
            if low > start:
                parts.append((start, low))
            start = max(start, high)
        if start < end:
            parts.append((start, end))
        return parts
