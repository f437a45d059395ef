"""The collision protocol, rule by rule. (tests/property/test_paging_protocol.py tries the orders nobody thought of.)"""

from __future__ import annotations

import pytest

from unpinned.paging import create, view
from unpinned.paging import layout as P
from unpinned.paging.audit import audit, entries
from unpinned.paging.causes import Cause, Verdict
from unpinned.paging.dma import dma_at, dma_issue
from unpinned.paging.faults import fault_begin, fault_chunk, fault_commit, fault_scanned, fault_take
from unpinned.paging.notifier import (
    flush_begin,
    flush_deadline,
    flush_due,
    flush_end,
    invalidate_finish,
    invalidate_poll,
    invalidate_start,
    obligation_done,
    obligation_end,
)
from unpinned.paging.policy import Policy, Row
from unpinned.paging.regions import region_open
from unpinned.paging.table import install, translate

PAGE = 4096
RW = P.PRESENT | P.WRITE
POLICY = Policy(
    "test",
    {
        Cause.PROTECT: Row(Verdict.DOWNGRADE),
        Cause.MIGRATE: Row(Verdict.REFUSE_IF_BUSY),
        Cause.UNMAP: Row(Verdict.DEFER, 8, 1_000),
        Cause.DISCARD: Row(Verdict.DEFER, 8, 1_000),
    },
)


def make(tlb: int = 0) -> P.Block:
    p = create(levels=2, bits=3, leaves=4, regions=2, active=2, deferrals=2, provisional=2, dma=2, faults=2)
    p[P.HUGE] = 0
    p[P.TLB] = tlb
    p[P.TRACK] = P.CACHED * tlb
    POLICY.write(p)
    region_open(p, 0, 0, 16 * PAGE, 0)
    install(p, 0, 8 * PAGE, RW, 0)
    return p


def copy(p: P.Block, page: int, op: int = P.OP_WRITE) -> int:
    return dma_issue(p, page * PAGE, PAGE, op, 0, 0, 0)


def end_copy(p: P.Block, index: int) -> None:
    p[dma_at(p, index) + P.DMA_STATE] = P.DMA_DONE


def start(p: P.Block, first: int, last: int, cause: int = P.CAUSE_RECLAIM, may_sleep: int = 1, now: int = 0) -> int:
    return invalidate_start(p, first * PAGE, last * PAGE, cause, may_sleep, now)


def total(p: P.Block, name: str) -> int:
    return int(view(p, "totals")[name][0])


def test_start_zaps_and_finish_lets_faults_go_on() -> None:
    p = make()
    assert invalidate_start(p, PAGE + 100, PAGE + 101, P.CAUSE_RECLAIM, 1, 10) == P.DONE
    assert translate(p, 0, 3 * PAGE, 0, 0) == PAGE, "the whole page, and nothing else"
    slot = fault_begin(p, 0, 3 * PAGE, 0, 1, 0, 0)
    assert p[slot + P.FAULT_STATE] == P.FAULT_WAIT
    other = fault_begin(p, 8 * PAGE, 9 * PAGE, 0, 1, 0, 0)
    assert p[other + P.FAULT_STATE] == P.FAULT_SCAN, "a fault waits for colliding invalidations only"
    assert audit(p) == []
    assert invalidate_finish(p, p[P.TICKET], 30) == P.DONE
    assert p[slot + P.FAULT_STATE] == P.FAULT_SCAN
    assert total(p, "pages_zapped") == 1 and total(p, "flushes") == 1 and total(p, "flush_ns") == 20
    assert view(p, "counters")["invalidations"][:, P.CAUSE_RECLAIM].tolist() == [1, 0]


def test_the_sequence_is_odd_while_any_invalidation_runs() -> None:
    p = make()
    sequence = p[p[P.COUNTERS] + P.SEQUENCE :][:1]
    assert start(p, 0, 1) == P.DONE and sequence[0] == 1
    assert start(p, 5, 6) == P.DONE and sequence[0] == 1
    assert start(p, 2, 3) == P.FULL and p[P.TICKET] == P.NONE
    assert invalidate_finish(p, 0, 0) == P.DONE and sequence[0] == 1
    assert invalidate_finish(p, 1, 0) == P.DONE and sequence[0] == 2
    assert audit(p) == []


