"""One host's memory: page-table entries, frames, swap; and the copies of its device, each of them judged.

Rules:

* A page is GONE (no mapping: touching it is an error), ZERO (mapped, never touched or discarded), PRESENT (a frame, perhaps
  write-protected), SWAPPED, or SWAPPING (its frame is held until an obligation is flushed, then swap gets the contents).
* The device copies through the frames that it translated to: those of its table, or of its own translation cache where it has
  one, taken in the step that described the copy (``capture``) and used when the copy is made (``execute``). Between the two
  anything may happen; that nothing bad does is what the notifier is for.
* I1: the frame of a copy was not freed since, and is still that page's. I2: a write needs the CPU's write right when it is
  described and when it is made. I3: what the table gives is what the CPU's page table has now.

A freed frame is filled with 0xDD, so that a copy which slipped through the checks shows in the data. Sources: those of
`model/machine.py`, of which this is the part that a transport can tell apart.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of, copy_bytes, fill_bytes, load8, load64, store64
from unpinned.paging import layout as P
from unpinned.paging.table import entry
from unpinned.swarm import layout as S
from unpinned.swarm.events import fail, trace

POISON = 0xDD
EFAULT = 14


@kernel
def host_at(w, host):
    return w[S.W_HOST] + host * S.HOST_WORDS


@kernel
def device_at(w, host):
    """Address of the host's device block; of ``device_words`` words."""
    return address_of(w) + 8 * w[w[S.W_HOST] + host * S.HOST_WORDS + S.HO_H]


@kernel
def device_words(w, host):
    return w[w[S.W_HOST] + host * S.HOST_WORDS + S.HO_H_WORDS]


@kernel
def paging_at(w, host):
    """Address of the host's paging block; of ``paging_words`` words."""
    return address_of(w) + 8 * w[w[S.W_HOST] + host * S.HOST_WORDS + S.HO_P]


@kernel
def paging_words(w, host):
    return w[w[S.W_HOST] + host * S.HOST_WORDS + S.HO_P_WORDS]


@kernel
def page_at(w, host, page):
    """The record of a page by its number."""
    return w[w[S.W_HOST] + host * S.HOST_WORDS + S.HO_PAGE] + (page - S.FIRST_PAGE) * S.PAGE_WORDS


@kernel
def frame_at(w, host, frame):
    return w[w[S.W_HOST] + host * S.HOST_WORDS + S.HO_FRAME] + frame * S.FRAME_WORDS


@kernel
def frame_bytes(w, b, host, frame):
    """Address of a frame's bytes."""
    return address_of(b) + w[w[S.W_HOST] + host * S.HOST_WORDS + S.HO_BYTES] + frame * S.PAGE


@kernel
def swap_bytes(w, b, host, page):
    return address_of(b) + w[w[S.W_HOST] + host * S.HOST_WORDS + S.HO_SWAP] + (page - S.FIRST_PAGE) * S.PAGE


@kernel
def shadow_bytes(w, b, host, va):
    """Address of what the byte at ``va`` must be."""
    return address_of(b) + w[w[S.W_HOST] + host * S.HOST_WORDS + S.HO_SHADOW] + va - (S.FIRST_PAGE << S.PAGE_SHIFT)


# ---- frames ----------------------------------------------------------------------------------------------------------


@kernel
def take_frame(w, host, page):
    """The lowest free frame, for a page; -1 when there is none."""
    for frame in range(w[host_at(w, host) + S.HO_FRAMES]):
        f = frame_at(w, host, frame)
        if w[f + S.FR_STATE] == 0:
            w[f + S.FR_STATE] = S.FRAME_MAPPED
            w[f + S.FR_PAGE] = page
            return frame
    return -1


@kernel
def free_frame(w, b, host, frame):
    f = frame_at(w, host, frame)
    w[f + S.FR_STATE] = 0
    w[f + S.FR_PAGE] = 0
    w[f + S.FR_AGE] += 1
    fill_bytes(frame_bytes(w, b, host, frame), POISON, S.PAGE)
    return 0


