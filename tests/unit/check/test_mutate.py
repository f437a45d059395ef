"""Mutants fit the sources, and the copy that carries them is the package otherwise."""

from __future__ import annotations

import ast
import dataclasses

import pytest

from unpinned.check.mutants import MUTANTS, Mutant
from unpinned.check.mutate import MutantError, apply, schema, source_of

SOURCE = '''
@kernel
def step(p, x):
    """One."""
    if p[1] > 0:
        return 1
    return x


@kernel
def other(p):
    return step(p, 2)
'''
POSITIVE = Mutant("positive", "paging.none", "step", "    if p[1] > 0:\n", "    if p[1] >= 0:\n", "an off-by-one", "w", "I1")
SILENT = Mutant("silent", "paging.none", "step", "    return x\n", "    return 0\n", "the answer is lost", "w", "I1")


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_each_mutant_changes_its_function_and_nothing_else(mutant: Mutant) -> None:
    text = source_of(mutant).read_text(encoding="utf-8")
    mutated = apply(text, mutant)
    before = {node.name: ast.dump(node) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    after = {node.name: ast.dump(node) for node in ast.parse(mutated).body if isinstance(node, ast.FunctionDef)}
    assert {name for name in before if before[name] != after[name]} == {mutant.function}


#: What kernels and drivers really had, and the mutants that imitate it.
REAL: dict[str, tuple[str, ...]] = {
    "endless fault loop": ("write-fault-grants-read",),
    "write allowed on a page mapped for read": ("translate-tests-valid-only",),
    "lock left held on the error path": ("error-path-keeps-the-slot", "lock-kept-after-a-refusal"),
    "page offset not reset per page": ("zap-stops-after-one-page", "flush-drops-one-page"),
    "atomic maps one byte": ("atomic-maps-one-byte",),
    "teardown hangs with a prefetch in flight": ("prefetch-never-freed",),
    "fault served beyond the region's bounds": ("fault-beyond-the-region", "length-not-tested"),
    "non-ODP key in a fault": ("pinned-key-faults",),
    "invalidation missed because `set_seq` was skipped": ("start-does-not-tell-faults",),
    "no re-check after faulting": ("commit-without-recheck",),
    "entry installed after the lock was dropped": ("entry-installed-without-the-lock",),
    "page freed before the flush was acknowledged": ("freed-while-the-flush-runs", "frames-not-held"),
    "refused invalidation ignored": ("refusal-ignored",),
    "start without finish": ("start-without-finish", "sequence-left-open"),
}


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 24


@pytest.mark.parametrize("bug", REAL)
def test_every_bug_of_the_reference_is_among_them_and_says_so(bug: str) -> None:
    for name in REAL[bug]:
        assert MUTANTS[name].imitates.startswith(f"[odp] {bug}")


def test_a_place_that_has_moved_is_an_error_that_names_it() -> None:
    with pytest.raises(MutantError, match="positive: .*step holds 0 times.*p\\[1\\] > 0"):
        apply(SOURCE.replace("> 0", "> 1"), POSITIVE)
    with pytest.raises(MutantError, match="holds 2 times"):
        apply(SOURCE.replace("    return x\n", "    if p[1] > 0:\n        pass\n    return x\n"), POSITIVE)
    with pytest.raises(MutantError, match="no function gone"):
        apply(SOURCE, dataclasses.replace(POSITIVE, function="gone"))


def test_one_copy_holds_all_and_a_number_chooses() -> None:
    text = schema(SOURCE, [(4, POSITIVE), (5, SILENT)])
    names = {"kernel": lambda function: function}
    exec(text, names)
    magic = 0x756E70696E6E0001
    assert names["step"]([magic, 0], 7) == 7 == names["step"]([magic + 3, 0], 7)
    assert names["step"]([magic + 4, 0], 7) == 1 and names["other"]([magic + 4, 0]) == 1
    assert names["step"]([magic + 5, 0], 7) == 0
