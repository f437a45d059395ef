"""CRC-32 (the Ethernet polynomial, zlib's conventions) by raw address.

By carry-less multiplication where the CPU has it (`folding`), eight bytes at a time through tables elsewhere.
"""

from __future__ import annotations

import numpy as np

from unpinned.compiled import interpreted
from unpinned.compiled.decorator import INTERPRETED, kernel
from unpinned.compiled.folding import BLOCK_BYTES, fold, lanes
from unpinned.compiled.intrinsics import load8, load32, load64


def _tables() -> np.ndarray:
    """Slicing-by-8: row k advances a byte by k further zero bytes. Flattened, 8 x 256 words."""
    rows = np.zeros((8, 256), np.int64)
    value = np.arange(256)
    for _ in range(8):
        value = np.where(value & 1, value >> 1 ^ 0xEDB88320, value >> 1)
    rows[0] = value
    for k in range(1, 8):
        rows[k] = rows[0][rows[k - 1] & 0xFF] ^ rows[k - 1] >> 8
    return rows.reshape(-1)


_TABLE = _tables()


@kernel
def _slice(c: int, address: int, length: int) -> int:
    """The CRC register *c* (not inverted) after *length* more bytes, by tables."""
    end = address + length
    while address + 8 <= end:
        word = load64(address) ^ c
        c = (
            _TABLE[0x700 | word & 0xFF]
            ^ _TABLE[0x600 | word >> 8 & 0xFF]
            ^ _TABLE[0x500 | word >> 16 & 0xFF]
            ^ _TABLE[0x400 | word >> 24 & 0xFF]
            ^ _TABLE[0x300 | word >> 32 & 0xFF]
            ^ _TABLE[0x200 | word >> 40 & 0xFF]
            ^ _TABLE[0x100 | word >> 48 & 0xFF]
            ^ _TABLE[word >> 56 & 0xFF]
        )
        address += 8
    if address + 4 <= end:
        c ^= load32(address)
        c = _TABLE[0x300 | c & 0xFF] ^ _TABLE[0x200 | c >> 8 & 0xFF] ^ _TABLE[0x100 | c >> 16 & 0xFF] ^ _TABLE[c >> 24]
        address += 4
    while address < end:
        c = _TABLE[(c ^ load8(address)) & 0xFF] ^ c >> 8
        address += 1
    return c


@kernel
def _crc32_tables(crc: int, address: int, length: int) -> int:
    return _slice(crc ^ 0xFFFFFFFF, address, length) ^ 0xFFFFFFFF


@kernel
def _crc32_folding(crc: int, address: int, length: int) -> int:
    c = crc ^ 0xFFFFFFFF
    whole = length & -BLOCK_BYTES
    if whole > 0:
        c = fold(c, address, whole)
    if whole < length:
        c = _slice(c, address + whole, length - whole)
    return c ^ 0xFFFFFFFF


crc32 = interpreted.crc32 if INTERPRETED else _crc32_folding if lanes() else _crc32_tables
"""``crc32(crc, address, length)``: the CRC of *length* more bytes, continuing from *crc* (0 to start)."""