@kernel
def bring_in(w, b, host, page, write):
    """Touch a page as the CPU or a fault does: 0, EFAULT, or EAGAIN when it cannot be now."""
    g = page_at(w, host, page)
    state = w[g + S.PG_STATE]
    if state == S.GONE:
        return EFAULT
    if state == S.SWAPPING:
        return P.EAGAIN
    if state != S.PRESENT:
        frame = take_frame(w, host, page)
        if frame < 0:
            return P.EAGAIN
        if state == S.SWAPPED:
            copy_bytes(frame_bytes(w, b, host, frame), swap_bytes(w, b, host, page), S.PAGE)
        else:
            fill_bytes(frame_bytes(w, b, host, frame), 0, S.PAGE)
        w[g + S.PG_STATE] = S.PRESENT
        w[g + S.PG_FRAME] = frame
        w[g + S.PG_WRITE] = 1
    if write:
        w[g + S.PG_WRITE] = 1
    return 0


@kernel
def contents(w, b, host, page):
    """Address of what a page holds now, or 0 for zeros."""
    g = page_at(w, host, page)
    state = w[g + S.PG_STATE]
    if state == S.PRESENT or state == S.SWAPPING:
        return frame_bytes(w, b, host, w[g + S.PG_FRAME])
    return swap_bytes(w, b, host, page) if state == S.SWAPPED else 0


@kernel
def word_at(w, b, host, va):
    """The eight bytes at ``va`` (they lie in one page)."""
    base = contents(w, b, host, va >> S.PAGE_SHIFT)
    return load64(base + (va & (S.PAGE - 1))) if base else 0


@kernel
def lost_since(w, host, va, length, since):
    """Whether contents of a page of the range were thrown away at or after ``since``."""
    for page in range(va >> S.PAGE_SHIFT, ((va + length - 1) >> S.PAGE_SHIFT) + 1):
        g = page_at(w, host, page)
        if w[g + S.PG_STATE] == S.GONE or w[g + S.PG_LOST] >= since:
            return 1
    return 0


# ---- copies ----------------------------------------------------------------------------------------------------------


@kernel
def capture(w, p, host):
    """The batch's copies were just described: take the frames they translate to, and judge that."""
    at = host_at(w, host)
    w[at + S.HO_COPIED] = 0
    for i in range(p[P.DMA_COUNT]):
        d = p[P.DMA] + i * P.DMA_WORDS
        if p[d + P.DMA_STATE] == P.DMA_ISSUED:
            first = p[d + P.DMA_VA] >> S.PAGE_SHIFT
            last = (p[d + P.DMA_VA] + p[d + P.DMA_LENGTH] - 1) >> S.PAGE_SHIFT
            if first < S.FIRST_PAGE or last >= S.FIRST_PAGE + w[at + S.HO_PAGES] or last - first >= S.DMA_PAGES:
                return fail(w, S.VIOLATION_I1, host, p[d + P.DMA_VA], p[d + P.DMA_LENGTH])
            for page in range(first, last + 1):
                capture_page(
                    w,
                    p,
                    host,
                    page,
                    p[d + P.DMA_OP] != P.OP_READ,
                    w[at + S.HO_CAPTURE] + i * S.DMA_PAGES + page - first,
                )
    return 0


@kernel
def capture_page(w, p, host, page, write, into):
    """The frame that one page of a copy goes through, with its age, into word ``into``."""
    g = page_at(w, host, page)
    frame = w[g + S.PG_FRAME]
    if w[g + S.PG_PINNED] == 0:
        e = entry(p, page << S.PAGE_SHIFT)
        if e & P.PRESENT == 0 or e & P.STALE:
            return fail(w, S.VIOLATION_I3, host, page, e)
        if write and e & P.WRITE == 0:
            return fail(w, S.VIOLATION_I2, host, page, e)
        frame = e >> P.FLAG_BITS
        if p[P.TLB]:
            cached = w[host_at(w, host) + S.HO_TLB] + page - S.FIRST_PAGE
            if w[cached]:
                frame = w[cached] - 1
            w[cached] = frame + 1
        if w[g + S.PG_STATE] != S.PRESENT or w[g + S.PG_FRAME] != frame:
            return fail(w, S.VIOLATION_I3, host, page, frame)
        if write and w[g + S.PG_WRITE] == 0:
            return fail(w, S.VIOLATION_I2, host, page, frame)
    w[into] = frame << 32 | w[frame_at(w, host, frame) + S.FR_AGE]
    return 0


