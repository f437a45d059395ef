"""A fault's life: scanned in line, brought in by chunks, bounded in range, in retries and in who it belongs to."""

from __future__ import annotations

import pytest

from unpinned.paging import create, view
from unpinned.paging import layout as P
from unpinned.paging.audit import audit
from unpinned.paging.faults import fault_begin, fault_chunk, fault_commit, fault_end, fault_scanned, fault_take
from unpinned.paging.notifier import invalidate_finish, invalidate_start
from unpinned.paging.regions import region_open, revoke
from unpinned.paging.table import translate

PAGE = 4096
MIB = 1 << 20
EFAULT = 14


def make(flags: int = 0, faults: int = 4) -> P.Block:
    p = create(leaves=16, regions=2, faults=faults)
    assert region_open(p, 0, MIB + 100, 64 * MIB + 100, flags) == P.DONE
    return p


def begin(p: P.Block, start: int, length: int, want: int = 0, token: int = 1) -> int:
    return int(fault_begin(p, start, start + length, want, token, 0, 1_000))


def scan(p: P.Block, slot: int, upto: int) -> int:
    assert fault_take(p, P.FAULT_SCAN) == slot
    return int(fault_scanned(p, slot, upto, 2_000))


def state(p: P.Block, slot: int) -> int:
    return int(p[slot + P.FAULT_STATE])


def total(p: P.Block, name: str) -> int:
    return int(view(p, "totals")[name][0])


def test_what_is_there_is_installed_in_line() -> None:
    p = make()
    slot = begin(p, 2 * MIB + 5, 8190)
    assert (p[slot + P.FAULT_START], p[slot + P.FAULT_END]) == (2 * MIB, 2 * MIB + 3 * PAGE)
    assert scan(p, slot, 2 * MIB + 3 * PAGE) == P.FINISHED
    assert state(p, slot) == P.FAULT_DONE
    assert translate(p, 2 * MIB + 5, 8190, 0, 2_000) == 8190
    assert fault_end(p, slot) == P.DONE and p[P.FAULT_LIVE] == 0
    assert fault_end(p, slot) == P.PROTOCOL
    assert total(p, "faults_minor") == 1 and total(p, "fault_ns") == 1_000
    assert view(p, "counters")[0]["pages_in"] == 3


