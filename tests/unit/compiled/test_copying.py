"""Line-wise copies: every length and alignment, not a byte more."""

import numpy as np
import pytest

from unpinned.compiled.copying import copy_ahead

LENGTHS = [*range(3), 63, 64, 65, 127, 128, 129, 191, 1000, 4096, 4097]


@pytest.mark.parametrize("target_offset", [0, 1, 12, 63])
@pytest.mark.parametrize("source_offset", [0, 5, 64])
def test_exact(target_offset: int, source_offset: int) -> None:
    source = np.random.default_rng(7).integers(1, 256, 8192, np.uint8)
    for length in LENGTHS:
        target = np.zeros(8192, np.uint8)
        # Aligned to a line by hand: NumPy gives 16 or 64 bytes, whatever it has.
        base = -target.ctypes.data % 64
        start = base + target_offset
        copy_ahead(target.ctypes.data + start, source.ctypes.data + source_offset, length)
        assert (target[start : start + length] == source[source_offset : source_offset + length]).all()
        assert not target[:start].any() and not target[start + length :].any()
