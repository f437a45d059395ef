"""`kernel`: the one way a function of this project is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core import config

from unpinned.compiled.cache import KernelCache

F = TypeVar("F", bound=Callable[..., Any])

INTERPRETED = bool(config.DISABLE_JIT)
"""True when ``NUMBA_DISABLE_JIT=1``: kernels stay plain Python. Meant for one thread."""


def kernel(function: F) -> F:
    """Compile *function* on first use, to run without the GIL; keep the result on disk.

    Division by zero and overflow follow C (``error_model="numpy"``), nothing raises. A function whose source
    is not in a file (typed at a prompt) is compiled but not kept.
    """
    if INTERPRETED:
        return function
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    if KernelCache.possible(function):
        # The attribute that numba's own `cache=True` sets; ours differs in where and under what key it keeps.
        dispatcher._cache = KernelCache(function)
    return dispatcher  # type: ignore[no-any-return]
