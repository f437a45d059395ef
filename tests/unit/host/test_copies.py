"""`execute` against real memory: both paths, bad addresses in every place, atomics."""

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.memory import MADV_PAGEOUT, MREMAP_FIXED, MREMAP_MAYMOVE, PAGE, mapped, memfd, move, protect, view
from unpinned.compiled import INTERPRETED
from unpinned.compiled.libc import sys_mincore
from unpinned.host import layout as L
from unpinned.host import system, zeros
from unpinned.host.copies import ECANCELED, copy_scratch, execute
from unpinned.host.holes import remember
from unpinned.host.pagemap import close_scratch, resident, scan_scratch
from unpinned.host.zeros import forget_untouched, note_untouched
from unpinned.paging import layout as P

PAGES = 64
MADV_NOHUGEPAGE, MADV_GUARD_INSTALL = 15, 102
PATHS = [P.PATH_PROCESS_VM, P.PATH_DIRECT]
BOTH = pytest.mark.parametrize("path", PATHS, ids=["process_vm", "direct"])


class Batch:
    """A paging block, an arena and scratch; descriptors are written as `dma_issue` would."""

    def __init__(self) -> None:
        self.p = P.create(levels=1, bits=1, leaves=1, regions=0, dma=256, faults=0)
        self.b = np.zeros(PAGES * PAGE, np.uint8)
        self.s = copy_scratch()

    def add(self, va: int, length: int, op: int, offset: int = 0, path: int = 0, qp: int = 0, x0: int = 0, x1: int = 0) -> int:
        index = int(self.p[P.DMA_COUNT])
        self.p[P.DMA_COUNT] += 1
        at = self.p[P.DMA] + index * P.DMA_WORDS
        fields = {P.DMA_STATE: P.DMA_ISSUED, P.DMA_VA: va, P.DMA_LENGTH: length, P.DMA_OP: op, P.DMA_OFFSET: offset,
                  P.DMA_PATH: path, P.DMA_TOKEN: 7 << 32 | qp, P.DMA_STATUS: 0, P.DMA_X0: x0, P.DMA_X1: x1}  # fmt: skip
        for field, value in fields.items():
            self.p[at + field] = value
        return index

    def run(self) -> int:
        return execute(self.p, self.b, self.s)

    def get(self, index: int, field: int) -> int:
        return int(self.p[self.p[P.DMA] + index * P.DMA_WORDS + field])

    def outcomes(self) -> list[int]:
        """0 for each descriptor that is done, else its errno."""
        found = []
        for i in range(int(self.p[P.DMA_COUNT])):
            state = self.get(i, P.DMA_STATE)
            assert state in (P.DMA_DONE, P.DMA_FAILED)
            assert (state == P.DMA_FAILED) == (self.get(i, P.DMA_STATUS) != 0)
            found.append(self.get(i, P.DMA_STATUS))
        return found


@pytest.fixture
def memory() -> Iterator[int]:
    with mapped(PAGES) as address:
        yield address


@pytest.fixture
def holes(memory: int) -> int:
    """The same, but pages 8 to 11 are gone and page 16 is read-only."""
    protect(memory + 8 * PAGE, 4 * PAGE, 0)
    protect(memory + 16 * PAGE, PAGE, 1)
    return memory


@BOTH
@pytest.mark.parametrize("length", [0, 1, 8, 63, 64, 65, 4095, 4096, 4097, 100_000])
def test_writes_and_reads_are_exact(memory: int, path: int, length: int) -> None:
    batch = Batch()
    region = view(memory, PAGES * PAGE)
    batch.b[:] = np.random.default_rng(length).integers(1, 256, batch.b.size)
    batch.add(memory + 37, length, P.OP_WRITE, 12, path)
    assert batch.run() == 0
    assert (region[37 : 37 + length] == batch.b[12 : 12 + length]).all()
    assert not region[:37].any() and not region[37 + length :].any()
    batch.p[P.DMA_COUNT] = 0
    sent = batch.b[12 : 12 + length].copy()
    batch.b[:] = 0
    batch.add(memory + 37, length, P.OP_READ, 5, path)
    assert batch.run() == 0
    assert (batch.b[5 : 5 + length] == sent).all()
    assert not batch.b[:5].any() and not batch.b[5 + length :].any()


def test_neighbours_share_a_call_and_ranges_that_touch_an_iovec(memory: int) -> None:
    batch = Batch()
    for i in range(15):
        batch.add(memory + i * PAGE, PAGE, P.OP_WRITE, i * PAGE)
    assert batch.run() == 0
    assert batch.s[L.COPY_CALLS] == 1
    assert batch.s[L.COPY_REGIONS] == batch.s[L.COPY_ARENAS] == 1
    assert batch.s[L.COPY_BYTES] == 15 * PAGE


