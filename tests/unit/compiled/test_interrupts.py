"""Ctrl-C while kernels are compiled or loaded: heard, once, by whoever hears it otherwise; and nothing is left."""

import _thread
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from unpinned.compiled import cache
from unpinned.compiled.interrupts import interrupts_later


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the test runner has its own
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_comes_at_the_end(interruptible: None) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_later():
        signal.raise_signal(signal.SIGINT)
        with interrupts_later():
            signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done == ["all of it"]
    with interrupts_later():
        done.append("nothing is owed")
    assert len(done) == 2


def test_an_error_and_an_interrupt_are_both_told(interruptible: None) -> None:
    with pytest.raises(KeyboardInterrupt) as told, interrupts_later():
        signal.raise_signal(signal.SIGINT)
        raise OSError("no room")
    assert isinstance(told.value.__context__, OSError)


def test_other_threads_and_other_handlers_are_left_alone(interruptible: None) -> None:
    seen = []

    def elsewhere() -> None:
        with interrupts_later():
            seen.append(signal.getsignal(signal.SIGINT))
        over.release()

    over, known = threading.Lock(), threading.active_count()
    over.acquire()
    _thread.start_new_thread(elsewhere, ())  # as ours are: `threading` does not know it
    over.acquire()
    assert threading.active_count() == known, "nor does it afterwards"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_later():
        signal.raise_signal(signal.SIGINT)
        seen.append(signal.getsignal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert seen == [signal.default_int_handler, signal.SIG_IGN]


@pytest.mark.system
@pytest.mark.compiled_only
def test_a_verb_that_is_interrupted_while_it_compiles_says_so_and_leaves_nothing(tmp_path) -> None:
    """As a terminal does it: the whole foreground group is told."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unpinned", "swarm", "-n", "10"],
        env={**os.environ, "UNPINNED_CACHE_DIR": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
    try:
        assert process.stderr and process.stderr.readline().startswith("unpinned: compiling")
        workers: list[int] = []
        while not workers and process.poll() is None:  # it says so first
            workers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent_of(pid) == process.pid]
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "unpinned swarm: interrupted" and "Traceback" not in err and "ignored" not in err
    assert not [pid for pid in workers if parent_of(pid) is not None]
    assert not list(tmp_path.glob("complete-*")), "it is not done"


@pytest.mark.compiled_only
def test_a_compiler_whose_parent_is_gone_ends_without_a_word() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from unpinned.compiled import build; build.work()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.write("unpinned.compiled.nowhere\tnothing\ti\twhole\n")
    process.stdin.close()
    assert process.wait(60) == 1 and process.stderr.read() == ""
    process.stderr.close()


def parent_of(pid: int) -> int | None:
    """None: there is no such process."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])
    return None


def test_the_code_of_a_module_covers_what_it_imports() -> None:
    assert cache.code("unpinned.swarm.jobs") == cache.code("unpinned.swarm.jobs") != cache.code("unpinned.study.sweep")
    below = cache._closure("unpinned.swarm.jobs", cache._locate("unpinned.swarm.jobs", cache._SOURCES), cache._SOURCES)
    assert {"unpinned.swarm.engine", "unpinned.hca.device", "unpinned.paging.faults"} <= set(below)
    assert "unpinned.host.engine" not in below
