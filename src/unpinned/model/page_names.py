"""Pages get other names: everything in a state that is indexed by a page, or names one.

================================ ==========================================================================================
page tables, mappings, truths    indexed, in both processes; a mapping of a file names the page's block
blocks of a file                 a slot each: page p's is p + 1, so its record moves, and who names it is told: mappings,
                                 frames that cache it (no swap entry does); a device that copies through an alias has
                                 blocks where others have frames (table entries, what it saw, what a request goes to)
contents of frames and slots     and truths: named after the page, request or line of a script that wrote them
threads                          the page in hand; between two pages of a READ or WRITE the next one (0: not begun)
requests                         how far they are translated, how far copied; what belongs to page start + i stays where it is
translation caches, table        indexed, per device
invalidations, deferrals         a range each, which is mapped to a range, in any order
faults, descriptors              a range each, which keeps its order: all its words move by the same number of pages
a driver, a worker               how far it has seen, or brought in, the fault that it is on
================================ ==========================================================================================

`page` and `value` are the new names: page p becomes ``page[p]``, content v becomes ``value[v]``. `w` is the state as it was; `to` is the
same with its devices, requests and threads exchanged already (symmetry.permute), and is changed.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import block_at, device_at, thread_at
from unpinned.model.device import order_at, request_at
from unpinned.model.layout import Block
from unpinned.model.machine import frame_at, pte_at, slot_at, truth_at, vma_at
from unpinned.paging import layout as P


@kernel
def renamed_slot(w: Block, page: Block, slot: int) -> int:
    """A file's block goes with its page; a block of the swap is nobody's."""
    return page[slot - 1] + 1 if w[slot_at(w, slot) + M.S_FILE] else slot


@kernel
def move_memory(w: Block, to: Block, page: Block, value: Block) -> int:
    """Page tables, mappings, truths, slots, frames."""
    for process in range(w[M.W_PROCESSES]):
        for old in range(w[M.W_PAGES]):
            new = page[old]
            to[pte_at(w, process, new)] = w[pte_at(w, process, old)]
            to[truth_at(w, process, new)] = value[w[truth_at(w, process, old)]]
            mine, theirs = vma_at(w, process, old), vma_at(w, process, new)
            to[theirs + M.V_FLAGS] = w[mine + M.V_FLAGS]
            to[theirs + M.V_SLOT] = renamed_slot(w, page, w[mine + M.V_SLOT])
    for slot in range(1, w[M.W_SLOTS] + 1):
        s = slot_at(w, renamed_slot(w, page, slot))
        for i in range(M.SLOT_WORDS):
            to[s + i] = w[slot_at(w, slot) + i]
        to[s + M.S_CONTENT] = value[to[s + M.S_CONTENT]]
    for frame in range(1, w[M.W_FRAMES] + 1):
        f = frame_at(w, frame)
        to[f + M.F_CONTENT] = value[w[f + M.F_CONTENT]]
        to[f + M.F_SLOT] = renamed_slot(w, page, w[f + M.F_SLOT])
    return 0


@kernel
def move_thread(w: Block, to: Block, page: Block, t: int, other: int) -> int:
    """The page in hand of thread t, which is called `other` now."""
    a = thread_at(w, t)
    b = thread_at(to, other)
    op = w[a + M.T_OP]
    if op == M.OP_READ or op == M.OP_WRITE or op == M.OP_POPULATE:
        to[b + M.T_PAGE] = page[w[a + M.T_PAGE]]
    elif op == M.OP_NONE and w[a + M.T_PAGE]:
        line = w[a + M.T_LINE] * M.LINE_WORDS + M.O_START
        length = w[M.W_LINES] * M.LINE_WORDS
        to[b + M.T_PAGE] += w[w[M.W_SCRIPT] + other * length + line] - w[w[M.W_SCRIPT] + t * length + line]
    return 0


@kernel
def move_request(w: Block, to: Block, page: Block, r: int, other: int) -> int:
    """How far request r, which is called `other` now, has come."""
    q = request_at(to, other)
    by = w[order_at(w, other) + M.R_START] - w[order_at(w, r) + M.R_START]
    to[q + M.Q_CURSOR] += by
    if to[q + M.Q_DMA]:
        to[q + M.Q_COPIED] += by
    if w[M.W_KIND] == M.KIND_ALIAS:
        for i in range(q + M.Q_FRAME, q + w[M.W_REQUEST_WORDS]):
            to[i] = renamed_slot(w, page, to[i])
    return 0


@kernel
def move_ranges(p: Block, page: Block, at: int, count: int, words: int) -> int:
    """`count` records, of which words 1 and 2 are a range that is mapped to a range."""
    for record in range(at, at + count * words, words):
        start = p[record + P.ACTIVE_START]
        length = p[record + P.ACTIVE_END] - start
        if length:
            first = page[start]
            for i in range(start + 1, start + length):
                first = min(first, page[i])
            p[record + P.ACTIVE_START] = first
            p[record + P.ACTIVE_END] = first + length
    return 0


@kernel
def move_fault(p: Block, page: Block, slot: int) -> int:
    """One fault's range, and how far it has come; -> by how many pages."""
    if p[slot + P.FAULT_STATE] == P.FAULT_FREE:
        return 0
    by = page[p[slot + P.FAULT_START]] - p[slot + P.FAULT_START]
    p[slot + P.FAULT_START] += by
    p[slot + P.FAULT_END] += by
    p[slot + P.FAULT_DEMAND] += by
    p[slot + P.FAULT_CURSOR] += by
    if p[slot + P.FAULT_CHUNK_END]:
        p[slot + P.FAULT_CHUNK_END] += by
    return by


