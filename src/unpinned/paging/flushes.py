"""Flushes: what a deferred invalidation owes, the one flush that pays for many, and the obligations that the host
discharges.

A deferral's life, and who moves it on::

    free -> FLUSH_OWED      owe            a DEFER verdict: entries are STALE, the host holds the frames
         -> FLUSH_RUNNING   flush_begin    the world makes its device drop its translations
         -> FLUSH_OVER      flush_end      nothing in the device knows the range any more
         -> free            obligation_end the host has let go of the frames

A flush begins when `flush_due`: half the bound in pages, or the one in time, is reached, the records are used up, a fault
or a stronger invalidation waits for it. What is owed while one runs is for the next. Pages count as held (p[HELD_PAGES])
until obligation_end. The rules are notifier.py's, which also exports everything here that a world calls.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.collisions import fault_poll, violation
from unpinned.paging.dma import dma_collides
from unpinned.paging.layout import Block
from unpinned.paging.table import change_range, next_with


@kernel
def deferral_for(p: Block, start: int, end: int, cause: int) -> int:
    """The deferral record that can take the range: one of the same cause that it continues, else the lowest free; or
    NONE.
    """
    free = P.NONE
    for token in range(p[P.DEFERRAL_CAPACITY]):
        at = p[P.DEFERRALS] + token * P.DEFERRAL_WORDS
        if p[at + P.DEFERRAL_FLUSH] == P.FLUSH_OWED and p[at + P.DEFERRAL_CAUSE] == cause:
            if p[at + P.DEFERRAL_END] == start or p[at + P.DEFERRAL_START] == end:
                return token
        if free < 0 and p[at + P.DEFERRAL_FLUSH] == P.FLUSH_NONE:
            free = token
    return free


@kernel
def owe(p: Block, token: int, start: int, end: int, cause: int, now: int) -> None:
    """Write the range into deferral `token`, and ask for the flush if half a bound is reached."""
    at = p[P.DEFERRALS] + token * P.DEFERRAL_WORDS
    if p[at + P.DEFERRAL_FLUSH] == P.FLUSH_NONE:
        p[at + P.DEFERRAL_FLUSH] = P.FLUSH_OWED
        p[at + P.DEFERRAL_START] = start
        p[at + P.DEFERRAL_END] = end
        p[at + P.DEFERRAL_CAUSE] = cause
        p[at + P.DEFERRAL_SINCE] = now
        p[P.DEFERRAL_COUNT] += 1
    p[at + P.DEFERRAL_START] = min(p[at + P.DEFERRAL_START], start)
    p[at + P.DEFERRAL_END] = max(p[at + P.DEFERRAL_END], end)
    pages = (end - start) >> p[P.PAGE_SHIFT]
    p[P.DEFERRED_PAGES] += pages
    p[P.HELD_PAGES] += pages
    p[P.OBLIGATION] = token
    bound = p[P.POLICY + cause * P.POLICY_WORDS + P.POLICY_MAX_PAGES]
    if 2 * p[P.DEFERRED_PAGES] >= bound or p[P.DEFERRAL_COUNT] == p[P.DEFERRAL_CAPACITY]:
        p[P.FLUSH_WANTED] |= 1


@kernel
def ask_for_flush(p: Block, start: int, end: int, owed: int) -> int:
    """A caller that may not sleep needs ``[start, end)`` out of the device's cache; owed: what `flush_owed` said of it.

    -> 1: it may be cached, and a flush that will have dropped it runs or is asked for; 0: the device has not used the
    range since such a flush. Entries stay: who comes again after the flush is let in unless the device has used them, or
    does not say what it uses (p[TRACK]).
    """
    used = P.CACHED if p[P.TRACK] & P.CACHED else P.PRESENT
    if owed == P.FLUSH_OWED or p[P.EVICTED] == 1 or next_with(p, start, end, used) >= 0:
        p[P.FLUSH_WANTED] |= 2
        return 1
    return 1 if owed or p[P.EVICTED] or (p[P.FLUSHING] and next_with(p, start, end, P.PRESENT) >= 0) else 0


@kernel
def flush_deadline(p: Block) -> int:
    """When the oldest deferral must be flushed (ns of the caller's clock), or NONE."""
    deadline = P.NONE
    for token in range(p[P.DEFERRAL_CAPACITY] if p[P.DEFERRAL_COUNT] else 0):
        at = p[P.DEFERRALS] + token * P.DEFERRAL_WORDS
        if p[at + P.DEFERRAL_FLUSH] == P.FLUSH_OWED:
            due = p[at + P.DEFERRAL_SINCE]
            due += p[P.POLICY + p[at + P.DEFERRAL_CAUSE] * P.POLICY_WORDS + P.POLICY_MAX_NS]
            if deadline < 0 or due < deadline:
                deadline = due
    return deadline


@kernel
def flush_due(p: Block, now: int) -> int:
    """1 when a flush should begin now: somebody waits for it, or a deferral has reached its bound in pages or time."""
    if p[P.FLUSHING]:
        return 0
    if p[P.FLUSH_WANTED]:
        return 1
    deadline = flush_deadline(p)
    return 1 if 0 <= deadline <= now else 0


@kernel
def _flush_step(p, before, after):
    """Move every flush that stands at `before` to `after`; -> how many."""
    moved = 0
    for ticket in range(p[P.ACTIVE_CAPACITY]):
        at = p[P.ACTIVE] + ticket * P.ACTIVE_WORDS + P.ACTIVE_FLUSH
        if p[at] == before:
            p[at] = after if after != P.FLUSH_OVER else P.FLUSH_NONE
            moved += 1
    for token in range(p[P.DEFERRAL_CAPACITY]):
        at = p[P.DEFERRALS] + token * P.DEFERRAL_WORDS
        if p[at + P.DEFERRAL_FLUSH] == before:
            p[at + P.DEFERRAL_FLUSH] = after
            moved += 1
            if after == P.FLUSH_OVER:
                change_range(p, p[at + P.DEFERRAL_START], p[at + P.DEFERRAL_END], 0, 0)
    return moved


@kernel
def flush_begin(p: Block, now: int) -> int:
    """Begin one flush for everything owed so far; -> how many records it covers, or PROTOCOL when one is running.

    The world now makes its device drop its translations (all of them, or the ranges of records at FLUSH_RUNNING).
    What is owed from here on is for the next flush: this one may already have passed it.
    """
    if p[P.FLUSHING]:
        return violation(p)
    if p[P.FLUSH_WANTED] & 2:
        change_range(p, 0, 1 << 62, ~P.CACHED, 0)
    p[P.FLUSHING] = 1
    p[P.FLUSH_WANTED] = 0
    p[P.FLUSH_SINCE] = now
    p[P.DEFERRED_PAGES] = 0
    if p[P.EVICTED]:
        p[P.EVICTED] = 2
    return _flush_step(p, P.FLUSH_OWED, P.FLUSH_RUNNING)


@kernel
def flush_end(p: Block, now: int) -> int:
    """The device has dropped its translations; -> DONE, WAIT (a copy over a deferred range is in flight: call again),
    PROTOCOL.

    Obligations of the batch become FLUSH_OVER, tickets that waited become DONE, faults that waited are armed.
    """
    if not p[P.FLUSHING]:
        return violation(p)
    for token in range(p[P.DEFERRAL_CAPACITY]):
        at = p[P.DEFERRALS] + token * P.DEFERRAL_WORDS
        if p[at + P.DEFERRAL_FLUSH] == P.FLUSH_RUNNING:
            if dma_collides(p, p[at + P.DEFERRAL_START], p[at + P.DEFERRAL_END], 0):
                return P.WAIT
    p[P.FLUSHING] = 0
    if p[P.EVICTED] == 2:
        p[P.EVICTED] = 0
    _flush_step(p, P.FLUSH_RUNNING, P.FLUSH_OVER)
    p[p[P.TOTALS] + P.COUNT_FLUSHES] += 1
    p[p[P.TOTALS] + P.COUNT_FLUSH_NS] += now - p[P.FLUSH_SINCE]
    p[P.FLUSH_SINCE] = 0
    fault_poll(p)
    return P.DONE


@kernel
def obligation_done(p: Block, token: int) -> int:
    """1 when the frames held for `token` may go, 0 while they may not, PROTOCOL for a token that is not held."""
    at = p[P.DEFERRALS] + token * P.DEFERRAL_WORDS
    if token < 0 or token >= p[P.DEFERRAL_CAPACITY] or p[at + P.DEFERRAL_FLUSH] == P.FLUSH_NONE:
        return violation(p)
    return 1 if p[at + P.DEFERRAL_FLUSH] == P.FLUSH_OVER else 0


@kernel
def obligation_end(p: Block, token: int) -> int:
    """The host has let go of the frames: free the record; -> DONE, or PROTOCOL (not flushed yet, or not held)."""
    done = obligation_done(p, token)
    if done == 0:
        return violation(p)
    if done == P.PROTOCOL:
        return done
    at = p[P.DEFERRALS] + token * P.DEFERRAL_WORDS
    p[P.HELD_PAGES] -= (p[at + P.DEFERRAL_END] - p[at + P.DEFERRAL_START]) >> p[P.PAGE_SHIFT]
    for i in range(at, at + P.DEFERRAL_WORDS):
        p[i] = 0
    p[P.DEFERRAL_COUNT] -= 1
    return P.DONE
