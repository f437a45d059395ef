"""`RangeCount` against counting page by page."""

from hypothesis import given
from hypothesis import strategies as st

from unpinned.host.ranges import RangeCount

ranges = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(ranges, min_size=1, max_size=12), st.data())
def test_what_remove_returns_is_what_nobody_needs(added: list[tuple[int, int]], data: st.DataObject) -> None:
    bag = RangeCount()
    for start, end in added:
        bag.add(start, end)
    left = list(added)
    while left:
        gone = left.pop(data.draw(st.integers(0, len(left) - 1)))
        free = bag.remove(*gone)
        needed = {page for start, end in left for page in range(start, end)}
        assert [page for start, end in free for page in range(start, end)] == sorted(set(range(*gone)) - needed)
        assert len(bag) == len(left)


def test_removing_what_was_never_added_frees_what_nobody_covers() -> None:
    bag = RangeCount()
    bag.add(0, 10)
    assert bag.remove(5, 15) == [(10, 15)]
    assert list(bag) == [(0, 10)]
