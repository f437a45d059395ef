"""Which key opens which bytes: authorize, lookup, and addresses that wrap."""

import random

import pytest

from support.ends import PAGE, Buffer, End
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.hca.device import finish
from unpinned.hca.regions import AHEAD, DENIED, HIT, MISS, authorize, describe, find_key, lookup, room
from unpinned.paging import layout as P
from unpinned.paging.regions import revoke
from unpinned.paging.table import change_range, entry, install

START, LENGTH, KEY = 0x10_0000, 0x8000, 0xABCD
READ, WRITE = L.ACCESS_REMOTE_READ, L.ACCESS_REMOTE_WRITE


@pytest.fixture
def end() -> End:
    end = End(1)
    end.buffer(LENGTH, READ | WRITE, key=KEY, start=START)
    return end


@pytest.mark.parametrize(
    ("va", "length", "opens"),
    [
        (START, LENGTH, True),
        (START, 0, True),
        (START + LENGTH - 1, 1, True),
        (START + LENGTH, 0, True),
        (START - 1, 1, False),
        (START, LENGTH + 1, False),
        (START + 1, LENGTH, False),
        (START + LENGTH, 1, False),
        (START + LENGTH + 1, 0, False),
        (START, -1, False),
        (START, 1 << 62, False),
        (START, (1 << 63) - 1, False),
        ((1 << 63) - 1, 1, False),  # va + length wraps
        ((1 << 63) - 1, (1 << 63) - 1, False),
        (-1, 1, False),  # an address with its highest bit set
        (-(1 << 63), 1 << 32, False),
        (-(1 << 63), (1 << 63) - 1, False),
        (0, START + LENGTH, False),
    ],
)
def test_bounds(end: End, va: int, length: int, opens: bool) -> None:
    assert (authorize(end.h, 1, KEY, va, length, READ) != 0) == opens


def test_key_protection_domain_and_rights(end: End) -> None:
    mr = end.buffers[0].mr
    assert authorize(end.h, 1, KEY, START, 1, READ | WRITE) == mr
    assert authorize(end.h, 1, KEY + 1, START, 1, READ) == 0
    assert authorize(end.h, 2, KEY, START, 1, READ) == 0
    assert authorize(end.h, 1, KEY, START, 1, L.ACCESS_REMOTE_ATOMIC) == 0
    assert authorize(end.h, 1, KEY, START, 1, WRITE | L.ACCESS_REMOTE_ATOMIC) == 0


def test_a_region_may_be_as_large_as_the_address_space() -> None:
    end = End(1)
    setup.add_mr(end.t, pd=1, key=9, start=0, length=1 << 47, access=READ, delta=0, path=0, pinned=False, region=0)
    assert authorize(end.h, 1, 9, (1 << 47) - 1, 1, READ)
    assert not authorize(end.h, 1, 9, 1 << 47, 1, READ)


def test_a_revoked_or_removed_key_opens_nothing(end: End) -> None:
    mr = end.buffers[0].mr
    end.h[mr + L.MR_STATE] = 2
    assert find_key(end.h, KEY) == 0 and lookup(end.h, end.p, mr, START, 1, 0, 0) == DENIED
    end.h[mr + L.MR_STATE] = 1
    setup.remove_mr(end.t, mr)
    assert find_key(end.h, KEY) == 0


def test_the_kernel_finds_what_the_table_holds(seed: int) -> None:
    rng = random.Random(seed)
    end = End(1)
    common = {"pd": 1, "start": 0, "length": 1, "access": READ, "delta": 0, "path": 1, "pinned": True, "region": 0}
    held: dict[int, int] = {}
    for _ in range(400):
        if held and (rng.random() < 0.5 or len(held) == 64):
            setup.remove_mr(end.t, held.pop(rng.choice(list(held))))
        else:
            key = rng.getrandbits(rng.choice([6, 32]))
            mr = setup.add_mr(end.t, key=key, **common)
            assert (mr == 0) == (key == 0 or key in held)
            held |= {key: mr} if mr else {}
    assert {key: find_key(end.h, key) for key in held} == held
    assert not any(find_key(end.h, rng.getrandbits(32)) for _ in range(100))


