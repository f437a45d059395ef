"""The CPU side: processors that run scripts of operations, and the reclaim daemon.

A processor's script is rows (kind, page, count, pause). Touching a page that is not there brings it in; writing one that
is shared with a forked child copies it first, with its invalidation. A page whose flush is owed may not be touched before
(the obligation of a deferral): the processor waits, and asks for the flush.

The daemon keeps free frames between two marks by second chance: a hand goes round the pages, one that was used since the
last round is passed over. Where the policy has *aging*, use by the device counts; Linux's interval notifier has none, so
there a page that only the device uses looks idle. Sources: mm/vmscan.c (the two marks, second chance), mm/memory.c (the copy
before the write), include/linux/mmu_notifier.h (who may offer clear_flush_young).
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.paging import layout as P
from unpinned.paging.table import change_range, entry
from unpinned.study import layout as S
from unpinned.study.memory import page_in, table_at
from unpinned.study.operations import ENDED_ALL, MOVED, NOTHING, child_exits, operate, operation_step, owed_anywhere

ALLOC_AGAIN_NS = 20_000
DAEMON_REST_NS = 100_000
TOUCH_BATCH = 64
LOOK_MAX = 4_096  # pages that one turn of the daemon looks at


@kernel
def cause_of(op):
    """The cause that the kernel passes for an operation."""
    if op == S.DO_DISCARD:
        return P.CAUSE_DISCARD
    if op == S.DO_UNMAP:
        return P.CAUSE_UNMAP
    if op == S.DO_REMAP:
        return P.CAUSE_REMAP
    if op == S.DO_RELEASE:
        return P.CAUSE_RELEASE
    if op == S.DO_FORK:
        return P.CAUSE_PROTECT
    if op == S.DO_MIGRATE:
        return P.CAUSE_MIGRATE
    if op == S.DO_MERGE:
        return P.CAUSE_MERGE
    if op == S.DO_SOFT_DIRTY:
        return P.CAUSE_SOFT_DIRTY
    return P.CAUSE_RECLAIM


@kernel
def cpu_step(s, y, actor, now):
    """A processor's moment has come; NOTHING, MOVED or ENDED_ALL."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    if s[a + S.A_PHASE]:
        went = operation_step(s, actor, now)
        if went == ENDED_ALL:
            if s[a + S.A_STATE] == S.TOUCHING:  # a copy-on-write was broken: the touch goes on where it stopped
                s[a + S.A_AT] = s[a + S.A_SLOT]
                s[s[S.WHEN] + actor] = now
            else:
                next_row(s, y, actor, now)
        return went
    if s[a + S.A_STATE] == S.TOUCHING:
        return touch(s, y, actor, now)
    return begin_row(s, y, actor, now)


@kernel
def next_row(s, y, actor, now):
    """Go to the script's next row, after its pause or at its moment."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    if s[a + S.A_CURSOR] >= s[a + S.A_LAST]:
        if s[a + S.A_LOOP] == 0:
            s[a + S.A_STATE] = S.ENDED
            s[s[S.WHEN] + actor] = S.NEVER
            s[S.SCRIPTS_ENDED] += 1
            s[S.M_SCRIPT_NS] = now
            return 0
        s[a + S.A_CURSOR] = s[a + S.A_FIRST]
    row = s[a + S.A_CURSOR] * S.OP_WORDS
    s[a + S.A_STATE] = S.NEXT
    s[s[S.WHEN] + actor] = max(now, y[row + S.OP_THINK]) if s[S.MOMENTS] else now + y[row + S.OP_THINK]
    return 1


@kernel
def begin_row(s, y, actor, now):
    """Carry out the row that the cursor stands at."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    row = s[a + S.A_CURSOR] * S.OP_WORDS
    op = y[row + S.OP_KIND]
    page = y[row + S.OP_PAGE]
    count = y[row + S.OP_COUNT]
    s[a + S.A_CURSOR] += 1
    if op == S.DO_READ or op == S.DO_WRITE:
        s[a + S.A_STATE] = S.TOUCHING
        s[a + S.A_AT] = page
        s[a + S.A_LEFT] = page + count
        s[a + S.A_WRITE] = 1 if op == S.DO_WRITE else 0
        return touch(s, y, actor, now)
    if op == S.DO_SLEEP or op == S.DO_EXIT or op == S.DO_MAP:
        if op == S.DO_EXIT:
            child_exits(s)
        elif op == S.DO_MAP:
            if owed_anywhere(s, page, count):  # the address may not be handed out again before the flush
                s[a + S.A_CURSOR] -= 1
                s[S.M_TOUCH_WAITS] += 1
                s[s[S.WHEN] + actor] = S.NEVER
                return MOVED
            for each in range(page, page + count):
                if s[s[S.PTE] + each] == 0:
                    s[s[S.PTE] + each] = S.PTE_MAPPED
        next_row(s, y, actor, now)
        return NOTHING
    s[a + S.A_STATE] = S.OPERATING
    operate(s, actor, op, cause_of(op), page, count, now)
    return NOTHING


