"""Operations that change the host's page table, each between invalidate_start and invalidate_finish of every device.

The order is the kernel's: announce, wait until every device is out of the range, change, finish. Two ways to wait: start
all devices and then wait for all (two-phase), or one device after the other. One device that refuses ends the operation;
those that had started get their finish, and nothing was changed. What the change gives up is freed at once, or held until
the devices have flushed (memory.py). Sources: mm/mmu_notifier.c (the order; the end for those that had started), its two-pass
callbacks of 2026 (start all, then wait for all), and `model/operations.py` for what each operation does.

    NEXT -> operate: STARTING (announce, device by device) -> WAITING (polls) -> APPLYING (the CPU's own work) -> change, finish
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.paging import layout as P
from unpinned.paging.collisions import blocked
from unpinned.paging.notifier import invalidate_finish, invalidate_poll, invalidate_start
from unpinned.study import layout as S
from unpinned.study.hca import measure
from unpinned.study.memory import (
    frame_give,
    frame_take,
    give_list,
    held_add,
    held_open,
    held_settle,
    table_at,
)

# What a step says has happened
NOTHING = 0
MOVED = 1  # devices have something to do
ENDED_ALL = 2  # and operations that wait may go on

HELD_AGAIN_NS = 5_000
FULL_AGAIN_NS = 1_000


@kernel
def operate(s, actor, op, cause, page, count, now):
    """Begin an operation over pages [page, page + count); `operation_step` carries it on."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    s[a + S.A_OP] = op
    s[a + S.A_CAUSE] = cause
    s[a + S.A_PAGE] = page
    s[a + S.A_COUNT] = count
    s[a + S.A_AT] = 0
    s[a + S.A_REFUSED] = 0
    s[a + S.A_BEGAN] = now
    s[a + S.A_PHASE] = S.STARTING
    for device in range(s[S.DEVICES]):
        s[a + S.A_TICKET + device] = -1
        s[a + S.A_TOKEN + device] = -1
    s[a + S.A_HELD] = -1
    s[s[S.WHEN] + actor] = now
    return 0


@kernel
def start_device(s, a, device, now):
    """Announce the operation to one device; -> its verdict."""
    p = words_at(table_at(s, device), s[S.TABLE_WORDS])
    start = s[a + S.A_PAGE] << S.PAGE_SHIFT
    end = start + (s[a + S.A_COUNT] << S.PAGE_SHIFT)
    verdict = invalidate_start(p, start, end, s[a + S.A_CAUSE], 1, now)
    s[a + S.A_TICKET + device] = p[P.TICKET]
    if verdict == P.DEFERRED:
        s[a + S.A_TOKEN + device] = p[P.OBLIGATION]
        s[s[a + S.A_HELD] + S.HELD_TOKEN + device] = p[P.OBLIGATION] + 1
    elif verdict == P.REFUSED:
        s[a + S.A_REFUSED] = 1
    elif verdict == P.PROTOCOL:
        s[S.V_PROTOCOL] += 1
    return verdict


@kernel
def devices_out(s, a):
    """1 when every device that was started is out of the range."""
    for device in range(s[S.DEVICES]):
        ticket = s[a + S.A_TICKET + device]
        if ticket >= 0 and invalidate_poll(words_at(table_at(s, device), s[S.TABLE_WORDS]), ticket) == P.WAIT:
            return 0
    return 1


