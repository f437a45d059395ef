"""`Kernel`: a numba dispatcher that makes a part when a kernel calls it, and a whole when Python does."""

from __future__ import annotations

import itertools
import os
from contextlib import nullcontext
from typing import Any

from numba.core import errors, sigutils, types, typing
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher

from unpinned.compiled import cache
from unpinned.compiled.interrupts import interrupts_later
from unpinned.compiled.linking import Part, Whole
from unpinned.compiled.pipeline import Pipeline

OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy", "_nrt": False}
"""Division by zero and overflow follow C, the GIL is released, nothing is allocated or counted."""

_nobody = itertools.count()


class _ToPart(Pipeline):
    """Numba's pipeline as far as LLVM's intermediate code, under names that all processes agree on."""

    def __init__(
        self, typing_context: Any, target_context: Any, library: Any, args: Any, result: Any, flags: Any, kinds: Any
    ):
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        part = Part(target_context.codegen(), "part")
        super().__init__(typing_context, target_context, part, args, result, flags, kinds)

    def _compile_bytecode(self) -> Any:
        # Symbols are named after the source: numba's own count differs from process to process, and parts are shared.
        kernel = _KERNELS[self.state.func_id.func]
        self.state.func_id.unique_id = kernel.identity
        result = super()._compile_bytecode()
        result.library.symbol, result.library.inlined = result.fndesc.llvm_func_name, kernel.inlined
        return result


_KERNELS: dict[Any, Kernel] = {}


class Kernel(CPUDispatcher):  # type: ignore[misc]
    """A kernel; ``overloads`` holds its parts, ``wholes`` what Python can call."""

    def __init__(self, function: Any, locals: Any = None, targetoptions: Any = None) -> None:
        super().__init__(function, {}, OPTIONS, pipeline_class=_ToPart)
        self.wholes: dict[tuple[Any, ...], CompileResult] = {}
        self.inlined = False
        self.kept = cache.KernelCache(function) if cache.KernelCache.possible(function) else None
        self.identity = self.kept.identity if self.kept else f"0{next(_nobody)}"
        if self.kept:
            self._cache = self.kept
        _KERNELS[function] = self

    def compile(self, signature: Any) -> Any:
        """Something Python can call, for these argument types: compiled, or loaded."""
        arguments, _ = sigutils.normalize_signature(signature)
        with global_compiler_lock, interrupts_later():
            if arguments not in self.wholes:
                self.wholes[arguments] = self._load_whole(arguments) or self._make_whole(arguments)
                self._insert([each._code for each in arguments], self.wholes[arguments].entry_point, False)
            return self.wholes[arguments].entry_point

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """What another kernel's type inference asks when it meets a call.

        Every number is an int64: numba would make a version for each constant that is an argument, and for a truth value.
        """
        pysig, folded = self._compiler.fold_argument_types(args, kws)
        arguments = tuple(_widened(each) for each in folded)
        self.part(arguments)
        name = self.py_func.__name__
        template = typing.make_concrete_template(f"CallTemplate({name})", key=name, signatures=self.nopython_signatures)
        return template, pysig, arguments, {}

    def part(self, arguments: tuple[Any, ...]) -> CompileResult:
        """The part for these argument types: known, loaded or compiled."""
        with global_compiler_lock, self._compiling_counter, interrupts_later():
            if arguments not in self.overloads:
                result = self._load_part(arguments) or self._make_part(arguments)
                self.targetctx.insert_user_function(result.entry_point, result.fndesc, [result.library])
                self.overloads[arguments] = result
            return self.overloads[arguments]

    # --- parts -------------------------------------------------------------------------------

    def _make_part(self, arguments: tuple[Any, ...]) -> CompileResult:
        with cache.claim(self.kept.place(arguments, "part")) if self.kept else nullcontext():
            result = self._load_part(arguments)  # another process may just have finished
            if result is None:
                try:
                    result = self._compiler.compile(arguments, None)
                except errors.ForceLiteralArg as error:
                    raise errors.TypingError(f"{self.py_func.__name__} wants a literal argument") from error
                result = result._replace(entry_point=object())  # the key that callers find it by
                self._save_part(arguments, result)
        return result

    def _save_part(self, arguments: tuple[Any, ...], result: CompileResult) -> None:
        part = result.library
        part._ensure_finalized()
        calls = [each.kept for each in part.calls.values()]
        if self.kept is None or None in calls or part.has_dynamic_globals:
            return
        result.fndesc.typemap = result.fndesc.calltypes = None
        part.kept = self.kept.place(arguments, "part")
        cache.save(part.kept, (part.to_bytes(), calls, result.fndesc, result.environment, result.signature))
        _loaded[part.kept] = result

    def _load_part(self, arguments: tuple[Any, ...]) -> CompileResult | None:
        if self.kept is None:
            return None
        self.targetctx.refresh()
        return _load(self.kept.place(arguments, "part"), self.typingctx, self.targetctx)

    # --- wholes ------------------------------------------------------------------------------

    def _make_whole(self, arguments: tuple[Any, ...]) -> CompileResult:
        part = self.part(arguments)
        self._cache_misses[arguments] += 1
        context = self.targetctx.subtarget(enable_nrt=True)  # arrays from Python are counted
        wrapper = part.fndesc.llvm_cpython_wrapper_name
        whole = Whole(context.codegen(), part.fndesc.qualname)
        context.create_cpython_wrapper(whole, part.fndesc, part.environment, None, release_gil=True)
        whole.take(part.library, wrapper)
        function = context.get_executable(whole, part.fndesc, part.environment)
        if self.kept and part.library.kept:
            code = whole._get_compiled_object()
            cache.save(self.kept.place(arguments, "whole"), (code, part.fndesc, part.environment, part.signature))
        return part._replace(entry_point=function, library=whole)

    def _load_whole(self, arguments: tuple[Any, ...]) -> CompileResult | None:
        kept = self.kept and cache.load(self.kept.place(arguments, "whole"))
        if not kept:
            return None
        self._cache_hits[arguments] += 1
        self.targetctx.refresh()
        code, fndesc, environment, signature = kept
        whole = Whole.from_object(
            self.targetctx.codegen(), fndesc.qualname, code, {fndesc.llvm_cpython_wrapper_name, fndesc.env_name}
        )
        function = self.targetctx.get_executable(whole, fndesc, environment)
        return _result(self.typingctx, self.targetctx, whole, fndesc, environment, signature, function)


