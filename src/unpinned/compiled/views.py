"""Arrays by raw address: how one word of a block names another block.

A kernel that needs many blocks takes one, whose words say where the others live. The caller keeps them alive: such an
array owns nothing and is not counted.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types
from numba.np.arrayobj import make_array, populate_array

from unpinned.compiled.twinned import intrinsic


def _array(dtype: Any) -> Any:
    """Signature ``dtype[::1](int64 address, int64 count)`` with its code."""
    array_type = types.Array(dtype, 1, "C")
    size = dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = make_array(array_type)(context, builder)
        populate_array(
            array,
            data=builder.inttoptr(args[0], array.data.type),
            shape=cgutils.pack_array(builder, [args[1]]),
            strides=cgutils.pack_array(builder, [context.get_constant(types.intp, size)]),
            itemsize=context.get_constant(types.intp, size),
            meminfo=None,
        )
        return array._getvalue()

    return array_type(types.int64, types.int64), generate


@intrinsic
def words_at(typing_context: Any, address: Any, count: Any) -> Any:
    """``words_at(address, count)``: the ``int64[:]`` array of *count* words at *address*."""
    return _array(types.int64)


@intrinsic
def bytes_at(typing_context: Any, address: Any, count: Any) -> Any:
    """``bytes_at(address, count)``: the ``uint8[:]`` array of *count* bytes at *address*."""
    return _array(types.uint8)
