"""The modelled kernel's memory: frames, backing store, mappings and page-table entries, one step at a time.

Rules, and where they come from (Linux 6.16 and later; facts, no text):

* A page is nowhere (all zeroes), in a frame, in a slot of the swap, or both: then the frame is the *swap cache* of the slot
  and the page-table entries say "swap" (mm/swap_state.c). A page of a file is the same with the file's own block.
* A fault (mm/memory.c, handle_mm_fault) needs mmap_lock for reading. It takes a frame from the cache if the page lock is free,
  else reads it in; entries of anonymous memory come writable when nobody shares the frame. A write to a shared or merged
  frame, or one that somebody holds a reference to, makes a copy: do_wp_page, which notifies (operations.py). Else it is reused.
  A migration entry is waited for.
* A write fault marks the entry dirty before the caller (the CPU, or a device's get_user_pages) writes; what takes the entry away
  passes the mark on to the frame (try_to_unmap). A clean frame that has a slot is dropped without being written.
* A frame is free again when no entry maps it, nobody has it in hand (isolated, gathered: a reference), no obligation of a
  deferral holds it, and it caches no slot that somebody may still want (folio_put, free_swap_cache).

Simplifications: one page size; no zero page (a read fault of untouched memory takes a frame); the CPU has no translation cache;
a child process has no second thread, so its mmap_lock is not modelled; reading from backing store is one step.

Who takes "the lowest free" frame or slot gets equal blocks in equal situations; with W_LISTS the same in O(1), in other order.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.model import layout as M
from unpinned.model.layout import Block

THERE = 1  #: the page is there, with the right that was asked for
COPY = 2  #: it must be copied first
BLOCKED = 0  #: not now: somebody holds a lock, or no frame is free
SEGFAULT = -1

PROPERTY_I1 = 1
PROPERTY_I2 = 2
PROPERTY_I3 = 3
PROPERTY_I4 = 4
PROPERTY_I5 = 5
PROPERTY_I8 = 8
PROPERTY_I10 = 10
PROPERTY_BOUND = 11


@kernel
def frame_at(w: Block, frame: int) -> int:
    """First word of the frame's record."""
    return w[M.W_FRAME] + frame * w[M.W_FRAME_WORDS]


@kernel
def slot_at(w: Block, slot: int) -> int:
    """First word of the slot's record."""
    return w[M.W_SLOT] + slot * M.SLOT_WORDS


@kernel
def pte_at(w: Block, process: int, page: int) -> int:
    """The word of the page-table entry."""
    return w[M.W_PTE] + process * w[M.W_PAGES] + page


@kernel
def vma_at(w: Block, process: int, page: int) -> int:
    """First word of the page's mapping record."""
    return w[M.W_VMA] + (process * w[M.W_PAGES] + page) * M.VMA_WORDS


@kernel
def truth_at(w: Block, process: int, page: int) -> int:
    """The word that says what the page must contain."""
    return w[M.W_TRUTH] + process * w[M.W_PAGES] + page


@kernel
def reach(w: Block, bits: int) -> int:
    """Note that something of REACHED happened in this step."""
    w[M.W_REACHED] |= bits
    return 0


@kernel
def broken(w: Block, which: int, where: int) -> int:
    """Note that a property does not hold (the first one of a step counts)."""
    if w[M.W_BROKEN] == 0:
        w[M.W_BROKEN] = which
        w[M.W_WHERE] = where
    return 0


# --- frames and slots ------------------------------------------------------------------------------------------------


@kernel
def take_frame(w: Block, hand: int) -> int:
    """A zeroed frame with references of `hand` (bits of threads); -> its number, 0: none is free."""
    frame = 0
    if w[M.W_LISTS]:
        x = w[M.W_STATE]
        frame = w[x + M.X_FREE_FRAME]
        if frame == 0:
            return 0
        w[x + M.X_FREE_FRAME] = w[frame_at(w, frame) + M.F_NEXT]
        w[x + M.X_FREE_FRAMES] -= 1
        w[frame_at(w, frame) + M.F_NEXT] = 0
    else:
        frame = 1
        while frame <= w[M.W_FRAMES] and w[frame_at(w, frame) + M.F_FLAGS]:
            frame += 1
        if frame > w[M.W_FRAMES]:
            return 0
    f = frame_at(w, frame)
    w[f + M.F_FLAGS] = M.FRAME_USED
    w[f + M.F_HAND] = hand
    return frame


