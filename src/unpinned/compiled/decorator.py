"""`kernel`: the one way a function of this project is compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core import config

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
    from unpinned.compiled import dispatcher, linking

    if linking.SUPPORTED:
        return dispatcher.Kernel(function)
    warnings.warn(
        f"numba {numba.__version__} is unknown here: kernels compile slowly, every time", RuntimeWarning, stacklevel=2
    )
    return numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)  # type: ignore[no-any-return]


def inlined_kernel(function: F) -> F:
    """As `kernel`, and its code goes into every kernel that calls it, whatever its size.

    For the steps of a loop that does nothing else, millions of times a second: passing a block costs seven words a call.
    """
    made = kernel(function)
    if not INTERPRETED:
        made.inlined = True  # type: ignore[attr-defined]
    return made
