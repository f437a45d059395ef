"""The modelled host's memory: a page table of one word a page, frames on a free list, and frames held for a flush.

Rules. A frame belongs to one page (its owner), or is free, or *held*: given up by an operation whose invalidation was
DEFERRED, and free again when every device has flushed what it owed. A frame that was replaced by a visible copy (COW,
migration) while a device may still use it is FRAME_REPLACED: any use of it is a violation, which `judge` counts. A pinned
frame whose page has gone is an orphan for ever. Sources: drivers/iommu/dma-iommu.c (its flush queue holds what was given up until
one flush for many is over), mm/gup.c (a pinned page outlives its mapping).
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.paging import layout as P
from unpinned.paging.notifier import obligation_done, obligation_end
from unpinned.study import layout as S


@kernel
def account(s, now):
    """Bring the integrals over time up to `now`: before any change of how many frames are free or held."""
    passed = now - s[S.M_SINCE]
    if passed > 0:
        s[S.M_FRAME_NS] += (s[S.FRAMES] - s[S.FREE_COUNT]) * passed
        s[S.M_HELD_NS] += s[S.HELD_FRAMES] * passed
        s[S.M_SINCE] = now
    return 0


@kernel
def frame_take(s, page):
    """A free frame for `page`, or -1; the reclaim daemon wakes when few are left."""
    now = s[S.NOW]
    if s[S.FREE_COUNT] <= s[S.LOW]:
        daemon = s[S.WHEN] + s[S.ACTOR_COUNT] - 1
        s[daemon] = min(s[daemon], now)
    if s[S.FREE_COUNT] == 0:
        s[S.M_ALLOC_WAITS] += 1
        return -1
    account(s, now)
    s[S.FREE_COUNT] -= 1
    s[S.M_FRAMES_MAX] = max(s[S.M_FRAMES_MAX], s[S.FRAMES] - s[S.FREE_COUNT])
    frame = s[s[S.FREE] + s[S.FREE_COUNT]]
    s[s[S.FRAME] + frame] = S.FRAME_USED | page << S.FRAME_OWNER_SHIFT
    return frame


@kernel
def frame_give(s, frame):
    """The frame is free from now on."""
    account(s, s[S.NOW])
    s[s[S.FRAME] + frame] = S.FRAME_FREE
    s[s[S.FREE] + s[S.FREE_COUNT]] = frame
    s[S.FREE_COUNT] += 1
    return 0


@kernel
def page_in(s, page, flags):
    """Give `page` a frame and these flags (PTE_PRESENT and the like); 1, or 0 when no frame is free."""
    frame = frame_take(s, page)
    if frame < 0:
        return 0
    s[s[S.PTE] + page] = S.PTE_PRESENT | S.PTE_MAPPED | flags | frame << S.PTE_FRAME_SHIFT
    return 1


@kernel
def judge(s, page, cached, write):
    """The device uses the frame of `cached` (frame << 1 | may write) for `page`: is that right? What is not is counted."""
    frame = s[s[S.FRAME] + (cached >> 1)]
    state = frame & S.FRAME_STATE
    if state == S.FRAME_USED and frame >> S.FRAME_OWNER_SHIFT == page:
        if write and s[s[S.PTE] + page] & S.PTE_WRITE == 0:
            s[S.V_PINNED if s[S.PINNED] else S.V_WRITE] += 1
    elif state == S.FRAME_USED or state == S.FRAME_FREE:
        s[S.V_FREED] += 1
    elif state == S.FRAME_REPLACED:
        s[S.V_LOST if write else S.V_STALE] += 1
    elif state == S.FRAME_ORPHAN:
        s[S.V_PINNED] += 1
    return 0


# --- held frames -------------------------------------------------------------------------------------------------------


@kernel
def table_at(s, device):
    """Address of the device's paging block, which has s[TABLE_WORDS] words."""
    return s[s[S.DEVICE] + device * S.DEVICE_WORDS + S.D_P]


@kernel
def held_open(s):
    """A free held record, now in use, or -1."""
    if s[S.HELD_COUNT] == s[S.HELD_CAPACITY]:
        return -1
    last = s[S.HELD] + s[S.HELD_CAPACITY] * S.HELD_WORDS
    at = s[S.HELD_NEXT]
    while s[at + S.HELD_STATE]:
        at += S.HELD_WORDS
        if at == last:
            at = s[S.HELD]
    s[S.HELD_NEXT] = at
    s[at + S.HELD_STATE] = 1
    s[S.HELD_COUNT] += 1
    return at


@kernel
def held_add(s, held, frame, state):
    """Hold one frame in the record."""
    account(s, s[S.NOW])
    s[s[S.FRAME] + frame] = state | s[held + S.HELD_HEAD] << S.FRAME_OWNER_SHIFT
    s[held + S.HELD_HEAD] = frame + 1
    s[held + S.HELD_PAGES] += 1
    s[S.HELD_FRAMES] += 1
    s[S.M_HELD_MAX] = max(s[S.M_HELD_MAX], s[S.HELD_FRAMES])
    return 0


@kernel
def held_settle(s, held):
    """Free the record and its frames if its operation is complete and no device owes a flush for it."""
    if s[held + S.HELD_STATE] != 2:
        return 0
    for device in range(s[S.DEVICES]):
        if s[held + S.HELD_TOKEN + device]:
            return 0
    account(s, s[S.NOW])
    s[S.HELD_FRAMES] -= s[held + S.HELD_PAGES]
    give_list(s, s[held + S.HELD_HEAD])
    for i in range(held, held + S.HELD_WORDS):
        s[i] = 0
    s[S.HELD_COUNT] -= 1
    return 1


@kernel
def give_list(s, head):
    """Free every frame of a list through the owners of FRAME words."""
    while head:
        after = s[s[S.FRAME] + head - 1] >> S.FRAME_OWNER_SHIFT
        frame_give(s, head - 1)
        head = after
    return 0


@kernel
def discharge(s, device):
    """A flush of the device is over: end its obligations, and free what no other device holds."""
    p = words_at(table_at(s, device), s[S.TABLE_WORDS])
    for token in range(p[P.DEFERRAL_CAPACITY] if p[P.DEFERRAL_COUNT] else 0):
        if p[p[P.DEFERRALS] + token * P.DEFERRAL_WORDS + P.DEFERRAL_FLUSH] == P.FLUSH_OVER:
            if obligation_done(p, token) == 1:
                left = s[S.HELD_COUNT]
                at = s[S.HELD]
                while left > 0:
                    if s[at + S.HELD_STATE]:
                        left -= 1
                        if s[at + S.HELD_TOKEN + device] == token + 1:
                            s[at + S.HELD_TOKEN + device] = 0
                            held_settle(s, at)
                    at += S.HELD_WORDS
                obligation_end(p, token)
    return 0
