"""The device block: where its tables lie, the rings it hands out, the key table."""

import random

import pytest

from unpinned.hca import block
from unpinned.hca import layout as L
from unpinned.hca.regions import PROBES

SMALL = {
    "qps": 8,
    "mrs": 16,
    "cqs": 4,
    "waiting": 8,
    "waiting_per_qp": 4,
    "packets": 16,
    "burst": 4,
    "ring_words": 1024,
}


def test_tables_follow_each_other() -> None:
    h, arena = block.create(**SMALL)
    bases = [
        h[w]
        for w in (
            L.H_QP_BASE,
            L.H_MR_BASE,
            L.H_KEY_BASE,
            L.H_CQ_BASE,
            L.H_READY_BASE,
            L.H_PACKET_BASE,
            L.H_TX_BASE,
            L.H_ACT_BASE,
            L.H_POOL_BASE,
            L.H_FREE,
        )
    ]
    assert bases[0] == L.HEADER_WORDS and bases == sorted(bases)
    assert h.size == h[L.H_WORDS] == h[L.H_FREE] + 1024
    assert h[L.H_MAGIC] == L.MAGIC
    offsets = [h[w] for w in (L.H_RX_TEMPLATE, L.H_TX_TEMPLATE, L.H_RX_ARENA, L.H_TX_ARENA, L.H_POOL_ARENA)]
    assert offsets == sorted(offsets) and arena == offsets[-1] + 8 * L.PACKET_BYTES


def test_capacities_are_powers_of_two() -> None:
    h, _ = block.create(**(SMALL | {"qps": 5, "mrs": 9, "cqs": 3}))
    assert (h[L.H_QP_COUNT], h[L.H_MR_COUNT], h[L.H_CQ_COUNT]) == (8, 16, 4)
    assert h[L.H_READY_MASK] == 7 and h[L.H_KEY_MASK] == 63


def test_an_untouched_block_costs_no_memory() -> None:
    h, arena = block.create()
    assert h.nbytes > 1 << 29  # address space; a page of it is there only once it is written
    assert arena < 32 << 20


def test_the_pool_is_one_free_list() -> None:
    h, _ = block.create(**SMALL)
    at, seen = h[L.H_POOL_FREE], []
    while at >= 0:
        seen.append(int(at))
        at = h[h[L.H_POOL_BASE] + at * L.POOL_WORDS + L.POOL_NEXT]
    assert seen == list(range(8))


def test_a_ring_given_back_serves_the_next_of_its_size() -> None:
    h, _ = block.create(**SMALL)
    rings = block.Rings(h)
    first, other = rings.take(100), rings.take(64)
    h[first : first + 128] = 7
    rings.give(first, 100)
    assert rings.take(64) not in (first, other)
    again = rings.take(128)
    assert again == first and not h[again : again + 128].any()


def test_rings_run_out_with_a_message_and_can_be_given_back() -> None:
    h, _ = block.create(**SMALL)
    rings = block.Rings(h)
    taken = [rings.take(256) for _ in range(4)]
    with pytest.raises(MemoryError, match="2048 bytes"):
        rings.take(256)
    for at in taken:
        rings.give(at, 256)
    assert sorted(rings.take(256) for _ in range(4)) == sorted(taken)


def found(h, key: int) -> int:
    """What the kernels' look-up finds, in plain Python (test_regions tests the kernel itself against this table)."""
    mask = int(h[L.H_KEY_MASK])
    for probe in range(PROBES):
        slot = int(h[L.H_KEY_BASE]) + 2 * (((key * 40503 + (key >> 16)) + probe) & mask)
        if h[slot + 1] == 0:
            return 0
        if h[slot] == key and h[slot + 1] > 0:
            return int(h[slot + 1])
    return 0


def test_keys_against_a_dict(seed: int) -> None:
    rng = random.Random(seed)
    h, _ = block.create(**SMALL)
    model: dict[int, int] = {}
    for _ in range(3000):
        key = rng.choice([rng.getrandbits(32), rng.getrandbits(6), *list(model)[:3]])
        if rng.random() < 0.5 and len(model) < 16:
            if block.insert_key(h, key, len(model) + 1):
                assert key not in model
                model[key] = len(model) + 1
        elif key in model:
            block.remove_key(h, key, model[key] + 1)  # somebody else's
            assert found(h, key) == model[key]
            block.remove_key(h, key, model.pop(key))
        assert {key: found(h, key) for key in model} == model


def test_a_key_is_taken_once() -> None:
    h, _ = block.create(**SMALL)
    assert block.insert_key(h, 0x1234, 1)
    assert not block.insert_key(h, 0x1234, 2)
    block.remove_key(h, 0x1234, 1)
    assert block.insert_key(h, 0x1234, 3) and found(h, 0x1234) == 3


def test_a_full_neighbourhood_refuses() -> None:
    h, _ = block.create(**SMALL)
    mask = int(h[L.H_KEY_MASK])
    same = [key for key in range(1, 1 << 14) if (key * 40503 + (key >> 16)) & mask == 5]
    assert all(block.insert_key(h, key, 1) for key in same[:PROBES])
    assert not block.insert_key(h, same[PROBES], 1)
    block.remove_key(h, same[0], 1)
    assert block.insert_key(h, same[PROBES], 2) and found(h, same[PROBES]) == 2
