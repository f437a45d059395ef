"""Kernels of both kinds give the same; one kind leaves no call."""

import numpy as np
import pytest

from unpinned.compiled import inlined_kernel, kernel

LINES = "".join(f"    s[{i}] = s[{i + 1}] * x + (s[{i + 2}] ^ {i})\n" for i in range(0, 240, 3))
SOURCE = f"""
def large(s, x):
{LINES}    return s[0]

def caller(s, x):
    return large(s, x) + large(s, x + 1)
"""


def caller_of(decorate):
    """A kernel that twice calls one which is too large for LLVM to inline of itself."""
    names = {}
    exec(SOURCE, names)
    names["large"] = decorate(names["large"])
    return kernel(names["caller"])


def test_an_inlined_kernel_is_the_same_function() -> None:
    found = [caller_of(decorate)(np.arange(256), 3) for decorate in (kernel, inlined_kernel)]
    names = {}
    exec(SOURCE, names)
    assert found == [names["caller"](np.arange(256), 3)] * 2


@pytest.mark.compiled_only
@pytest.mark.parametrize("decorate, calls", [(kernel, True), (inlined_kernel, False)])
def test_the_code_of_an_inlined_kernel_is_in_its_caller(decorate, calls) -> None:
    made = caller_of(decorate)
    made(np.arange(256), 3)
    (whole,) = made.wholes.values()
    code = [line for line in whole.library.get_llvm_str().splitlines() if " call " in line and "large" in line]
    assert bool(code) is calls


@pytest.mark.compiled_only
def test_an_array_is_passed_as_one_word() -> None:
    made = caller_of(kernel)
    made(np.arange(256), 3)
    (whole,) = made.wholes.values()
    calls = [line for line in whole.library.get_llvm_str().splitlines() if " call " in line and "large" in line]
    assert calls and all(line.split("(", 1)[1].count(",") == 2 for line in calls), "where the result goes, the array, x"
