"""Atomic access to words of an ``int64[:]`` array, for rings and locks shared between threads.

``load_acquire`` and ``store_release`` pair up: what was written before the release is seen after the acquire.
The read-modify-write operations are sequentially consistent. The index is not wrapped and not checked: it is
the caller's to bound. For kernels only: from Python, beside compiled threads, call a kernel that does it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from unpinned.compiled.twinned import kernels_only


def _word(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Pointer to element args[1] of the array args[0]."""
    array_type = signature.args[0]
    array = context.make_array(array_type)(context, builder, args[0])
    return cgutils.get_item_pointer(context, builder, array_type, array, [args[1]], wraparound=False)


def _operation(array_type: Any, values: int, result: Any, code: Any) -> Any:
    """Signature ``result(int64[:], int64 index, int64 * values)`` with the code generator *code*."""
    if not (isinstance(array_type, types.Array) and array_type.dtype == types.int64 and array_type.ndim == 1):
        return None  # numba reports the types it could not match

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return code(builder, _word(context, builder, signature, args), *args[2:])

    return result(array_type, *[types.int64] * (1 + values)), generate


def _store(builder: Any, word: Any, value: Any) -> Any:
    builder.store_atomic(value, word, ordering="release", align=8)
    return ir.Constant(ir.IntType(64), 0)


def _swap_if(builder: Any, word: Any, expected: Any, new: Any) -> Any:
    pair = builder.cmpxchg(word, expected, new, ordering="seq_cst", failordering="seq_cst")
    return builder.extract_value(pair, 0)


@kernels_only
def load_acquire(typing_context: Any, array: Any, index: Any) -> Any:
    """``load_acquire(a, i)``: the word a[i]."""
    return _operation(array, 0, types.int64, lambda b, p: b.load_atomic(p, ordering="acquire", align=8))


@kernels_only
def store_release(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """``store_release(a, i, value)``: a[i] = value; returns 0."""
    return _operation(array, 1, types.int64, _store)


@kernels_only
def fetch_add(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """``fetch_add(a, i, value)``: add *value* (wrapping) and return what was there before."""
    return _operation(array, 1, types.int64, lambda b, p, v: b.atomic_rmw("add", p, v, "seq_cst"))


@kernels_only
def exchange(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """``exchange(a, i, value)``: store *value* and return what was there before."""
    return _operation(array, 1, types.int64, lambda b, p, v: b.atomic_rmw("xchg", p, v, "seq_cst"))


@kernels_only
def compare_exchange(typing_context: Any, array: Any, index: Any, expected: Any, new: Any) -> Any:
    """``compare_exchange(a, i, expected, new)``: store *new* if a[i] == expected; return what was there before."""
    return _operation(array, 2, types.int64, _swap_if)


def _at_address(values: int, code: Any) -> Any:
    """The same for the 64-bit word at a raw address that is a multiple of 8."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return code(builder, builder.inttoptr(args[0], ir.IntType(64).as_pointer()), *args[1:])

    return types.int64(*[types.int64] * (1 + values)), generate


@kernels_only
def fetch_add_at(typing_context: Any, address: Any, value: Any) -> Any:
    """``fetch_add_at(address, value)``: `fetch_add` on the word at a raw, aligned address."""
    return _at_address(1, lambda b, p, v: b.atomic_rmw("add", p, v, "seq_cst"))


@kernels_only
def compare_exchange_at(typing_context: Any, address: Any, expected: Any, new: Any) -> Any:
    """``compare_exchange_at(address, expected, new)``: `compare_exchange` on the word at a raw, aligned address."""
    return _at_address(2, _swap_if)


_PAUSE = {"x86_64": ("llvm.x86.sse2.pause", ()), "aarch64": ("llvm.aarch64.hint", (1,))}


@kernels_only
def pause(typing_context: Any) -> Any:
    """``pause()``: a hint inside a spin loop; returns 0. Nothing on a CPU that is not x86-64 or aarch64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        machine = builder.module.triple.partition("-")[0]
        i32 = ir.IntType(32)
        if machine in _PAUSE:
            name, operands = _PAUSE[machine]
            hint = ir.FunctionType(ir.VoidType(), [i32] * len(operands))
            function = cgutils.get_or_insert_function(builder.module, hint, name)
            builder.call(function, [ir.Constant(i32, operand) for operand in operands])
        return ir.Constant(ir.IntType(64), 0)

    return types.int64(), generate


__all__ = [
    "compare_exchange",
    "compare_exchange_at",
    "exchange",
    "fetch_add",
    "fetch_add_at",
    "load_acquire",
    "pause",
    "store_release",
]
