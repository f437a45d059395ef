"""Remote arrays against NumPy: every index, assignment and atomic gives what a local array gives."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import unpinned
from support.remote import arrays, owner

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]

LOCAL = arrays()
SETUP = "a = arrays()\nserver = unpinned.serve(a, writable=True, port=0)"


@pytest.fixture(scope="module")
def served():
    with owner(SETUP) as process, unpinned.connect(process.address) as client:
        yield process, client


@pytest.fixture(scope="module")
def client(served):
    return served[1]


@st.composite
def some_index(draw, shape):
    """Integers, slices, None, an ellipsis, arrays of integers and masks."""
    if not shape or draw(st.booleans()):
        return draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    entries = []
    for n in shape[: draw(st.integers(1, len(shape)))]:
        kinds = ["slice"] + ["int", "list", "mask"] * (n > 0)
        kind = draw(st.sampled_from(kinds))
        if kind == "slice":
            entries.append(draw(st.slices(n)))
        elif kind == "int":
            entries.append(draw(st.integers(-n, n - 1)))
        elif kind == "mask":
            rng = np.random.default_rng(draw(st.integers(0, 99)))
            entries.append(rng.random(n) < draw(st.sampled_from([0.01, 0.5, 0.99])))
            break  # masks of several axes rarely broadcast
        else:
            side = draw(st.sampled_from([(1,), (5,), (2, 5), (40,)]))
            entries.append(draw(hnp.arrays(np.int64, side, elements=st.integers(-n, n - 1))))
            break
    return tuple(entries)


def same(got, expected):
    assert type(got) is type(expected) or isinstance(got, np.ndarray)
    assert np.shape(got) == np.shape(expected) and got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_an_array_looks_like_its_original(client, name):
    remote, local = client[name], LOCAL[name]
    assert (remote.shape, remote.dtype, remote.ndim, remote.size, remote.nbytes) == (
        local.shape, local.dtype, local.ndim, local.size, local.nbytes
    )  # fmt: skip
    assert name in repr(remote)
    if local.ndim:
        assert len(remote) == len(local)


@given(data=st.data())
@settings(max_examples=60)
@pytest.mark.parametrize("name", sorted(set(LOCAL) - {"words", "unsigned"}))
def test_reading_is_numpys(client, name, data):
    local = LOCAL[name]
    index = data.draw(some_index(local.shape))
    same(client[name][index], local[index])


@given(data=st.data())
@settings(max_examples=25)
@pytest.mark.parametrize("name", ["table", "fortran", "cube", "text", "record", "times"])
def test_writing_is_numpys(client, name, data):
    remote, expected = client[name], LOCAL[name].copy(order="K")
    remote[...] = expected
    index = data.draw(some_index(expected.shape))
    source = np.roll(expected[index].reshape(-1), 1).reshape(expected[index].shape)
    if source.ndim and data.draw(st.booleans()):
        source = source[:1]  # broadcast
    remote[index] = source
    expected[index] = source
    same(remote[...], expected)


@pytest.mark.parametrize(
    "value", [3, 2.7, np.float32(1.5), [1, 2, 3], np.arange(3)[None, None, :], np.arange(6).reshape(2, 3), "7", True]
)
def test_values_are_converted_and_broadcast_as_numpy_does(client, value):
    expected = np.zeros((2, 3), np.int32)
    remote = client["table"]
    remote[:2, :3] = 0
    expected[...] = value
    remote[:2, :3] = value
    same(remote[:2, :3], expected)


@pytest.mark.parametrize("value", [[1, 2], np.zeros((3, 3)), "seven", 2**40])
def test_values_that_do_not_fit_are_refused_as_numpy_refuses_them(client, value):
    with pytest.raises((ValueError, OverflowError)) as numpys:
        np.zeros((2, 3), np.int32)[...] = value
    with pytest.raises(type(numpys.value)) as ours:
        client["table"][:2, :3] = value
    assert str(ours.value) == str(numpys.value)


def test_of_a_row_written_twice_the_last_stays(client):
    remote = client["table"]
    remote[[5, 7, 5]] = np.array([[1], [2], [3]])
    assert (remote[5] == 3).all() and (remote[7] == 2).all()


def test_read_into_memory_of_all_kinds(client):
    remote, local = client["cube"], LOCAL["cube"]
    remote[...] = local
    for out in (np.empty((5, 6, 3)), unpinned.empty((5, 6, 3)), np.empty((3, 6, 5)).T, np.empty((5, 12, 3))[:, ::2]):
        assert remote.read_into(out, 2) is out
        same(out, local[2])
    with pytest.raises(ValueError, match="shape"):
        remote.read_into(np.empty(3), 2)
    with pytest.raises(ValueError, match="dtype"):
        remote.read_into(np.empty((5, 6, 3), "f4"), 2)


def test_it_is_a_sequence_and_an_array(client):
    remote, local = client["cube"], LOCAL["cube"]
    remote[...] = local
    same(np.asarray(remote), local)
    same(np.concatenate([remote, remote]), np.concatenate([local, local]))
    for got, expected in zip(remote, local, strict=True):
        same(got, expected)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(remote, copy=False)


def test_a_pickled_array_opens_itself(client):
    again = pickle.loads(pickle.dumps(client["text"]))
    same(again[1], client["text"][1])


def test_atomics_return_what_was_there_and_wrap_around(client):
    words = client["words"]
    words[...] = 0
    assert words.fetch_add(3, 5) == 0
    assert words.fetch_add(3, -7) == 5
    assert words[3] == -2
    assert words.compare_swap(3, 1, 9) == -2 and words[3] == -2
    assert words.compare_swap(3, -2, 9) == -2 and words[3] == 9
    same(words.fetch_add([1, 1, 2], [10, 20, 30]).sum(keepdims=True) % 10, np.array([0]))
    same(words[:4], np.array([0, 30, 30, 9]))
    unsigned = client["unsigned"]
    unsigned[...] = 2**64 - 2
    assert unsigned.fetch_add(0, 5) == 2**64 - 2 and unsigned[0] == 3
    assert isinstance(unsigned.fetch_add(0, -1), np.uint64)
    same(unsigned.fetch_add(slice(1, 3), 2**63), np.full(2, 2**64 - 2, np.uint64))
    with pytest.raises(TypeError, match="int64"):
        client["table"].fetch_add(0, 1)
    with pytest.raises(TypeError, match="value: integers"):
        words.fetch_add(0, 1.5)
    with pytest.raises(TypeError, match="expected: integers"):
        words.compare_swap(0, 1.5, 1)
    with pytest.raises(ValueError, match=r"value: shape \(3,\) does not broadcast to \(2,\)"):
        words.fetch_add([0, 1], [1, 2, 3])


def test_threads_share_a_client(client):
    words, table = client["words"], client["table"]
    words[...] = 0
    table[...] = LOCAL["table"]
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(30):
            rows = rng.integers(0, 2000, 50)
            if not np.array_equal(table[rows], LOCAL["table"][rows]):
                wrong.append(rows)
            words.fetch_add(rng.integers(0, 64, 10), 1)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert words[...].sum() == 12 * 30 * 10


def test_prefetch_is_a_hint(served):
    process, client = served
    client["table"].prefetch([1, 500, 1999])
    client["table"].prefetch()
    client["empty"].prefetch()
    with pytest.raises(IndexError):
        client["table"].prefetch(5000)
    assert process.value("server.stats()['arrays']['table']['prefetches'] >= 0")


def test_a_read_only_array_is_not_written():
    with unpinned.serve({"x": np.arange(5)}, port=0) as server, unpinned.connect(server.address) as client:
        with pytest.raises(ValueError, match="read-only: 'x' is not served writable"):
            client["x"][0] = 1
        with pytest.raises(ValueError, match="read-only"):
            client["x"].fetch_add(0, 1)


def test_a_missing_name_is_a_key_error(client):
    with pytest.raises(KeyError, match="table"):
        client["nothing"]


def test_long_reads_and_writes_land_in_place():
    local = np.arange(6 << 20, dtype="f8").reshape(-1, 1 << 17)  # 48 MiB
    with unpinned.serve({"x": local}, writable=True, port=0) as server, unpinned.connect(server.address) as client:
        remote = client["x"]
        same(remote[...], local)
        same(remote[::-1], local[::-1])
        out = unpinned.empty(local.shape)
        steps = []
        remote.read_into(out, progress=steps.append)
        same(out, local)
        assert sum(steps) == local.nbytes
        remote[...] = out + 1
        same(local, out + 1)
        remote[:, : 1 << 16] = 0
        assert not local[:, : 1 << 16].any()


def test_dense_gathers_read_gaps_along(client):
    table, local = client["table"], LOCAL["table"]
    table[...] = local
    rng = np.random.default_rng(5)
    for index in (rng.permutation(2000)[:1500], local[:, 0] % 2 == 0, (slice(None), slice(None, None, 2)), (slice(None), 5)):
        same(table[index], local[index])


def test_a_long_gather_at_random_joins_neighbours_over_all_of_it():
    with owner("a = np.arange(600_000, dtype='i4').reshape(100_000, 6)\nserver = unpinned.serve({'a': a}, port=0)") as process:
        with unpinned.connect(process.address) as client:
            array = np.arange(600_000, dtype="i4").reshape(100_000, 6)
            rows = np.random.default_rng(5).integers(-100_000, 100_000, 90_000)
            columns = np.array([4, 0, 5])
            for index in (rows, (rows, slice(4, None, -2)), (rows[:, None], columns), (slice(2, None, 3), rows[:4] % 6)):
                same(client["a"][index], array[index])
            out = np.empty((90_000, 6), "i4")
            assert client["a"].read_into(out, rows) is out
            same(out, array[rows])


def test_chunks_of_a_dask_array_are_read_where_they_are_needed(client):
    dask = pytest.importorskip("dask.array")
    lazy = dask.from_array(client["table"], chunks=(500, 40))
    same(lazy[100:900:3, 10:50].compute(scheduler="threads"), LOCAL["table"][100:900:3, 10:50])
    assert int((lazy > 5).sum().compute(scheduler="threads")) == int((LOCAL["table"] > 5).sum())
