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
  gives up (mm/oom_kill.c, MMU_NOTIFIER_RANGE_BLOCKABLE clear). The kernel tries ten times with pauses in between: a script has a
  line for each try.
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
from unpinned.model import layout as M
from unpinned.model.adapter import all_ready, finish_one, forget_tokens, line_at, obligations_done, start_one, thread_at
from unpinned.model.changes import (
    GIVE_UP,
    STAY,
    collapse_page,
    merge_entry,
    migration_entry,
    move_pages,
    new_mapping,
    remap_copy,
    replace_entry,
    share_with_child,
    swap_entry,
    zap,
)
from unpinned.model.layout import Block
from unpinned.model.locks import lock_phase, unlock_all
from unpinned.model.machine import drop_cache, frame_at, pte_at, reach, vma_at, write_back
from unpinned.paging import layout as P


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
        w[a + M.T_PAGE] = page if page > w[line_at(w, t) + M.O_START] else 0  # 0: not begun, under whatever name its page has
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
