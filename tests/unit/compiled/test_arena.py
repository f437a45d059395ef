"""Numbers in the byte arena: against `struct`, in kernels and by the twins."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from support.python import run_python
from unpinned.compiled import arena as A
from unpinned.compiled import kernel


def _read(b, o):
    return A.get8(b, o), A.be16(b, o), A.be24(b, o), A.be32(b, o), A.be64(b, o), A.le32(b, o)


def _write(b, value):
    A.put8(b, 1, value)
    A.put16(b, 4, value)
    A.put24(b, 9, value)
    A.put32(b, 16, value)
    A.put64(b, 24, value)
    return A.put_le32(b, 36, value)


@pytest.fixture(params=[kernel, lambda function: function], ids=["kernel", "twin"])
def as_kernel(request: pytest.FixtureRequest) -> Callable:
    return request.param


@pytest.mark.parametrize("o", [0, 1, 7])
def test_reads(as_kernel: Callable, o: int) -> None:
    b = np.frombuffer(bytes.fromhex("80ff7f01fe02fd03fc04fb05fa06f907"), np.uint8).copy()
    data = b.tobytes()[o:]
    expected = [struct.unpack_from(code, data)[0] for code in ("B", ">H", ">I", ">q", "<I")]
    expected.insert(2, int.from_bytes(data[:3], "big"))
    assert list(as_kernel(_read)(b, o)) == expected


@pytest.mark.parametrize("value", [-2, 0x1122334455667788, 0])
def test_writes_keep_the_low_bits_and_touch_nothing_else(as_kernel: Callable, value: int) -> None:
    b = np.full(40, 0xEE, np.uint8)
    as_kernel(_write)(b, value)
    expected = bytearray(b"\xee" * 40)
    for o, size in ((1, 1), (4, 2), (9, 3), (16, 4), (24, 8)):
        expected[o : o + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "big")
    expected[36:40] = (value & 0xFFFFFFFF).to_bytes(4, "little")
    assert b.tobytes() == bytes(expected)


def test_twins_refuse_what_is_outside() -> None:
    b = np.zeros(8, np.uint8)
    for o in (-1, 5, 8):
        with pytest.raises(IndexError):
            A.be32(b, o)
        with pytest.raises(IndexError):
            A.put32(b, o, 0)


@pytest.mark.compiled_only
def test_bounds_mode_refuses_what_is_outside(tmp_path) -> None:
    (tmp_path / "reads.py").write_text(
        "from unpinned.compiled import kernel\n"
        "from unpinned.compiled.arena import be32\n"
        "@kernel\n"
        "def read(b, o): return be32(b, o)\n"
    )
    code = """if 1:
        import numpy as np, reads
        b = np.arange(8, dtype=np.uint8)
        print(reads.read(b, 4))
        for o in (5, 8, -1):
            try: reads.read(b, o)
            except IndexError: print("refused")
        """
    printed = run_python(code, path=tmp_path, NUMBA_BOUNDSCHECK="1", UNPINNED_CACHE_DIR=str(tmp_path / "kernels"))
    assert printed.split() == [str(0x04050607), *["refused"] * 3]
