"""crc32 is zlib's, for any bytes, any place, any start, and in any number of parts."""

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unpinned.compiled.crc32 import combine, combine_constant, crc32, crc32_copy


@given(st.binary(max_size=2000), st.integers(0, 63), st.integers(0, 2**32 - 1))
def test_is_zlibs(data: bytes, skew: int, start: int) -> None:
    b = np.zeros(skew + len(data) + 1, np.uint8)
    b[skew : skew + len(data)] = np.frombuffer(data, np.uint8)
    assert crc32(start, b.ctypes.data + skew, len(data)) == zlib.crc32(data, start)


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_runs_on(parts: list[bytes]) -> None:
    crc = 0
    for part in parts:
        b = np.frombuffer(part + b"\0", np.uint8)
        crc = crc32(crc, b.ctypes.data, len(part))
    assert crc == zlib.crc32(b"".join(parts))


@given(st.binary(max_size=3000), st.integers(0, 63), st.integers(0, 63))
def test_a_copy_is_summed_and_exact(data: bytes, skew: int, other: int) -> None:
    source = np.zeros(skew + len(data) + 64, np.uint8)
    source[skew : skew + len(data)] = np.frombuffer(data, np.uint8)
    target = np.full(other + len(data) + 64, 0xEE, np.uint8)
    assert crc32_copy(target.ctypes.data + other, source.ctypes.data + skew, len(data)) == zlib.crc32(data)
    assert target[other : other + len(data)].tobytes() == data
    assert (target[:other] == 0xEE).all() and (target[other + len(data) :] == 0xEE).all()


@given(st.binary(max_size=300), st.binary(min_size=16, max_size=9000))
def test_two_parts_are_combined(first: bytes, second: bytes) -> None:
    assert combine(zlib.crc32(first), zlib.crc32(second), combine_constant(len(second))) == zlib.crc32(first + second)
