"""What changes an address space, step by step, with the notifications of the real kernel in its order.

Every operation runs through the same phases; the mode of the world says in which order, so *late*, *early*, *spurious* and
*silent* are the same operations told at another moment::

    exact, blind, unsleepable   lock  START wait  change  FINISH  after          (mm/mmu_notifier.c, its callers)
    late                        lock  change  after  START wait FINISH           (userfaultfd UNMAP: raised after the unlock)
    early                       lock  START wait FINISH  change  after           (userfaultfd REMOVE: nothing marks the end)
    spurious                    lock  START wait FINISH                          (for a call that then fails)
    silent                      lock  change  after

START and FINISH are one step per device. The rules, operation by operation (Linux 6.16 and later):

* munmap, MAP_FIXED: mmap_lock for writing; start, all entries zapped, end; the frames were gathered and are freed after that
  (mm/vma.c, mmu_gather). MAP_FIXED maps the new thing in the same call.
* mremap: start over the old range, entries moved, end; no frame is freed (mm/mremap.c, move_page_tables).
* MADV_DONTNEED, the OOM reaper: mmap_lock for reading; start, zap, end, free. The reaper may not sleep: refused by anybody, it
  gives up (mm/oom_kill.c tries ten times, MMU_NOTIFIER_RANGE_BLOCKABLE clear).
* mprotect, fork, soft-dirty: start, entries write-protected (fork: and shared with the child), end.
* copy on write: the new frame is filled first, then start, the entry replaced if it is still the same, end; the old frame
  loses its reference (mm/memory.c, wp_page_copy). Runs inside whoever faulted, a device's worker included.
* reclaim, one page: page lock; start, entry replaced by a swap entry (or none), its dirty mark passed to the frame, end;
  written back if dirty; then dropped if still unmapped and clean (mm/vmscan.c, mm/rmap.c). With aging, a page that the CPU or
  a device has accessed is spared once. Shared pages are left alone here.
* migration, one page: page lock; start, migration entry, end; copied; the new frame mapped (mm/migrate.c). Collapse into a huge
  page: mmap_lock for writing; the same for the whole range, and start..end is over before anything is copied
  (mm/khugepaged.c). Split: start, the same frames mapped by smaller entries, end.
* same-page merging: each of the two is write-protected (start, end), they are compared, the second's entry is replaced by
  the first's frame (start, end), the second's frame freed (mm/ksm.c).
* exit: everything, cause RELEASE, nobody can refuse.

A refusal is respected by reclaim, migration, merging, collapse and the reaper, and by everything that may not sleep (it tries again
from the beginning); the others go on, as Linux does. The child's address space has no devices and no notifications.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import (
    address_owed,
    all_ready,
    block_at,
    finish_one,
    forget_tokens,
    hold,
    obligations_done,
    start_one,
    thread_at,
)
from unpinned.model.layout import Block
from unpinned.model.machine import (
    BLOCKED,
    COPY,
    SEGFAULT,
    access,
    drop_cache,
    drop_swap,
    fault_page,
    frame_at,
    map_frame,
    pte_at,
    reach,
    settle_frame,
    slot_at,
    take_frame,
    take_slot,
    truth_at,
    unmap_frame,
    vma_at,
    write_back,
)
from unpinned.paging import layout as P
from unpinned.paging.table import change_range, entry

STAY = 2  #: the phase goes on
GIVE_UP = 3  #: nothing to do, or no longer: the operation ends


@kernel
def line_at(w: Block, t: int) -> int:
    """The thread's line of its script."""
    return w[M.W_SCRIPT] + (t * w[M.W_LINES] + w[thread_at(w, t) + M.T_LINE]) * M.LINE_WORDS


@kernel
def cause_of(op: int) -> int:
    """The cause that the operation's notification carries."""
    if op == M.OP_UNMAP or op == M.OP_REPLACE:
        return P.CAUSE_UNMAP
    if op == M.OP_REMAP:
        return P.CAUSE_REMAP
    if op == M.OP_DISCARD:
        return P.CAUSE_DISCARD
    if op == M.OP_RECLAIM:
        return P.CAUSE_RECLAIM
    if op == M.OP_MIGRATE or op == M.OP_COLLAPSE or op == M.OP_SPLIT:
        return P.CAUSE_MIGRATE
    if op == M.OP_PROTECT or op == M.OP_FORK:
        return P.CAUSE_PROTECT
    if op == M.OP_SOFT_DIRTY:
        return P.CAUSE_SOFT_DIRTY
    if op == M.OP_MERGE:
        return P.CAUSE_MERGE
    return P.CAUSE_RELEASE if op == M.OP_OOM or op == M.OP_EXIT else P.CAUSE_COW


