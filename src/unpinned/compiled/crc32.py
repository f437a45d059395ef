"""CRC-32 (the Ethernet polynomial, zlib's conventions) by raw address.

By carry-less multiplication where the CPU has it (`folding`), eight bytes at a time through tables elsewhere.
"""

from __future__ import annotations

import numpy as np

from unpinned.compiled import interpreted
from unpinned.compiled.decorator import INTERPRETED, kernel
from unpinned.compiled.folding import BLOCK_BYTES, POLYNOMIAL, fold, fold_copy, fold_shift, lanes
from unpinned.compiled.intrinsics import copy_bytes, load8, load32, load64


def _tables() -> np.ndarray:
    """Slicing-by-8: row k advances a byte by k further zero bytes. Flattened, 8 x 256 words."""
    rows = np.zeros((8, 256), np.int64)
    value = np.arange(256)
    for _ in range(8):
        value = np.where(value & 1, value >> 1 ^ POLYNOMIAL, value >> 1)
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


@kernel
def multiply(a: int, c: int) -> int:
    """a * c mod P."""
    product = 0
    for _ in range(32):
        product ^= a & -(c >> 31 & 1)
        c <<= 1
        a = a >> 1 ^ POLYNOMIAL & -(a & 1)
    return product & 0xFFFFFFFF


@kernel
def power(base: int, exponent: int) -> int:
    """base ** exponent mod P."""
    result = 0x80000000
    while exponent > 0:
        if exponent & 1:
            result = multiply(result, base)
        base = multiply(base, base)
        exponent >>= 1
    return result


@kernel
def _copy_tables(target: int, source: int, length: int) -> int:
    copy_bytes(target, source, length)
    return crc32(0, target, length)


@kernel
def _copy_folding(target: int, source: int, length: int) -> int:
    c = 0xFFFFFFFF
    whole = length & -BLOCK_BYTES
    if whole > 0:
        c = fold_copy(c, target, source, whole)
    if whole < length:
        copy_bytes(target + whole, source + whole, length - whole)
        c = _slice(c, target + whole, length - whole)
    return c ^ 0xFFFFFFFF


@kernel
def _constant_tables(length: int) -> int:
    return power(_X, 8 * length)


@kernel
def _constant_folding(length: int) -> int:
    return power(_X, 8 * length - 96) << 1


@kernel
def _combine_folding(first: int, second: int, constant: int) -> int:
    return fold_shift(first, constant) ^ second


@kernel
def _combine_tables(first: int, second: int, constant: int) -> int:
    return multiply(first, constant) ^ second


_X = 0x40000000
_FOLDS = not INTERPRETED and lanes() > 0

crc32 = interpreted.crc32 if INTERPRETED else _crc32_folding if lanes() else _crc32_tables
"""``crc32(crc, address, length)``: the CRC of *length* more bytes, continuing from *crc* (0 to start)."""

crc32_copy = _copy_folding if _FOLDS else _copy_tables
"""``crc32_copy(target, source, length)``: copy bytes, each read once, and return the CRC of the copy."""

combine_constant = _constant_folding if _FOLDS else _constant_tables
"""``combine_constant(length)``: what `combine` needs for a second part of *length* bytes, 16 at least."""

combine = _combine_folding if _FOLDS else _combine_tables
"""``combine(first, second, constant)``: the CRC of two parts that follow each other, from the CRC of each."""
