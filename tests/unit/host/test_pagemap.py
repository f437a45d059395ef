"""Residency and populate, by each of the three sources."""

import ctypes
import errno
import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from support.memory import PAGE, mapped, memfd, protect, view
from support.python import run_python
from unpinned.host import layout as L
from unpinned.host import system
from unpinned.host.pagemap import _touch, close_scratch, map_held, populate, resident, scan, scan_scratch
from unpinned.paging import layout as P

PAGES = 1024
MODES = {"ioctl": L.MODE_IOCTL, "file": L.MODE_FILE, "mincore": L.MODE_MINCORE}


@pytest.fixture(params=MODES)
def scratch(request: pytest.FixtureRequest) -> Iterator[np.ndarray]:
    s = scan_scratch(MODES[request.param])
    yield s
    close_scratch(s)
    close_scratch(s)


@pytest.fixture
def memory() -> Iterator[int]:
    with mapped(PAGES) as address:
        system.advise(address, PAGES * PAGE, 15)  # MADV_NOHUGEPAGE
        yield address


def touch(address: int, pages: range) -> None:
    for page in pages:
        ctypes.memset(address + page * PAGE, 1, 1)


def test_the_best_source_is_taken() -> None:
    s = scan_scratch()
    assert s[L.SCAN_MODE] == L.MODE_IOCTL
    close_scratch(s)


def test_scan_finds_the_first_page_that_is_not_there(memory: int, scratch: np.ndarray) -> None:
    end = memory + PAGES * PAGE
    assert scan(memory, end, scratch) == memory
    touch(memory, range(5, 10))
    assert scan(memory, end, scratch) == memory
    assert scan(memory + 5 * PAGE, end, scratch) == memory + 10 * PAGE
    touch(memory, range(5))
    assert scan(memory, end, scratch) == memory + 10 * PAGE
    assert scan(memory + 100, end, scratch) == memory + 10 * PAGE
    touch(memory, range(10, PAGES))
    assert scan(memory, end, scratch) == end


def test_scan_keeps_to_unaligned_ends(memory: int, scratch: np.ndarray) -> None:
    touch(memory, range(3))
    assert scan(memory + 1, memory + PAGE + 7, scratch) == memory + PAGE + 7
    assert scan(memory + 1, memory + 3 * PAGE + 7, scratch) == memory + 3 * PAGE
    assert scan(memory + 3 * PAGE + 9, memory + 4 * PAGE, scratch) == memory + 3 * PAGE + 9
    assert scan(memory + 9, memory + 9, scratch) == memory + 9


def test_a_hole_is_not_there(scratch: np.ndarray) -> None:
    with mapped(16) as address:
        touch(address, range(16))
        system.unmap(address + 4 * PAGE, PAGE)
        assert scan(address, address + 16 * PAGE, scratch) == address + 4 * PAGE
        assert scan(address + 4 * PAGE, address + 16 * PAGE, scratch) == address + 4 * PAGE
        assert resident(address, address + 16 * PAGE, scratch) == 15 * PAGE
    assert scan(0, PAGE, scratch) == 0


def test_resident_counts_pages(memory: int, scratch: np.ndarray) -> None:
    end = memory + PAGES * PAGE
    assert resident(memory, end, scratch) == 0
    touch(memory, range(0, PAGES, 2))  # more ranges than one call reports
    assert resident(memory, end, scratch) == PAGES // 2 * PAGE
    touch(memory, range(PAGES))
    assert resident(memory, end, scratch) == PAGES * PAGE
    assert resident(memory + 10, memory + 11, scratch) == PAGE


@pytest.mark.parametrize("scratch", ["ioctl"], indirect=True)  # the others go page by page: nobody asks it of them
def test_resident_of_a_sparse_terabyte_is_quick(scratch: np.ndarray) -> None:
    size = 1 << 40
    address = system.reserve(size)
    try:
        assert resident(address, address + size, scratch) == 0
    finally:
        system.unmap(address, size)


@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("way", [populate, _touch], ids=["madvise", "touch"])
def test_populate(memory: int, way: object, write: int) -> None:
    s = scan_scratch()
    view(memory, PAGE)[5] = 77
    way(memory, memory + 8 * PAGE, write)  # type: ignore[operator]
    assert scan(memory, memory + PAGES * PAGE, s) == memory + 8 * PAGE
    assert view(memory, PAGE)[5] == 77
    close_scratch(s)


def test_populate_takes_whole_pages(memory: int) -> None:
    s = scan_scratch()
    assert populate(memory + 2 * PAGE - 1, memory + 2 * PAGE + 1, 1) == 0
    assert resident(memory, memory + PAGES * PAGE, s) == 2 * PAGE
    close_scratch(s)


@pytest.mark.parametrize("way", [populate, _touch], ids=["madvise", "touch"])
def test_populate_of_what_cannot_be_brought_in(memory: int, way: object) -> None:
    fault = partial(way, memory, memory + 4 * PAGE)  # type: ignore[call-overload]
    protect(memory + 2 * PAGE, PAGE, 1)
    assert fault(0) == 0
    if way is populate:  # the touch leaves that to the copy
        assert fault(1) == errno.EFAULT
    protect(memory + 2 * PAGE, PAGE, 0)
    assert fault(0) == errno.EFAULT
    system.unmap(memory + 2 * PAGE, PAGE)
    assert fault(0) == errno.EFAULT
    assert fault(1) == errno.EFAULT


def test_populate_past_the_end_of_a_file() -> None:
    with memfd(2) as fd, mapped(4, shared=True, fd=fd) as address:
        assert populate(address, address + 2 * PAGE, 1) == 0
        assert populate(address, address + 4 * PAGE, 0) == errno.EFAULT


