"""Put a mutant into a source: text in, text out, or an error that says which place has moved."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Sequence
from pathlib import Path

from unpinned.check.mutants import Mutant

PACKAGE = Path(__file__).resolve().parents[1]


class MutantError(ValueError):
    """A mutant that does not fit the source any more: names it, the function and what was looked for."""


def source_of(mutant: Mutant) -> Path:
    """The file that the mutant is about."""
    return PACKAGE.joinpath(*mutant.module.split(".")).with_suffix(".py")


def apply(text: str, mutant: Mutant) -> str:
    """*text* with the mutant in it. Raises MutantError unless `old` stands exactly once in the function."""
    start, end = _extent(text, mutant)
    body = text[start:end]
    if body.count(mutant.old) != 1:
        raise MutantError(
            f"{mutant.name}: {mutant.module}.{mutant.function} holds {body.count(mutant.old)} times what is to be "
            f"replaced (expected once): {mutant.old.strip()!r}"
        )
    return text[:start] + body.replace(mutant.old, mutant.new) + text[end:]


def _extent(text: str, mutant: Mutant) -> tuple[int, int]:
    """Where the function stands in its file, decorators included: offsets of its first and past its last character."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == mutant.function:
            lines = text.splitlines(keepends=True)
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            assert node.end_lineno is not None
            return sum(map(len, lines[:first])), sum(map(len, lines[: node.end_lineno]))
    raise MutantError(f"{mutant.name}: there is no function {mutant.function} in {mutant.module}")


def schema(text: str, mutants: Sequence[tuple[int, Mutant]]) -> str:
    """*text* with several mutants at once, each behind its number.

    A function f with mutants becomes f as it was under another name, one copy for each mutant, and an f that asks its
    block (its first argument) which of them is switched on. So one compilation serves them all.
    """
    by_function: dict[str, list[tuple[int, Mutant]]] = {}
    for number, mutant in mutants:
        by_function.setdefault(mutant.function, []).append((number, mutant))
    for function, group in by_function.items():
        text = _schema_of(text, function, group)
    needs = dict.fromkeys(mutant.needs for _, mutant in mutants if mutant.needs)
    return "\n".join([text, *needs, ""])


def _schema_of(text: str, function: str, group: Sequence[tuple[int, Mutant]]) -> str:
    start, end = _extent(text, group[0][1])
    original = text[start:end]
    node = next(each for each in ast.parse(text).body if isinstance(each, ast.FunctionDef) and each.name == function)
    names = [argument.arg for argument in node.args.args]
    call = ", ".join(names)
    copies = [_renamed(original, function, 0)]
    chosen = [f"    which = {names[0]}[0] - {_MAGIC[names[0]]}"]
    for number, mutant in group:
        mutated = apply(text, mutant)
        first, last = _extent(mutated, mutant)
        copies.append(_renamed(mutated[first:last], function, number))
        chosen.append(f"    if which == {number}:\n        return _mutant{number}_{function}({call})")
    chosen.append(f"    return _mutant0_{function}({call})")
    asks = f"@kernel\ndef {function}({call}):\n" + "\n".join(chosen) + "\n"
    return text[:start] + "\n\n".join([*copies, asks]) + text[end:]


def _renamed(source: str, function: str, number: int) -> str:
    return source.replace(f"def {function}(", f"def _mutant{number}_{function}(", 1)


# --- a copy of the package ---------------------------------------------------------------------------------------------

COPIED = ("compiled", "wire", "paging", "hca", "model", "check")
"""The floors that an exploration needs."""

_SWITCHED = {
    # where a block gets its magic number, which in the copy also carries the number of the mutant
    "paging/layout.py": ("p[NODE_COUNT] = LAYOUT_MAGIC,", "p[NODE_COUNT] = LAYOUT_MAGIC + SWITCH[0],"),
    "model/layout.py": ("w[W_BLOCK_WORDS] = MAGIC,", "w[W_BLOCK_WORDS] = MAGIC + SWITCH[0],"),
    "hca/block.py": ("h[L.H_WORDS] = L.MAGIC,", "h[L.H_WORDS] = L.MAGIC + SWITCH[0],"),
}
_MAGIC = {"p": "0x756E70696E6E0001", "w": "0x756E70696E6E4D31", "h": "0x756E70696E6E6564"}


def copy_package(directory: Path, mutants: Sequence[Mutant]) -> None:
    """Copy what an exploration needs into *directory*, every mutant of *mutants* in it behind its number (from 1).

    Whoever imports the package from there chooses one by `choose`.
    """
    target = directory / "unpinned"
    target.mkdir(parents=True)
    for name in ("__init__.py", *COPIED):
        if (PACKAGE / name).is_dir():
            shutil.copytree(PACKAGE / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(PACKAGE / name, target / name)
    for name, (old, new) in _SWITCHED.items():
        text = (target / name).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise MutantError(f"{name}: where a block gets its magic number has moved: {old!r}")
        (target / name).write_text(text.replace(old, new) + "\n\nSWITCH = [0]\n", encoding="utf-8")
    by_file: dict[Path, list[tuple[int, Mutant]]] = {}
    for number, mutant in enumerate(mutants, 1):
        by_file.setdefault(source_of(mutant), []).append((number, mutant))
    for path, group in by_file.items():
        copied = target / path.relative_to(PACKAGE)
        copied.write_text(schema(copied.read_text(encoding="utf-8"), group), encoding="utf-8")


def choose(number: int) -> None:
    """In a process that imported such a copy: blocks made from now on have this mutant (0: none)."""
    from unpinned.hca import block
    from unpinned.model import layout as model_layout
    from unpinned.paging import layout as paging_layout

    for module in (block, model_layout, paging_layout):
        module.SWITCH[0] = number  # type: ignore[attr-defined]