@kernel
def move_device(w: Block, to: Block, page: Block, d: int, other: int) -> int:
    """Cache, driver, worker and paging block of device d, which is called `other` now. (Pages are of one byte, the table has one level.)"""
    a = device_at(to, other)
    p = words_at(block_at(to, other), w[M.W_BLOCK_WORDS])
    nodes = w[M.W_BLOCKS] + d * w[M.W_BLOCK_WORDS] + p[P.NODES]
    alias = w[M.W_KIND] == M.KIND_ALIAS
    for old in range(w[M.W_PAGES]):
        to[w[M.W_TLB] + other * w[M.W_PAGES] + page[old]] = w[w[M.W_TLB] + d * w[M.W_PAGES] + old]
        e = w[nodes + old]
        if alias:
            e = renamed_slot(w, page, e >> P.FLAG_BITS) << P.FLAG_BITS | (e & P.FLAG_MASK)
        p[p[P.NODES] + page[old]] = e
    move_ranges(p, page, p[P.ACTIVE], p[P.ACTIVE_CAPACITY], P.ACTIVE_WORDS)
    move_ranges(p, page, p[P.DEFERRALS], p[P.DEFERRAL_CAPACITY], P.DEFERRAL_WORDS)
    for i in range(p[P.DMA_COUNT]):
        at = p[P.DMA] + i * P.DMA_WORDS
        if p[at + P.DMA_STATE]:
            p[at + P.DMA_VA] = page[p[at + P.DMA_VA]]
    for i in range(p[P.FAULT_CAPACITY]):
        slot = p[P.FAULTS] + i * P.FAULT_WORDS
        by = move_fault(p, page, slot)
        if to[a + M.D_SCAN] == slot:
            to[a + M.D_UPTO] += by
        if to[a + M.D_WORK] == slot and p[slot + P.FAULT_CHUNK_END]:
            to[a + M.D_POPULATED] += by
    if alias:
        for i in range(a + M.D_SEEN, a + w[M.W_DEVICE_WORDS]):
            to[i] = renamed_slot(w, page, to[i])
    return 0
