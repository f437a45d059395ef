"""What operations do to page-table entries: the heart of each, one step long. operations.py says when, with which locks and in
which order with the notifications; the rules and their sources stand there.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.model import layout as M
from unpinned.model.adapter import hold, line_at, thread_at
from unpinned.model.layout import Block
from unpinned.model.machine import (
    drop_cache,
    drop_swap,
    frame_at,
    map_frame,
    pte_at,
    reach,
    slot_at,
    take_frame,
    take_slot,
    truth_at,
    unmap_frame,
    vma_at,
)

STAY = 2  #: the phase goes on
GIVE_UP = 3  #: nothing to do, or no longer: the operation ends


@kernel
def new_mapping(w: Block, start: int, end: int, flags: int) -> int:
    """A mapping with an id of its own, anonymous (flags: VMA_ bits)."""
    x = w[M.W_STATE]
    w[x + M.X_NEXT_ID] += 1
    for page in range(start, end):
        vma = vma_at(w, 0, page)
        w[vma + M.V_FLAGS] = flags | w[x + M.X_NEXT_ID] << M.VMA_SHIFT
        w[vma + M.V_SLOT] = 0
        w[truth_at(w, 0, page)] = 0
    return 0


@kernel
def zap(w: Block, t: int, process: int, start: int, end: int, unmap: int) -> int:
    """Clear the entries of a range and gather its frames; unmap 1: the mapping goes too."""
    for page in range(start, end):
        vma = vma_at(w, process, page)
        frame = unmap_frame(w, process, page)
        if frame:
            f = frame_at(w, frame)
            w[f + M.F_HAND] |= 1 << t
            if process == 0:
                hold(w, t, frame)
        else:
            drop_swap(w, process, page)
        if w[vma + M.V_SLOT] == 0 or unmap:
            w[truth_at(w, process, page)] = 0
        if unmap:
            w[vma + M.V_FLAGS] = 0
            w[vma + M.V_SLOT] = 0
    return 1


@kernel
def move_pages(w: Block, t: int, start: int, end: int, target: int) -> int:
    """mremap: entries, mapping and contents go from ``[start, end)`` to `target`."""
    for i in range(end - start):
        old = pte_at(w, 0, start + i)
        e = w[old]
        if e & M.PTE_PRESENT:
            hold(w, t, e >> M.PTE_SHIFT)
        w[pte_at(w, 0, target + i)] = e
        w[old] = 0
        for k in range(M.VMA_WORDS):
            w[vma_at(w, 0, target + i) + k] = w[vma_at(w, 0, start + i) + k]
            w[vma_at(w, 0, start + i) + k] = 0
        w[truth_at(w, 0, target + i)] = w[truth_at(w, 0, start + i)]
        w[truth_at(w, 0, start + i)] = 0
    return 1


@kernel
def share_with_child(w: Block) -> int:
    """fork: private pages become read-only in both and are shared; the child sees what the parent sees."""
    w[w[M.W_STATE] + M.X_ALIVE] |= 2
    for page in range(w[M.W_PAGES]):
        at = pte_at(w, 0, page)
        vma = vma_at(w, 0, page)
        if w[vma + M.V_FLAGS] & M.VMA_FILE == 0:
            w[at] &= ~M.PTE_WRITE
        e = w[at]
        w[pte_at(w, 1, page)] = e
        if e & M.PTE_PRESENT:
            w[frame_at(w, e >> M.PTE_SHIFT) + M.F_MAPS] += 1
        elif e & M.PTE_SWAP:
            w[slot_at(w, e >> M.PTE_SHIFT) + M.S_REFS] += 1
        for k in range(M.VMA_WORDS):
            w[vma_at(w, 1, page) + k] = w[vma + k]
        w[truth_at(w, 1, page)] = w[truth_at(w, 0, page)]
    return 1


@kernel
def swap_entry(w: Block, t: int, page: int) -> int:
    """Reclaim: the entry becomes a swap entry (a file's page: none); GIVE_UP when the page has changed or no slot is left."""
    frame = w[thread_at(w, t) + M.T_FRAME]
    at = pte_at(w, 0, page)
    if w[at] & M.PTE_PRESENT == 0 or w[at] >> M.PTE_SHIFT != frame:
        return GIVE_UP
    f = frame_at(w, frame)
    slot = w[f + M.F_SLOT]
    if slot == 0:
        slot = take_slot(w)
        if slot == 0:
            return GIVE_UP
        w[f + M.F_SLOT] = slot
        w[slot_at(w, slot) + M.S_FRAME] = frame
        w[f + M.F_FLAGS] |= M.FRAME_DIRTY
    unmap_frame(w, 0, page)
    hold(w, t, frame)
    if w[vma_at(w, 0, page) + M.V_SLOT] == 0:
        w[at] = slot << M.PTE_SHIFT | M.PTE_SWAP
        w[slot_at(w, slot) + M.S_REFS] += 1
    reach(w, M.REACHED_SWAP_OUT)
    return 1


@kernel
def migration_entry(w: Block, t: int, page: int) -> int:
    """The entry says "wait": its frame is about to be copied. Keeps the rights for the new entry."""
    at = pte_at(w, 0, page)
    e = w[at]
    if e & M.PTE_PRESENT and w[frame_at(w, e >> M.PTE_SHIFT) + M.F_HAND] >> t & 1:  # still the page that was isolated
        unmap_frame(w, 0, page)
        w[at] = (e & ~M.PTE_PRESENT) | M.PTE_MIGRATION
        hold(w, t, e >> M.PTE_SHIFT)
    return 1


@kernel
def merge_entry(w: Block, t: int, page: int, other: int) -> int:
    """Same-page merging, last round: the page's entry points to the other's frame, if nothing has changed."""
    a = thread_at(w, t)
    keep = w[a + M.T_NEW]
    mine = w[pte_at(w, 0, page)]
    theirs = w[pte_at(w, 0, other)]
    if mine & M.PTE_PRESENT == 0 or mine & M.PTE_WRITE or mine >> M.PTE_SHIFT != w[a + M.T_FRAME]:
        return GIVE_UP
    if theirs & M.PTE_PRESENT == 0 or theirs & M.PTE_WRITE or theirs >> M.PTE_SHIFT != keep:
        return GIVE_UP
    old = unmap_frame(w, 0, page)
    hold(w, t, old)
    drop_cache(w, old)
    map_frame(w, 0, page, keep, M.PTE_DIRTY)
    w[frame_at(w, keep) + M.F_FLAGS] |= M.FRAME_MERGED
    return 1


@kernel
def replace_entry(w: Block, t: int, process: int) -> int:
    """Copy on write: the entry points to the copy, if it is still the one that was copied."""
    a = thread_at(w, t)
    page = w[a + M.T_PAGE]
    e = w[pte_at(w, process, page)]
    old = w[a + M.T_FRAME]
    if e & M.PTE_PRESENT == 0 or e & M.PTE_WRITE or e >> M.PTE_SHIFT != old:
        return 1
    unmap_frame(w, process, page)
    if process == 0:
        hold(w, t, old)
    map_frame(w, process, page, w[a + M.T_NEW], M.PTE_WRITE | M.PTE_DIRTY | M.PTE_SOFT_DIRTY)
    reach(w, M.REACHED_COW)
    return 1


@kernel
def remap_copy(w: Block, t: int, page: int, new: int) -> int:
    """Migration, last part: the copy takes the place of the migration entry, and of the old frame in its cache."""
    at = pte_at(w, 0, page)
    e = w[at]
    if e & M.PTE_MIGRATION == 0 or w[frame_at(w, e >> M.PTE_SHIFT) + M.F_HAND] >> t & 1 == 0:
        return 0
    old = frame_at(w, e >> M.PTE_SHIFT)
    f = frame_at(w, new)
    slot = w[old + M.F_SLOT]
    w[f + M.F_FLAGS] |= w[old + M.F_FLAGS] & M.FRAME_DIRTY
    w[f + M.F_SLOT] = slot
    w[old + M.F_SLOT] = 0
    if slot:
        w[slot_at(w, slot) + M.S_FRAME] = new
    w[at] = 0
    return map_frame(w, 0, page, new, e & (M.PTE_WRITE | M.PTE_DIRTY | M.PTE_ACCESSED | M.PTE_SOFT_DIRTY))


@kernel
def collapse_page(w: Block, t: int) -> int:
    """Collapse: the next page of the range is copied and mapped; 0: no frame is free."""
    a = thread_at(w, t)
    o = line_at(w, t)
    page = w[o + M.O_START] + w[a + M.T_SUB]
    if w[pte_at(w, 0, page)] & M.PTE_MIGRATION:
        new = take_frame(w, 1 << t)
        if new == 0:
            return 0
        old = w[pte_at(w, 0, page)] >> M.PTE_SHIFT
        w[frame_at(w, new) + M.F_CONTENT] = w[frame_at(w, old) + M.F_CONTENT]
        remap_copy(w, t, page, new)
    w[a + M.T_SUB] += 1
    return 1 if page + 1 == w[o + M.O_END] else STAY