def map_whole(address: int, pages: int, write: int = 1) -> int:
    return int(map_held(address, address + pages * PAGE, write))


@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("held", [range(0), range(1), range(5, 9), range(0, 40, 2), range(16, 40), range(40)], ids=str)
def test_held_memory_and_holes_are_mapped(held: range, write: int) -> None:
    s = scan_scratch()
    with memfd(40) as fd, mapped(40, shared=True, fd=fd) as theirs, mapped(40, shared=True, fd=fd) as ours:
        for page in held:
            view(theirs + page * PAGE, 1)[0] = 100 + page
        assert map_whole(ours, 40, write) == 0
        assert scan(ours, ours + 40 * PAGE, s) == ours + 40 * PAGE
        assert [int(view(ours + page * PAGE, 1)[0]) for page in range(40)] == [
            100 + page if page in held else 0 for page in range(40)
        ]
    close_scratch(s)


def test_what_is_mapped_is_whole_pages_and_no_more() -> None:
    s = scan_scratch()
    with memfd(64) as fd, mapped(64, shared=True, fd=fd) as theirs, mapped(64, shared=True, fd=fd) as ours:
        touch(theirs, range(64))
        assert map_held(ours + 32 * PAGE - 1, ours + 32 * PAGE + 1, 1) == 0
        assert scan(ours + 31 * PAGE, ours + 33 * PAGE, s) == ours + 33 * PAGE
        assert map_held(ours + PAGE, ours + PAGE, 1) == 0
    close_scratch(s)


def test_more_than_a_mincore_takes_is_mapped() -> None:
    s = scan_scratch()
    pages = 2 * PAGES + 3
    with memfd(pages) as fd, mapped(pages, shared=True, fd=fd) as theirs, mapped(pages, shared=True, fd=fd) as ours:
        touch(theirs, range(0, pages, 3))
        assert map_whole(ours, pages) == 0
        assert scan(ours, ours + pages * PAGE, s) == ours + pages * PAGE
    close_scratch(s)


def test_held_memory_is_mapped_for_writing_too() -> None:
    """The copy that follows stores without a fault of its own."""
    with memfd(64) as fd, mapped(64, shared=True, fd=fd) as theirs, mapped(64, shared=True, fd=fd) as ours:
        touch(theirs, range(64))
        assert map_whole(ours, 64) == 0
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        touch(ours, range(64))
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before < 16


@pytest.mark.parametrize("held", [range(0), range(2)], ids=str)
def test_held_memory_that_ends_early_is_an_error_and_no_signal(held: range) -> None:
    with memfd(2) as fd, mapped(4, shared=True, fd=fd) as theirs, mapped(4, shared=True, fd=fd) as ours:
        touch(theirs, held)
        assert map_whole(ours, 2) == 0
        assert map_whole(ours, 4) == errno.EFAULT
        system.unmap(ours + 2 * PAGE, PAGE)
        assert map_whole(ours, 3) == errno.EFAULT


def test_held_memory_of_a_read_only_mapping() -> None:
    with memfd(4) as fd, mapped(4, shared=True, fd=fd) as theirs, mapped(4, shared=True, fd=fd, writable=False) as ours:
        touch(theirs, range(2))
        assert map_whole(ours, 4, 0) == 0


STRANGER = """
import ctypes, fcntl, mmap, os
from support.memory import PAGE
from unpinned.host import memory, pagemap
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = libc.mmap.restype = ctypes.c_void_p
s = pagemap.scan_scratch()
pagemap.map_held(0, 0, 0), pagemap.held(0, 0), pagemap.populate(0, 0, 0), pagemap.scan(0, 0, s)  # loaded while it may be
segment = libc.shmget(0, 8 * PAGE, 0o1644)  # IPC_PRIVATE; IPC_CREAT
sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
os.ftruncate(sealed, 8 * PAGE)
os.pwrite(sealed, bytes([77]), 2 * PAGE)
os.fchmod(sealed, 0o444)
fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
theirs = libc.shmat(segment, None, 0)
libc.shmctl(segment, 0, None)  # IPC_RMID: it goes with its last user
ctypes.memset(theirs + 2 * PAGE, 77, 1)
os.setgid(65534)
os.setuid(65534)
assert libc.prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE: or its own /proc is another's too
reader = os.open(f"/proc/self/fd/{sealed}", os.O_RDONLY)
places = libc.shmat(segment, None, 0o10000), libc.mmap(None, 8 * PAGE, mmap.PROT_READ, mmap.MAP_SHARED, reader, ctypes.c_long(0))
for base in places:  # 0o10000: SHM_RDONLY
    mapping = memory.map_buffer(base, 8 * PAGE, False)
    ours, end = mapping.table_base, mapping.table_base + 8 * PAGE
    print(mapping.kind.value, mapping.path, mapping.file_may_be_asked, (pagemap.held(ours, end) - ours) // PAGE)
    print(pagemap.map_held(ours, end, 0), (pagemap.scan(ours, end, s) - ours) // PAGE)
    print([ctypes.string_at(ours + page * PAGE, 1)[0] for page in range(8)])
    mapping.close()
"""


@pytest.mark.system
def test_shared_memory_of_another_user_that_may_only_be_read(root: None) -> None:
    """mincore tells a stranger of a file that he may not write to that all is there; a load of what is not makes it. Of System V
    memory it tells everybody the truth, because the file below has all rights for all."""
    lines = run_python(STRANGER, path=Path(__file__).parents[2]).splitlines()
    for asked, (kind, mapped_all, content) in zip((0, 8), (lines[:3], lines[3:]), strict=True):
        assert kind == f"alias {P.PATH_DIRECT} False {asked}"
        assert mapped_all == "0 8" and content == "[0, 0, 77, 0, 0, 0, 0, 0]"