@kernel
def is_held(w: Block, frame: int) -> int:
    """1 when an obligation of a deferral holds the frame."""
    f = frame_at(w, frame) + M.F_HOLD
    for d in range(w[M.W_DEVICES]):
        if w[f + d]:
            return 1
    return 0


@kernel
def settle_frame(w: Block, frame: int) -> int:
    """Free the frame unless somebody still wants it; 1 if it was freed."""
    f = frame_at(w, frame)
    if w[f + M.F_MAPS] or w[f + M.F_HAND] or is_held(w, frame):
        return 0
    slot = w[f + M.F_SLOT]
    if slot:
        s = slot_at(w, slot)
        if w[s + M.S_FILE] or w[s + M.S_REFS]:
            return 0
        w[s + M.S_FRAME] = 0
        settle_slot(w, slot)
    for i in range(w[M.W_FRAME_WORDS]):
        w[f + i] = 0
    if w[M.W_LISTS]:
        x = w[M.W_STATE]
        w[f + M.F_NEXT] = w[x + M.X_FREE_FRAME]
        w[x + M.X_FREE_FRAME] = frame
        w[x + M.X_FREE_FRAMES] += 1
    return 1


@kernel
def take_slot(w: Block) -> int:
    """A free block of the swap; -> its number, 0: none is free. The caller gives it a reference or a cache at once."""
    slot = 1
    if w[M.W_LISTS]:
        x = w[M.W_STATE]
        slot = w[x + M.X_FREE_SLOT]
        if slot:
            w[x + M.X_FREE_SLOT] = w[slot_at(w, slot) + M.S_NEXT]
            w[slot_at(w, slot) + M.S_NEXT] = 0
        return slot
    while slot <= w[M.W_SLOTS]:
        s = slot_at(w, slot)
        if w[s + M.S_REFS] == 0 and w[s + M.S_FRAME] == 0 and w[s + M.S_FILE] == 0:
            return slot
        slot += 1
    return 0


@kernel
def settle_slot(w: Block, slot: int) -> int:
    """Free the slot unless an entry refers to it, a frame caches it, or it is a file's; 1 if it was freed."""
    s = slot_at(w, slot)
    if w[s + M.S_REFS] or w[s + M.S_FRAME] or w[s + M.S_FILE]:
        return 0
    w[s + M.S_CONTENT] = 0
    if w[M.W_LISTS]:
        w[s + M.S_NEXT] = w[w[M.W_STATE] + M.X_FREE_SLOT]
        w[w[M.W_STATE] + M.X_FREE_SLOT] = slot
    return 1


@kernel
def drop_cache(w: Block, frame: int) -> int:
    """The frame is no longer the cache of its slot."""
    f = frame_at(w, frame)
    slot = w[f + M.F_SLOT]
    if slot:
        w[slot_at(w, slot) + M.S_FRAME] = 0
        w[f + M.F_SLOT] = 0
        w[f + M.F_FLAGS] &= ~M.FRAME_DIRTY
        settle_slot(w, slot)
    return slot


@kernel
def write_back(w: Block, frame: int) -> int:
    """Copy the frame to its slot; it is clean then."""
    f = frame_at(w, frame)
    w[slot_at(w, w[f + M.F_SLOT]) + M.S_CONTENT] = w[f + M.F_CONTENT]
    w[f + M.F_FLAGS] &= ~M.FRAME_DIRTY
    return reach(w, M.REACHED_WRITE_BACK)


# --- entries -----------------------------------------------------------------------------------------------------------