def test_a_copy_in_flight_is_waited_for() -> None:
    p = make()
    index = copy(p, 3)
    assert start(p, 0, 3) == P.DONE
    assert start(p, 3, 5) == P.WAIT
    ticket = int(p[P.TICKET])
    assert invalidate_poll(p, ticket) == P.WAIT
    assert invalidate_finish(p, ticket, 0) == P.PROTOCOL, "start without a wait"
    end_copy(p, index)
    assert invalidate_poll(p, ticket) == invalidate_finish(p, ticket, 0) == P.DONE
    assert invalidate_finish(p, ticket, 0) == P.PROTOCOL, "twice"
    assert invalidate_finish(p, 7, 0) == invalidate_finish(p, -1, 0) == P.PROTOCOL
    assert total(p, "violations") == 4


def test_who_may_not_sleep_is_refused_before_anything_changes() -> None:
    p = make()
    copy(p, 3)
    before = p.copy()
    assert start(p, 3, 4, may_sleep=0) == P.REFUSED
    before[P.TICKET] = before[P.OBLIGATION] = P.NONE
    assert (p == before)[: p[P.COUNTERS]].all() and total(p, "refused") == 1
    assert start(p, 4, 5, may_sleep=0) == P.DONE


def test_refuse_if_busy_leaves_the_page_with_its_owner() -> None:
    p = make()
    index = copy(p, 3, P.OP_READ)
    assert start(p, 3, 4, P.CAUSE_MIGRATE) == P.REFUSED
    assert translate(p, 3 * PAGE, PAGE, 1, 0) == PAGE
    end_copy(p, index)
    assert start(p, 3, 4, P.CAUSE_MIGRATE) == P.DONE
    assert translate(p, 3 * PAGE, PAGE, 0, 0) == 0


def test_a_page_being_brought_in_is_busy() -> None:
    p = make()
    slot = fault_begin(p, 9 * PAGE, 10 * PAGE, 0, 1, 0, 0)
    assert start(p, 9, 10, P.CAUSE_MIGRATE) == P.DONE
    assert invalidate_finish(p, p[P.TICKET], 0) == P.DONE
    assert fault_take(p, P.FAULT_SCAN) == slot
    assert start(p, 9, 10, P.CAUSE_MIGRATE) == P.REFUSED


def test_downgrade_lets_reads_go_on_and_waits_for_writes_only() -> None:
    p = make()
    copy(p, 2, P.OP_READ)
    write = copy(p, 3, P.OP_CMP_SWAP)
    assert start(p, 0, 3, P.CAUSE_PROTECT) == P.DONE
    assert translate(p, 0, 3 * PAGE, 0, 0) == 3 * PAGE and translate(p, 0, 3 * PAGE, 1, 0) == 0
    assert start(p, 3, 5, P.CAUSE_PROTECT) == P.WAIT
    end_copy(p, write)
    assert invalidate_poll(p, p[P.TICKET]) == P.DONE
    assert total(p, "pages_downgraded") == 5


def test_deferrals_are_flushed_together_and_their_frames_held_until_then() -> None:
    p = make(tlb=1)
    for page in range(3):
        assert start(p, page, page + 1, P.CAUSE_UNMAP, may_sleep=0, now=100 + page) == P.DEFERRED
        assert p[P.OBLIGATION] == 0, "ranges that continue each other share a record"
        assert invalidate_finish(p, p[P.TICKET], 0) == P.DONE
    assert translate(p, 0, PAGE, 0, 0) == 0
    assert flush_due(p, 1_000) == 0 and flush_deadline(p) == 1_100 and flush_due(p, 1_100) == 1
    assert start(p, 3, 4, P.CAUSE_UNMAP) == P.DEFERRED
    assert flush_due(p, 0) == 1, "half the bound in pages"
    assert invalidate_finish(p, p[P.TICKET], 0) == P.DONE
    assert obligation_done(p, 0) == 0 and obligation_end(p, 0) == P.PROTOCOL
    assert flush_begin(p, 2_000) == 1
    assert flush_begin(p, 2_000) == P.PROTOCOL and flush_due(p, 1 << 60) == 0
    assert start(p, 4, 5, P.CAUSE_UNMAP) == P.DEFERRED and p[P.OBLIGATION] == 1, "too late for the running flush"
    assert invalidate_finish(p, p[P.TICKET], 0) == P.DONE
    assert flush_end(p, 5_000) == P.DONE and flush_end(p, 5_000) == P.PROTOCOL
    assert obligation_done(p, 0) == 1 and obligation_done(p, 1) == 0
    assert obligation_end(p, 0) == P.DONE and obligation_end(p, 0) == P.PROTOCOL
    assert sorted(entries(p)) == [4, 5, 6, 7]
    assert total(p, "pages_deferred") == 5 and total(p, "flushes") == 1 and total(p, "flush_ns") == 3_000
    assert audit(p) == []