@kernel
def bounds(w: Block, t: int, op: int) -> int:
    """The operation's pages in this round: first << 32 | one past the last."""
    a = thread_at(w, t)
    if op == M.OP_READ or op == M.OP_WRITE or op == M.OP_POPULATE:
        return w[a + M.T_PAGE] << 32 | (w[a + M.T_PAGE] + 1)
    if op == M.OP_FORK or op == M.OP_EXIT:
        return w[M.W_PAGES]
    o = line_at(w, t)
    if op == M.OP_MERGE and w[a + M.T_ROUND] == 0:
        return w[o + M.O_ARG] << 32 | (w[o + M.O_ARG] + 1)
    return w[o + M.O_START] << 32 | w[o + M.O_END]


@kernel
def leaves_never(op: int) -> int:
    """1 when the kernel cannot leave the pages as they are: refused, it tries again (or goes on all the same)."""
    if op == M.OP_RECLAIM or op == M.OP_MIGRATE or op == M.OP_MERGE or op == M.OP_COLLAPSE or op == M.OP_OOM:
        return 0
    return 1


@kernel
def may_refuse(w: Block, op: int) -> int:
    """1 when a refusal is respected: the change is not made."""
    return 1 if w[M.W_MODE] == M.MODE_UNSLEEPABLE or not leaves_never(op) else 0


@kernel
def mode_of(w: Block, op: int, process: int) -> int:
    """How this operation notifies: a child has no devices, and a fault that copies cannot fail for ever."""
    if process:
        return M.MODE_SILENT
    if w[M.W_MODE] == M.MODE_SPURIOUS and (op == M.OP_READ or op == M.OP_WRITE or op == M.OP_POPULATE):
        return M.MODE_EXACT
    return w[M.W_MODE]


@kernel
def next_phase(mode: int, phase: int) -> int:
    """The order of the phases (see the module)."""
    if phase == M.PHASE_LOCK:
        return M.PHASE_CHANGE if mode == M.MODE_LATE or mode == M.MODE_SILENT else M.PHASE_START
    if phase == M.PHASE_START:
        return M.PHASE_WAIT
    if phase == M.PHASE_WAIT:
        return M.PHASE_CHANGE if mode == M.MODE_EXACT or mode >= M.MODE_BLIND else M.PHASE_FINISH
    if phase == M.PHASE_CHANGE:
        return M.PHASE_FINISH if mode == M.MODE_EXACT or mode >= M.MODE_BLIND else M.PHASE_AFTER
    if phase == M.PHASE_FINISH:
        if mode == M.MODE_EARLY:
            return M.PHASE_CHANGE
        return M.PHASE_OVER if mode == M.MODE_LATE or mode == M.MODE_SPURIOUS else M.PHASE_AFTER
    return M.PHASE_START if mode == M.MODE_LATE else M.PHASE_OVER


# --- locks -------------------------------------------------------------------------------------------------------------


@kernel
def lock_mm(w: Block, t: int, how: int) -> int:
    """Take mmap_lock (LOCK_READ or LOCK_WRITE); 1, or 0: somebody has it."""
    x = w[M.W_STATE] + M.X_LOCK
    if w[x] < 0 or (how == M.LOCK_WRITE and w[x] > 0):
        return 0
    w[x] = -1 - t if how == M.LOCK_WRITE else w[x] + 1
    w[thread_at(w, t) + M.T_LOCKS] |= how
    return 1


@kernel
def unlock_all(w: Block, t: int) -> int:
    """Let go of mmap_lock, the page lock, and the frames in hand."""
    a = thread_at(w, t)
    locks = w[a + M.T_LOCKS]
    x = w[M.W_STATE] + M.X_LOCK
    if locks & M.LOCK_WRITE:
        w[x] = 0
    if locks & M.LOCK_READ:
        w[x] -= 1
    w[a + M.T_LOCKS] = 0
    w[a + M.T_FRAME] = 0
    w[a + M.T_NEW] = 0
    for frame in range(1, w[M.W_FRAMES] + 1):
        f = frame_at(w, frame)
        if w[f + M.F_HAND] == t + 1:
            w[f + M.F_HAND] = 0
            w[f + M.F_FLAGS] &= ~M.FRAME_LOCKED
            settle_frame(w, frame)
    return 0


