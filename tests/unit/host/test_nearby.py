"""What a look counts as there although it is not mapped, on each kind of memory; and what it must leave to a worker."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.memory import MADV_DONTNEED, MADV_PAGEOUT, PAGE, mapped, memfd, view
from unpinned.hca.layout import HEADER_WORDS
from unpinned.host import engine_words as E
from unpinned.host import layout as L
from unpinned.host import system
from unpinned.host.burst import scan_faults
from unpinned.host.memory import map_buffer, map_file
from unpinned.host.nearby import AHEAD, MAPPED, REGION_ANONYMOUS, REGION_OURS, hole_after, nearby
from unpinned.host.pagemap import close_scratch, scan, scan_scratch
from unpinned.paging import layout as P
from unpinned.paging.faults import fault_begin, fault_take
from unpinned.paging.notifier import invalidate_finish, invalidate_start
from unpinned.paging.regions import region_open, revoke

PAGES = 256
MADV_NOHUGEPAGE = 15


@pytest.fixture
def scratch() -> Iterator[np.ndarray]:
    s = scan_scratch()
    yield s
    close_scratch(s)


def look(s: np.ndarray, base: int, flags: int, pages: int = PAGES, want: int = 0, token: int = 1) -> int:
    """A fault over the first *pages* of a region of PAGES at *base*, and a look at it: how many pages count as there."""
    p = P.create(levels=4, bits=9, leaves=8, regions=1, faults=4)
    p[P.FAULT_MAX_BYTES] = p[P.CHUNK_BYTES] = PAGES * PAGE
    region_open(p, 0, base, base + PAGES * PAGE, flags)
    slot = fault_begin(p, base, base + pages * PAGE, want, token, 0, 0)
    assert fault_take(p, P.FAULT_SCAN) == slot
    found = nearby(p, slot, scan(base, p[slot + P.FAULT_END], s), s)
    return (found - base) // PAGE


def there(s: np.ndarray, base: int) -> int:
    """Pages that are mapped, from the first on."""
    return (scan(base, base + PAGES * PAGE, s) - base) // PAGE


# ---- private memory --------------------------------------------------------------------------------------------------


@pytest.fixture
def private() -> Iterator[int]:
    with mapped(PAGES) as base:
        system.advise(base, PAGES * PAGE, MADV_NOHUGEPAGE)
        yield base


def test_private_memory_that_was_never_touched_can_be_read(private: int, scratch: np.ndarray) -> None:
    assert look(scratch, private, REGION_ANONYMOUS) == PAGES and there(scratch, private) == 0
    view(private + 5 * PAGE, 3 * PAGE)[:] = 1
    assert look(scratch, private, REGION_ANONYMOUS) == 8, "a look more, for what follows; the rest is another look's"
    view(private, 5 * PAGE)[:] = 1
    assert look(scratch, private, REGION_ANONYMOUS) == PAGES


@pytest.mark.parametrize("flags, want, token", [(REGION_ANONYMOUS, P.WANT_WRITE, 1), (0, 0, 1), (REGION_ANONYMOUS, 0, P.NONE)])
def test_it_is_a_worker_s_for_writing_for_a_prefetch_and_where_nobody_knows_what_it_is(
    private: int, scratch: np.ndarray, flags: int, want: int, token: int
) -> None:
    assert look(scratch, private, flags, want=want, token=token) == 0
    view(private, PAGE)[:] = 1
    assert look(scratch, private, flags, want=want, token=token) == 1


@pytest.mark.parametrize("changed", ["", "before", "since"])
def test_what_changed_is_not_noted(private: int, scratch: np.ndarray, changed: str) -> None:
    """Before the driver took the fault, or since. What comes after an unmapping may have a fault handler of somebody's."""
    p = P.create(levels=4, bits=9, leaves=8, regions=1, faults=4)
    p[P.FAULT_MAX_BYTES] = p[P.CHUNK_BYTES] = PAGES * PAGE
    region_open(p, 0, private, private + PAGES * PAGE, REGION_ANONYMOUS)
    slot = fault_begin(p, private, private + PAGES * PAGE, 0, 0, 0, 0)
    if changed == "before":
        revoke(p, 0, private + PAGE, private + 2 * PAGE)
    assert fault_take(p, P.FAULT_SCAN) == slot
    if changed == "since":
        invalidate_start(p, private + PAGE, private + 2 * PAGE, P.CAUSE_UNMAP, 1, 0)
        invalidate_finish(p, p[P.TICKET], 0)
    e, h, c, files = (np.zeros(words, np.int64) for words in (E.E_WORDS, HEADER_WORDS, L.COPY_WORDS, 1))
    e[E.E_FILES], e[E.E_FILES + 1] = files.ctypes.data, 1
    e[E.E_SCANS], e[E.E_SCAN_LIST] = 1, slot
    c[L.COPY_SCAN] = scratch.ctypes.data
    scan_faults(e, h, p, c, scratch)
    noted = c[L.COPY_UNTOUCHED :].reshape(L.UNTOUCHED, 2)
    assert [tuple(each) for each in noted if each.any()] == ([] if changed else [(private, private + PAGES * PAGE)])


@pytest.mark.parametrize("mode", [L.MODE_FILE, L.MODE_MINCORE])
def test_older_kernels_cannot_say_whether_it_was_swapped_out(private: int, mode: int) -> None:
    s = scan_scratch(mode)
    assert look(s, private, REGION_ANONYMOUS) == 0
    close_scratch(s)


