"""`RangeOwners` against looking page by page."""

from hypothesis import given
from hypothesis import strategies as st

from unpinned.host.ranges import RangeOwners

ranges = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(ranges, min_size=1, max_size=12), st.data())
def test_what_one_alone_asks_for_is_what_nobody_else_needs(added: list[tuple[int, int]], data: st.DataObject) -> None:
    left = [(*range_, owner) for owner, range_ in enumerate(added)]
    owners = RangeOwners(left)
    while left:
        start, end, owner = gone = left.pop(data.draw(st.integers(0, len(left) - 1)))
        needed = {page for other in left for page in range(*other[:2])}
        for _ in range(2):  # whether it still asks, or does not any more
            free = owners.only(start, end, owner)
            assert [page for part in free for page in range(*part)] == sorted(set(range(start, end)) - needed)
            owners.discard(gone)


def test_ranges_far_from_one_are_not_looked_at_for_it() -> None:
    """A device may have 16,384 regions; each that goes asks who else wants its pages."""
    looked: list[int] = []

    class Counted(int):
        def __gt__(self, other: int) -> bool:
            looked.append(1)
            return int(self) > other

    owners = RangeOwners([(8 * i, Counted(8 * i + 4), i) for i in range(1000)] + [(0, 1 << 40, 1000)])
    assert owners.only(80, 84, 10) == []
    owners.discard((0, 1 << 40, 1000))
    assert owners.only(80, 84, 10) == [(80, 84)]
    assert 0 < len(looked) < 20
    assert len(list(owners)) == 1000 and (80, 84, 10) in owners and (80, 84, 11) not in owners


def test_one_owner_may_ask_for_ranges_that_overlap() -> None:
    owners = RangeOwners([(0, 10, 1), (5, 15, 1)])
    assert owners.only(0, 10, 1) == [(0, 5)]
    assert owners.only(5, 15, 1) == [(10, 15)]
