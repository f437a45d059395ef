"""Address ranges that several owners ask for: what Linux counts once (a lock, a registration), by owner."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from contextlib import suppress

Range = tuple[int, int]
Asked = tuple[int, int, int]


class RangeOwners:
    """Who asks for which range: (start, end, owner) each.

    A device may have thousands of regions, so they are in order, those of a like length together: what touches a range of these
    begins little before it. Each change is one call from C: a collection, or a signal handler, finds it done or not begun.

    >>> owners = RangeOwners([(0, 100, 1), (40, 60, 2), (90, 200, 3)])
    >>> owners.only(0, 100, 1)
    [(0, 40), (60, 90)]
    """

    def __init__(self, asked: Iterable[Asked] = ()) -> None:
        self._by_length: list[list[Asked]] = [[] for _ in range(65)]  # i: of less than 2**i bytes, and no less than half of that
        for each in asked:
            self.add(each)

    def __iter__(self) -> Iterator[Asked]:
        return iter([each for alike in self._by_length for each in alike])

    def __contains__(self, asked: Asked) -> bool:
        alike = self._like(asked)
        at = bisect_left(alike, asked)
        return alike[at : at + 1] == [asked]

    def add(self, asked: Asked) -> None:
        """Idempotent."""
        if asked not in self:
            insort(self._like(asked), asked)

    def discard(self, asked: Asked) -> None:
        """Idempotent."""
        with suppress(ValueError):
            self._like(asked).remove(asked)

    def only(self, start: int, end: int, owner: int) -> list[Range]:
        """The parts of [start, end) that nobody but *owner* asks for, ascending."""
        parts, own = [], (start, end, owner)
        for low, high, _ in sorted(each for each in self._touching(start, end) if each != own):
            if low > start:
                parts.append((start, low))
            start = max(start, high)
        if start < end:
            parts.append((start, end))
        return parts

    def _like(self, asked: Asked) -> list[Asked]:
        return self._by_length[(asked[1] - asked[0]).bit_length()]

    def _touching(self, start: int, end: int) -> list[Asked]:
        found = []
        for bits, alike in enumerate(self._by_length):
            if alike:
                first = bisect_left(alike, (start - (1 << bits), 0, 0))
                found += [each for each in alike[first : bisect_left(alike, (end, 0, 0))] if start < each[1]]
        return found