def _widened(kind: Any) -> Any:
    wide: Any = types.unliteral(kind)  # type: ignore[attr-defined]
    narrow = isinstance(wide, types.Boolean) or (isinstance(wide, types.Integer) and getattr(wide, "bitwidth", 64) < 64)
    return types.int64 if narrow else wide


_loaded: dict[str, CompileResult] = {}


def _load(place: str, typing_context: Any, target_context: Any) -> CompileResult | None:
    """The part at *place* with all that it calls; None if any of them is missing."""
    if place in _loaded:
        return _loaded[place]
    kept = cache.load(place)
    if kept is None:
        return None
    state, calls, fndesc, environment, signature = kept
    part = Part.from_bytes(target_context.codegen(), state, fndesc.llvm_func_name)
    for other in calls:
        callee = _load(other, typing_context, target_context)
        if callee is None:
            return None
        part.calls[callee.library.symbol] = callee.library
    part.kept = place
    result = _result(typing_context, target_context, part, fndesc, environment, signature, object())
    _loaded[place] = result
    return result


def _result(
    typing_context: Any, target_context: Any, library: Any, fndesc: Any, environment: Any, signature: Any, entry: Any
) -> CompileResult:
    fields: dict[str, Any] = dict.fromkeys(CompileResult._fields)
    fields.update(
        typing_context=typing_context,
        target_context=target_context,
        library=library,
        fndesc=fndesc,
        environment=environment,
        signature=signature,
        entry_point=entry,
        objectmode=False,
        lifted=(),
    )
    return CompileResult(**fields)


# A fork waits until no thread loads or compiles a kernel: its child would find the lock taken, for ever.
os.register_at_fork(
    before=global_compiler_lock.acquire, after_in_parent=global_compiler_lock.release, after_in_child=global_compiler_lock.release
)
