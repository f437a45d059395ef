"""Plain-Python twins of `atomics`, `intrinsics`, `arena`, `crc32` and the libc externs, for ``NUMBA_DISABLE_JIT=1``.

Same names, same arguments, same results. They are atomic only as far as the GIL makes them so: an interpreted
run has one thread.
"""

from __future__ import annotations

import ctypes
import time
import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

_MASK64 = (1 << 64) - 1


def _signed(value: int) -> int:
    value = int(value) & _MASK64
    return value - (1 << 64) if value >> 63 else value


def load_acquire(a: Any, i: int) -> int:
    return int(a[i])


def store_release(a: Any, i: int, value: int) -> int:
    a[i] = value
    return 0


def fetch_add(a: Any, i: int, value: int) -> int:
    old = int(a[i])
    a[i] = _signed(old + int(value))
    return old


def exchange(a: Any, i: int, value: int) -> int:
    old = int(a[i])
    a[i] = value
    return old


def compare_exchange(a: Any, i: int, expected: int, new: int) -> int:
    old = int(a[i])
    if old == expected:
        a[i] = new
    return old


def fetch_add_at(address: int, value: int) -> int:
    old = load64(address)
    store64(address, old + int(value))
    return old


def compare_exchange_at(address: int, expected: int, new: int) -> int:
    old = load64(address)
    if old == expected:
        store64(address, new)
    return old


def pause() -> int:
    time.sleep(0)
    return 0


def _load(address: int, size: int) -> int:
    return int.from_bytes(ctypes.string_at(int(address), size), "little")


def _store(address: int, value: int, size: int) -> int:
    data = (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    ctypes.memmove(int(address), data, size)
    return 0


def load8(address: int) -> int:
    return _load(address, 1)


def load16(address: int) -> int:
    return _load(address, 2)


def load32(address: int) -> int:
    return _load(address, 4)


def load64(address: int) -> int:
    return _signed(_load(address, 8))


def store8(address: int, value: int) -> int:
    return _store(address, value, 1)


def store16(address: int, value: int) -> int:
    return _store(address, value, 2)


def store32(address: int, value: int) -> int:
    return _store(address, value, 4)


def store64(address: int, value: int) -> int:
    return _store(address, value, 8)


def address_of(array: Any) -> int:
    return int(array.ctypes.data)


def copy_bytes(target: int, source: int, length: int) -> int:
    ctypes.memmove(int(target), int(source), int(length))
    return 0


def move_line(target: int, source: int) -> int:
    return copy_bytes(target, source, 64)


def fold_multiply(a: int, b: int) -> int:
    product = (int(a) & _MASK64) * (int(b) & _MASK64)
    return _signed(product ^ product >> 64)


def fill_bytes(target: int, value: int, length: int) -> int:
    ctypes.memset(int(target), int(value) & 0xFF, int(length))
    return 0


def _get(b: Any, o: int, size: int, order: Literal["big", "little"] = "big") -> int:
    if not 0 <= o <= len(b) - size:
        raise IndexError(f"{size} bytes at {o} of {len(b)}")
    return int.from_bytes(b[o : o + size].tobytes(), order)


def _put(b: Any, o: int, value: int, size: int, order: Literal["big", "little"] = "big") -> int:
    if not 0 <= o <= len(b) - size:
        raise IndexError(f"{size} bytes at {o} of {len(b)}")
    data = (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, order)
    b[o : o + size] = list(data)
    return 0


def get8(b: Any, o: int) -> int:
    return _get(b, o, 1)


def be16(b: Any, o: int) -> int:
    return _get(b, o, 2)


def be24(b: Any, o: int) -> int:
    return _get(b, o, 3)


def be32(b: Any, o: int) -> int:
    return _get(b, o, 4)


def be64(b: Any, o: int) -> int:
    return _signed(_get(b, o, 8))


def le32(b: Any, o: int) -> int:
    return _get(b, o, 4, "little")


def put8(b: Any, o: int, value: int) -> int:
    return _put(b, o, value, 1)


def put16(b: Any, o: int, value: int) -> int:
    return _put(b, o, value, 2)


def put24(b: Any, o: int, value: int) -> int:
    return _put(b, o, value, 3)


def put32(b: Any, o: int, value: int) -> int:
    return _put(b, o, value, 4)


def put64(b: Any, o: int, value: int) -> int:
    return _put(b, o, value, 8)


def put_le32(b: Any, o: int, value: int) -> int:
    return _put(b, o, value, 4, "little")


STACK_WORDS = 64
_stack = [(ctypes.c_int64 * STACK_WORDS)() for _ in range(64)]
_depth = 0


def prefetch(array: Any, index: int) -> int:
    return 0


def stack_words(count: int) -> int:
    """A place among 64 that are used in turn: enough for kernels that call a few levels deep. IndexError for more words than it has."""
    global _depth
    if not 0 < count <= STACK_WORDS:
        raise IndexError(f"stack_words({count}): a place has 1 to {STACK_WORDS}")
    _depth = (_depth + 1) % len(_stack)
    ctypes.memset(_stack[_depth], 0, 8 * count)
    return ctypes.addressof(_stack[_depth])


def crc32(crc: int, address: int, length: int) -> int:
    return zlib.crc32(ctypes.string_at(int(address), int(length)), int(crc)) if length > 0 else crc


_libc = ctypes.CDLL(None, use_errno=True)


def errno() -> int:
    return ctypes.get_errno()


def extern(name: str, result: type, arguments: int) -> Callable[..., int]:
    """The libc function *name*: as many word-wide *arguments*, a ctypes *result*."""
    function = _libc[name]
    function.restype = result
    function.argtypes = [ctypes.c_int64] * arguments
    return lambda *given: int(function(*map(int, given)))


def words_at(address: int, count: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_int64 * int(count)).from_address(int(address)))


def bytes_at(address: int, count: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_uint8 * int(count)).from_address(int(address)))