@kernel
def isolate(w: Block, t: int, page: int) -> int:
    """Lock the page's frame and take it in hand: a private page that nobody else has; -> the frame, or 0."""
    e = w[pte_at(w, 0, page)]
    if e & M.PTE_PRESENT == 0:
        return 0
    f = frame_at(w, e >> M.PTE_SHIFT)
    if w[f + M.F_FLAGS] & (M.FRAME_LOCKED | M.FRAME_MERGED) or w[f + M.F_HAND] or w[f + M.F_MAPS] > 1:
        return 0
    w[f + M.F_FLAGS] |= M.FRAME_LOCKED
    w[f + M.F_HAND] = t + 1
    return e >> M.PTE_SHIFT


@kernel
def accessed(w: Block, page: int) -> int:
    """Test and clear the accessed marks of the CPU and of every device."""
    e = pte_at(w, 0, page)
    young = w[e] & M.PTE_ACCESSED
    w[e] &= ~M.PTE_ACCESSED
    for d in range(w[M.W_DEVICES]):
        p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
        young |= entry(p, page << p[P.PAGE_SHIFT]) & P.ACCESSED
        change_range(p, page << p[P.PAGE_SHIFT], (page + 1) << p[P.PAGE_SHIFT], ~P.ACCESSED, 0)
    return 1 if young else 0


# --- the phases: 0 not now, 1 done, STAY, GIVE_UP --------------------------------------------------------------------------


@kernel
def begin_copy(w: Block, t: int, process: int, page: int) -> int:
    """do_wp_page, first part: a new frame with the old one's content; 1, or 0: none free, or mmap_lock is taken."""
    a = thread_at(w, t)
    if process == 0 and w[w[M.W_STATE] + M.X_LOCK] < 0:
        return 0
    new = take_frame(w, t + 1)
    if new == 0:
        return 0
    if process == 0:
        lock_mm(w, t, M.LOCK_READ)
    old = w[pte_at(w, process, page)] >> M.PTE_SHIFT
    w[frame_at(w, new) + M.F_CONTENT] = w[frame_at(w, old) + M.F_CONTENT]
    w[a + M.T_FRAME] = old
    w[a + M.T_NEW] = new
    w[a + M.T_PAGE] = page
    return 1


@kernel
def cpu_phase(w: Block, t: int, op: int) -> int:
    """READ and WRITE: the page in hand, faulted in if need be; 1: it must be copied first; GIVE_UP: the last page is done."""
    a = thread_at(w, t)
    o = line_at(w, t)
    process = w[o + M.O_PROCESS]
    page = max(w[a + M.T_PAGE], w[o + M.O_START])
    write = 1 if op == M.OP_WRITE else 0
    e = w[pte_at(w, process, page)]
    if e & M.PTE_PRESENT == 0 or (write and e & M.PTE_WRITE == 0):  # a fault, which needs the lock
        if process == 0 and (w[w[M.W_STATE] + M.X_LOCK] < 0 or address_owed(w, page, page + 1)):
            return 0
    there = fault_page(w, process, page, write)
    if there == BLOCKED:
        return 0
    if there == COPY:
        if begin_copy(w, t, process, page):
            return 1
        return STAY if w[pte_at(w, process, page)] != e else 0  # it was brought in, at least
    if there == SEGFAULT:
        reach(w, M.REACHED_SEGFAULT)
        return GIVE_UP
    access(w, process, page, write, w[o + M.O_ARG])
    w[a + M.T_PAGE] = page + 1
    return STAY if page + 1 < w[o + M.O_END] else GIVE_UP


