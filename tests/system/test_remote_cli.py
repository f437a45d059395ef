"""serve, get and put as one uses them: files arrive byte for byte, and each mistake is one sentence and a failure."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import unpinned
from unpinned import cli

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]

ROWS = np.arange(30_000 * 64, dtype="f8").reshape(30_000, 64)  # 15 MB: mapped, and sent from where it is


def run(*words, cwd="."):
    """The command, in this process: starting one takes a second, and there are many."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(word) for word in words])
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def refused(*words, cwd="."):
    """What a command that fails says: one line."""
    done = run(*words, cwd=cwd)
    assert done.returncode == 1 and not done.stdout, (done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@contextlib.contextmanager
def serving(*words, cwd):
    """A server; its JSON document."""
    command = [sys.executable, "-m", "unpinned", "serve", *map(str, words), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
    text = ""
    deadline = time.monotonic() + 90
    try:
        while not text.endswith("\n"):
            assert select.select([process.stdout], [], [], deadline - time.monotonic())[0], text
            chunk = os.read(process.stdout.fileno(), 4096).decode()
            assert chunk, process.stderr.read()
            text += chunk
        yield json.loads(text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served")
    np.save(path / "rows.npy", ROWS)
    np.save(path / "part.npy", np.full((10, 64), 7.0))
    np.arange(1000, dtype="u2").tofile(path / "raw.bin")
    (path / "token").write_text("a token of some length\n")
    return path


@pytest.fixture(scope="module")
def served(folder):
    with serving("rows.npy", "raw.bin:numbers", "--dtype", "u2", "--shape=-1,10", cwd=folder) as document:
        yield document


def test_what_is_served_is_announced(served):
    assert served["arrays"] == {
        "rows": {"shape": [30_000, 64], "dtype": "float64", "bytes": ROWS.nbytes, "writable": False},
        "numbers": {"shape": [100, 10], "dtype": "uint16", "bytes": 2000, "writable": False},
    }


def test_get_brings_a_file_byte_for_byte(served, folder, tmp_path):
    command = [sys.executable, "-m", "unpinned", "get", f"{served['address']}/rows", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["bytes"] == ROWS.nbytes and document["output"] == "rows.npy" and document["gigabytes_per_second"] > 0
    assert (tmp_path / "rows.npy").read_bytes() == (folder / "rows.npy").read_bytes()
    assert os.listdir(tmp_path) == ["rows.npy"]
    before = (folder / "rows.npy").read_bytes()
    said = refused("get", f"{served['address']}/rows[:2]", cwd=folder)  # beside what is served: its name is the file's own
    assert "rows.npy is there already" in said and (folder / "rows.npy").read_bytes() == before


def test_get_takes_an_index(served, tmp_path):
    done = run("get", f"{served['address']}/numbers[[3, 17], ::-3]", "-o", tmp_path / "x.npy")
    assert done.returncode == 0 and "2x4 uint16" in done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.arange(1000, dtype="u2").reshape(-1, 10)[[3, 17], ::-3])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("127.0.0.1:1/x", "nothing listens on 127.0.0.1:1"),
        ("no.such.host.invalid/x", "is no address"),
        ("{address}/nothing", "serves no 'nothing'; it has: numbers, rows"),
        ("{address}/rows[99999]", "index 99999 is out of bounds for axis 0 with size 30000"),
        ("{address}/rows[1", "names no array"),
        ("{address}/rows[a]", "is no index"),
        ("{address}", "names no array"),
    ],
)
def test_what_cannot_be_got_is_said_in_a_sentence(served, tmp_path, source, words):
    assert words in refused("get", source.format(**served), "-o", tmp_path / "x.npy")
    assert not os.listdir(tmp_path)


def test_where_nothing_can_be_written_is_said_in_a_sentence(served, tmp_path):
    source = f"{served['address']}/rows"
    assert "No such file or directory" in refused("get", source, "-o", tmp_path / "no" / "x.npy")
    assert "no regular file" in refused("get", source, "-o", "/dev/full")
    assert "no regular file" in refused("get", source, "-o", tmp_path)


@pytest.mark.parametrize("nowhere", ["", "-"])
def test_an_output_without_a_name_is_not_taken_for_none_given(served, folder, nowhere):
    before = (folder / "rows.npy").read_bytes(), (folder / "rows.npy").stat().st_ino  # served, and what get calls its own
    assert "--output: " in refused("get", f"{served['address']}/rows", "-o", nowhere, cwd=folder)
    assert ((folder / "rows.npy").read_bytes(), (folder / "rows.npy").stat().st_ino) == before
    assert not (folder / "-").exists()


def test_a_full_disk_is_a_sentence_and_leaves_nothing(served, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        assert "No space left on device" in refused("get", f"{served['address']}/rows", "-o", small / "x.npy")
        assert not os.listdir(small)
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_full_disk_behind_a_served_file_is_a_sentence_and_the_owner_goes_on(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        with open(small / "sparse", "wb") as file:
            file.truncate(64 << 20)
        sparse = unpinned.RawFile(small / "sparse", "u1")
        with unpinned.serve({"sparse": sparse, "other": np.arange(5)}, port=0, writable=["sparse"]) as server:
            np.save(tmp_path / "long.npy", np.ones(64 << 20, "u1"))
            assert "its disk is full" in refused("put", tmp_path / "long.npy", f"{server.address}/sparse")
            with unpinned.connect(server.address) as client:
                assert client["other"][3] == 3 and client["sparse"][0] == 1
    finally:
        subprocess.run(["umount", small], check=True)


def test_put_writes_to_what_is_writable(folder, tmp_path):
    np.save(tmp_path / "w.npy", np.zeros_like(ROWS))
    with serving("w.npy", "--writable", "--token-file", folder / "token", cwd=tmp_path) as document:
        target = f"{document['address']}/w"
        token = ("--token-file", folder / "token")
        assert "asks for a token" in refused("put", folder / "rows.npy", target)
        np.save(tmp_path / "objects.npy", np.array([{}]))
        (tmp_path / "no.npy").write_bytes(b"x" * 100)
        assert "objects.npy holds Python objects" in refused("put", tmp_path / "objects.npy", target)
        assert refused("put", tmp_path / "no.npy", target).endswith("no.npy is no .npy file")
        (tmp_path / "wrong").write_text("quite another token")
        assert "the token is wrong" in refused("put", folder / "rows.npy", target, "--token-file", tmp_path / "wrong")
        assert "No such file" in refused("put", folder / "rows.npy", target, "--token-file", tmp_path / "none")
        done = run("put", folder / "rows.npy", target, "--json", *token)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["bytes"] == ROWS.nbytes
        done = run("put", folder / "part.npy", f"{target}[20:10:-1]", *token)
        assert done.returncode == 0 and "10x64 float64" in done.stderr
        assert "(10, 64) float64" in refused("put", folder / "part.npy", f"{target}[:9]", *token)
        assert "no .npy file" in refused("put", folder / "raw.bin", target, *token)
        assert "none.npy" in refused("put", "none.npy", target, *token)
    expected = ROWS.copy()
    expected[20:10:-1] = 7
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), expected)


def test_put_to_what_is_not_writable(served, folder):
    assert "not served writable" in refused("put", folder / "part.npy", f"{served['address']}/rows[:10]")


def test_what_cannot_be_served_is_said_in_a_sentence(folder, tmp_path):
    assert "'raw': raw.bin is no .npy file" in refused("serve", "raw.bin", cwd=folder)
    assert "No such file" in refused("serve", "none.npy", cwd=folder)
    assert "two files are called 'rows'" in refused("serve", "rows.npy", "raw.bin:rows", cwd=folder)
    assert "a token is needed" in refused("serve", "rows.npy", "--address", "192.0.2.1", cwd=folder)
    assert "--dtype" in refused("serve", "rows.npy", "--shape", "3", cwd=folder)
    assert "--dtype is for raw files, and none is named" in refused("serve", "rows.npy", "--dtype", "f4", cwd=folder)
    assert "'raw': 'f99' is no dtype" in refused("serve", "raw.bin", "--dtype", "f99", cwd=folder)
    assert "rows.npy holds no token" in refused("serve", "rows.npy", "--token-file", "rows.npy", cwd=folder)
    assert "/dev/zero holds no token" in refused("serve", "rows.npy", "--token-file", "/dev/zero", cwd=folder)
    assert ". is a folder" in refused("serve", ".", cwd=folder)
    assert "absent.npy" in refused("serve", "absent.npy", "--token-file", "made", cwd=folder)
    assert not (folder / "made").exists()  # a token for nobody
    host = f"127.98.{random.randrange(256)}.{random.randrange(1, 255)}"
    with serving("rows.npy", "--address", host, cwd=folder):
        assert "in use" in refused("serve", "rows.npy", "--address", host, cwd=folder)


def test_a_token_is_made_where_there_is_none(folder, tmp_path):
    with serving(folder / "rows.npy", "--token-file", "new", cwd=tmp_path) as document:
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
        done = run("get", f"{document['address']}/rows[:3]", "-o", "x.npy", "--token-file", "new", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