@pytest.mark.parametrize("op", [P.OP_WRITE, P.OP_READ])
@pytest.mark.parametrize("seam", [1, 16, L.SEAM, L.SEAM + 1])
def test_headers_between_two_pieces_are_left_as_they_are(holes: int, op: int, seam: int) -> None:
    """And they count neither as copied, nor to a descriptor, wherever the call ends: page 8 is gone."""
    batch = Batch()
    region = view(holes, 8 * PAGE)
    region[:] = np.random.default_rng(seam).integers(0, 256, region.size)
    batch.b[:] = np.random.default_rng(seam + 1).integers(0, 256, batch.b.size)
    before = batch.b.copy()
    at = [12 + i * (PAGE + seam) for i in range(12)]
    for i, offset in enumerate(at):
        batch.add(holes + i * PAGE, PAGE, op, offset)
    assert batch.run() == 4
    assert batch.outcomes() == [0] * 8 + [errno.EFAULT] + [ECANCELED] * 3
    assert batch.s[L.COPY_BYTES] == 8 * PAGE
    for i in range(8):
        assert (batch.b[at[i] : at[i] + PAGE] == region[i * PAGE : (i + 1) * PAGE]).all()
        before[at[i] : at[i] + PAGE] = batch.b[at[i] : at[i] + PAGE]
    assert (batch.b == before).all()
    assert batch.s[L.COPY_ARENAS] == (1 if seam <= L.SEAM else 12)


def test_a_change_of_direction_or_path_and_too_many_split_calls(memory: int) -> None:
    batch = Batch()
    for i in range(L.IOVECS + 1):
        batch.add(memory + 16 * i, 8, P.OP_WRITE, i)
    batch.add(memory, 8, P.OP_READ)
    batch.add(memory, 8, P.OP_READ, 0, P.PATH_DIRECT)
    batch.add(memory, 8, P.OP_READ)
    assert batch.run() == 0
    assert batch.s[L.COPY_CALLS] == 4
    assert batch.s[L.COPY_DIRECT_BYTES] == 8


@BOTH
def test_what_is_sent_is_summed_where_it_is_copied_by_us(memory: int, path: int) -> None:
    """The sums of one batch are not taken for those of the next."""
    batch = Batch()
    view(memory, PAGES * PAGE)[:] = np.random.default_rng(1).integers(0, 256, PAGES * PAGE)
    lengths = [L.SUMMED - 1, L.SUMMED, 4095, 4096]
    for i, length in enumerate(lengths):
        batch.add(memory + 7 + i * PAGE, length, P.OP_READ, 12 + 4112 * i, path)
    assert batch.run() == 0
    wanted = [zlib.crc32(batch.b[12 + 4112 * i :][:length]) if length >= L.SUMMED else -1 for i, length in enumerate(lengths)]
    sums = batch.s[L.COPY_SUMS : L.COPY_SUMS + 4]
    assert sums.tolist() == (wanted if path == P.PATH_DIRECT else [-1] * 4)
    batch.p[P.DMA_COUNT] = 0
    batch.add(memory, 4096, P.OP_WRITE, 0, path)
    assert batch.run() == 0 and sums[0] == -1


def test_order_is_kept_between_a_write_and_a_read_of_the_same_bytes(memory: int) -> None:
    batch = Batch()
    batch.b[:8] = 1
    batch.b[8:16] = 2
    batch.add(memory, 8, P.OP_WRITE, 0)
    batch.add(memory, 8, P.OP_READ, 16)
    batch.add(memory, 8, P.OP_WRITE, 8)
    batch.add(memory, 8, P.OP_READ, 24)
    assert batch.run() == 0
    assert batch.b[16:32].tolist() == [1] * 8 + [2] * 8


def test_descriptors_that_are_not_issued_are_left_alone(memory: int) -> None:
    batch = Batch()
    for _ in range(3):
        batch.add(memory, 8, P.OP_READ)
    batch.p[batch.p[P.DMA] + P.DMA_WORDS + P.DMA_STATE] = P.DMA_FREE
    assert batch.run() == 0
    assert [batch.get(i, P.DMA_STATE) for i in range(3)] == [P.DMA_DONE, P.DMA_FREE, P.DMA_DONE]


def test_a_bad_address_in_the_middle_fails_its_queue_pair_only(holes: int) -> None:
    batch = Batch()
    batch.b[:] = 9
    for i in range(6, 14):  # pages 8 to 11 are gone
        batch.add(holes + i * PAGE, PAGE, P.OP_WRITE, 0, qp=i % 2)
    assert batch.run() == 6
    assert batch.outcomes() == [0, 0, errno.EFAULT, errno.EFAULT] + [ECANCELED] * 4
    assert (view(holes + 6 * PAGE, 2 * PAGE) == 9).all()
    assert not view(holes + 12 * PAGE, 2 * PAGE).any(), "what follows a hole on the same queue pair was written"