@kernel
def lock_phase(w: Block, t: int, op: int) -> int:
    """Take what the operation needs before it announces anything."""
    a = thread_at(w, t)
    o = line_at(w, t)
    start = w[o + M.O_START]
    end = w[o + M.O_END]
    if op == M.OP_READ or op == M.OP_WRITE:
        return cpu_phase(w, t, op)
    if w[o + M.O_PROCESS] or op == M.OP_EXIT:
        return lock_mm(w, t, M.LOCK_WRITE) if w[o + M.O_PROCESS] == 0 else 1
    if op == M.OP_RECLAIM or op == M.OP_MIGRATE:
        e = w[pte_at(w, 0, start)]
        if op == M.OP_RECLAIM and w[o + M.O_ARG] and e & M.PTE_PRESENT and accessed(w, start):
            reach(w, M.REACHED_SPARED)
            return GIVE_UP
        frame = isolate(w, t, start)
        if frame == 0:
            return GIVE_UP
        w[a + M.T_FRAME] = frame
        if op == M.OP_MIGRATE:
            w[a + M.T_NEW] = take_frame(w, t + 1)
            return 1 if w[a + M.T_NEW] else GIVE_UP
        return 1 if w[frame_at(w, frame) + M.F_SLOT] or take_slot(w) else GIVE_UP
    if op == M.OP_MAP:
        if w[w[M.W_STATE] + M.X_LOCK] or address_owed(w, start, end):
            return 0
        for page in range(start, end):
            if w[vma_at(w, 0, page) + M.V_FLAGS]:
                return GIVE_UP  # EEXIST
        new_mapping(w, start, end, w[o + M.O_ARG])
        return GIVE_UP
    if op == M.OP_REMAP and address_owed(w, w[o + M.O_ARG], w[o + M.O_ARG] + end - start):
        return 0
    if op == M.OP_FORK and (w[M.W_PROCESSES] < 2 or w[w[M.W_STATE] + M.X_ALIVE] & 2):
        return GIVE_UP
    reads = op == M.OP_DISCARD or op == M.OP_OOM or op == M.OP_MERGE or op == M.OP_SPLIT
    if not lock_mm(w, t, M.LOCK_READ if reads else M.LOCK_WRITE):
        return 0
    if op == M.OP_MERGE:
        w[a + M.T_NEW] = isolate(w, t, w[o + M.O_ARG])  # the frame that stays
        w[a + M.T_FRAME] = isolate(w, t, start)
        return 1 if w[a + M.T_NEW] and w[a + M.T_FRAME] else GIVE_UP
    if op == M.OP_COLLAPSE:
        for page in range(start, end):
            if isolate(w, t, page) == 0:
                return GIVE_UP
    return 1


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
            if w[f + M.F_HAND] == 0:
                w[f + M.F_HAND] = t + 1
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
    if e & M.PTE_PRESENT and w[frame_at(w, e >> M.PTE_SHIFT) + M.F_HAND] == t + 1:  # still the page that was isolated
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
    if w[frame_at(w, old) + M.F_HAND] == 0:
        w[frame_at(w, old) + M.F_HAND] = t + 1
    if process == 0:
        hold(w, t, old)
    map_frame(w, process, page, w[a + M.T_NEW], M.PTE_WRITE | M.PTE_DIRTY | M.PTE_SOFT_DIRTY)
    reach(w, M.REACHED_COW)
    return 1


@kernel
def change_phase(w: Block, t: int, op: int) -> int:
    """The page table changes."""
    a = thread_at(w, t)
    if op == M.OP_POPULATE:
        return replace_entry(w, t, 0)
    o = line_at(w, t)
    process = w[o + M.O_PROCESS]
    start = w[o + M.O_START]
    end = w[o + M.O_END]
    if op == M.OP_READ or op == M.OP_WRITE:
        return replace_entry(w, t, process)
    if op == M.OP_REPLACE:
        if w[a + M.T_SUB] == 0:
            w[a + M.T_SUB] = 1
            zap(w, t, 0, start, end, 1)
            return STAY
        if not obligations_done(w, t):
            return 0
        w[a + M.T_SUB] = 0
        return new_mapping(w, start, end, w[o + M.O_ARG]) + 1
    if op == M.OP_EXIT:
        w[w[M.W_STATE] + M.X_ALIVE] &= ~(1 << process)
        return zap(w, t, process, 0, w[M.W_PAGES], 1)
    if op == M.OP_UNMAP or op == M.OP_DISCARD or op == M.OP_OOM:
        return zap(w, t, process, start, end, 1 if op == M.OP_UNMAP else 0)
    if op == M.OP_REMAP:
        return move_pages(w, t, start, end, w[o + M.O_ARG])
    if op == M.OP_FORK:
        return share_with_child(w)
    if op == M.OP_RECLAIM:
        return swap_entry(w, t, start)
    if op == M.OP_MERGE and w[a + M.T_ROUND] == 2:
        return merge_entry(w, t, start, w[o + M.O_ARG])
    if op == M.OP_MERGE and w[a + M.T_ROUND] == 0:
        start = w[o + M.O_ARG]
        end = start + 1
    for page in range(start, end):
        at = pte_at(w, 0, page)
        if op == M.OP_MIGRATE or op == M.OP_COLLAPSE:
            migration_entry(w, t, page)
        elif op == M.OP_PROTECT:
            vma = vma_at(w, 0, page)
            w[vma + M.V_FLAGS] = (w[vma + M.V_FLAGS] & ~M.VMA_WRITE) | (M.VMA_WRITE if w[o + M.O_ARG] else 0)
            w[at] &= -1 if w[o + M.O_ARG] else ~M.PTE_WRITE
        elif op == M.OP_SOFT_DIRTY:
            w[at] &= ~(M.PTE_WRITE | M.PTE_SOFT_DIRTY)
        elif op == M.OP_MERGE:
            w[at] &= ~M.PTE_WRITE
    return 1


