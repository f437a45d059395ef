"""crc32 is zlib's, for any bytes, any place, any start, and in any number of parts."""

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unpinned.compiled.crc32 import crc32


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