@kernel
def map_frame(w: Block, process: int, page: int, frame: int, bits: int) -> int:
    """Make the entry point to the frame, with these PTE_ bits."""
    w[pte_at(w, process, page)] = frame << M.PTE_SHIFT | M.PTE_PRESENT | bits
    w[frame_at(w, frame) + M.F_MAPS] += 1
    return 0


@kernel
def unmap_frame(w: Block, process: int, page: int) -> int:
    """Clear a present entry; its dirty mark goes to the frame. -> the frame (the caller settles it), 0: not present."""
    e = w[pte_at(w, process, page)]
    if e & M.PTE_PRESENT == 0:
        return 0
    frame = e >> M.PTE_SHIFT
    f = frame_at(w, frame)
    w[pte_at(w, process, page)] = 0
    w[f + M.F_MAPS] -= 1
    if e & M.PTE_DIRTY:
        w[f + M.F_FLAGS] |= M.FRAME_DIRTY
    return frame


@kernel
def drop_swap(w: Block, process: int, page: int) -> int:
    """Clear an entry that is not present; a swap entry gives its slot back."""
    e = w[pte_at(w, process, page)]
    w[pte_at(w, process, page)] = 0
    if e & M.PTE_SWAP:
        slot = e >> M.PTE_SHIFT
        s = slot_at(w, slot)
        w[s + M.S_REFS] -= 1
        if w[s + M.S_REFS] == 0 and w[s + M.S_FRAME]:
            settle_frame(w, w[s + M.S_FRAME])
        else:
            settle_slot(w, slot)
    return 0


@kernel
def set_truth(w: Block, process: int, page: int, value: int) -> int:
    """A write that must be seen by whoever maps this page from now on."""
    block = w[vma_at(w, process, page) + M.V_SLOT]
    w[truth_at(w, process, page)] = value
    for other in range(w[M.W_PROCESSES] * w[M.W_PAGES] if block else 0):
        if w[w[M.W_VMA] + other * M.VMA_WORDS + M.V_SLOT] == block:
            w[w[M.W_TRUTH] + other] = value
    return 0


@kernel
def content(w: Block, process: int, page: int) -> int:
    """What a read of the page would find now, or -1 while it is between two places (a migration entry) or unmapped."""
    e = w[pte_at(w, process, page)]
    if e & M.PTE_PRESENT:
        return w[frame_at(w, e >> M.PTE_SHIFT) + M.F_CONTENT]
    vma = vma_at(w, process, page)
    if e & M.PTE_MIGRATION or w[vma + M.V_FLAGS] == 0:
        return -1
    slot = e >> M.PTE_SHIFT if e & M.PTE_SWAP else w[vma + M.V_SLOT]
    if slot == 0:
        return 0
    s = slot_at(w, slot)
    return w[frame_at(w, w[s + M.S_FRAME]) + M.F_CONTENT] if w[s + M.S_FRAME] else w[s + M.S_CONTENT]


# --- faults ------------------------------------------------------------------------------------------------------------


@kernel
def cached_frame(w: Block, slot: int) -> int:
    """The frame that caches the slot, read in if need be; 0: locked, or no frame is free."""
    s = slot_at(w, slot)
    frame = w[s + M.S_FRAME]
    if frame:
        return 0 if w[frame_at(w, frame) + M.F_FLAGS] & M.FRAME_LOCKED else frame
    frame = take_frame(w, 0)
    if frame:
        w[frame_at(w, frame) + M.F_CONTENT] = w[s + M.S_CONTENT]
        w[frame_at(w, frame) + M.F_SLOT] = slot
        w[s + M.S_FRAME] = frame
        reach(w, M.REACHED_SWAP_IN)
    return frame