@pytest.mark.system
def test_what_was_swapped_out_is_a_worker_s(private: int, scratch: np.ndarray, swap_space: object) -> None:
    view(private, 8 * PAGE)[:] = 7
    for _ in range(8):
        system.advise(private, 8 * PAGE, MADV_PAGEOUT)
    out = there(scratch, private)
    assert out < 8, "nothing was swapped out"
    assert look(scratch, private, REGION_ANONYMOUS) == out


# ---- shared memory of ours --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write, at_once", [(0, PAGES), (1, MAPPED // PAGE)])
def test_shared_memory_that_is_held_is_there_and_a_hole_is_not(scratch: np.ndarray, write: int, at_once: int) -> None:
    want = P.WANT_WRITE if write else 0
    with memfd(PAGES, sealed=True) as fd, mapped(PAGES, shared=True, fd=fd) as theirs, mapped(PAGES, shared=True, fd=fd) as ours:
        assert look(scratch, ours, P.REGION_WRITE_BY_SCAN, want=want) == 0
        view(theirs, 40 * PAGE)[:] = 3
        assert look(scratch, ours, P.REGION_WRITE_BY_SCAN, want=want) == 40
        assert there(scratch, ours) == (40 if write else 0)
        view(theirs, PAGES * PAGE)[:] = 4
        system.advise(ours, PAGES * PAGE, MADV_DONTNEED)
        assert look(scratch, ours, P.REGION_WRITE_BY_SCAN, want=want) == at_once
        assert (view(ours, PAGES * PAGE) == 4).all()


def test_little_is_asked_past_what_is_wanted(scratch: np.ndarray) -> None:
    with memfd(PAGES, sealed=True) as fd, mapped(PAGES, shared=True, fd=fd) as theirs, mapped(PAGES, shared=True, fd=fd) as ours:
        view(theirs, PAGES * PAGE)[:] = 3
        assert look(scratch, ours, P.REGION_WRITE_BY_SCAN, pages=1) <= AHEAD // PAGE


@pytest.mark.parametrize("want, token, pages", [(0, 1, PAGES), (P.WANT_WRITE, 1, 0), (0, P.NONE, 0)])
def test_a_hole_is_read_as_one_as_far_as_the_fault_goes(scratch: np.ndarray, want: int, token: int, pages: int) -> None:
    """From where the look ended, to the next data; not to write, and not for a prefetch. A region without a file has none."""
    with memfd(PAGES, sealed=True) as fd, mapped(PAGES, shared=True, fd=fd) as ours:
        p = P.create(levels=4, bits=9, leaves=8, regions=1, faults=4)
        p[P.FAULT_MAX_BYTES] = p[P.CHUNK_BYTES] = PAGES * PAGE
        region_open(p, 0, ours, ours + PAGES * PAGE, P.REGION_WRITE_BY_SCAN)
        slot = fault_begin(p, ours, ours + PAGES * PAGE, want, token, 0, 0)
        assert fault_take(p, P.FAULT_SCAN) == slot
        files, none = np.array([ours | fd], np.int64), np.zeros(1, np.int64)
        assert hole_after(p, slot, ours, files) == ours + pages * PAGE and hole_after(p, slot, ours, none) == ours
        view(ours, 16 * PAGE)[8 * PAGE :: PAGE] = 1
        assert hole_after(p, slot, ours, files) == ours + min(pages, 8) * PAGE
        assert hole_after(p, slot, ours + 8 * PAGE, files) == ours + 8 * PAGE, "data"
        assert hole_after(p, slot, ours + 16 * PAGE, files) == ours + max(pages, 16) * PAGE, "behind them all"
        end = ours + PAGES * PAGE
        assert hole_after(p, slot, end, files) == end


# ---- files -------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_cached_is_mapped_and_one_on_the_disk_is_a_worker_s(tmp_path: Path, scratch: np.ndarray) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGES * PAGE))
    mapping = map_file(path, writable=False)
    assert mapping.file_may_be_asked
    base = mapping.table_base
    assert MAPPED // PAGE <= look(scratch, base, REGION_OURS) == there(scratch, base)
    assert look(scratch, base, REGION_OURS, want=P.WANT_WRITE) == there(scratch, base), "a file system has to be asked"
    mapping.drop()
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        for _ in range(200):  # somebody may have hold of a page just then
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            found = look(scratch, base, REGION_OURS)
            try:
                os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)  # after the look: it has the disk begin to read
            except BlockingIOError:
                assert found == 0
                break
            mapping.drop()
        else:
            pytest.skip("this file system keeps its files in memory")
    mapping.close()


def test_what_a_mapping_says_of_itself(tmp_path: Path) -> None:
    with mapped(4) as private, memfd(4) as fd, mapped(4, shared=True, fd=fd) as shared:
        for base, anonymous, asked in ((private, True, False), (shared, False, True)):
            mapping = map_buffer(base, 4 * PAGE, True)
            assert (mapping.anonymous, mapping.file_may_be_asked) == (anonymous, asked)
            mapping.close()
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * PAGE))
    with path.open("rb") as file, mapped(4, fd=file.fileno()) as copied:  # private, but of a file
        mapping = map_buffer(copied, 4 * PAGE, True)
        assert not mapping.anonymous
        mapping.close()