def test_lookup_asks_the_page_table_unless_pinned() -> None:
    end = End(1)
    buffer = end.buffer(4 * PAGE, pinned=False, start=START)
    args = end.h, end.p, buffer.mr
    assert lookup(*args, START, 1, 0, 0) == MISS
    install(end.p, buffer.va + PAGE, buffer.va + 3 * PAGE, P.PRESENT, 0)
    assert lookup(*args, START + PAGE, 2 * PAGE, 0, 0) == HIT
    assert lookup(*args, START + PAGE, 2 * PAGE + 1, 0, 0) == MISS
    assert lookup(*args, START + PAGE, 1, 1, 0) == MISS, "present for reading is not present for writing"
    end.h[buffer.mr + L.MR_PINNED] = 1
    assert lookup(*args, START, 4 * PAGE, 1, 0) == HIT


def on_demand(pages: int, there: int, track: int = 0) -> tuple[End, Buffer]:
    """A region of which the first pages are there, for reading; *track*: what the table records."""
    end = End(1)
    end.p[P.TRACK] = track
    buffer = end.buffer(pages * PAGE, pinned=False, start=START)
    install(end.p, buffer.va, buffer.va + there * PAGE, P.PRESENT, 0)
    return end, buffer


def test_what_a_step_has_found_holds_in_this_step_only() -> None:
    end, buffer = on_demand(32, 20)
    args = end.h, end.p, buffer.mr
    assert lookup(*args, START, PAGE, 0, 0) == HIT
    assert end.h[L.H_SEEN_END] == buffer.va + AHEAD, "the walk went on, within bounds"
    zap = change_range(end.p, buffer.va, buffer.va + 32 * PAGE, 0, 0)
    assert zap == 20, "as only another step may do"
    assert lookup(*args, START + PAGE, 2 * PAGE, 0, 0) == HIT
    finish(end.h, end.p, 0)
    assert lookup(*args, START + PAGE, 2 * PAGE, 0, 0) == MISS


def test_what_was_found_for_reading_is_not_written() -> None:
    end, buffer = on_demand(4, 4)
    args = end.h, end.p, buffer.mr
    assert lookup(*args, START, PAGE, 0, 0) == HIT
    assert lookup(*args, START + PAGE, 1, 1, 0) == MISS
    assert end.h[L.H_SEEN_END] == buffer.va + PAGE, "nor is it remembered as found"


def test_what_is_seen_of_one_region_says_nothing_of_another() -> None:
    end = End(1)
    one, other = end.buffer(4 * PAGE, pinned=False, start=START), end.buffer(4 * PAGE, pinned=False, start=START)
    install(end.p, one.va, one.va + 4 * PAGE, P.PRESENT | P.WRITE, 0)
    assert lookup(end.h, end.p, one.mr, START, 4 * PAGE, 1, 0) == HIT
    assert lookup(end.h, end.p, other.mr, START, PAGE, 0, 0) == MISS


def test_a_table_that_records_what_was_used_is_asked_for_no_more() -> None:
    end, buffer = on_demand(4, 4, track=P.ACCESSED)
    assert lookup(end.h, end.p, buffer.mr, START, PAGE, 0, 0) == HIT
    assert [entry(end.p, buffer.va + i * PAGE) & P.ACCESSED for i in range(2)] == [P.ACCESSED, 0]


def test_a_revoked_extent_is_denied_and_the_rest_is_not() -> None:
    end = End(1)
    buffer = end.buffer(4 * PAGE, start=START)
    revoke(end.p, buffer.region, buffer.va + PAGE, buffer.va + 2 * PAGE)
    args = end.h, end.p, buffer.mr
    assert lookup(*args, START + PAGE, 1, 0, 0) == HIT, "extents are looked at only where there are some"
    end.h[buffer.mr + L.MR_HOLES] = 1
    assert lookup(*args, START + PAGE, 1, 0, 0) == DENIED
    assert lookup(*args, START, PAGE, 0, 0) == HIT
    assert lookup(*args, START, PAGE + 1, 0, 0) == DENIED


def test_descriptors_carry_the_table_address(end: End) -> None:
    buffer = end.buffers[0]
    index = describe(end.h, end.p, buffer.mr, START + 5, 7, P.OP_READ, 1234, 42)
    made = P.view(end.p, "dma")[index]
    fields = [made[name] for name in ("va", "length", "op", "offset", "path", "token", "state")]
    assert fields == [buffer.va + 5, 7, P.OP_READ, 1234, 1, 42, P.DMA_ISSUED]
    assert room(end.p, end.p[P.DMA_CAPACITY] - 1) and not room(end.p, end.p[P.DMA_CAPACITY])
