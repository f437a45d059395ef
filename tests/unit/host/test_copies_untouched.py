"""`execute` where nothing is: private memory that was never touched, and holes of files of ours."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.batch import PAGES, Batch
from support.memory import MADV_PAGEOUT, MREMAP_FIXED, MREMAP_MAYMOVE, PAGE, mapped, memfd, move, protect, view
from unpinned.compiled import INTERPRETED
from unpinned.compiled.libc import sys_mincore
from unpinned.host import layout as L
from unpinned.host import system, zeros
from unpinned.host.copies import ECANCELED
from unpinned.host.holes import remember
from unpinned.host.pagemap import close_scratch, resident, scan_scratch
from unpinned.host.zeros import forget_untouched, note_untouched
from unpinned.paging import layout as P

MADV_NOHUGEPAGE, MADV_GUARD_INSTALL = 15, 102


# ---- private memory that was never touched -------------------------------------------------------------------------------


@pytest.fixture
def untouched_memory() -> Iterator[tuple[Batch, int]]:
    """A batch, and private memory that a look has found untouched."""
    with mapped(PAGES) as address:
        system.advise(address, PAGES * PAGE, MADV_NOHUGEPAGE)
        batch, scans = Batch(), scan_scratch(L.MODE_IOCTL)
        scans[L.SCAN_MAPS] = os.open("/proc/self/maps", os.O_RDONLY)
        batch.s[L.COPY_SCAN] = scans.ctypes.data
        batch.b[:] = 0xEE
        note_untouched(batch.s, address, address + PAGES * PAGE)
        yield batch, address
        close_scratch(scans)


def asked_for(batch: Batch, address: int, pages: range) -> None:
    batch.p[P.DMA_COUNT] = 0
    for i in pages:
        batch.add(address + i * PAGE, PAGE, P.OP_READ, i * PAGE, P.PATH_FOREIGN)


def there(address: int) -> int:
    scans = scan_scratch()
    try:
        return int(resident(address, address + PAGES * PAGE, scans)) // PAGE
    finally:
        close_scratch(scans)


def test_what_was_never_touched_is_read_without_touching_it(untouched_memory: tuple[Batch, int]) -> None:
    batch, address = untouched_memory
    asked_for(batch, address, range(PAGES))
    assert batch.run() == 0
    assert not batch.b.any() and there(address) == 0 and batch.s[L.COPY_CALLS] == 0
    assert batch.s[L.COPY_HOLE_BYTES] == PAGES * PAGE


def test_what_the_owner_stored_in_it_is_read(untouched_memory: tuple[Batch, int]) -> None:
    """Before a batch, in the middle of what was noted; the rest is not mapped for that."""
    batch, address = untouched_memory
    region = view(address, PAGES * PAGE)
    for page in (0, 17, 63):
        region[page * PAGE + 5] = page + 1
    asked_for(batch, address, range(PAGES))
    assert batch.run() == 0
    assert (batch.b == region).all()
    assert batch.s[L.COPY_CALLS] > 0
    batch.b[:] = 0xEE
    region[20 * PAGE] = 4
    asked_for(batch, address, range(PAGES))
    assert batch.run() == 0 and (batch.b == region).all()


@pytest.mark.parametrize("op", [P.OP_WRITE, P.OP_FETCH_ADD])
def test_what_is_written_within_a_run_of_it_is_read_by_the_rest(untouched_memory: tuple[Batch, int], op: int) -> None:
    batch, address = untouched_memory
    batch.add(address, PAGE, P.OP_READ, 0, P.PATH_FOREIGN)
    batch.add(address + PAGE, 8, op, 2 * PAGE, P.PATH_FOREIGN, x0=0x0101010101010101 * 0x6E)
    batch.add(address + PAGE, PAGE, P.OP_READ, PAGE, P.PATH_FOREIGN)
    batch.b[2 * PAGE : 2 * PAGE + 8] = 0x6E
    assert batch.run() == 0
    assert not batch.b[:PAGE].any() and (batch.b[PAGE : PAGE + 8] == 0x6E).all() and not batch.b[PAGE + 8 : 2 * PAGE].any()


def test_memory_that_may_not_be_read_any_more_is_refused(untouched_memory: tuple[Batch, int]) -> None:
    """mprotect tells nobody."""
    batch, address = untouched_memory
    protect(address + 3 * PAGE, PAGE, 0)
    asked_for(batch, address, range(6))
    assert batch.run() == 3
    assert batch.outcomes() == [0, 0, 0, errno.EFAULT, ECANCELED, ECANCELED]
    assert (batch.b[3 * PAGE : 6 * PAGE] == 0xEE).all()


def test_memory_that_is_gone_or_a_file_s_is_no_zeros(untouched_memory: tuple[Batch, int], tmp_path: Path) -> None:
    batch, address = untouched_memory
    (tmp_path / "file").write_bytes(b"f" * PAGE)
    with (tmp_path / "file").open("rb") as file:
        move(system.map_private(file.fileno(), PAGE), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, address + 3 * PAGE)
    system.unmap(address + 5 * PAGE, PAGE)
    asked_for(batch, address, range(6))
    assert batch.run() == 1 and batch.outcomes() == [0, 0, 0, 0, 0, errno.EFAULT]
    assert (batch.b[3 * PAGE : 4 * PAGE] == ord("f")).all() and not batch.b[4 * PAGE : 5 * PAGE].any()


@pytest.mark.skipif(not INTERPRETED, reason="comes between two questions to the kernel, which compiled kernels ask without us")
def test_memory_that_goes_between_the_two_questions_was_never_zeros(
    untouched_memory: tuple[Batch, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, address = untouched_memory
    view(address, PAGE)[:] = 7
    asked: list[str] = []

    def then_unmapped(name: str) -> None:
        real = getattr(zeros, name)

        def question(*arguments: object) -> int:
            answer: int = real(*arguments)
            if not asked:
                system.unmap(address, PAGE)
            asked.append(name)
            return answer

        monkeypatch.setattr(zeros, name, question)

    then_unmapped("private_upto")
    then_unmapped("untouched")
    asked_for(batch, address, range(1))
    assert batch.run() == 1 and batch.outcomes() == [errno.EFAULT] and asked


def test_a_guard_page_is_no_zeros(untouched_memory: tuple[Batch, int]) -> None:
    batch, address = untouched_memory
    try:
        system.advise(address + 3 * PAGE, PAGE, MADV_GUARD_INSTALL)
    except OSError:
        pytest.skip("needs Linux 6.13 (MADV_GUARD_INSTALL)")
    asked_for(batch, address, range(6))
    assert batch.run() == 3 and batch.outcomes()[3] == errno.EFAULT


def test_what_is_watched_no_more_is_forgotten(untouched_memory: tuple[Batch, int]) -> None:
    batch, address = untouched_memory
    note_untouched(batch.s, address + 100 * PAGE, address + 110 * PAGE)
    forget_untouched(batch.s, address + 5 * PAGE, address + 6 * PAGE)
    noted = batch.s[L.COPY_UNTOUCHED :].reshape(L.UNTOUCHED, 2)
    assert [tuple(each) for each in noted if each.any()] == [(address + 100 * PAGE, address + 110 * PAGE)]
    asked_for(batch, address, range(2))
    assert batch.run() == 0 and there(address) == 2


@pytest.mark.system
def test_what_was_swapped_out_is_no_zeros(untouched_memory: tuple[Batch, int], swap_space: object) -> None:
    batch, address = untouched_memory
    view(address, 8 * PAGE)[:] = 7
    for _ in range(8):
        system.advise(address, 8 * PAGE, MADV_PAGEOUT)
    assert there(address) < 8, "nothing was swapped out"
    asked_for(batch, address, range(10))
    assert batch.run() == 0
    assert (batch.b[: 8 * PAGE] == 7).all() and not batch.b[8 * PAGE : 10 * PAGE].any()


def test_where_nothing_is_noted_the_kernel_copies(untouched_memory: tuple[Batch, int]) -> None:
    """Outside of what was noted, and where a kernel cannot be asked."""
    batch, address = untouched_memory
    batch.s[L.COPY_UNTOUCHED :] = 0
    note_untouched(batch.s, address, address + 4 * PAGE)
    asked_for(batch, address, range(6))
    assert batch.run() == 0 and there(address) == 2 and not batch.b[: 6 * PAGE].any()
    batch.s[L.COPY_SCAN] = 0
    asked_for(batch, address, range(6))
    assert batch.run() == 0 and there(address) == 6


def test_ranges_that_are_noted_join_and_the_oldest_is_forgotten(untouched_memory: tuple[Batch, int]) -> None:
    batch, _ = untouched_memory
    s = batch.s
    s[L.COPY_UNTOUCHED :] = 0
    for start, end in ((8, 16), (16, 20), (4, 8), (30, 40)):
        note_untouched(s, start * PAGE, end * PAGE)
    noted = s[L.COPY_UNTOUCHED :].reshape(L.UNTOUCHED, 2) // PAGE
    assert sorted(map(tuple, noted.tolist()))[-2:] == [(4, 20), (30, 40)]
    for i in range(L.UNTOUCHED - 1):
        note_untouched(s, (100 + 2 * i) * PAGE, (101 + 2 * i) * PAGE)
    noted = s[L.COPY_UNTOUCHED :].reshape(L.UNTOUCHED, 2) // PAGE
    assert (4, 20) not in map(tuple, noted.tolist()) and (30, 40) in map(tuple, noted.tolist())


# ---- holes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hollow() -> Iterator[tuple[Batch, int, int]]:
    """A batch, our mapping of a memory file of which nothing is there yet, remembered so, and its owner's mapping."""
    with memfd(PAGES) as fd, mapped(PAGES, shared=True, fd=fd) as ours, mapped(PAGES, shared=True, fd=fd) as theirs:
        batch = Batch()
        batch.b[:] = 0xEE
        remember(batch.s, batch.p, ours | fd, ours, ours + PAGES * PAGE)
        yield batch, ours, theirs


