"""Address ranges that several owners ask for: what Linux counts once (a lock, a registration), by owner."""

from __future__ import annotations

Range = tuple[int, int]


class RangeOwners(set[tuple[int, int, int]]):
    """Who asks for which range: (start, end, owner) each.

    >>> owners = RangeOwners([(0, 100, 1), (40, 60, 2), (90, 200, 3)])
    >>> owners.only(0, 100, 1)
    [(0, 40), (60, 90)]
    """

    def only(self, start: int, end: int, owner: int) -> list[Range]:
        """The parts of [start, end) that nobody but *owner* asks for, ascending."""
        parts = []
        others = (asked for asked in self.copy() if asked[2] != owner or asked[:2] != (start, end))
        for low, high, _ in sorted(asked for asked in others if asked[0] < end and start < asked[1]):
            if low > start:
                parts.append((start, low))
            start = max(start, high)
        if start < end:
            parts.append((start, end))
        return parts
