"""From typed Python to LLVM's intermediate code, with short ways for what kernels are made of.

Numba looks every operation up among all that the operator can mean, and counts a negative index from the end. Here
sums, comparisons and elements of one-dimensional arrays of integers are emitted at once, and **an index is never
negative**: `NUMBA_BOUNDSCHECK=1` refuses one, else it reads what lies before the array.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler_machinery import register_pass
from numba.core.errors import NumbaIndexError
from numba.core.lowering import Lower
from numba.core.typed_passes import BaseNativeLowering

_BINARY: dict[Any, Any] = {
    operator.add: lambda builder, a, b: builder.add(a, b, flags=["nsw"]),  # as numba does; who wraps, masks
    operator.sub: lambda builder, a, b: builder.sub(a, b, flags=["nsw"]),
    operator.mul: lambda builder, a, b: builder.mul(a, b, flags=["nsw"]),
    operator.and_: lambda builder, a, b: builder.and_(a, b),
    operator.or_: lambda builder, a, b: builder.or_(a, b),
    operator.xor: lambda builder, a, b: builder.xor(a, b),
    operator.lshift: lambda builder, a, b: builder.shl(a, b),
    operator.rshift: lambda builder, a, b: builder.ashr(a, b),
    operator.eq: lambda builder, a, b: builder.icmp_signed("==", a, b),
    operator.ne: lambda builder, a, b: builder.icmp_signed("!=", a, b),
    operator.lt: lambda builder, a, b: builder.icmp_signed("<", a, b),
    operator.le: lambda builder, a, b: builder.icmp_signed("<=", a, b),
    operator.gt: lambda builder, a, b: builder.icmp_signed(">", a, b),
    operator.ge: lambda builder, a, b: builder.icmp_signed(">=", a, b),
}


def _is_plain(kind: Any) -> bool:
    """Is it an array whose element i is i elements after its first?"""
    return (
        isinstance(kind, types.Array)
        and kind.ndim == 1
        and kind.layout == "C"
        and isinstance(kind.dtype, types.Integer)
    )


class _Lower(Lower):  # type: ignore[misc]
    def lower_binop(self, result: Any, expression: Any, operation: Any) -> Any:
        signature = self.fndesc.calltypes[expression]
        emit = _BINARY.get(operation)
        if emit is None or signature.args != (types.int64, types.int64):
            return super().lower_binop(result, expression, operation)
        value = emit(self.builder, *(self._cast_var(side, types.int64) for side in (expression.lhs, expression.rhs)))
        return self.context.cast(self.builder, value, signature.return_type, result)

    def lower_getitem(self, result: Any, expression: Any, array: Any, index: Any, signature: Any) -> Any:
        if not (_is_plain(signature.args[0]) and isinstance(signature.args[1], types.Integer)):
            return super().lower_getitem(result, expression, array, index, signature)
        value = self.builder.load(self._element(array, index))
        return self.context.cast(self.builder, value, signature.return_type, result)

    def lower_setitem(self, array: Any, index: Any, value: Any, signature: Any) -> Any:
        kind = signature.args[0]
        if not (
            _is_plain(kind)
            and isinstance(signature.args[1], types.Integer)
            and isinstance(signature.args[2], types.Integer)
        ):
            return super().lower_setitem(array, index, value, signature)
        return self.builder.store(self._cast_var(value, kind.dtype), self._element(array, index))

    def _element(self, array: Any, index: Any) -> Any:
        """Pointer to array[index]."""
        place = self._cast_var(index, types.int64)
        if isinstance(place, ir.Constant) and isinstance(place.constant, int) and place.constant < 0:
            raise NumbaIndexError("an index in a kernel is never negative")
        fields = self.context.make_array(self.typeof(array.name))(self.context, self.builder, self.loadvar(array.name))
        if self.context.enable_boundscheck:
            cgutils.do_boundscheck(self.context, self.builder, place, fields.nitems, 0)
        return self.builder.gep(fields.data, [place], inbounds=True)


@register_pass(mutates_CFG=True, analysis_only=False)
class KernelLowering(BaseNativeLowering):  # type: ignore[misc]
    """Numba's lowering with ours for its parts."""

    _name = "unpinned_lowering"

    @property
    def lowering_class(self) -> Any:
        return _Lower