def test_other_queue_pairs_go_on_behind_a_bad_address(holes: int) -> None:
    batch = Batch()
    batch.b[:] = 5
    for i in range(6, 14):
        batch.add(holes + i * PAGE, PAGE, P.OP_WRITE, 0, qp=i)
    assert batch.run() == 4
    assert batch.outcomes() == [0, 0, *[errno.EFAULT] * 4, 0, 0]
    assert (view(holes + 12 * PAGE, 2 * PAGE) == 5).all()


@pytest.mark.parametrize("op", [P.OP_READ, P.OP_WRITE])
def test_a_descriptor_that_runs_into_a_hole_fails_as_a_whole(holes: int, op: int) -> None:
    batch = Batch()
    batch.add(holes + 7 * PAGE, 2 * PAGE, op, 0, qp=1)
    batch.add(holes + 20 * PAGE, PAGE, op, 0, qp=2)
    assert batch.run() == 1
    assert batch.outcomes() == [errno.EFAULT, 0]


def test_read_only_memory_is_read_and_not_written(holes: int) -> None:
    batch = Batch()
    batch.add(holes + 16 * PAGE, 8, P.OP_READ, 0, qp=1)
    batch.add(holes + 16 * PAGE, 8, P.OP_WRITE, 0, qp=2)
    batch.add(holes + 16 * PAGE, 8, P.OP_FETCH_ADD, 0, qp=3, x0=1)
    assert batch.run() == 2
    assert batch.outcomes() == [0, errno.EFAULT, errno.EFAULT]


def test_addresses_that_cannot_be(memory: int) -> None:
    batch = Batch()
    for qp, va in enumerate((0, 8, -PAGE, 1 << 62, -(1 << 63))):
        batch.add(va, 8, P.OP_WRITE, 0, qp=2 * qp)
        batch.add(va, 8, P.OP_FETCH_ADD, 0, qp=2 * qp + 1)
    assert batch.run() == 10
    assert batch.outcomes() == [errno.EFAULT] * 10


@BOTH
def test_atomics(memory: int, path: int) -> None:
    cell = view(memory + 64, 8).view(np.int64)
    batch = Batch()
    cell[0] = 40
    steps = [
        (P.OP_FETCH_ADD, 2, 0, 40),
        (P.OP_CMP_SWAP, 42, 7, 42),
        (P.OP_CMP_SWAP, 42, 8, 7),  # differs: nothing stored
        (P.OP_FETCH_ADD, -8, 0, 7),
        (P.OP_CMP_SWAP, -1, np.iinfo(np.int64).max, -1),
        (P.OP_FETCH_ADD, 1, 0, np.iinfo(np.int64).max),  # wraps
    ]
    for op, x0, x1, _ in steps:
        batch.add(memory + 64, 8, op, 0, path, x0=x0, x1=x1)
    assert batch.run() == 0
    assert [batch.get(i, P.DMA_RESULT) for i in range(len(steps))] == [before for *_, before in steps]
    assert cell[0] == np.iinfo(np.int64).min


LENGTH = 16 * PAGE
copies = st.builds(
    lambda op, qp, size, va, offset: (op, qp, size, min(va, LENGTH - size), min(offset, LENGTH - size)),
    op=st.sampled_from([P.OP_READ, P.OP_WRITE]),
    qp=st.integers(0, 5),
    size=st.sampled_from([1, 8, 100, PAGE, 2 * PAGE + 1]),
    va=st.integers(0, LENGTH),
    offset=st.integers(0, LENGTH),
)


@given(st.lists(copies, min_size=1, max_size=100))
def test_against_a_plain_copy(drawn: list[tuple[int, int, int, int, int]]) -> None:
    """Random batches: memory and arena end up as one copy after the other leaves them, bad ones left out."""
    length = LENGTH
    gone = range(5 * PAGE, 7 * PAGE)
    with mapped(16) as memory:
        region = view(memory, length)
        region[:] = np.arange(length) % 251
        batch = Batch()
        batch.b[:length] = np.arange(length) % 241
        expected_memory, expected_arena = region.copy(), batch.b.copy()
        protect(memory + gone.start, len(gone), 0)
        dead: set[int] = set()
        for op, qp, size, va, offset in drawn:
            batch.add(memory + va, size, op, offset, P.PATH_PROCESS_VM, qp)
            usable = size if va >= gone.stop else min(size, max(0, gone.start - va))
            if qp in dead:
                continue
            if usable < size:
                dead.add(qp)  # up to the bad page it may have been copied: whole pages are
                usable = 0 if va >= gone.start else usable
            pair = (expected_arena, offset, region, va) if op == P.OP_READ else (expected_memory, va, batch.b, offset)
            target, at, _, source = pair
            origin = expected_memory if op == P.OP_READ else expected_arena
            target[at : at + usable] = origin[source : source + usable]
        failed = batch.run()
        protect(memory + gone.start, len(gone), 3)
        assert failed == sum(status != 0 for status in batch.outcomes())
        assert (batch.b == expected_arena).all()
        assert (region == expected_memory).all()


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


@pytest.mark.parametrize("path", PATHS, ids=["process_vm", "direct"])
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
