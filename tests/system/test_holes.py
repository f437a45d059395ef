"""Reads of owned memory that nobody has written: zeros, without making it; and what is stored there meanwhile is seen."""

import gc
import os
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from support import Missing
from support.memory import MREMAP_FIXED, MREMAP_MAYMOVE, PAGE, mapped, move, protect, view
from support.slow_pages import slow_pages
from support.verbs import ALL, End, pair
from unpinned import verbs as v
from unpinned.host import owned
from unpinned.host.holes import cut, read_hole, remember
from unpinned.host.layout import COPY_HOLED, COPY_HOLES, COPY_WORDS, HOLE_WORDS, HOLES
from unpinned.host.system import advise, map_anonymous, unmap
from unpinned.host.vmas import procmap_query_works
from unpinned.paging import layout as P
from unpinned.paging.table import entry, install

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
MIB = 1 << 20
MADV_NOHUGEPAGE = 15


@pytest.fixture
def ends(no_leaks):
    with pair(buffer=MIB) as (a, b):
        yield a, b


def read(a: End, mr: v.MR, there: int, length: int) -> bytes:
    """A READ of the peer's region, into memory that held something else."""
    a.mr.write(b"\xee" * length)
    a.remote(v.IBV_WR_RDMA_READ, mr, 0, there, length)
    a.wait()
    return a.mr.read(length)


def holes(b: End) -> int:
    return b.context.counters()["hole_bytes"]


def resident(array: np.ndarray) -> int:
    return os.fstat(next(ref() for ref in owned._blocks.values() if ref().block.base == array.ctypes.data).block.fd).st_blocks * 512


def test_a_read_of_what_was_never_written_makes_nothing(ends):
    a, b = ends
    array = owned.empty(64 * MIB, "u1")
    with v.MR(b.pd, array, ALL) as mr:
        for there in (0, MIB, 5 * MIB + 123, 63 * MIB):
            assert read(a, mr, there, MIB) == bytes(MIB)
        assert resident(array) == 0
        assert holes(b) == 4 * MIB


def test_the_driver_finds_a_hole_by_itself(ends):
    """Before data, behind it and between: nobody has to be woken for what is not there."""
    a, b = ends
    array = owned.empty(4 * MIB, "u1")
    with v.MR(b.pd, array, ALL) as mr:
        assert read(a, mr, MIB, MIB) == bytes(MIB)
        array[:8192] = 1
        assert read(a, mr, 0, MIB) == bytes([1]) * 8192 + bytes(MIB - 8192)  # (to look at `array` there would make it)
        array[2 * MIB + 65536 : 2 * MIB + 65536 + 4096] = 2
        assert read(a, mr, 2 * MIB, 65536) == bytes(65536)
        assert mr.counters["faults_major"] == 0 and mr.counters["faults_minor"] >= 3
        assert resident(array) == 8192 + 4096
        assert read(a, mr, 2 * MIB, MIB) == array[2 * MIB : 3 * MIB].tobytes()


def test_what_the_owner_stores_is_read(ends):
    a, b = ends
    array = owned.empty(4 * MIB, "u1")
    with v.MR(b.pd, array, ALL) as mr:
        assert read(a, mr, 0, MIB) == bytes(MIB)
        for step in range(200):  # at once, and past the time for which an entry is trusted
            at = 4_999 * step
            array[at] = step + 1
            assert read(a, mr, at - 7 if at else 0, 64)[7 if at else 0] == step + 1
        assert read(a, mr, 0, MIB) == array[:MIB].tobytes()


def test_what_the_peer_writes_is_read(ends):
    a, b = ends
    array = owned.empty(4 * MIB, "u1")
    with v.MR(b.pd, array, ALL) as mr:
        assert read(a, mr, 0, MIB) == bytes(MIB)
        a.mr.write(b"\x77" * 10_000)
        a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 30_000, 10_000)
        a.wait()
        got = read(a, mr, 0, MIB)
        assert resident(array) <= MIB
        assert got == array[:MIB].tobytes()
        assert array[30_000:40_000].all() and not array[:30_000].any() and not array[40_000:].any()
        a.atomic(mr, 3 * MIB, add=5)
        a.wait()
        assert array[3 * MIB] == 5


def test_memory_that_is_there_is_copied_as_before(ends):
    a, b = ends
    array = owned.empty(2 * MIB, "u1")
    with v.MR(b.pd, array, ALL) as mr:
        assert read(a, mr, 0, MIB) == bytes(MIB)
        array[:] = 3
        read(a, mr, 0, MIB)
        before = -1
        while holes(b) != before:  # entries of before are looked at again when the horizon is over, and are no holes then
            before = holes(b)
            assert read(a, mr, 0, MIB) == bytes([3]) * MIB


def test_a_region_that_comes_where_another_was(ends):
    a, b = ends
    for value in range(8):
        array = owned.empty(MIB, "u1")
        with v.MR(b.pd, array, ALL) as mr:
            assert read(a, mr, 0, MIB) == bytes(MIB)
            array[:] = value + 1
            assert read(a, mr, 0, MIB) == bytes([value + 1]) * MIB
        del array
        gc.collect()


def test_without_a_descriptor_it_is_brought_in(ends, monkeypatch):
    a, b = ends
    monkeypatch.setattr(owned, "DESCRIPTORS", 0)
    array = owned.empty(MIB, "u1")
    with v.MR(b.pd, array, ALL) as mr:
        assert mr.kind == "owned"
        assert read(a, mr, 0, MIB) == bytes(MIB)
    assert holes(b) == 0


