"""Numbers in a byte arena: ``uint8[:]`` and an offset.

One intrinsic each, because four indexed byte reads cost a kernel's compile time four times, and numba's index
wrap-around keeps LLVM from merging them. Unlike raw addresses these respect ``NUMBA_BOUNDSCHECK=1``. 64-bit
results are signed, narrower ones are not; `put*` keep the low bits and return 0.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from unpinned.compiled.twinned import intrinsic

_I64 = ir.IntType(64)


def _place(context: Any, builder: Any, signature: Any, args: Any, size: int, width: Any) -> Any:
    """Pointer of type *width* to the *size* bytes at b[o]; both ends checked if numba is to check bounds."""
    array_type = signature.args[0]
    array = context.make_array(array_type)(context, builder, args[0])
    last = builder.add(args[1], ir.Constant(_I64, size - 1))
    for index in (last, args[1]) if context.enable_boundscheck else ():
        cgutils.do_boundscheck(context, builder, index, array.nitems, 0)
    byte = builder.gep(array.data, [args[1]])
    return builder.bitcast(byte, width.as_pointer())


def _reader(array_type: Any, size: int, swap: bool = True) -> Any:
    """Signature and code of a read of *size* bytes (1, 2, 3, 4 or 8), big-endian if *swap*."""
    if not _is_arena(array_type):
        return None
    width = ir.IntType(8 * size)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(_place(context, builder, signature, args, size, width), align=1)
        value = _ordered(builder, value, size, swap)
        return value if size == 8 else builder.zext(value, _I64)

    return types.int64(array_type, types.int64), generate


def _writer(array_type: Any, size: int, swap: bool = True) -> Any:
    """Signature and code of a write of *size* bytes (1, 2, 3, 4 or 8), big-endian if *swap*."""
    if not _is_arena(array_type):
        return None
    width = ir.IntType(8 * size)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[2] if size == 8 else builder.trunc(args[2], width)
        value = _ordered(builder, value, size, swap)
        builder.store(value, _place(context, builder, signature, args, size, width), align=1)
        return ir.Constant(_I64, 0)

    return types.int64(array_type, types.int64, types.int64), generate


def _ordered(builder: Any, value: Any, size: int, swap: bool) -> Any:
    """*value* of *size* bytes, turned round if *swap*. There is no bswap of an odd number of bytes: 24 bits go by way of 32."""
    if not swap or size == 1:
        return value
    if size == 3:
        wide = builder.shl(builder.zext(value, ir.IntType(32)), ir.Constant(ir.IntType(32), 8))
        return builder.trunc(builder.bswap(wide), ir.IntType(24))
    return builder.bswap(value)


def _is_arena(array_type: Any) -> bool:
    return isinstance(array_type, types.Array) and array_type.dtype == types.uint8 and array_type.layout == "C"


@intrinsic
def get8(typing_context: Any, b: Any, o: Any) -> Any:
    """``get8(b, o)``: the byte b[o]."""
    return _reader(b, 1)


@intrinsic
def be16(typing_context: Any, b: Any, o: Any) -> Any:
    """``be16(b, o)``: two bytes, big-endian."""
    return _reader(b, 2)


@intrinsic
def be24(typing_context: Any, b: Any, o: Any) -> Any:
    """``be24(b, o)``: three bytes, big-endian, as QPNs, PSNs and MSNs have."""
    return _reader(b, 3)


@intrinsic
def be32(typing_context: Any, b: Any, o: Any) -> Any:
    """``be32(b, o)``: four bytes, big-endian."""
    return _reader(b, 4)


@intrinsic
def be64(typing_context: Any, b: Any, o: Any) -> Any:
    """``be64(b, o)``: eight bytes, big-endian; signed."""
    return _reader(b, 8)


@intrinsic
def le32(typing_context: Any, b: Any, o: Any) -> Any:
    """``le32(b, o)``: four bytes, little-endian."""
    return _reader(b, 4, swap=False)


@intrinsic
def put8(typing_context: Any, b: Any, o: Any, value: Any) -> Any:
    """``put8(b, o, value)``."""
    return _writer(b, 1)


@intrinsic
def put16(typing_context: Any, b: Any, o: Any, value: Any) -> Any:
    """``put16(b, o, value)``, big-endian."""
    return _writer(b, 2)


@intrinsic
def put24(typing_context: Any, b: Any, o: Any, value: Any) -> Any:
    """``put24(b, o, value)``, big-endian."""
    return _writer(b, 3)


@intrinsic
def put32(typing_context: Any, b: Any, o: Any, value: Any) -> Any:
    """``put32(b, o, value)``, big-endian."""
    return _writer(b, 4)


@intrinsic
def put64(typing_context: Any, b: Any, o: Any, value: Any) -> Any:
    """``put64(b, o, value)``, big-endian."""
    return _writer(b, 8)


@intrinsic
def put_le32(typing_context: Any, b: Any, o: Any, value: Any) -> Any:
    """``put_le32(b, o, value)``, little-endian."""
    return _writer(b, 4, swap=False)


__all__ = ["be16", "be24", "be32", "be64", "get8", "le32", "put8", "put16", "put24", "put32", "put64", "put_le32"]
