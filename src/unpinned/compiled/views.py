"""Arrays by raw address: how one word of a block names another block.

A kernel that needs many blocks takes one, whose words say where the others live. The caller keeps them alive.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.extending import intrinsic

from unpinned.compiled.decorator import INTERPRETED, kernel

if INTERPRETED:

    def words_at(address: int, count: int) -> Any:
        return np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(address))

    def bytes_at(address: int, count: int) -> Any:
        return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))

else:

    def _pointer(to: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], ir.IntType(to.bitwidth).as_pointer())

        return types.CPointer(to)(types.int64), generate

    @intrinsic
    def _word_pointer(typing_context: Any, address: Any) -> Any:
        return _pointer(types.int64)

    @intrinsic
    def _byte_pointer(typing_context: Any, address: Any) -> Any:
        return _pointer(types.uint8)

    @kernel
    def words_at(address: int, count: int) -> Any:
        """The ``int64[:]`` array of *count* words at *address*."""
        return numba.carray(_word_pointer(address), (count,))

    @kernel
    def bytes_at(address: int, count: int) -> Any:
        """The ``uint8[:]`` array of *count* bytes at *address*."""
        return numba.carray(_byte_pointer(address), (count,))
