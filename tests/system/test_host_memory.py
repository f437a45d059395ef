"""The live world's kernels against memory that changes under them: truncation, swap, limits, unmaps under fire."""

import errno
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.memory import MADV_PAGEOUT, PAGE, behind, mapped, view
from support.python import run_python
from support.swap import Swap
from unpinned.host import owned, system
from unpinned.host.copies import copy_scratch, execute
from unpinned.host.memory import Kind, map_buffer, map_file
from unpinned.host.pagemap import close_scratch, populate, resident, scan, scan_scratch
from unpinned.paging import layout as P

pytestmark = pytest.mark.system
PAGES = 64


@pytest.fixture
def scratch() -> Iterator[np.ndarray]:
    s = scan_scratch()
    yield s
    close_scratch(s)


class Copier:
    """Describes copies of consecutive pages, each of a queue pair of its own, and runs them."""

    def __init__(self, op: int, path: int = P.PATH_PROCESS_VM) -> None:
        self.p = P.create(levels=1, bits=1, leaves=1, regions=0, dma=PAGES, faults=0)
        self.b = np.full(PAGES * PAGE, 0xAB, np.uint8)
        self.s = copy_scratch()
        self.op, self.path = op, path

    def run(self, address: int, pages: int) -> list[int]:
        """The errno of each page's copy, 0 where it worked."""
        records = self.p[self.p[P.DMA] :][: pages * P.DMA_WORDS].reshape(pages, P.DMA_WORDS)
        records[:] = 0
        records[:, P.DMA_STATE] = P.DMA_ISSUED
        records[:, P.DMA_VA] = address + PAGE * np.arange(pages)
        records[:, P.DMA_LENGTH] = PAGE
        records[:, P.DMA_OP] = self.op
        records[:, P.DMA_PATH] = self.path
        records[:, P.DMA_OFFSET] = PAGE * np.arange(pages)
        records[:, P.DMA_TOKEN] = np.arange(pages)
        self.p[P.DMA_COUNT] = pages
        execute(self.p, self.b, self.s)
        return records[:, P.DMA_STATUS].tolist()


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [P.OP_READ, P.OP_WRITE], ids=["read", "write"])
@pytest.mark.parametrize("own", [False, True], ids=["alias", "file"])
def test_a_file_that_shrinks_gives_errors_and_no_signal(tmp_path: Path, op: int, own: bool) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\x01" * (8 * PAGE))
    array = np.memmap(path, np.uint8, "r+")
    mapping = map_file(path, True) if own else map_buffer(array.ctypes.data, array.nbytes, True, array)
    assert mapping.kind is (Kind.FILE if own else Kind.ALIAS)
    copier = Copier(op)
    assert copier.run(mapping.table_base, 8) == [0] * 8
    os.truncate(path, 3 * PAGE)
    assert copier.run(mapping.table_base, 8) == [0] * 3 + [errno.EFAULT] * 5
    assert populate(mapping.table_base, mapping.table_base + 8 * PAGE, 0) == errno.EFAULT
    os.truncate(path, 8 * PAGE)
    assert copier.run(mapping.table_base, 8) == [0] * 8
    mapping.close()


def test_a_file_that_is_replaced_goes_on_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\x01" * PAGE)
    mapping = map_file(path, False)
    (tmp_path / "new").write_bytes(b"\x02" * PAGE)
    os.replace(tmp_path / "new", path)
    copier = Copier(P.OP_READ)
    assert copier.run(mapping.table_base, 1) == [0]
    assert (copier.b[:PAGE] == 1).all()
    mapping.close()


# --- the application's mapping goes, ours stays ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.OWNED, Kind.ALIAS])
def test_writes_never_reach_what_replaced_the_range(kind: Kind) -> None:
    """A writer that does not stop, while the application maps something else at the same address, again and again."""
    pages = 16
    with mapped(pages, shared=True) as address:
        if kind is Kind.OWNED:
            array = owned.empty(pages * PAGE, np.uint8)
            address = array.ctypes.data
        mapping = map_buffer(address, pages * PAGE, True)
        assert (mapping.kind, mapping.path) == (kind, P.PATH_DIRECT)
        stop = threading.Event()

        def write() -> None:
            copier = Copier(P.OP_WRITE, P.PATH_DIRECT)
            while not stop.is_set():
                assert copier.run(mapping.table_base, pages) == [0] * pages

        flags = system.MAP_PRIVATE | system.MAP_ANONYMOUS | system.MAP_FIXED
        with behind(write):
            for _ in range(300):
                assert system._mmap(address, pages * PAGE, 3, flags, -1, 0) == address
                assert not view(address, pages * PAGE).any()
            stop.set()
        assert (view(mapping.table_base, pages * PAGE) == 0xAB).all()
        mapping.close()