def test_a_worker_brings_in_growing_chunks_and_waiters_need_not_wait_for_all() -> None:
    p = make()
    slot = begin(p, 2 * MIB, 2 * MIB, P.WANT_WRITE)
    assert scan(p, slot, 2 * MIB + PAGE) == P.COMMITTED
    assert p[slot + P.FAULT_CURSOR] == 2 * MIB, "a scan does not give the write right"
    assert fault_take(p, P.FAULT_QUEUED) == slot
    chunks = []
    status = P.COMMITTED
    while status == P.COMMITTED and fault_chunk(p, slot):
        start, end = int(p[slot + P.FAULT_CURSOR]), int(p[slot + P.FAULT_CHUNK_END])
        chunks.append(end - start)
        status = fault_commit(p, slot, 0, 3_000)
        assert translate(p, 2 * MIB, 2 * MIB, 1, 3_000) == end - 2 * MIB
    assert status == P.FINISHED and chunks == [MIB // 4, MIB, 3 * MIB // 4]
    assert fault_chunk(p, slot) == 0
    assert total(p, "faults_major") == total(p, "faults_write") == 1


def test_present_means_writable_where_the_region_says_so() -> None:
    p = make(P.REGION_WRITE_BY_SCAN)
    slot = begin(p, 2 * MIB, PAGE, P.WANT_WRITE)
    assert scan(p, slot, 3 * MIB) == P.FINISHED
    assert translate(p, 2 * MIB, 2 * PAGE, 1, 0) == PAGE, "nothing past the fault's range is installed"
    slot = begin(p, 3 * MIB, PAGE)
    assert scan(p, slot, 3 * MIB + PAGE) == P.FINISHED
    assert translate(p, 3 * MIB, PAGE, 1, 0) == 0, "a read fault asks for reads"


def test_a_failure_is_the_demands_only() -> None:
    p = make()
    slot = begin(p, 2 * MIB, 4 * PAGE)
    scan(p, slot, 0)
    fault_take(p, P.FAULT_QUEUED)
    assert fault_chunk(p, slot) == 1
    assert fault_commit(p, slot, EFAULT, 0) == P.FAILED
    assert state(p, slot) == P.FAULT_FAILED and p[slot + P.FAULT_ERRNO] == EFAULT
    assert fault_end(p, slot) == P.DONE
    slot = begin(p, 2 * MIB + 4 * PAGE, PAGE)  # sequential: reads ahead
    assert p[slot + P.FAULT_END] > p[slot + P.FAULT_DEMAND] == 2 * MIB + 5 * PAGE
    scan(p, slot, 0)
    fault_take(p, P.FAULT_QUEUED)
    assert fault_chunk(p, slot) == 1 and p[slot + P.FAULT_CHUNK_END] == p[slot + P.FAULT_DEMAND]
    assert fault_commit(p, slot, 0, 0) == P.COMMITTED
    assert fault_chunk(p, slot) == 1
    assert fault_commit(p, slot, EFAULT, 0) == P.FINISHED, "past the demand, an error ends the reading ahead"
    assert fault_end(p, slot) == P.DONE


def test_a_fault_never_leaves_its_region() -> None:
    p = make()
    assert begin(p, MIB + 99, 10) == begin(p, 64 * MIB, 101) == begin(p, 2 * MIB, 0) == P.OUTSIDE
    assert fault_begin(p, 2 * MIB, 3 * MIB, 0, 1, 1, 0) == P.OUTSIDE, "a region that is not open"
    last = begin(p, 64 * MIB, 100)
    assert p[last + P.FAULT_END] == 64 * MIB + PAGE
    before = begin(p, 64 * MIB - PAGE, PAGE)
    p[p[P.REGIONS] + P.REGION_NEXT] = 64 * MIB - PAGE
    ahead = begin(p, 64 * MIB - PAGE, 2, P.WANT_WRITE)
    assert p[ahead + P.FAULT_END] == 64 * MIB + PAGE and ahead != before
    revoke(p, 0, 8 * MIB, 9 * MIB)
    assert begin(p, 8 * MIB - 1, 2) == P.OUTSIDE and begin(p, 8 * MIB - 1, 1) > 0
    assert audit(p) == []


def test_a_fault_covers_the_message_up_to_the_cap() -> None:
    p = make()
    slot = begin(p, 2 * MIB + 100, 32 * MIB)
    assert (p[slot + P.FAULT_START], p[slot + P.FAULT_END]) == (2 * MIB, 6 * MIB)


def test_sequential_faults_look_as_far_again_as_they_came() -> None:
    p = make()
    at, ahead = 2 * MIB, []
    for _ in range(5):
        slot = begin(p, at, PAGE)
        ahead.append(int(p[slot + P.FAULT_END] - p[slot + P.FAULT_DEMAND]) // PAGE)
        at = int(p[slot + P.FAULT_END])
        fault_end(p, slot)
        assert fault_take(p, P.FAULT_SCAN) == P.NONE, "a slot that everybody left is freed when it is taken"
    assert ahead == [0, 2, 5, 11, 23]
    slot = begin(p, 40 * MIB, PAGE)
    assert p[slot + P.FAULT_END] == p[slot + P.FAULT_DEMAND], "random access does not"
    assert total(p, "read_ahead") == sum(ahead)


def test_pieces_that_do_not_begin_at_a_page_are_sequential_too() -> None:
    p = make()
    at, ahead = 2 * MIB, []
    for _ in range(5):
        slot = begin(p, at + 128, PAGE)
        ahead.append(int(p[slot + P.FAULT_END] - p[slot + P.FAULT_DEMAND]) // PAGE)
        at = int(p[slot + P.FAULT_END]) - PAGE
        fault_end(p, slot)
        fault_take(p, P.FAULT_SCAN)
    assert ahead == [0, 3, 7, 15, 31]
    slot = begin(p, at, PAGE)
    assert p[slot + P.FAULT_END] == p[slot + P.FAULT_DEMAND], "the last page once more is no piece that follows"
    slot = begin(p, at - PAGE, 3 * PAGE)
    assert p[slot + P.FAULT_END] == p[slot + P.FAULT_DEMAND], "nor is what begins before it"


def test_of_what_is_not_there_a_quarter_of_the_run_is_read_ahead() -> None:
    p = make()
    begin(p, 2 * MIB, 8 * PAGE)
    slot = begin(p, 2 * MIB + 8 * PAGE, 8 * PAGE)
    demand = 2 * MIB + 16 * PAGE
    assert (p[slot + P.FAULT_DEMAND], p[slot + P.FAULT_END]) == (demand, demand + 16 * PAGE)
    assert fault_take(p, P.FAULT_SCAN) != slot == fault_take(p, P.FAULT_SCAN)
    assert fault_scanned(p, slot, demand + PAGE, 0) == P.COMMITTED, "the rest of the quarter is worth bringing in"
    assert p[slot + P.FAULT_END] == demand + 4 * PAGE == p[p[P.REGIONS] + P.REGION_NEXT], "the next one continues there"
    assert total(p, "read_ahead") == 4
    there = begin(p, demand + 4 * PAGE, 4 * PAGE)
    assert fault_take(p, P.FAULT_SCAN) == there
    assert fault_scanned(p, there, 64 * MIB, 0) == P.FINISHED, "what is there is installed, all of it"
    assert p[there + P.FAULT_CURSOR] == p[there + P.FAULT_END] == demand + 8 * PAGE + 24 * PAGE
    assert audit(p) == []


def test_waiters_share_a_fault_and_the_last_one_frees_it() -> None:
    p = make()
    slot = begin(p, 2 * MIB, MIB, P.WANT_WRITE, token=7)
    assert begin(p, 2 * MIB + PAGE, PAGE, 0, token=8) == slot
    assert begin(p, 2 * MIB + PAGE, MIB, 0, token=9) != slot, "it reaches further"
    assert p[slot + P.FAULT_TOKEN] == 7 and p[slot + P.FAULT_WAITERS] == 2
    reader = begin(p, 8 * MIB, PAGE)
    assert begin(p, 8 * MIB, PAGE, P.WANT_WRITE) != reader, "it asks for less"
    assert scan(p, slot, 4 * MIB) == P.COMMITTED
    assert fault_end(p, slot) == fault_end(p, slot) == P.BUSY, "queued: the worker frees it"
    assert total(p, "faults_joined") == 1


def test_who_leaves_while_a_worker_is_on_it_leaves_the_freeing_to_the_worker() -> None:
    p = make()
    slot = begin(p, 2 * MIB, MIB)
    scan(p, slot, 0)
    fault_take(p, P.FAULT_QUEUED)
    assert fault_chunk(p, slot) == 1
    assert fault_end(p, slot) == P.BUSY
    assert begin(p, 2 * MIB, PAGE) != slot, "an abandoned slot is not joined"
    assert fault_commit(p, slot, 0, 0) == P.OVER
    assert state(p, slot) == P.FAULT_FREE and translate(p, 2 * MIB, PAGE, 0, 0) == 0
    assert fault_commit(p, slot, 0, 0) == P.PROTOCOL and fault_scanned(p, slot, 0, 0) == P.PROTOCOL


def test_who_needs_what_a_prefetch_brings_joins_it() -> None:
    p = make()
    slot = begin(p, 2 * MIB, 4 * PAGE, token=P.NONE)
    assert begin(p, 2 * MIB + PAGE, PAGE) == begin(p, 2 * MIB, PAGE) == slot and total(p, "faults_joined") == 2
    assert begin(p, 2 * MIB, PAGE, P.WANT_WRITE) != slot, "it brings no write right"
    assert begin(p, 2 * MIB, PAGE, token=P.NONE) != slot, "another prefetch has nobody to wake"
    assert fault_end(p, slot) == P.BUSY
    assert scan(p, slot, 2 * MIB + 4 * PAGE) == P.FINISHED, "the other one is told"
    assert fault_end(p, slot) == P.DONE and state(p, slot) == P.FAULT_FREE


@pytest.mark.parametrize("waits", [False, True])
def test_a_prefetch_that_was_joined_and_left_is_a_prefetch_again(waits: bool) -> None:
    p = make()
    if waits:
        invalidate_start(p, 2 * MIB, 2 * MIB + PAGE, P.CAUSE_RECLAIM, 1, 0)
    slot = begin(p, 2 * MIB, 4 * PAGE, token=P.NONE)
    assert begin(p, 2 * MIB, PAGE) == slot and fault_end(p, slot) == P.BUSY
    if waits:
        assert state(p, slot) == P.FAULT_WAIT
        invalidate_finish(p, p[P.TICKET], 0)
    assert scan(p, slot, 2 * MIB + 4 * PAGE) == P.OVER
    assert p[P.FAULT_LIVE] == 0 and translate(p, 2 * MIB, 4 * PAGE, 0, 2_000) == 4 * PAGE


def test_a_prefetch_has_no_waiter_and_frees_itself() -> None:
    p = make()
    slot = begin(p, 2 * MIB, MIB, token=P.NONE)
    assert scan(p, slot, 3 * MIB) == P.OVER and p[P.FAULT_LIVE] == 0
    assert translate(p, 2 * MIB, MIB, 0, 2_000) == MIB
    slot = begin(p, 4 * MIB, MIB, P.WANT_RESIDENT, token=P.NONE)
    assert scan(p, slot, 4 * MIB + PAGE) == P.OVER, "only what is there"
    assert total(p, "prefetches") == 2 and total(p, "faults_read") == 0


def test_slots_are_bounded_and_queues_are_in_order() -> None:
    p = make()
    slots = [begin(p, (2 + i) * MIB, PAGE) for i in range(5)]
    assert slots[4] == P.NONE and total(p, "faults_rejected") == 1
    assert [int(fault_take(p, P.FAULT_SCAN)) for _ in range(5)] == slots
    for slot in reversed(slots[:4]):
        fault_scanned(p, slot, 0, 0)
    assert [int(fault_take(p, P.FAULT_QUEUED)) for _ in range(5)] == [*slots[3::-1], P.NONE]
    assert audit(p) == []


def test_endless_collisions_end_the_fault_with_eagain() -> None:
    p = make()
    slot = begin(p, 2 * MIB, PAGE)
    answers = []
    while state(p, slot) == P.FAULT_SCAN:
        fault_take(p, P.FAULT_SCAN)
        invalidate_start(p, 2 * MIB, 3 * MIB, P.CAUSE_RECLAIM, 1, 0)
        invalidate_finish(p, p[P.TICKET], 0)
        answers.append(int(fault_scanned(p, slot, 3 * MIB, 0)))
    assert answers == [P.RETRY] * 16 + [P.EXHAUSTED]
    assert p[slot + P.FAULT_ERRNO] == P.EAGAIN and total(p, "faults_exhausted") == 1 and total(p, "retries") == 17
    assert translate(p, 2 * MIB, PAGE, 0, 0) == 0


def test_the_worlds_own_try_again_counts_as_a_collision() -> None:
    p = make()
    slot = begin(p, 2 * MIB, PAGE)
    scan(p, slot, 0)
    fault_take(p, P.FAULT_QUEUED)
    for _ in range(16):
        assert fault_chunk(p, slot) == 1
        assert fault_commit(p, slot, P.EAGAIN, 0) == P.RETRY
    assert fault_chunk(p, slot) == 1
    assert fault_commit(p, slot, P.EAGAIN, 0) == P.EXHAUSTED


def test_only_the_worker_that_holds_a_chunk_commits_it() -> None:
    p = make()
    slot = begin(p, 2 * MIB, PAGE)
    scan(p, slot, 0)
    assert fault_commit(p, slot, 0, 0) == P.PROTOCOL and fault_chunk(p, slot) == 0
    fault_take(p, P.FAULT_QUEUED)
    assert fault_commit(p, slot, 0, 0) == P.PROTOCOL, "no chunk was begun"
    assert fault_chunk(p, slot) == 1 and fault_chunk(p, slot) == 0
