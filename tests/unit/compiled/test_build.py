"""The compile driver: everything once, in several processes, and clear words when it fails."""

import errno
import inspect
import sys
from pathlib import Path

import pytest

from support.python import run_python
from unpinned.compiled import build, cache

ENTRIES = [("unpinned.compiled.libc", "sys_getpid", ""), ("unpinned.compiled.libc", "sys_sched_yield", "")]
WRONG = [("unpinned.compiled.libc", "sys_read", "w")]

ENSURE = f"""if 1:
    from unpinned.compiled import build
    lines = []
    print(build.ensure({ENTRIES}, processes=2, say=lines.append), lines[-1].split()[0])
    lines.clear()
    print(build.ensure({ENTRIES}, say=lines.append), len(lines))
    from unpinned.compiled import libc
    libc.sys_getpid(), libc.sys_sched_yield()
    print(sum(libc.sys_getpid.stats.cache_hits.values()), sum(libc.sys_sched_yield.stats.cache_misses.values()))
    """


@pytest.mark.compiled_only
def test_compiles_once_in_other_processes(tmp_path: Path) -> None:
    assert run_python(ENSURE, UNPINNED_CACHE_DIR=str(tmp_path)).splitlines() == ["2 compiled", "0 0", "1 0"]


@pytest.mark.compiled_only
def test_a_kernel_that_does_not_compile_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "root", lambda: tmp_path)
    with pytest.raises(RuntimeError, match=r"libc\.sys_read\(w\) does not compile: TypeError"):
        build.ensure(WRONG, say=lambda line: None)
    assert not list(tmp_path.glob("complete-*"))


@pytest.mark.compiled_only
def test_a_full_disk_is_an_error_of_the_system_that_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "root", lambda: tmp_path)
    limited = f"ulimit -f 1; trap '' XFSZ; exec {sys.executable}"  # no file may be long, and a process hears of it as an error
    monkeypatch.setattr(build.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(f'#!/bin/sh\n{limited} "$@"\n')
    (tmp_path / "python").chmod(0o700)
    with pytest.raises(OSError, match=f"cannot be kept in {tmp_path}: File too large .UNPINNED_CACHE_DIR") as caught:
        build.ensure(ENTRIES, say=lambda line: None)
    assert caught.value.errno == errno.EFBIG
    assert not [path for path in tmp_path.rglob("*") if ".nbc." in path.name or path.name.startswith("complete-")]


@pytest.mark.compiled_only
def test_a_worker_that_dies_is_noticed() -> None:
    worker = build._Worker([(*entry, "whole") for entry in ENTRIES])
    worker.process.kill()
    worker.process.wait()
    worker.give(0)
    with pytest.raises(RuntimeError, match="sys_getpid.* ended with status -9"):
        worker.take()
    worker.close()


def test_nothing_to_do_is_nothing() -> None:
    assert build.ensure([]) == 0


def test_every_entry_point_exists_and_takes_as_many_arguments() -> None:
    for module, name, letters in build.ENTRY_POINTS + build.PARTS:
        function = getattr(__import__(module, fromlist=[name]), name)
        parameters = inspect.signature(getattr(function, "py_func", function)).parameters
        assert len(parameters) == len(letters), f"{module}.{name}"
        assert set(letters) <= set(build.LETTERS)
