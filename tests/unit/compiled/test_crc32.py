"""CRC-32 against zlib, in every width that a CPU may offer."""

import platform
import zlib

import numpy as np
import pytest

from support.python import run_python
from unpinned.compiled import folding
from unpinned.compiled.crc32 import crc32

ALL_LENGTHS = """if 1:
    import zlib, numpy as np
    from unpinned.compiled import folding
    from unpinned.compiled.crc32 import crc32
    data = np.random.default_rng(1).integers(0, 256, 4096, np.uint8)
    for n in [*range(700), 1023, 1024, 1025, 4000]:
        o = n % 17
        assert crc32(n, data.ctypes.data + o, n) == zlib.crc32(data[o : o + n].tobytes(), n), n
    print(folding.lanes())
    """
CPU, FEATURES = {
    "x86_64": (
        "x86-64",
        {
            0: "+sse2",
            1: "+sse2,+pclmul",
            2: "+sse2,+pclmul,+avx,+avx2,+vpclmulqdq",
            4: "+sse2,+pclmul,+avx,+avx2,+avx512f,+vpclmulqdq",
        },
    ),
    "aarch64": ("generic", {0: "+neon", 1: "+neon,+aes"}),
}.get(platform.machine(), ("", {}))


def test_the_published_constants() -> None:
    """Those of the Intel paper for distances of 64 and 16 bytes, and for the last steps."""
    exponents = (64 * 8 + 32, 64 * 8 - 32, 128 + 32, 128 - 32, 64)
    published = [0x154442BD4, 0x1C6E41596, 0x1751997D0, 0x0CCAA009E, 0x163CD6124]
    assert [folding.constant(exponent) for exponent in exponents] == published


@pytest.mark.parametrize("n", [*range(40), 63, 64, 65, 255, 256, 257, 320, 511, 4112])
def test_lengths_around_every_boundary(n: int) -> None:
    data = np.random.default_rng(n).integers(0, 256, n + 1, np.uint8)
    assert crc32(0, data.ctypes.data, n) == zlib.crc32(data[:n].tobytes())
    assert crc32(0xDEADBEEF, data.ctypes.data + 1, n) == zlib.crc32(data[1:].tobytes(), 0xDEADBEEF)


@pytest.mark.compiled_only
@pytest.mark.skipif(not FEATURES, reason="nobody knows what this CPU is called")
@pytest.mark.parametrize("lanes", [lanes for lanes in FEATURES if lanes <= folding.lanes()])
def test_every_width(lanes: int, tmp_path) -> None:
    environment = {"NUMBA_CPU_NAME": CPU, "NUMBA_CPU_FEATURES": FEATURES[lanes]}
    printed = run_python(ALL_LENGTHS, UNPINNED_CACHE_DIR=str(tmp_path), **environment)
    assert int(printed) == lanes
