"""Memory by raw address (int64). An address that is not mapped kills the process: callers check first.

Loads and stores are little-endian and need no alignment; narrow loads are zero-extended, narrow stores keep the
low bits. A result of 64 bits is signed, as every word in this project is.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from unpinned.compiled.twinned import intrinsic

_I8, _I64 = ir.IntType(8), ir.IntType(64)


def _load(bits: int) -> Any:
    """Code and signature of a load of *bits* bits."""
    width = ir.IntType(bits)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(builder.inttoptr(args[0], width.as_pointer()), align=1)
        return value if bits == 64 else builder.zext(value, _I64)

    return types.int64(types.int64), generate


def _store(bits: int) -> Any:
    """Code and signature of a store of *bits* bits."""
    width = ir.IntType(bits)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[1] if bits == 64 else builder.trunc(args[1], width)
        builder.store(value, builder.inttoptr(args[0], width.as_pointer()), align=1)
        return ir.Constant(_I64, 0)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def load8(typing_context: Any, address: Any) -> Any:
    """``load8(address)``: 0..255."""
    return _load(8)


@intrinsic
def load16(typing_context: Any, address: Any) -> Any:
    """``load16(address)``: 0..65535."""
    return _load(16)


@intrinsic
def load32(typing_context: Any, address: Any) -> Any:
    """``load32(address)``: 0..2**32-1."""
    return _load(32)


@intrinsic
def load64(typing_context: Any, address: Any) -> Any:
    """``load64(address)``: signed."""
    return _load(64)


@intrinsic
def store8(typing_context: Any, address: Any, value: Any) -> Any:
    """``store8(address, value)``; returns 0."""
    return _store(8)


@intrinsic
def store16(typing_context: Any, address: Any, value: Any) -> Any:
    """``store16(address, value)``; returns 0."""
    return _store(16)


@intrinsic
def store32(typing_context: Any, address: Any, value: Any) -> Any:
    """``store32(address, value)``; returns 0."""
    return _store(32)


@intrinsic
def store64(typing_context: Any, address: Any, value: Any) -> Any:
    """``store64(address, value)``; returns 0."""
    return _store(64)


@intrinsic
def address_of(typing_context: Any, array: Any) -> Any:
    """``address_of(array)``: where its first element lives. The caller keeps the array alive."""
    if not isinstance(array, types.Array):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, _I64)

    return types.int64(array), generate


def _block(name: str, source_is_pointer: bool) -> Any:
    """Signature and code of memcpy (address, address, bytes) or memset (address, byte, bytes)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _I8.as_pointer()
        operands = [pointer, pointer, _I64] if source_is_pointer else [pointer, _I64]
        function = builder.module.declare_intrinsic(name, operands)
        second = builder.inttoptr(args[1], pointer) if source_is_pointer else builder.trunc(args[1], _I8)
        builder.call(function, [builder.inttoptr(args[0], pointer), second, args[2], cgutils.false_bit])
        return ir.Constant(_I64, 0)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def copy_bytes(typing_context: Any, target: Any, source: Any, length: Any) -> Any:
    """``copy_bytes(target, source, length)``: addresses that do not overlap; returns 0."""
    return _block("llvm.memcpy", True)


@intrinsic
def fill_bytes(typing_context: Any, target: Any, value: Any, length: Any) -> Any:
    """``fill_bytes(target, value, length)``: set *length* bytes to *value*; returns 0."""
    return _block("llvm.memset", False)


def emit_prefetch(builder: Any, address: Any, write: bool) -> None:
    """Code that brings the line at *address* (a word) into every cache, and waits for nothing; any address will do."""
    pointer, i32 = _I8.as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
    builder.call(function, [builder.inttoptr(address, pointer), i32(int(write)), i32(3), i32(1)])  # all levels; data


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """``prefetch(array, index)``: bring that word nearer to the processor, and wait for nothing; any index will do; returns 0."""
    if not isinstance(array, types.Array):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        emit_prefetch(builder, builder.ptrtoint(builder.gep(data, [args[1]]), _I64), False)
        return ir.Constant(_I64, 0)

    return types.int64(array, types.int64), generate


@intrinsic
def stack_words(typing_context: Any, count: Any) -> Any:
    """``stack_words(literal)``: address of that many zeroed words, valid until the calling kernel returns."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    words = count.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = cgutils.alloca_once(builder, ir.ArrayType(_I64, words), zfill=True)
        return builder.ptrtoint(place, _I64)

    return types.int64(count), generate


__all__ = [
    "address_of",
    "copy_bytes",
    "fill_bytes",
    "load8",
    "load16",
    "load32",
    "load64",
    "prefetch",
    "stack_words",
    "store8",
    "store16",
    "store32",
    "store64",
]