@kernel
def ask_for_flushes(s):
    """Frames are short and some are held: the host asks every device that defers for its flush."""
    if s[S.HELD_FRAMES]:
        for device in range(s[S.DEVICES]):
            p = words_at(table_at(s, device), s[S.TABLE_WORDS])
            if p[P.DEFERRAL_COUNT]:
                p[P.FLUSH_WANTED] = 1
    return 0


@kernel
def touch(s, y, actor, now):
    """The CPU reads or writes pages from A_AT on, up to TOUCH_BATCH in one moment."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    when = s[S.WHEN] + actor
    took = 0
    upto = min(s[a + S.A_LEFT], s[a + S.A_AT] + TOUCH_BATCH)
    while s[a + S.A_AT] < upto:
        page = s[a + S.A_AT]
        at = s[S.PTE] + page
        pte = s[at]
        if pte & S.PTE_MAPPED == 0:
            s[a + S.A_AT] += 1
            continue
        if pte & S.PTE_PRESENT == 0:
            if owed_anywhere(s, page, 1):
                s[S.M_TOUCH_WAITS] += 1
                s[when] = S.NEVER
                return MOVED
            if page_in(s, page, S.PTE_WRITE | S.PTE_ACCESSED | (S.PTE_DIRTY if s[a + S.A_WRITE] else 0)) == 0:
                ask_for_flushes(s)
                s[when] = now + ALLOC_AGAIN_NS
                return MOVED
            s[S.M_SWAP_IN] += 1 if pte & S.PTE_SWAPPED else 0
            took += s[S.T_MAJOR] if pte & S.PTE_SWAPPED else s[S.T_MINOR]
        elif s[a + S.A_WRITE] and pte & S.PTE_WRITE == 0:
            if pte & S.PTE_SHARED and s[S.CHILDREN]:
                s[a + S.A_SLOT] = page  # the operation uses A_AT
                operate(s, actor, S.DO_COW, P.CAUSE_COW, page, 1, now + took)
                return NOTHING
            s[at] = (pte | S.PTE_WRITE | S.PTE_DIRTY | S.PTE_ACCESSED) & ~S.PTE_SHARED
        else:
            s[at] = pte | S.PTE_ACCESSED | (S.PTE_DIRTY if s[a + S.A_WRITE] else 0)
        took += s[S.T_PAGE]
        s[S.M_TOUCHES] += 1
        s[a + S.A_AT] += 1
    if s[a + S.A_AT] < s[a + S.A_LEFT]:
        s[when] = now + took
    else:
        next_row(s, y, actor, now + took)
    return NOTHING


# --- reclaim -----------------------------------------------------------------------------------------------------------------


@kernel
def device_used(s, page):
    """1 when a device has used the page since the last look; the look clears it."""
    va = page << S.PAGE_SHIFT
    used = 0
    for device in range(s[S.DEVICES]):
        p = words_at(table_at(s, device), s[S.TABLE_WORDS])
        if entry(p, va) & P.ACCESSED:
            used = 1
            change_range(p, va, va + S.PAGE, ~P.ACCESSED, 0)
    return used


@kernel
def victim(s):
    """The next page that looks idle, or -1 after LOOK_MAX pages."""
    for _ in range(LOOK_MAX):
        page = s[S.HAND]
        s[S.HAND] = page + 1 if page + 1 < s[S.PAGES] else 0
        at = s[S.PTE] + page
        pte = s[at]
        if pte & S.PTE_PRESENT:
            if pte & S.PTE_ACCESSED:
                s[at] = pte & ~S.PTE_ACCESSED
            else:
                hot = device_used(s, page)
                if hot and s[S.AGING]:
                    continue
                s[S.M_HOT_EVICTED] += hot
                return page
    return -1


@kernel
def daemon_step(s, actor, now):
    """The reclaim daemon: page by page until enough frames are free; NOTHING, MOVED or ENDED_ALL."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    when = s[S.WHEN] + actor
    went = NOTHING
    if s[a + S.A_PHASE]:
        went = operation_step(s, actor, now)
        if went != ENDED_ALL:
            return went
        if s[a + S.A_REFUSED] == 0:
            now += s[S.T_WRITE_BACK]
    if s[S.PINNED] or s[S.FREE_COUNT] + s[S.HELD_FRAMES] >= s[S.HIGH]:
        s[when] = S.NEVER
        if s[S.FREE_COUNT] == 0:
            ask_for_flushes(s)
        return max(went, MOVED)
    page = victim(s)
    if page < 0:
        s[when] = now + DAEMON_REST_NS
    else:
        operate(s, actor, S.DO_RECLAIM, P.CAUSE_RECLAIM, page, 1, now)
    return went