def test_a_fault_over_an_owed_range_asks_for_the_flush_and_waits() -> None:
    p = make(tlb=1)
    start(p, 0, 1, P.CAUSE_UNMAP)
    invalidate_finish(p, p[P.TICKET], 0)
    assert flush_due(p, 0) == 0
    slot = fault_begin(p, 0, PAGE, 0, 1, 0, 0)
    assert p[slot + P.FAULT_STATE] == P.FAULT_WAIT and flush_due(p, 0) == 1
    flush_begin(p, 0)
    flush_end(p, 0)
    assert p[slot + P.FAULT_STATE] == P.FAULT_SCAN


@pytest.mark.parametrize("cause", [P.CAUSE_RECLAIM, P.CAUSE_PROTECT])
def test_a_stronger_invalidation_of_an_owed_range_flushes_first(cause: int) -> None:
    p = make(tlb=1)
    start(p, 0, 1, P.CAUSE_UNMAP)
    invalidate_finish(p, p[P.TICKET], 0)
    assert start(p, 0, 1, P.CAUSE_MIGRATE) == P.REFUSED, "the device may still use it: busy"
    assert start(p, 0, 1, cause, may_sleep=0) == P.REFUSED
    assert start(p, 0, 1, cause) == P.WAIT
    ticket = int(p[P.TICKET])
    flush_begin(p, 0)
    assert invalidate_poll(p, ticket) == P.WAIT
    flush_end(p, 0)
    assert invalidate_poll(p, ticket) == P.DONE and obligation_done(p, 0) == 1


def test_zapped_is_not_forgotten_while_the_device_has_a_cache() -> None:
    """Found by a random schedule: the second start sees an empty range, the device's cache still holds it."""
    p = make(tlb=1)
    assert start(p, 3, 6) == P.WAIT
    assert start(p, 5, 8) == P.WAIT
    flush_begin(p, 0)
    flush_end(p, 0)
    assert invalidate_poll(p, 0) == invalidate_poll(p, 1) == P.DONE
    assert invalidate_finish(p, 0, 0) == P.DONE
    assert start(p, 3, 6) == P.DONE, "flushed, and nothing installed since"


def test_what_cannot_be_deferred_is_done_now() -> None:
    p = make(tlb=1)
    assert start(p, 0, 9, P.CAUSE_UNMAP) == P.WAIT, "more pages than the bound"
    p = make(tlb=1)
    for page in (0, 2):
        assert start(p, page, page + 1, P.CAUSE_UNMAP) == P.DEFERRED
        invalidate_finish(p, p[P.TICKET], 0)
    assert flush_due(p, 0) == 1, "no record is left"
    assert start(p, 4, 5, P.CAUSE_UNMAP) == P.WAIT
    p = make(tlb=1)
    assert start(p, 9, 10, P.CAUSE_UNMAP) == P.DONE, "nothing is cached: nothing to defer"


def test_no_more_pages_are_held_than_the_policy_says_however_slow_the_flush() -> None:
    p = make(tlb=1)
    install(p, 0, 16 * PAGE, RW, 0)

    def defer(first: int, last: int) -> int:
        verdict = start(p, first, last, P.CAUSE_UNMAP)
        assert verdict == P.WAIT or invalidate_finish(p, p[P.TICKET], 0) == P.DONE
        return verdict

    assert defer(0, 4) == P.DEFERRED and flush_due(p, 0) == 1, "half of it: the other half may be owed meanwhile"
    flush_begin(p, 0)
    assert defer(4, 8) == P.DEFERRED and p[P.HELD_PAGES] == 8
    assert defer(8, 9) == P.WAIT, "a ninth page would be held"
    ticket = int(p[P.TICKET])
    flush_end(p, 0)
    assert invalidate_poll(p, ticket) == P.WAIT and p[P.HELD_PAGES] == 8, "flushed, and not yet given back by the host"
    flush_begin(p, 0)
    flush_end(p, 0)
    assert invalidate_finish(p, ticket, 0) == P.DONE
    assert obligation_end(p, 0) == obligation_end(p, 1) == P.DONE and p[P.HELD_PAGES] == 0
    assert defer(9, 10) == P.DEFERRED and audit(p) == []


