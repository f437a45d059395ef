"""The shape of the tree: imports go down only, the pure floors touch nothing, locks name no host."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "unpinned"
PURE = ("paging", "hca", "wire")
IMPURE = {"socket", "threading", "time", "random", "os", "ctypes", "select", "subprocess", "mmap", "secrets"}


def sources(*floors: str) -> list[Path]:
    return sorted(path for floor in floors for path in (PACKAGE / floor).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Every absolute module name that ``path`` imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def test_imports_go_down_only():
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", sources(*PURE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_pure_floors_touch_nothing(path):
    assert not {name.split(".")[0] for name in imported_modules(path)} & IMPURE


def test_libc_and_llvm_are_reached_from_one_floor():
    """Externs and intrinsics need a plain-Python twin, and only `compiled` has them."""
    floors = [entry.name for entry in PACKAGE.iterdir() if entry.is_dir() and entry.name != "compiled"]
    offenders = {path for path in sources(*floors) if "llvmlite" in path.read_text()}
    assert not offenders


def test_no_module_is_a_maze():
    """Past 400 lines ask what two things a file is; the test leaves room for the answer `one`."""
    long = {str(path.relative_to(ROOT)): n for path in sources(".") if (n := path.read_text().count("\n")) > 450}
    assert not long


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_pins_and_hashes_and_names_no_host(lock):
    text = lock.read_text()
    assert not re.search(r"https?://|file://|--(index-url|extra-index-url|find-links|trusted-host)|/home/|/root/", text)
    requirements = [line for line in text.splitlines() if re.match(r"\w", line)]
    assert requirements
    assert all("==" in line and line.endswith("\\") for line in requirements)