def test_private_memory_that_comes_and_goes_under_fire() -> None:
    """Each copy works or answers EFAULT; nothing crashes."""
    pages = 16
    outcomes: set[int] = set()
    stop = threading.Event()
    with mapped(pages) as address:

        def write() -> None:
            copier = Copier(P.OP_WRITE)
            while not stop.is_set():
                outcomes.update(copier.run(address, pages))

        flags = system.MAP_PRIVATE | system.MAP_ANONYMOUS | system.MAP_FIXED
        with behind(write) as writer:
            while not stop.is_set() and writer.is_alive():
                system.unmap(address + PAGE, 8 * PAGE)
                assert system._mmap(address, pages * PAGE, 3, flags, -1, 0) == address
                if outcomes >= {0, errno.EFAULT}:
                    stop.set()
    assert outcomes == {0, errno.EFAULT}


# --- swap and residency ------------------------------------------------------------------------------------------------


def test_pages_in_swap_are_absent_and_come_back(swap_space: Swap, scratch: np.ndarray) -> None:
    with mapped(PAGES) as address:
        end = address + PAGES * PAGE
        system.advise(address, PAGES * PAGE, 15)  # MADV_NOHUGEPAGE
        content = np.random.default_rng(1).integers(0, 256, PAGES * PAGE, np.uint8)
        view(address, PAGES * PAGE)[:] = content
        assert scan(address, end, scratch) == end
        system.advise(address, PAGES * PAGE, MADV_PAGEOUT)
        there = resident(address, end, scratch)
        assert there < PAGES * PAGE, "nothing was swapped out"
        assert scan(address, end, scratch) < end
        assert populate(address, end, 0) == 0
        assert scan(address, end, scratch) == end
        system.advise(address, PAGES * PAGE, MADV_PAGEOUT)
        copier = Copier(P.OP_READ)
        assert copier.run(address, PAGES) == [0] * PAGES, "process_vm brings in what is not there"
        assert (copier.b == content).all()


def test_owned_memory_can_be_swapped_out_once_the_device_lets_go(swap_space: Swap, scratch: np.ndarray) -> None:
    array = owned.empty(PAGES * PAGE, np.uint8)
    array[:] = 7
    mapping = map_buffer(array.ctypes.data, array.nbytes, True, array)
    start, end = mapping.pages
    assert populate(start, end, 0) == 0
    assert resident(start, end, scratch) == PAGES * PAGE
    mapping.drop()
    system.advise(array.ctypes.data, array.nbytes, MADV_PAGEOUT)
    assert scan(start, end, scratch) == start
    assert populate(start, end, 1) == 0
    assert scan(start, end, scratch) == end
    assert (view(start, PAGES * PAGE) == 7).all()
    mapping.close()


def test_registering_a_large_reservation_costs_no_memory(scratch: np.ndarray) -> None:
    def rss() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    size = 64 << 30
    address = system.map_anonymous(size)
    try:
        before = rss()
        mapping = map_buffer(address, size, True)
        assert resident(*mapping.pages, scratch) == 0
        mapping.close()
        assert rss() - before < 1 << 20
    finally:
        system.unmap(address, size)


# --- locking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1 << 16, 0])
def test_locking_more_than_is_allowed_says_so(root: None, limit: int) -> None:
    code = f"""
import os, resource
import numpy as np
from unpinned.host.memory import map_buffer
array = np.zeros(1 << 20, np.uint8)
resource.setrlimit(resource.RLIMIT_MEMLOCK, ({limit}, {limit}))
os.setuid(65534)                        # and with it CAP_IPC_LOCK goes
mapping = map_buffer(array.ctypes.data, array.nbytes, True, array)
try:
    mapping.lock()
except OSError as error:
    print(error.errno, error)
print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmLck')])
mapping.close()
"""
    first, second = run_python(code).splitlines()
    assert int(first.split()[0]) in (errno.ENOMEM, errno.EPERM)
    assert f"RLIMIT_MEMLOCK allows {limit} bytes" in first
    assert second == "['0']"


def test_a_locked_mapping_is_resident_and_stays(scratch: np.ndarray) -> None:
    with mapped(PAGES) as address:
        end = address + PAGES * PAGE
        mapping = map_buffer(address, PAGES * PAGE, True)
        mapping.lock()
        assert scan(address, end, scratch) == end
        with pytest.raises(OSError, match="Invalid argument"):
            system.advise(address, PAGES * PAGE, MADV_PAGEOUT)
        mapping.close()


# --- leaks -----------------------------------------------------------------------------------------------------------


def test_a_thousand_mappings_leave_nothing(tmp_path: Path, no_leaks: object) -> None:
    def mappings() -> int:
        return len(re.findall("\n", Path("/proc/self/maps").read_text()))

    (tmp_path / "data").write_bytes(bytes(PAGE))
    memmap = np.memmap(tmp_path / "data", np.uint8, "r")
    heap = np.zeros(100)
    before = mappings()
    for _ in range(1000):
        array = owned.empty(3 * PAGE, np.uint8)
        for one in (array, heap, memmap):
            map_buffer(one.ctypes.data, one.nbytes, False, one).close()
        map_file(tmp_path / "data", False).close()
        del array, one
    assert abs(mappings() - before) < 10