def held(address: int) -> int:
    """Pages that the file of the mapping holds."""
    there = np.zeros(PAGES, np.uint8)
    sys_mincore(address, PAGES * PAGE, there.ctypes.data)
    return int((there & 1).sum())


def test_a_run_from_a_hole_is_zeros_and_makes_nothing(hollow: tuple[Batch, int, int]) -> None:
    batch, ours, _ = hollow
    for i in range(8):
        batch.add(ours + 100 + 1000 * i, 1000, P.OP_READ, 16 + 1024 * i, P.PATH_DIRECT)
    assert batch.run() == 0 and held(ours) == 0
    rows = batch.b[: 8 * 1024].reshape(8, 1024)
    assert not rows[:, 16 : 16 + 1000].any() and (rows[:, :16] == 0xEE).all() and (rows[:, 1016:] == 0xEE).all()
    assert batch.s[L.COPY_HOLE_BYTES] == 8000


@pytest.mark.parametrize("path", [P.PATH_PROCESS_VM, P.PATH_DIRECT], ids=["process_vm", "direct"])
@pytest.mark.parametrize("op", [P.OP_WRITE, P.OP_FETCH_ADD])
def test_what_is_written_within_a_run_is_read_by_the_rest_of_it(hollow: tuple[Batch, int, int], op: int, path: int) -> None:
    """By another mapping of the same memory, too: an implicit region has one."""
    batch, ours, theirs = hollow
    batch.add(ours, PAGE, P.OP_READ, 0, P.PATH_DIRECT)
    batch.add((ours if path == P.PATH_DIRECT else theirs) + PAGE + 8, 8, op, 2 * PAGE, path, x0=0x0101010101010101 * 0x6E)
    batch.add(ours + PAGE, PAGE, P.OP_READ, PAGE, P.PATH_DIRECT)
    batch.b[2 * PAGE : 2 * PAGE + 8] = 0x6E
    assert batch.run() == 0
    assert not batch.b[: PAGE + 8].any() and (batch.b[PAGE + 8 : PAGE + 16] == 0x6E).all() and not batch.b[PAGE + 16 : 2 * PAGE].any()