@kernel
def remap_copy(w: Block, t: int, page: int, new: int) -> int:
    """Migration, last part: the copy takes the place of the migration entry, and of the old frame in its cache."""
    at = pte_at(w, 0, page)
    e = w[at]
    if e & M.PTE_MIGRATION == 0 or w[frame_at(w, e >> M.PTE_SHIFT) + M.F_HAND] != t + 1:
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
        new = take_frame(w, t + 1)
        if new == 0:
            return 0
        old = w[pte_at(w, 0, page)] >> M.PTE_SHIFT
        w[frame_at(w, new) + M.F_CONTENT] = w[frame_at(w, old) + M.F_CONTENT]
        remap_copy(w, t, page, new)
    w[a + M.T_SUB] += 1
    return 1 if page + 1 == w[o + M.O_END] else STAY


@kernel
def after_phase(w: Block, t: int, op: int) -> int:
    """What comes after the notification: write-back, copies, frames freed, locks."""
    a = thread_at(w, t)
    if op == M.OP_MIGRATE and w[a + M.T_SUB] == 0:
        w[frame_at(w, w[a + M.T_NEW]) + M.F_CONTENT] = w[frame_at(w, w[a + M.T_FRAME]) + M.F_CONTENT]
        w[a + M.T_SUB] = 1
        return STAY
    if op == M.OP_MIGRATE:
        remap_copy(w, t, w[line_at(w, t) + M.O_START], w[a + M.T_NEW])
    elif op == M.OP_COLLAPSE:
        step = collapse_page(w, t)
        if step != 1:
            return step
    elif op == M.OP_RECLAIM:
        frame = w[a + M.T_FRAME]
        f = frame_at(w, frame)
        if w[a + M.T_SUB] == 0:
            if not obligations_done(w, t):
                return 0
            w[a + M.T_SUB] = 1
            if w[f + M.F_FLAGS] & M.FRAME_DIRTY:
                write_back(w, frame)
                return STAY
        if w[f + M.F_MAPS] == 0 and w[f + M.F_FLAGS] & M.FRAME_DIRTY == 0:
            drop_cache(w, frame)
    elif op == M.OP_SOFT_DIRTY:
        if not obligations_done(w, t):
            return 0
    elif op == M.OP_MERGE:
        if w[a + M.T_ROUND] == 1:
            if w[frame_at(w, w[a + M.T_FRAME]) + M.F_CONTENT] != w[frame_at(w, w[a + M.T_NEW]) + M.F_CONTENT]:
                unlock_all(w, t)
                return GIVE_UP
        if w[a + M.T_ROUND] < 2:
            return 1
    unlock_all(w, t)
    return 1


# --- threads -------------------------------------------------------------------------------------------------------------


@kernel
def end_line(w: Block, t: int, again: int) -> int:
    """The operation is over: back to the script, on its next line (again: on the same one). 1."""
    a = thread_at(w, t)
    unlock_all(w, t)
    forget_tokens(w, t)
    line = w[a + M.T_LINE]
    page = w[a + M.T_PAGE]
    op = w[a + M.T_OP]
    for i in range(w[M.W_THREAD_WORDS]):
        w[a + i] = 0
    if op == M.OP_POPULATE:
        return 1
    w[a + M.T_LINE] = line
    if again:
        w[a + M.T_PAGE] = page
        return 1
    w[M.W_COMPLETED] |= 1 << t
    w[a + M.T_LINE] = line + 1
    if (w[M.W_LOOPS] >> t) & 1 and (line + 1 == w[M.W_LINES] or w[line_at(w, t) + M.O_OP] == 0):
        w[a + M.T_LINE] = 0
    return 1


