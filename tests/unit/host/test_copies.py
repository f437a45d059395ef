"""`execute` against real memory: both paths, bad addresses in every place, atomics."""

import errno
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.batch import PAGES, Batch
from support.memory import PAGE, mapped, protect, view
from unpinned.host import layout as L
from unpinned.host.copies import ECANCELED
from unpinned.paging import layout as P

PATHS = [P.PATH_PROCESS_VM, P.PATH_DIRECT]
BOTH = pytest.mark.parametrize("path", PATHS, ids=["process_vm", "direct"])


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
