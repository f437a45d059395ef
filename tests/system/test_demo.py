"""The demo, shortened: everything it promises holds, and whatever ends it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from unpinned.demo import files
from unpinned.demo.units import CAUSES
from unpinned.paging.causes import Cause

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]

COMMAND = [sys.executable, "-m", "unpinned", "demo"]
SIZE_MIB = 40 + os.getpid() % 32
"""Of the demo's own file, which all runs of a user share: another run of these tests beside this one has its own."""


@pytest.fixture(scope="module")
def size():
    """The option for a small file of the demo's own, which is taken away afterwards."""
    yield ["--size", f"{SIZE_MIB}M"]
    (files.folder() / f"demo-{SIZE_MIB}MiB-v1.bin").unlink(missing_ok=True)


def run(*words: str, timeout: float = 110.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=timeout)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def left_behind() -> list[str]:
    return [name for name in os.listdir(files.folder()) if name.startswith(".demo-")]


@pytest.fixture(scope="module")
def found(size, tmp_path_factory):
    """The document of one short run, and its picture."""
    picture = tmp_path_factory.mktemp("demo") / "picture.svg"
    done = run(*size, "--seconds", "6", "--json", "--picture", str(picture))
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return json.loads(done.stdout)


def test_no_byte_was_wrong(found):
    assert found["bytes_verified"] > 100 << 20
    assert {name: found[name] for name in ("stale_reads", "stray_writes", "wrong_adds", "other_errors", "locked_bytes")} == {
        "stale_reads": 0, "stray_writes": 0, "wrong_adds": 0, "other_errors": 0, "locked_bytes": 0,
    }  # fmt: skip


def test_everything_happened(found):
    for name in ("faults", "reads", "gathered_rows", "writes", "adds", "access_errors", "ranges_taken_away"):
        assert found[name] > 0, name
    assert set(found["invalidations"]) == set(CAUSES)
    assert sum(found["invalidations"].values()) > 0
    assert found["actions"]["Python spins"] >= 3


def test_the_figures_are_there_and_possible(found):
    speeds = [found[f"read_gbps_{name}"] for name in ("quiet", "hog", "owner_spinning")]
    assert all(0 < speed < 100 for speed in speeds)
    for name in ("hot", "fault"):
        assert 0 < found[f"{name}_us_p50"] <= found[f"{name}_us_p99"]
    assert found["served_bytes"] == (SIZE_MIB + 256 + 64) << 20
    assert found["regions_bytes"] == found["served_bytes"] + found["reserved_bytes"]
    assert 0 < found["resident_bytes_max"] <= found["served_bytes"] + (16 << 20)
    assert found["register_us"] > 0 and found["flushes"] >= 0 and found["stray_writes_foreign"] >= 0


def test_the_picture_is_drawn(found):
    text = Path(found["picture"]).read_text()
    assert text.startswith("<svg") and "registered" in text and "everything at once" in text


def test_a_user_s_file_is_checked_against_itself_and_not_changed(tmp_path):
    path = tmp_path / "odd.bin"
    content = os.urandom(3_000_001)
    path.write_bytes(content)
    path.chmod(0o444)
    done = run("--file", str(path), "--seconds", "2", "--json", "--no-picture")
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    document = json.loads(done.stdout)
    assert document["stale_reads"] == 0 and document["reads"] > 0
    assert path.read_bytes() == content


def test_private_memory_is_swapped_where_there_is_swap(size, swap_space):
    done = run(*size, "--seconds", "5", "--json", "--no-picture")
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    document = json.loads(done.stdout)
    assert "private memory was swapped out and in again" in document["notes"]
    assert document["stale_reads"] == document["stray_writes"] == 0


@contextmanager
def under_way(size):
    """A long demo that has reached the wire: (the process, the pids of owner and peer). It is gone afterwards."""
    process = subprocess.Popen([*COMMAND, *size, "--seconds", "60", "--no-picture"], stderr=subprocess.PIPE, text=True)
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if "first touch" in line:
                break
        assert said and "first touch" in said[-1], f"it ended: {''.join(said)}"
        yield process, children_of(process.pid)
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_ends_everything(size):
    with under_way(size) as (process, children):
        assert len(children) == 2
        assert all(os.getpgid(pid) == pid for pid in children)  # a terminal interrupts its whole foreground group, but not these
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in said
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not left_behind()


@pytest.mark.parametrize("role", [0, 1], ids=["owner", "peer"])
def test_a_process_that_dies_ends_the_demo_in_one_sentence(size, role):
    with under_way(size) as (process, children):
        os.kill(children[role], signal.SIGKILL)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 1
        assert "process ended with status -9" in errors.splitlines()[-1] and "Traceback" not in errors
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_nothing_outlives_a_killed_demo(size):
    with under_way(size) as (process, children):
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while (left := [pid for pid in children if Path(f"/proc/{pid}/exe").exists()]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--file", "/nosuch/file"], "/nosuch/file"),
        (["--file", "/proc"], "/proc"),
        (["--file", "/dev/null"], "/dev/null"),
        (["--size", "9000T"], "no room for"),
        (["--size", "few"], "--size"),
        (["--picture", "demo.gif"], ".png or .svg"),
        (["--picture", "/nosuch/demo.svg"], "/nosuch"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(words, sentence):
    done = run(*words, timeout=60)
    assert done.returncode == 1
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not left_behind()


def test_the_demo_names_the_causes_as_paging_does():
    assert tuple(cause.name.lower() for cause in Cause) == CAUSES
