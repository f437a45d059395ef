"""The cache of kernels: fresh after every edit, separate for every mode, safe to share and to lose."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from support.python import run_python
from unpinned.compiled import cache

CALL = """if 1:
    from house import caller
    print(caller.outer(1), sum(caller.outer.stats.cache_hits.values()))
    """


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package whose `caller` imports a kernel and a constant from its siblings; returns its folder."""
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "layout.py").write_text("STEP = 10\n")
    (folder / "callee.py").write_text(
        "from unpinned.compiled import kernel\n"
        "from house import layout as L\n"
        "@kernel\n"
        "def inner(x): return x + L.STEP\n"
    )
    (folder / "caller.py").write_text(
        "from unpinned.compiled import kernel\n"
        "from .callee import (\n    inner,\n)\n"
        "@kernel\n"
        "def outer(x): return inner(x) * 2\n"
    )
    return folder


def call(house: Path, code: str = CALL, **environment: str) -> list[str]:
    kernels = str(house.parent / "kernels")
    return run_python(code, path=house.parent, UNPINNED_CACHE_DIR=kernels, **environment).split()


def edit(path: Path, old: str, new: str) -> None:
    """Same length, same time stamp: only the content says that it changed."""
    before = path.stat()
    text = path.read_text()
    assert len(old) == len(new) and old in text
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.compiled_only
def test_editing_a_callee_or_its_constants_reaches_the_caller(house: Path) -> None:
    plain = {"PYTHONDONTWRITEBYTECODE": "1"}  # Python's own cache does look at time stamps
    assert call(house, **plain) == ["22", "0"]
    assert call(house, **plain) == ["22", "1"]
    edit(house / "callee.py", "x + L", "x - L")
    assert call(house, **plain) == ["-18", "0"]
    edit(house / "layout.py", "10", "99")
    assert call(house, **plain) == ["-196", "0"]
    edit(house / "layout.py", "99", "10")
    edit(house / "callee.py", "x - L", "x + L")
    assert call(house, **plain) == ["22", "1"]


@pytest.mark.compiled_only
def test_bounds_checked_code_is_kept_apart(house: Path) -> None:
    (house / "index.py").write_text("from unpinned.compiled import kernel\n@kernel\ndef element(a, i): return a[i]\n")
    code = """if 1:
        import numpy as np
        from house.index import element
        try: print(element(np.arange(9)[:4], 5))
        except IndexError: print("refused")
        print(sum(element.stats.cache_hits.values()))
        """
    assert call(house, code, NUMBA_BOUNDSCHECK="0") == ["5", "0"]
    assert call(house, code, NUMBA_BOUNDSCHECK="1") == ["refused", "0"]
    assert call(house, code, NUMBA_BOUNDSCHECK="0") == ["5", "1"]
    assert call(house, code, NUMBA_BOUNDSCHECK="1") == ["refused", "1"]


@pytest.mark.compiled_only
def test_a_damaged_file_is_compiled_again(house: Path) -> None:
    assert call(house) == ["22", "0"]
    for file in house.parent.glob("kernels/*/*.nbc"):
        file.write_bytes(file.read_bytes()[:100])
    assert call(house) == ["22", "0"]
    assert call(house) == ["22", "1"]


def test_two_signatures_are_two_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is shared between them that two processes could swap; whoever reads sees all or nothing."""
    monkeypatch.setattr(cache, "root", lambda: tmp_path)
    kept = cache.KernelCache(cache.source_key)
    one, other = kept.place(("int64",), "part"), kept.place(("float64",), "part")
    assert cache.load(one) is None
    cache.save(one, "whole")
    cache.save(other, "real")
    assert cache.load(one) == "whole" and cache.load(other) == "real"
    kept.flush()
    assert cache.load(other) is None and list((tmp_path / kept.key).iterdir()) == []


# --- what a module depends on ------------------------------------------------------------


def test_the_closure_of_a_module_is_what_it_imports(house: Path) -> None:
    closure = cache._closure("house.caller", str(house / "caller.py"), house.parent)
    assert {"house.caller", "house.callee", "house.layout", "unpinned.compiled"} <= set(closure)
    assert "unpinned.compiled.cache" in closure and "unpinned.wire.icrc" not in closure


def test_import_statements_in_all_their_forms() -> None:
    text = (
        "import os, unpinned.wire.icrc as i\n"
        "from unpinned.wire import headers as H, opcodes  # why\n"
        "from unpinned.wire.headers import (\n    PSN_MASK,  # of 24 bits, (why)\n    QPN_MASK as Q,\n)\n"
        "    from . import near, \\\n        nearer\n"
        "from ..far import thing\n"
    )
    assert set(cache._imports(text, "house.floor")) == {
        "os", "unpinned.wire.icrc", "unpinned.wire.headers", "unpinned.wire.opcodes",
        "house.floor.near", "house.floor.nearer", "house.floor", "house.far.thing", "house.far",
    }  # fmt: skip


def test_module_keys_differ_by_module_and_need_no_import() -> None:
    keys = {cache.module_key(f"unpinned.{name}") for name in ("wire.icrc", "wire.headers", "compiled.libc")}
    assert len(keys) == 3
    with pytest.raises(ModuleNotFoundError):
        cache.module_key("unpinned.no_such_floor")


# --- the root ----------------------------------------------------------------------------


@pytest.fixture
def choose_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Ask for the root afresh, with the temporary folder inside *tmp_path*."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("UNPINNED_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def choose(**environment: str) -> Path:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return cache.root.__wrapped__()

    return choose


def test_the_root_is_where_the_user_says(choose_root, tmp_path: Path) -> None:
    assert choose_root(HOME=str(tmp_path / "home")) == tmp_path / "home/.cache/unpinned"
    assert choose_root(XDG_CACHE_HOME=str(tmp_path / "xdg")) == tmp_path / "xdg/unpinned"
    assert choose_root(UNPINNED_CACHE_DIR=str(tmp_path / "mine")) == tmp_path / "mine"
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o700


def test_without_a_writable_home_it_is_a_private_temporary_folder(choose_root, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    chosen = choose_root(HOME=str(tmp_path / "file"))
    assert chosen == tmp_path / f"tmp/unpinned-{os.getuid()}"
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_is_not_trusted(choose_root, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shared = tmp_path / f"tmp/unpinned-{os.getuid()}"
    shared.mkdir()
    shared.chmod(0o777)
    chosen = choose_root(HOME=str(tmp_path / "file"))
    assert chosen != shared and chosen.parent == tmp_path / "tmp"
    shared.rmdir()
    shared.symlink_to(tmp_path)
    assert choose_root() not in (shared, tmp_path)
