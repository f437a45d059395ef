"""Served files and memory maps: what they hold arrives; what happens to them while served is an error at the peer, no crash."""

from __future__ import annotations

import os

import numpy as np
import pytest

import unpinned
from support.remote import owner
from unpinned.remote import RawFile, RemoteAccessError

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]

ROWS = np.arange(4096 * 64, dtype="f8").reshape(4096, 64)


@pytest.fixture
def npy(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, ROWS)
    return path


def test_files_and_maps_of_every_kind(tmp_path, npy):
    np.save(tmp_path / "f.npy", np.asfortranarray(ROWS))
    np.save(tmp_path / "none.npy", np.zeros((0, 4)))
    raw = tmp_path / "raw.bin"
    raw.write_bytes(b"head" * 25 + ROWS.tobytes())
    private = np.memmap(npy, "u1", "c")
    private[:3] = 1, 2, 3
    served = {
        "npy": npy,
        "fortran": str(tmp_path / "f.npy"),
        "none": tmp_path / "none.npy",
        "raw": unpinned.RawFile(raw, "f8", (-1, 64), 100),
        "whole": RawFile(raw, "u1"),
        "r": np.load(npy, mmap_mode="r"),
        "r+": np.load(npy, mmap_mode="r+"),
        "c": private,
        "owned": unpinned.empty((3, 4), "i4"),
    }
    with unpinned.serve(served, writable=["r+", "owned"], port=0) as server, unpinned.connect(server.address) as client:
        for name in ("npy", "fortran", "raw", "r", "r+"):
            np.testing.assert_array_equal(client[name][...], ROWS)
            np.testing.assert_array_equal(client[name][[5, 4000, -1]], ROWS[[5, 4000, -1]])
        assert client["none"][...].shape == (0, 4)
        assert client["whole"][:8].tobytes() == b"headhead"
        assert client["c"][:4].tolist() == [1, 2, 3, ord("M")]
        client["r+"][7] = -1
        assert (np.load(npy)[7] == -1).all()
        client["owned"][...] = 5
        assert (served["owned"] == 5).all()
        kinds = {name: about.get("kind") for name, about in server.stats()["arrays"].items()}
        assert {name for name, kind in kinds.items() if kind == "file"} == {"npy", "fortran", "raw", "whole"}
        assert (kinds["r"], kinds["r+"], kinds["c"], kinds["owned"]) == ("alias", "alias", "foreign", "owned")


def test_a_writable_file_takes_what_is_put_there(npy):
    with unpinned.serve({"x": npy}, writable=True, port=0) as server, unpinned.connect(server.address) as client:
        client["x"][10:20] = 1.5
    expected = ROWS.copy()
    expected[10:20] = 1.5
    np.testing.assert_array_equal(np.load(npy), expected)


def test_a_file_that_shrinks_is_an_error_at_the_peer(npy):
    with owner(f"server = unpinned.serve({{'x': {str(npy)!r}, 'y': np.arange(9)}}, port=0)") as process:
        with unpinned.connect(process.address) as client:
            x = client["x"]
            np.testing.assert_array_equal(x[-1], ROWS[-1])
            os.truncate(npy, 8192)
            with pytest.raises(RemoteAccessError, match=r"x\[4000\]: the file .*rows.npy shrank to 8192 bytes"):
                x[4000]
            with pytest.raises(RemoteAccessError, match="shrank"):
                x[0]
            assert client["y"][3] == 3
            assert "shrank" in process.value("server.stats()['arrays']['x']['gone']")


def test_a_shrinking_file_of_a_memory_map_too(npy):
    with owner(f"x = np.load({str(npy)!r}, mmap_mode='r')\nserver = unpinned.serve({{'x': x}}, port=0)") as process:
        with unpinned.connect(process.address) as client:
            np.testing.assert_array_equal(client["x"][-1], ROWS[-1])
            os.truncate(npy, 8192)
            with pytest.raises(RemoteAccessError, match="the owner's device refuses"):
                client["x"][4000]
            np.testing.assert_array_equal(client["x"][0], ROWS[0])


@pytest.mark.parametrize("how", ["replaced", "overwritten", "cannot be opened"])
def test_a_file_that_is_no_longer_the_one_served(npy, how):
    with owner(f"server = unpinned.serve({{'x': {str(npy)!r}}}, port=0)") as process:
        with unpinned.connect(process.address) as client:
            x = client["x"]
            np.testing.assert_array_equal(x[0], ROWS[0])
            if how == "replaced":
                other = npy.with_suffix(".new.npy")
                np.save(other, ROWS + 1)
                os.replace(other, npy)
            elif how == "overwritten":
                with open(npy, "r+b") as file:
                    np.save(file, ROWS.astype("f4"))
            else:
                npy.unlink()
            process.do("import time; time.sleep(1.2)")  # the server looks twice a second
            with pytest.raises(RemoteAccessError, match=how):
                x[0]


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        (np.array([{}, 1], object), TypeError, "'x': dtype object holds Python objects"),
        (np.zeros(3, [("a", "i4"), ("b", "O")]), TypeError, "holds Python objects"),
        (np.array(["a", "b"], np.dtypes.StringDType()), TypeError, "fixed length"),
        (np.zeros((4, 4))[:, ::2], ValueError, "'x' is not contiguous"),
        (np.ma.masked_array([1, 2], [True, False]), TypeError, "masked"),
        ([1, 2, 3], TypeError, "not list"),
        ("/nowhere/at/all.npy", OSError, "'x': /nowhere/at/all.npy: No such file"),
        ("/dev/null", OSError, "not a regular file"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(what, error, words):
    with pytest.raises(error, match=words):
        unpinned.serve({"x": what}, port=0)


def test_files_that_hold_no_array_are_refused_by_name(tmp_path):
    text, short, archive = tmp_path / "text.npy", tmp_path / "short.npy", tmp_path / "many.npz"
    text.write_text("hello")
    np.save(short, ROWS)
    os.truncate(short, 1000)
    np.savez(archive, a=ROWS)
    none = tmp_path / "none.npy"
    none.touch()
    for path, words in ((text, "no .npy"), (short, "shorter than its header"), (archive, "npz"), (none, "no .npy")):
        with pytest.raises(ValueError, match=words):
            unpinned.serve({"x": path}, port=0)
    raws = ((RawFile(text, "f8", 2), "needs 16"), (RawFile(text, "O"), "objects"), (RawFile(text, "u1", -3), "no shape"))
    for raw, words in raws:
        with pytest.raises((ValueError, TypeError), match=words):
            unpinned.serve({"x": raw}, port=0)
    with pytest.raises(ValueError, match="read-only and cannot be served writable"):
        unpinned.serve({"x": np.broadcast_to(np.zeros(1), (1,))}, writable=True, port=0)
    with pytest.raises(ValueError, match="nothing is served under the name 'y'"):
        unpinned.serve({"x": np.zeros(1)}, writable="y", port=0)
    with pytest.raises(ValueError, match="no name"):
        unpinned.serve({"x[3]": np.zeros(1)}, port=0)
