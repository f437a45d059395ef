"""What every place of a world holds, for people: page tables, a device's table and cache, frames, backing store.

A *group* is a kind of place, a *cell* one of them; a frame's number is its colour in the diagram. The differences of two
pictures are what a step changed, in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from unpinned.check.trace import Cell
from unpinned.model import layout as L
from unpinned.model.layout import Block
from unpinned.paging import layout as P
from unpinned.paging.audit import entries

Groups = tuple[tuple[str, tuple[str, ...]], ...]

EMPTY: Final = Cell()


def places(w: Block) -> Groups:
    """The groups of a world's places and the names of their cells."""
    pages = tuple(f"p{i}" for i in range(w[L.W_PAGES]))
    found: list[tuple[str, tuple[str, ...]]] = [("page table", pages)]
    if w[L.W_PROCESSES] > 1:
        found.append(("child's", pages))
    for d in range(w[L.W_DEVICES]):
        found.append((f"device {d}" if w[L.W_DEVICES] > 1 else "device", pages))
        if paging_block(w, d)[P.TLB]:
            found.append(("its cache", pages))
    found.append(("frames", tuple(f"f{i}" for i in range(1, w[L.W_FRAMES] + 1))))
    if w[L.W_SLOTS]:
        found.append(("store", tuple(f"s{i}" for i in range(1, w[L.W_SLOTS] + 1))))
    return tuple(found)


def picture(w: Block) -> tuple[Cell, ...]:
    """The cells of `places`, in its order."""
    cells: list[Cell] = []
    for process in range(w[L.W_PROCESSES]):
        cells += [_pte(w, process, page) for page in range(w[L.W_PAGES])]
    for d in range(w[L.W_DEVICES]):
        p = paging_block(w, d)
        table = entries(p)
        cells += [_entry(table.get(page, 0)) for page in range(w[L.W_PAGES])]
        if p[P.TLB]:
            at = int(w[L.W_TLB] + d * w[L.W_PAGES])
            cells += [_cached(int(word)) for word in w[at : at + w[L.W_PAGES]]]
    cells += [_frame(w, frame) for frame in range(1, w[L.W_FRAMES] + 1)]
    cells += [_slot(w, slot) for slot in range(1, w[L.W_SLOTS] + 1)]
    return tuple(cells)


def paging_block(w: Block, device: int) -> Block:
    """The live block `p` of a device, inside `w`."""
    at = int(w[L.W_DEVICE] + device * w[L.W_DEVICE_WORDS])
    first = int(w[at + L.D_OFFSET])
    return w[first : first + int(w[at + L.D_LENGTH])]


def _pte(w: Block, process: int, page: int) -> Cell:
    index = process * int(w[L.W_PAGES]) + page
    pte = int(w[w[L.W_PTE] + index])
    number = pte >> L.PTE_SHIFT
    if pte & L.PTE_PRESENT:
        return Cell(f"f{number}{' w' if pte & L.PTE_WRITE else ''}", number)
    if pte & L.PTE_SWAP:
        return Cell(f"s{number}", -1, True)
    if pte & L.PTE_MIGRATION:
        return Cell("mig", number, True)
    mapped = w[w[L.W_VMA] + index * L.VMA_WORDS + L.V_FLAGS] & L.VMA_MAPPED
    return Cell("none", -1, True) if not mapped else EMPTY


def _entry(e: int) -> Cell:
    if not e & P.PRESENT:
        return EMPTY
    frame = e >> P.FLAG_BITS
    return Cell(f"f{frame}{' w' if e & P.WRITE else ''}", frame, bool(e & P.STALE))


def _cached(word: int) -> Cell:
    if not word & L.TLB_VALID:
        return EMPTY
    frame = word >> L.TLB_SHIFT
    return Cell(f"f{frame}{' w' if word & L.TLB_WRITE else ''}", frame)


def _frame(w: Block, frame: int) -> Cell:
    at = int(w[L.W_FRAME] + frame * w[L.W_FRAME_WORDS])
    if not w[at + L.F_FLAGS] & L.FRAME_USED:
        return EMPTY
    held = w[at + L.F_HOLD : at + L.F_HOLD + w[L.W_DEVICES]].any()
    return Cell(f"={w[at + L.F_CONTENT]}{' h' if held else ''}", frame, not w[at + L.F_MAPS] > 0)


def _slot(w: Block, slot: int) -> Cell:
    at = int(w[L.W_SLOT] + slot * L.SLOT_WORDS)
    if not (w[at + L.S_REFS] or w[at + L.S_FRAME] or w[at + L.S_FILE]):
        return EMPTY
    return Cell(f"={w[at + L.S_CONTENT]}", -1)


def differences(groups: Groups, before: Sequence[Cell], after: Sequence[Cell]) -> tuple[str, ...]:
    """What changed, a phrase a cell: ``device p0: f1 w -> stale``."""
    said = []
    cells = [(group, name) for group, names in groups for name in names]
    for (group, name), old, new in zip(cells, before, after):
        if old != new:
            said.append(f"{group} {name}: {_said(old)} -> {_said(new)}")
    return tuple(said)


def _said(cell: Cell) -> str:
    if cell == EMPTY:
        return "-"
    return f"({cell.text})" if cell.dim and cell.frame >= 0 else cell.text


# --- what is under way -------------------------------------------------------------------------------------------------


def under_way(w: Block) -> tuple[str, ...]:
    """What has begun and not ended, as ``lane: label``: invalidations, copies, parked requests, flushes, faults."""
    found = []
    for t in range(w[L.W_CPUS]):
        at = int(w[L.W_THREAD] + t * w[L.W_THREAD_WORDS] + L.T_TICKET)
        if w[at : at + w[L.W_DEVICES]].any():
            found.append(f"thread {t}: invalidation")
    for r in range(w[L.W_REQUESTS]):
        state = w[w[L.W_REQUEST] + r * w[L.W_REQUEST_WORDS] + L.Q_STATE]
        if state == L.REQUEST_COPYING:
            found.append(f"request {r}: copy in flight")
        elif state == L.REQUEST_PARKED:
            found.append(f"request {r}: parked")
    for d in range(w[L.W_DEVICES]):
        at = int(w[L.W_DEVICE] + d * w[L.W_DEVICE_WORDS])
        if w[at + L.D_FLUSH]:
            found.append(f"device {d}: flush")
        if w[at + L.D_WORK]:
            found.append(f"worker {d}: fault")
    return tuple(found)
