"""Raw memory: the same from a kernel and, by the twins, from Python."""

from collections.abc import Callable

import numpy as np
import pytest

from unpinned.compiled import interpreted, kernel
from unpinned.compiled import intrinsics as N


def _loads(address):
    return N.load8(address), N.load16(address), N.load32(address), N.load64(address)


def _stores(address, value):
    N.store8(address, value)
    N.store16(address + 8, value)
    N.store32(address + 16, value)
    return N.store64(address + 24, value)


def _blocks(target, source):
    N.copy_bytes(N.address_of(target) + 1, N.address_of(source) + 2, 5)
    return N.fill_bytes(N.address_of(target) + 10, 0x1AB, 3)


def _scratch(value):
    word = N.stack_words(2)
    before = N.load64(word) | N.load64(word + 8)
    N.store64(word + 8, value)
    return before, N.load64(word + 8)


def _fetched(words, index):
    return N.prefetch(words, index) + words[3]


@pytest.fixture(params=[kernel, lambda function: function], ids=["kernel", "twin"])
def as_kernel(request: pytest.FixtureRequest) -> Callable:
    return request.param


def test_narrow_loads_are_zero_extended_and_wide_ones_signed(as_kernel: Callable) -> None:
    data = np.full(16, 0xFF, np.uint8)
    assert as_kernel(_loads)(data.ctypes.data + 3) == (0xFF, 0xFFFF, 0xFFFFFFFF, -1)
    data[:] = np.arange(16)
    assert as_kernel(_loads)(data.ctypes.data + 1) == (1, 0x0201, 0x04030201, 0x0807060504030201)


def test_stores_keep_the_low_bits(as_kernel: Callable) -> None:
    data = np.full(32, 0xEE, np.uint8)
    as_kernel(_stores)(data.ctypes.data, -2)
    assert data.tobytes().hex() == "fe" + "ee" * 7 + "feff" + "ee" * 6 + "feffffff" + "ee" * 4 + "fe" + "ff" * 7


def test_blocks(as_kernel: Callable) -> None:
    target, source = np.zeros(16, np.uint8), np.arange(16, dtype=np.uint8)
    as_kernel(_blocks)(target, source)
    assert target.tolist() == [0, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0xAB, 0xAB, 0xAB, 0, 0, 0]


def test_address_of_a_slice() -> None:
    words = np.arange(10, dtype=np.int64)

    def address(array):
        return N.address_of(array)

    assert kernel(address)(words[3:]) == words.ctypes.data + 24 == N.address_of(words[3:])


def test_stack_words_are_zero_at_first(as_kernel: Callable) -> None:
    for value in (5, -7):
        assert as_kernel(_scratch)(value) == (0, value)


@pytest.mark.parametrize("count", [0, interpreted.STACK_WORDS + 1])
def test_more_stack_words_than_a_place_has_are_refused_interpreted(count: int) -> None:
    assert interpreted.stack_words(interpreted.STACK_WORDS)
    with pytest.raises(IndexError, match="stack_words"):
        interpreted.stack_words(count)


@pytest.mark.parametrize("index", [0, 9, -5, 1 << 40])
def test_a_prefetch_of_any_place_changes_nothing(as_kernel: Callable, index: int) -> None:
    words = np.arange(10, dtype=np.int64)
    assert as_kernel(_fetched)(words, index) == 3
    assert words.tolist() == list(range(10))