@kernel
def bring_in(w: Block, process: int, page: int) -> int:
    """Map a page that is not present: from its slot, or zeroes; -> THERE or BLOCKED (nothing changed)."""
    e = w[pte_at(w, process, page)]
    vma = vma_at(w, process, page)
    if e & M.PTE_MIGRATION:
        return BLOCKED
    block = w[vma + M.V_SLOT]
    slot = e >> M.PTE_SHIFT if e & M.PTE_SWAP else block
    if slot == 0:
        frame = take_frame(w, 0)
        if frame == 0:
            return BLOCKED
        map_frame(w, process, page, frame, M.PTE_WRITE if w[vma + M.V_FLAGS] & M.VMA_WRITE else 0)
        return THERE
    frame = cached_frame(w, slot)
    if frame == 0:
        return BLOCKED
    map_frame(w, process, page, frame, 0)
    if e & M.PTE_SWAP:
        w[slot_at(w, slot) + M.S_REFS] -= 1
    return THERE


@kernel
def fault_page(w: Block, process: int, page: int, write: int) -> int:
    """One try of handle_mm_fault; -> THERE, COPY (do_wp_page must copy first), BLOCKED (nothing changed) or SEGFAULT."""
    if page < 0 or page >= w[M.W_PAGES] or (w[w[M.W_STATE] + M.X_ALIVE] >> process) & 1 == 0:
        return SEGFAULT
    at = pte_at(w, process, page)
    flags = w[vma_at(w, process, page) + M.V_FLAGS]
    if flags & M.VMA_MAPPED == 0 or (write and flags & M.VMA_WRITE == 0):
        return SEGFAULT
    if w[at] & M.PTE_PRESENT == 0 and bring_in(w, process, page) == BLOCKED:
        return BLOCKED
    bits = M.PTE_ACCESSED
    if write:
        f = frame_at(w, w[at] >> M.PTE_SHIFT)
        if w[at] & M.PTE_WRITE == 0:
            shared = w[f + M.F_MAPS] > 1 or w[f + M.F_HAND] or w[f + M.F_FLAGS] & M.FRAME_MERGED
            shared |= is_held(w, w[at] >> M.PTE_SHIFT)  # an obligation is a reference as well
            shared |= w[
                slot_at(w, w[f + M.F_SLOT]) + M.S_REFS
            ]  # somebody will find it in the swap cache (slot 0: nobody)
            if shared and flags & M.VMA_FILE == 0:
                return COPY
            reach(w, M.REACHED_REUSED)
        bits |= M.PTE_WRITE | M.PTE_DIRTY | M.PTE_SOFT_DIRTY
    w[at] |= bits
    return THERE


@kernel
def access(w: Block, process: int, page: int, write: int, value: int) -> int:
    """The CPU reads or writes a page that is there; a read that does not find what was written last breaks I4."""
    e = w[pte_at(w, process, page)]
    f = frame_at(w, e >> M.PTE_SHIFT)
    if write:
        w[f + M.F_CONTENT] = value
        set_truth(w, process, page, value)
    elif w[f + M.F_CONTENT] != w[truth_at(w, process, page)]:
        broken(w, PROPERTY_I4, page)
    return 0


# --- making a world ----------------------------------------------------------------------------------------------------


@kernel
def map_pages(w: Block, process: int, start: int, end: int, flags: int) -> int:
    """A new mapping over pages ``[start, end)`` with these VMA_ flags; file mappings take a block each; -> its id.

    Called first, for all pages, it gives page n block n + 1, which is what an alias relies on.
    """
    x = w[M.W_STATE]
    w[x + M.X_NEXT_ID] += 1
    for page in range(start, end):
        vma = vma_at(w, process, page)
        w[vma + M.V_FLAGS] = flags | w[x + M.X_NEXT_ID] << M.VMA_SHIFT
        w[vma + M.V_SLOT] = 0
        if flags & M.VMA_FILE:
            slot = take_slot(w)
            if slot:
                w[slot_at(w, slot) + M.S_FILE] = 1
                w[slot_at(w, slot) + M.S_REFS] = 1
            w[vma + M.V_SLOT] = slot
        w[truth_at(w, process, page)] = 0
    return w[x + M.X_NEXT_ID]