@kernel
def judged(w, p, host, page, captured, write):
    """The frame of a copy that is made now, after what may have happened since it was described; -1 when that was bad."""
    frame = captured >> 32
    f = frame_at(w, host, frame)
    if w[f + S.FR_AGE] != captured & 0xFFFFFFFF or w[f + S.FR_STATE] == 0 or w[f + S.FR_PAGE] != page:
        fail(w, S.VIOLATION_I1, host, page, frame)
        return -1
    if w[f + S.FR_STATE] == S.FRAME_CHILD:
        fail(w, S.VIOLATION_I1, host, page, frame)
        return -1
    g = page_at(w, host, page)
    if write and w[f + S.FR_STATE] == S.FRAME_MAPPED and w[g + S.PG_WRITE] == 0:
        fail(w, S.VIOLATION_I2, host, page, frame)
        return -1
    return frame


@kernel
def execute(w, b, p, host, i):
    """Make copy ``i`` of the batch: between its frames and the arena."""
    at = host_at(w, host)
    d = p[P.DMA] + i * P.DMA_WORDS
    op = p[d + P.DMA_OP]
    va = p[d + P.DMA_VA]
    end = va + p[d + P.DMA_LENGTH]
    local = address_of(b) + w[at + S.HO_B] + p[d + P.DMA_OFFSET]
    captured = w[at + S.HO_CAPTURE] + i * S.DMA_PAGES
    first = va >> S.PAGE_SHIFT
    while va < end:
        page = va >> S.PAGE_SHIFT
        frame = judged(w, p, host, page, w[captured + page - first], op != P.OP_READ)
        if frame < 0:
            return 0
        place = frame_bytes(w, b, host, frame) + (va & (S.PAGE - 1))
        n = min(end, (page + 1) << S.PAGE_SHIFT) - va
        if op == P.OP_READ:
            copy_bytes(local, place, n)
        elif op == P.OP_WRITE:
            copy_bytes(place, local, n)
        else:
            old = load64(place)
            p[d + P.DMA_RESULT] = old
            if op == P.OP_FETCH_ADD:
                store64(place, old + p[d + P.DMA_X0])
            elif old == p[d + P.DMA_X0]:
                store64(place, p[d + P.DMA_X1])
        local += n
        va += n
    p[d + P.DMA_STATE] = P.DMA_DONE
    w[S.W_COPIES] += 1
    trace(w, S.EV_COPY, host, op, p[d + P.DMA_VA], p[d + P.DMA_LENGTH], p[d + P.DMA_TOKEN])
    return 1


# ---- comparing -------------------------------------------------------------------------------------------------------


@kernel
def differs(w, b, host, va, length, since):
    """The first address of the range whose byte is not the shadow's, or -1.

    A page whose contents were thrown away at or after ``since`` (0: never mind when) is not compared: it may hold either. The
    shadow takes over what is there.
    """
    end = va + length
    while va < end:
        page = va >> S.PAGE_SHIFT
        n = min(end, (page + 1) << S.PAGE_SHIFT) - va
        shadow = shadow_bytes(w, b, host, va)
        base = contents(w, b, host, page)
        g = page_at(w, host, page)
        if w[g + S.PG_STATE] == S.GONE or (since and w[g + S.PG_LOST] >= since):
            w[S.W_SKIPPED] += n
            if base:
                copy_bytes(shadow, base + (va & (S.PAGE - 1)), n)
            else:
                fill_bytes(shadow, 0, n)
        else:
            w[S.W_CHECKED] += n
            for i in range(n):
                held = load8(base + (va & (S.PAGE - 1)) + i) if base else 0
                if held != load8(shadow + i):
                    return va + i
        va += n
    return -1