def test_who_was_refused_and_comes_again_after_the_flush_is_let_in() -> None:
    p = make(tlb=1)
    assert start(p, 3, 4, may_sleep=0) == P.DONE, "the device has never used it"
    translate(p, 4 * PAGE, PAGE, 0, 0)
    for _ in range(2):
        assert start(p, 4, 5, may_sleep=0) == P.REFUSED and flush_due(p, 0) == 1
    flush_begin(p, 0)
    assert start(p, 4, 5, may_sleep=0) == P.REFUSED, "it is not over"
    assert translate(p, 4 * PAGE, PAGE, 1, 0) == PAGE, "the page is the device's all the while"
    flush_end(p, 0)
    assert start(p, 4, 5, may_sleep=0) == P.REFUSED and flush_due(p, 0) == 1, "used since the flush began"
    flush_begin(p, 0)
    assert start(p, 4, 5, may_sleep=0) == P.REFUSED
    flush_end(p, 0)
    assert flush_due(p, 0) == 0, "the flush that ran was the one that was needed"
    assert start(p, 4, 5, may_sleep=0) == P.DONE
    assert translate(p, 4 * PAGE, PAGE, 0, 0) == 0 and audit(p) == []


def test_a_chunk_under_way_installs_nothing_after_a_collision() -> None:
    p = make()
    slot = fault_begin(p, 9 * PAGE, 10 * PAGE, 0, 1, 0, 0)
    p[slot + P.FAULT_STATE] = P.FAULT_RUNNING  # taken by a worker
    p[P.SCAN_LENGTH] = p[p[P.SCAN_QUEUE]] = 0
    assert fault_chunk(p, slot) == 1
    start(p, 12, 13)
    assert p[slot + P.FAULT_HIT] == 0, "elsewhere"
    start(p, 9, 10)
    assert fault_commit(p, slot, 0, 0) == P.WAITING
    assert translate(p, 9 * PAGE, PAGE, 0, 0) == 0
    invalidate_finish(p, 1, 0)
    assert p[slot + P.FAULT_STATE] == P.FAULT_QUEUED and p[slot + P.FAULT_RETRIES] == 1


def test_after_a_discard_entries_are_provisional_for_a_while() -> None:
    p = make()
    p[P.HORIZON_NS], p[P.PROVISIONAL_NS], p[P.PROVISIONAL_TRUST_NS] = 10 << 20, 20 << 20, 1 << 20
    now = 100 << 20
    assert start(p, 9, 10, P.CAUSE_DISCARD, now=now) == P.DONE
    invalidate_finish(p, p[P.TICKET], now)

    def bring_in(page: int, at: int) -> None:
        slot = fault_begin(p, page * PAGE, (page + 1) * PAGE, P.WANT_RESIDENT, P.NONE, 0, at)
        assert fault_take(p, P.FAULT_SCAN) == slot
        assert fault_scanned(p, slot, (page + 1) * PAGE, at) == P.OVER

    bring_in(9, now)
    bring_in(10, now)
    later = now + (2 << 20)
    assert translate(p, 9 * PAGE, PAGE, 0, now) == PAGE, "long enough for the one who waits"
    assert translate(p, 9 * PAGE, PAGE, 0, later) == 0 and translate(p, 10 * PAGE, PAGE, 0, later) == PAGE
    later = now + (21 << 20)
    bring_in(9, later)
    assert translate(p, 9 * PAGE, PAGE, 0, later + (9 << 20)) == PAGE, "the window is over"


@pytest.mark.parametrize("first, last, cause", [(1, 1, 1), (2, 1, 1), (-1, 1, 1), (0, 1, P.CAUSES), (0, 1, -1)])
def test_a_wrong_call_changes_nothing_and_is_counted(first: int, last: int, cause: int) -> None:
    p = make()
    assert start(p, first, last, cause) == P.PROTOCOL
    assert p[P.TICKET] == P.NONE and p[P.ACTIVE_COUNT] == 0 and total(p, "violations") == 1


def test_everything_can_be_released_at_once() -> None:
    p = make()
    assert invalidate_start(p, 0, (1 << 63) - 1, P.CAUSE_RELEASE, 1, 0) == P.DONE
    assert p[P.PAGES] == 0 and invalidate_finish(p, p[P.TICKET], 0) == P.DONE
