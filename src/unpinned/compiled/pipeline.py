"""Numba's compiler with what kernels do not need left out: half of its time went there.

Kernels hold numbers and arrays only, so that closures, comprehensions, ``with``, ``raise`` and array expressions
need no passes of their own; an operator on given types always resolves alike, so that it is looked up once; and
``layout.FIELD`` is a number before types are inferred.
"""

from __future__ import annotations

import operator
from types import ModuleType
from typing import Any

from numba.core import ir, typed_passes, types, untyped_passes
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import FunctionPass, PassManager, register_pass
from numba.core.typing import Context

from unpinned.compiled.lowering import KernelLowering

_PLAIN = {getattr(operator, name) for name in operator.__all__} | {bool, int, min, max, abs, range, len}
"""Functions whose result type depends on the types of their arguments only, never on their values."""


class _Remembering(Context):  # type: ignore[misc]
    """The typing context, which it shares all state with, and what its operators resolved to."""

    known: dict[Any, Any] = {}

    def __init__(self, context: Any) -> None:
        self.__dict__ = context.__dict__

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        function = func if isinstance(func, types.Function) else self._lookup_global(func)
        if isinstance(function, types.Function) and not kws and function.typing_key in _PLAIN:
            return self._resolve(function, args)
        return super().resolve_function_type(func, args, kws)

    def resolve_setitem(self, target: Any, index: Any, value: Any) -> Any:
        return self._resolve(self.resolve_value_type(operator.setitem), (target, index, value))

    def _resolve(self, function: Any, args: Any) -> Any:
        wide = tuple(types.unliteral(each) for each in args)  # type: ignore[attr-defined]
        if not all(isinstance(each, (types.Integer, types.Boolean, types.Array)) for each in wide):
            return super().resolve_function_type(function, args, {})
        key = (id(function), wide)
        if key not in self.known:
            # The function is kept so that its identity is nobody else's.
            self.known[key] = super().resolve_function_type(function, wide, {}), function
        return self.known[key][0]


@register_pass(mutates_CFG=False, analysis_only=False)
class _FoldModules(FunctionPass):  # type: ignore[misc]
    """``layout.FIELD`` becomes the number that it is."""

    _name = "unpinned_fold_modules"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        definitions = state.func_ir._definitions
        changed = False
        for block in state.func_ir.blocks.values():
            modules: dict[str, Any] = {}
            for statement in block.find_insts(ir.Assign):
                value, name = statement.value, statement.target.name
                if (
                    isinstance(value, (ir.Global, ir.FreeVar))
                    and isinstance(value.value, ModuleType)
                    and name.startswith("$")
                ):
                    modules[name] = statement
                elif isinstance(value, ir.Expr) and value.op == "getattr" and value.value.name in modules:
                    number = getattr(modules[value.value.name].value.value, value.attr)
                    if type(number) is int:
                        statement.value = ir.Const(number, statement.loc)
                        definitions[name] = [statement.value]
                        block.remove(modules.pop(value.value.name))  # a temporary is used once
                        changed = True
        return changed


class Pipeline(Compiler):  # type: ignore[misc]
    """From Python to LLVM's intermediate code."""

    def __init__(self, typing_context: Any, *arguments: Any) -> None:
        super().__init__(_Remembering(typing_context), *arguments)

    def define_pipelines(self) -> list[Any]:
        manager = PassManager("kernel")
        for each in (
            untyped_passes.TranslateByteCode,
            untyped_passes.FixupArgs,
            untyped_passes.IRProcessing,
            _FoldModules,
            untyped_passes.ReconstructSSA,
            typed_passes.NopythonTypeInference,
            typed_passes.PreLowerStripPhis,
            typed_passes.IRLegalization,
            typed_passes.AnnotateTypes,
            KernelLowering,
            typed_passes.NoPythonBackend,
        ):
            manager.add_pass(each, each.__name__)
        manager.finalize()
        return [manager]