@kernel
def operation_step(s, actor, now):
    """Carry the actor's operation on: ENDED_ALL when it has ended; MOVED when devices must be looked at; NOTHING, and its
    moment is set, or NEVER: then a device's progress is what it waits for (`events.look_at_operations`)."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    when = s[S.WHEN] + actor
    if s[S.PINNED]:
        if s[a + S.A_PHASE] != S.APPLYING:
            s[a + S.A_PHASE] = S.APPLYING
            s[when] = now + s[S.T_PAGE] * s[a + S.A_COUNT]
            return NOTHING
        return complete(s, a, now)
    if s[a + S.A_PHASE] == S.STARTING:
        if s[a + S.A_HELD] < 0:
            s[a + S.A_HELD] = held_open(s)
            if s[a + S.A_HELD] < 0:  # the host's own bound on what it holds
                s[when] = now + HELD_AGAIN_NS
                return NOTHING
        device = s[a + S.A_AT]
        while device < s[S.DEVICES] and s[a + S.A_REFUSED] == 0:
            if s[S.TWO_PHASE] == 0 and devices_out(s, a) == 0:
                s[when] = S.NEVER
                return NOTHING
            if start_device(s, a, device, now) == P.FULL:
                s[when] = now + FULL_AGAIN_NS
                return MOVED
            device += 1
            s[a + S.A_AT] = device
            if s[S.TWO_PHASE] == 0:
                s[when] = now + s[S.T_NOTIFY]
                return MOVED
        s[a + S.A_PHASE] = S.WAITING
        s[when] = now + (s[S.T_NOTIFY] * device if s[S.TWO_PHASE] else 0)
        return MOVED
    if s[a + S.A_PHASE] == S.WAITING:
        if devices_out(s, a) == 0:
            s[when] = S.NEVER
            return NOTHING
        measure(s, S.H_BLOCKED, now - s[a + S.A_BEGAN])
        s[S.M_BLOCKED_NS] += now - s[a + S.A_BEGAN]
        s[a + S.A_PHASE] = S.APPLYING
        s[when] = now + s[S.T_PAGE] * s[a + S.A_COUNT]
        return NOTHING
    return complete(s, a, now)


@kernel
def complete(s, a, now):
    """Make the change (unless it was refused), and let the devices go on; ENDED_ALL."""
    s[S.M_OPS] += 1
    if s[a + S.A_REFUSED]:
        s[S.M_REFUSED] += 1
    else:
        s[S.M_OP_PAGES] += s[a + S.A_COUNT]
        change(s, a)
    for device in range(s[S.DEVICES]):
        if s[a + S.A_TICKET + device] >= 0:
            if invalidate_finish(words_at(table_at(s, device), s[S.TABLE_WORDS]), s[a + S.A_TICKET + device], now) != P.DONE:
                s[S.V_PROTOCOL] += 1
    if s[a + S.A_HELD] >= 0:
        s[s[a + S.A_HELD] + S.HELD_STATE] = 2
        held_settle(s, s[a + S.A_HELD])
        s[a + S.A_HELD] = -1
    s[a + S.A_PHASE] = 0
    return ENDED_ALL


# --- what each operation does to a page --------------------------------------------------------------------------------------


@kernel
def let_go(s, a, frame, replaced):
    """The process gives up a frame: free, or held until the devices that deferred have flushed."""
    if s[S.PINNED]:
        s[s[S.FRAME] + frame] = S.FRAME_ORPHAN
        return 0
    held = s[a + S.A_HELD]
    owed = 0
    for device in range(s[S.DEVICES]):
        owed += s[held + S.HELD_TOKEN + device]
    if owed == 0:
        return frame_give(s, frame)
    return held_add(s, held, frame, S.FRAME_REPLACED if replaced else S.FRAME_HELD)


@kernel
def change(s, a):
    """Apply the operation to each of its pages."""
    op = s[a + S.A_OP]
    if op == S.DO_RELEASE or (op == S.DO_RECLAIM and s[S.PINNED]):  # the memory stays as it is
        return 0
    for page in range(s[a + S.A_PAGE], s[a + S.A_PAGE] + s[a + S.A_COUNT]):
        if op == S.DO_FORK or op == S.DO_SOFT_DIRTY:
            protect_page(s, page, op)
        elif op == S.DO_COW or op == S.DO_MIGRATE or op == S.DO_MERGE:
            replace_page(s, a, page, op)
        else:
            drop_page(s, a, page, op)
    if op == S.DO_FORK:
        s[S.CHILDREN] += 1
    return 0


@kernel
def drop_page(s, a, page, op):
    at = s[S.PTE] + page
    pte = s[at]
    if op == S.DO_UNMAP or op == S.DO_REMAP:
        s[at] = 0
    elif pte & S.PTE_PRESENT or op == S.DO_DISCARD:
        s[at] = S.PTE_MAPPED if pte & S.PTE_MAPPED else 0
    if pte & S.PTE_PRESENT == 0:
        return 0
    if op == S.DO_RECLAIM:
        s[at] = S.PTE_MAPPED | S.PTE_SWAPPED | (pte & S.PTE_SHARED)
        s[S.M_SWAP_OUT] += 1
    if pte & S.PTE_SHARED and s[S.CHILDREN]:
        return leave_to_child(s, pte >> S.PTE_FRAME_SHIFT)
    return let_go(s, a, pte >> S.PTE_FRAME_SHIFT, 0)


@kernel
def leave_to_child(s, frame):
    """Only the forked child has the frame now; it goes when the child does. A device has no business there."""
    s[s[S.FRAME] + frame] = S.FRAME_REPLACED | s[S.CHILD] << S.FRAME_OWNER_SHIFT
    s[S.CHILD] = frame + 1
    return 0


@kernel
def protect_page(s, page, op):
    at = s[S.PTE] + page
    if s[at] & S.PTE_PRESENT == 0:
        return 0
    if op == S.DO_FORK:
        if s[S.PINNED] == 0:  # what is pinned is copied for the child at once, and stays
            s[at] = (s[at] & ~S.PTE_WRITE) | S.PTE_SHARED
    else:
        s[at] &= ~S.PTE_WRITE
    return 0


@kernel
def replace_page(s, a, page, op):
    """Another frame with the same content: copy-on-write, migration, a merge."""
    at = s[S.PTE] + page
    pte = s[at]
    if pte & S.PTE_PRESENT == 0 or s[S.PINNED] or (op != S.DO_COW and pte & S.PTE_SHARED):
        return 0
    if op == S.DO_COW and pte & S.PTE_SHARED == 0:
        return 0
    frame = frame_take(s, page)
    if frame < 0:  # a migration that finds no room is not made; a copy that must be made takes the page itself
        if op == S.DO_COW:
            s[at] = (pte | S.PTE_WRITE) & ~S.PTE_SHARED
        return 0
    flags = pte & S.PTE_FLAGS
    if op == S.DO_COW:
        flags = (flags | S.PTE_WRITE | S.PTE_DIRTY) & ~S.PTE_SHARED
    elif op == S.DO_MERGE:
        flags &= ~S.PTE_WRITE
    s[at] = flags | frame << S.PTE_FRAME_SHIFT
    old = pte >> S.PTE_FRAME_SHIFT
    if op == S.DO_COW and s[S.CHILDREN]:
        return leave_to_child(s, old)
    return let_go(s, a, old, 1)


@kernel
def child_exits(s):
    """The forked children are gone: their frames too, and what they shared is the process's own again."""
    s[S.CHILDREN] = 0
    give_list(s, s[S.CHILD])
    s[S.CHILD] = 0
    return 0


@kernel
def owed_anywhere(s, page, count):
    """1 when a page must not be touched yet: a device still owes a flush, or an invalidation is under way. Asks for it."""
    result = 0
    for device in range(s[S.DEVICES]):
        p = words_at(table_at(s, device), s[S.TABLE_WORDS])
        if p[P.DEFERRAL_COUNT] or p[P.ACTIVE_COUNT]:
            result |= blocked(p, page << S.PAGE_SHIFT, (page + count) << S.PAGE_SHIFT)
    return result