@kernel
def enter(w: Block, t: int, op: int, phase: int) -> int:
    """Begin a phase; after the last one of a round, the next round or the end. 1."""
    a = thread_at(w, t)
    w[a + M.T_PHASE] = phase
    w[a + M.T_AT] = 0
    if phase < M.PHASE_OVER:
        return 1
    if op == M.OP_MERGE and w[a + M.T_ROUND] < 2 and w[a + M.T_REFUSED] == 0:
        w[a + M.T_ROUND] += 1
        forget_tokens(w, t)
        w[a + M.T_PHASE] = next_phase(w[M.W_MODE], M.PHASE_LOCK)
        return 1
    if op == M.OP_READ or op == M.OP_WRITE or op == M.OP_POPULATE:
        return end_line(w, t, 1)  # the copy is made: the access is tried again
    if w[a + M.T_REFUSED] != 0 and may_refuse(w, op):
        reach(w, M.REACHED_ABANDONED)
        return end_line(w, t, 1 if leaves_never(op) else 0)
    return end_line(w, t, 0)


@kernel
def notify_phase(w: Block, t: int, op: int, phase: int) -> int:
    """START, WAIT and FINISH: one device a step (W_CHOICE); 0: not now, 1: a step was made, the phase goes on by itself."""
    a = thread_at(w, t)
    mode = mode_of(w, op, 0)
    gone = w[a + M.T_REFUSED] != 0 and may_refuse(w, op)
    if phase == M.PHASE_WAIT:
        if not all_ready(w, t):
            return 0
        return enter(w, t, op, M.PHASE_FINISH if gone else next_phase(mode, phase))
    d = w[M.W_CHOICE]
    if w[a + M.T_AT] >> d & 1:
        return 0
    every = (1 << w[M.W_DEVICES]) - 1
    if phase == M.PHASE_START:
        cause = P.CAUSE_UNKNOWN if mode == M.MODE_BLIND else cause_of(op)
        sleeps = 0 if mode == M.MODE_UNSLEEPABLE or op == M.OP_OOM else 1
        pages = bounds(w, t, op)
        if not start_one(w, t, d, pages >> 32, pages & 0xFFFFFFFF, cause, sleeps):
            return reach(w, M.REACHED_FULL)
        gone = w[a + M.T_REFUSED] != 0 and may_refuse(w, op)
        if gone or w[a + M.T_AT] == every:
            enter(w, t, op, M.PHASE_WAIT)
        return 1
    finish_one(w, t, d)
    if w[a + M.T_AT] == every:
        return enter(w, t, op, M.PHASE_OVER if gone else next_phase(mode, phase))
    return 1


@kernel
def operation_step(w: Block, t: int, op: int, process: int) -> int:
    """The next step of an operation that is past its lock phase; 1, or 0: it cannot go on now."""
    a = thread_at(w, t)
    phase = w[a + M.T_PHASE]
    mode = mode_of(w, op, process)
    if phase == M.PHASE_CHANGE or phase == M.PHASE_AFTER:
        done = change_phase(w, t, op) if phase == M.PHASE_CHANGE else after_phase(w, t, op)
        if done == 1:
            w[a + M.T_SUB] = 0
            return enter(w, t, op, next_phase(mode, phase))
        if (
            done == GIVE_UP
            and phase == M.PHASE_CHANGE
            and mode != M.MODE_LATE
            and next_phase(mode, phase) == M.PHASE_FINISH
        ):
            w[a + M.T_REFUSED] |= M.REFUSED_ITSELF  # as after a refusal: finish those that were started, and leave it
            return enter(w, t, op, M.PHASE_FINISH)
        if done == GIVE_UP:
            return end_line(w, t, 0)
        return 1 if done else 0
    return notify_phase(w, t, op, phase)


@kernel
def cpu_step(w: Block, t: int) -> int:
    """The next step of a CPU or kernel thread; 1, or 0: its script is over, or it cannot go on now."""
    a = thread_at(w, t)
    if w[a + M.T_LINE] >= w[M.W_LINES]:
        return 0
    o = line_at(w, t)
    op = w[o + M.O_OP]
    process = w[o + M.O_PROCESS]
    if op == M.OP_NONE:
        return 0
    if w[a + M.T_OP]:
        return operation_step(w, t, op, process)
    alive = w[w[M.W_STATE] + M.X_ALIVE]
    if (alive >> process) & 1 == 0:
        return 0 if process and alive & 1 else end_line(w, t, 0)
    done = lock_phase(w, t, op)
    if done == GIVE_UP:
        return end_line(w, t, 0)
    if done == 1:
        w[a + M.T_OP] = op
        return enter(w, t, op, next_phase(mode_of(w, op, process), M.PHASE_LOCK))
    return 1 if done else 0