def test_what_the_owner_stores_between_two_batches_is_read(hollow: tuple[Batch, int, int]) -> None:
    """Where the last one ended, too; and a page of data in the middle of what is remembered is no zeros."""
    batch, ours, theirs = hollow
    batch.add(ours, PAGE, P.OP_READ, 0, P.PATH_DIRECT)
    assert batch.run() == 0
    view(theirs + PAGE, PAGE)[:] = 7
    batch.p[P.DMA_COUNT] = 0
    for i in range(1, 4):
        batch.add(ours + i * PAGE - 5, PAGE, P.OP_READ, i * PAGE, P.PATH_DIRECT)
    assert batch.run() == 0
    assert (batch.b[PAGE : 4 * PAGE] == view(theirs + PAGE - 5, 3 * PAGE)).all()


def test_another_run_asks_anew(hollow: tuple[Batch, int, int]) -> None:
    """Two reads one after the other are of two moments: what the second finds is no older than what the first found."""
    batch, ours, theirs = hollow
    batch.add(ours, PAGE, P.OP_READ, 0, P.PATH_DIRECT)
    batch.add(ours + 8 * PAGE, PAGE, P.OP_READ, PAGE, P.PATH_DIRECT)
    assert batch.run() == 0
    assert batch.s[L.COPY_ZEROS] == ours + 9 * PAGE and batch.s[L.COPY_ZEROS_END] == ours + PAGES * PAGE
    view(theirs + 9 * PAGE, PAGE)[:] = 9
    batch.p[P.DMA_COUNT] = 0
    batch.add(ours + 9 * PAGE, PAGE, P.OP_READ, 0, P.PATH_DIRECT)
    assert batch.run() == 0
    assert (batch.b[:PAGE] == 9).all() and batch.s[L.COPY_ZEROS] == -1
