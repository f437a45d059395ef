"""The compile driver: everything once, in several processes, and clear words when it fails."""

import inspect
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
