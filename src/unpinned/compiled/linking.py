"""What LLVM gets to see: every kernel once as a part, and each entry point once as a whole.

Numba optimises a function with everything that it calls, emits machine code for it, and does so again in its
caller, and in the caller's caller: in a chain of ten calls the innermost function is optimised and emitted ten
times. Here a kernel that is called by kernels is a `Part`: its own intermediate code and the names of the parts
it calls, neither optimised nor emitted. What Python calls is a `Whole`: a wrapper and all parts below it, linked,
optimised and emitted together, once.

This reaches into numba (`CPUCodeLibrary` and what it keeps in `_final_module` and `_linking_libraries`), whose
versions `SUPPORTED` were tried; with any other, `decorator.kernel` is numba's own, slower to compile and as right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.codegen import JITCodeLibrary

SUPPORTED = (0, 62) <= numba.version_info.short <= (0, 68)


class Part(JITCodeLibrary):  # type: ignore[misc]
    """One kernel's own code, to be linked and never run. *calls* are the parts that it needs."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.calls: dict[str, Part] = {}
        self.symbol = ""
        self.inlined = False
        self.kept: str | None = None
        """Path below the cache's root from which another process can load it."""

    def add_linking_library(self, library: Any) -> None:
        if isinstance(library, Part):
            self.calls[library.symbol] = library
        else:
            super().add_linking_library(library)

    def finalize(self) -> None:
        """Take in what is not a kernel (numba's own functions), under names that nobody else sees."""
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        for function in self._final_module.functions:
            if not function.is_declaration:
                function.linkage = "linkonce_odr" if function.name == self.symbol else "internal"
                if self.inlined and function.name == self.symbol:
                    function.add_function_attribute("alwaysinline")
        self._finalize_dynamic_globals()
        self._finalized = True

    def everything(self) -> Iterator[Part]:
        """This part and all that it calls, directly or not, each once."""
        seen: set[str] = set()
        waiting = [self]
        while waiting:
            part = waiting.pop()
            if part.symbol not in seen:
                seen.add(part.symbol)
                waiting.extend(part.calls.values())
                yield part

    def to_bytes(self) -> tuple[str, bytes]:
        """Its name and LLVM bitcode."""
        self._ensure_finalized()
        return self.name, self._final_module.as_bitcode()

    @classmethod
    def from_bytes(cls, codegen: Any, state: tuple[str, bytes], symbol: str) -> Part:
        name, bitcode = state
        part = cls(codegen, name)
        part._final_module = llvm.parse_bitcode(bitcode)
        part.symbol = symbol
        part._finalized = True
        return part


class Whole(JITCodeLibrary):  # type: ignore[misc]
    """A wrapper for Python and all parts below it, as machine code."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self._wrapper = ""
        self.enable_object_caching()

    def take(self, part: Part, wrapper: str) -> None:
        """Link *part* and all it calls; only the function *wrapper* is to be seen from outside."""
        self._wrapper = wrapper
        for each in part.everything():
            each._ensure_finalized()
            self._final_module.link_in(each._final_module, preserve=True)

    def _optimize_final_module(self) -> None:
        super()._optimize_final_module()
        # Not before: LLVM makes one enormous function of whatever is called once and is not to be seen from outside.
        for function in self._final_module.functions:
            if not function.is_declaration and function.name != self._wrapper:
                function.linkage = "internal"
        self._drop_what_nobody_uses()

    def _drop_what_nobody_uses(self) -> None:
        """An array comes as seven words, of which a kernel uses one, and a status that is always 0 goes back: neither is passed."""
        passes = llvm.create_new_module_pass_manager()
        passes.add_ipsccp_pass()
        passes.add_dead_arg_elimination_pass()
        passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
        passes.run(self._final_module, llvm.create_pass_builder(self._codegen._tm, llvm.create_pipeline_tuning_options()))

    @classmethod
    def from_object(cls, codegen: Any, name: str, code: bytes, defined: set[str]) -> Whole:
        """What an earlier process compiled: machine code and the names it defines."""
        whole = cls(codegen, name)
        whole._set_compiled_object(code)
        whole._finalize_final_module()
        codegen._engine._defined_symbols |= defined
        return whole