def test_private_memory_that_was_never_touched_is_read_without_touching_it(ends):
    """What the owner stores in it, or may not be read any more, is the peer's at the next READ."""
    a, b = ends
    with mapped(4 * MIB // PAGE) as address:
        array = view(address, 4 * MIB)
        advise(address, 4 * MIB, MADV_NOHUGEPAGE)
        with v.MR(b.pd, array, ALL) as mr:
            assert read(a, mr, 0, MIB) == bytes(MIB)
            if not procmap_query_works():
                pytest.skip("needs Linux 6.11 (PROCMAP_QUERY)")
            assert mr.resident_bytes() == 0 and holes(b) == MIB
            for step in range(100):
                at = 9_999 * step
                array[at] = step + 1
                assert read(a, mr, at, 64) == array[at : at + 64].tobytes()
            assert read(a, mr, 0, MIB) == array[:MIB].tobytes()
            protect(address + 2 * MIB, PAGE, 0)
            a.remote(v.IBV_WR_RDMA_READ, mr, 0, 2 * MIB - 100, 200)
            assert a.wait(v.IBV_WC_REM_ACCESS_ERR)


@pytest.mark.parametrize("how", ["registered again", "mapped anew"])
def test_what_was_untouched_once_is_no_zeros_behind_somebody_s_fault_handler(ends, how):
    """Who registers a userfaultfd for the range supplies its pages, as soon as it is not watched by us."""
    a, b = ends
    with mapped(256) as address, ExitStack() as stack:
        advise(address, MIB, MADV_NOHUGEPAGE)
        with v.MR(b.pd, view(address, MIB), ALL) as mr:
            assert read(a, mr, 0, MIB) == bytes(MIB)
            if how == "mapped anew":
                unmap(address, MIB)
                map_anonymous_at(address, MIB)
                slow = stack.enter_context(slow_pages_or_skip(address, MIB))
        if how == "registered again":
            slow = stack.enter_context(slow_pages_or_skip(address, MIB))
        with v.MR(b.pd, view(address, MIB), ALL) as mr:
            slow.release()
            assert read(a, mr, 4096, 8192) == bytes([0x33]) * 8192


@contextmanager
def slow_pages_or_skip(address: int, length: int):
    try:
        with slow_pages(address, length, 0x33) as pages:
            yield pages
    except Missing as reason:
        pytest.skip(str(reason))


def map_anonymous_at(address: int, length: int) -> None:
    assert move(map_anonymous(length), length, length, MREMAP_MAYMOVE | MREMAP_FIXED, address) == address


@pytest.fixture
def listed():
    """A list of holes over a table of 2**14 pages, all of which are installed."""
    p = P.create(levels=2, bits=9, leaves=64, regions=1, revoked=4, dma=4, faults=4)
    install(p, 0, 1 << 24, P.PRESENT, 0)
    return np.zeros(COPY_WORDS, np.int64), p


def ranges(s):
    words = s[COPY_HOLES : COPY_HOLES + HOLES * HOLE_WORDS].reshape(HOLES, HOLE_WORDS)
    return sorted((int(start), int(end)) for end, start, _ in words if end)


def test_neighbours_are_one_range(listed):
    s, p = listed
    for start in (0x1000, 0x2000, 0x2000, 0x8000):
        remember(s, p, 7, start, start + 0x1000)
    assert ranges(s) == [(0x1000, 0x3000), (0x8000, 0x9000)]


@pytest.mark.parametrize(
    ("start", "end", "left", "zapped"),
    [
        (0x1000, 0x2000, [(0x2000, 0x9000)], []),
        (0x8000, 0xA000, [(0x1000, 0x8000)], []),
        (0x2000, 0x3000, [(0x3000, 0x9000)], [0x1000]),
        (0x7000, 0x8000, [(0x1000, 0x7000)], [0x8000]),
        (0, 0x10000, [], []),
        (0x9000, 0xA000, [(0x1000, 0x9000)], []),
        (0x4000, 0x4000, [(0x1000, 0x9000)], []),  # a look that found nothing there
    ],
)
def test_what_is_cut_off_faults_again(listed, start, end, left, zapped):
    s, p = listed
    remember(s, p, 7, 0x1000, 0x9000)
    cut(s, p, start, end)
    assert ranges(s) == left
    assert [va for va in range(0, 0x10000, 0x1000) if not entry(p, va)] == zapped
    assert (s[COPY_HOLED] > 0) == bool(left)


def test_a_full_list_forgets_the_oldest_and_its_pages(listed):
    s, p = listed
    for i in range(HOLES + 1):
        remember(s, p, 7, i * 0x2000, i * 0x2000 + 0x1000)
    assert len(ranges(s)) == HOLES and (0, 0x1000) not in ranges(s)
    assert entry(p, 0) == 0 and entry(p, 0x2000) != 0


def test_a_copy_across_the_edge_reads_the_file(tmp_path, listed):
    s, p = listed
    content = np.random.default_rng(5).integers(0, 256, 0x4000, np.uint8)
    (tmp_path / "file").write_bytes(content.tobytes())
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    got = np.zeros(0x1000, np.uint8)
    try:
        remember(s, p, 0x10000 | fd, 0x11000, 0x12000)
        for va in (0x10000, 0x12000):
            assert read_hole(s, va, 0x1000, got.ctypes.data) == 0
        for va in (0x10800, 0x11000, 0x11FFF):
            assert read_hole(s, va, 0x1000, got.ctypes.data) == 1
            assert (got == content[va - 0x10000 :][:0x1000]).all()
    finally:
        os.close(fd)
