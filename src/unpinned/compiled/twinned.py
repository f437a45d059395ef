"""`intrinsic`: numba's, joined to the plain-Python twin of the same name in `interpreted`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core.extending import _Intrinsic

from unpinned.compiled import interpreted
from unpinned.compiled.decorator import INTERPRETED


class _Twinned(_Intrinsic):  # type: ignore[misc]
    """An intrinsic that may also be called from Python: numba's own raises NotImplementedError there."""

    def __call__(self, *args: Any) -> Any:
        return getattr(interpreted, self._name)(*args)


def intrinsic(function: Callable[..., Any]) -> Any:
    """LLVM code inside kernels, the twin outside them and everywhere when kernels are interpreted."""
    if INTERPRETED:
        return getattr(interpreted, function.__name__)
    made = _Twinned(function.__name__, function)
    made._register()
    return made


def kernels_only(function: Callable[..., Any]) -> Any:
    """`intrinsic` for what the twin does not do as well: called from Python beside compiled threads it is an error."""
    if INTERPRETED:
        return getattr(interpreted, function.__name__)
    made = _Intrinsic(function.__name__, function)
    made._register()
    return made
