"""`fold_multiply`: the one multiplication that hash functions need, and that kernels' own sums do not have (they never wrap)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from unpinned.compiled.twinned import intrinsic

_I64, _I128 = ir.IntType(64), ir.IntType(128)


@intrinsic
def fold_multiply(typing_context: Any, a: Any, b: Any) -> Any:
    """``fold_multiply(a, b)``: both halves of the 128-bit product of two unsigned words, added without carry."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.mul(builder.zext(args[0], _I128), builder.zext(args[1], _I128))
        return builder.xor(builder.trunc(product, _I64), builder.trunc(builder.lshr(product, ir.Constant(_I128, 64)), _I64))

    return types.int64(types.int64, types.int64), generate


__all__ = ["fold_multiply"]
