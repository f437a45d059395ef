"""Is a modelled world consistent? Plain Python, slow, for tests and for whoever doubts the model.

Every statement holds after every step, whatever the policy and the mode: these are the model's own book-keeping, not the
properties that an exploration is about.
"""

from __future__ import annotations

import numpy as np

from unpinned.model import layout as M
from unpinned.model.layout import Block


def _frames(w: Block) -> list[str]:
    wrong = []
    entries = w[w[M.W_PTE] : w[M.W_TRUTH]]
    mapped = [int(e) >> M.PTE_SHIFT for e in entries if e & M.PTE_PRESENT]
    words = int(w[M.W_FRAME_WORDS])
    for frame in range(1, int(w[M.W_FRAMES]) + 1):
        at = int(w[M.W_FRAME]) + frame * words
        record = w[at : at + words]
        if mapped.count(frame) != record[M.F_MAPS]:
            wrong.append(f"frame {frame}: {mapped.count(frame)} entries point to it, counted {record[M.F_MAPS]}")
        rest = np.delete(record, M.F_NEXT) if w[M.W_LISTS] else record
        if record[M.F_FLAGS] == 0 and rest.any():
            wrong.append(f"frame {frame}: free, and not zero: {record.tolist()}")
        slot = int(record[M.F_SLOT])
        if slot and w[w[M.W_SLOT] + slot * M.SLOT_WORDS + M.S_FRAME] != frame:
            wrong.append(f"frame {frame}: says it caches slot {slot}, which does not agree")
        wanted = record[M.F_MAPS] or record[M.F_HAND] or record[M.F_HOLD :].any() or slot
        if record[M.F_FLAGS] and not wanted:
            wrong.append(f"frame {frame}: used, and wanted by nobody")
        if int(record[M.F_HAND]) >> int(w[M.W_THREADS]):
            wrong.append(f"frame {frame}: in the hands of threads that do not exist: {int(record[M.F_HAND]):b}")
    if int(w[M.W_FRAME]) and w[w[M.W_FRAME] : w[M.W_FRAME] + words].any():
        wrong.append("frame 0 is not zero")
    return wrong


def _slots(w: Block) -> list[str]:
    wrong = []
    entries = w[w[M.W_PTE] : w[M.W_TRUTH]]
    swapped = [int(e) >> M.PTE_SHIFT for e in entries if e & M.PTE_SWAP]
    for slot in range(1, int(w[M.W_SLOTS]) + 1):
        at = int(w[M.W_SLOT]) + slot * M.SLOT_WORDS
        refs, frame, content, file, _ = w[at : at + M.SLOT_WORDS].tolist()
        if refs != swapped.count(slot) + file:
            wrong.append(f"slot {slot}: {swapped.count(slot)} swap entries, counted {refs}")
        if frame and w[w[M.W_FRAME] + frame * w[M.W_FRAME_WORDS] + M.F_SLOT] != slot:
            wrong.append(f"slot {slot}: says that frame {frame} caches it, which does not agree")
        if refs == frame == 0 and content:
            wrong.append(f"slot {slot}: free, and not zero")
    return wrong


def _locks(w: Block) -> list[str]:
    wrong = []
    threads = [int(w[M.W_THREAD] + t * w[M.W_THREAD_WORDS]) for t in range(int(w[M.W_THREADS]))]
    lock = int(w[w[M.W_STATE] + M.X_LOCK])
    readers = sum(bool(w[a + M.T_LOCKS] & M.LOCK_READ) for a in threads)
    writers = [t for t, a in enumerate(threads) if w[a + M.T_LOCKS] & M.LOCK_WRITE]
    if lock != (-1 - writers[0] if writers else readers) or (writers and readers) or len(writers) > 1:
        wrong.append(f"mmap_lock is {lock}: {readers} readers, writers {writers}")
    for t, a in enumerate(threads):
        if w[a + M.T_OP] == 0 and (w[a + M.T_LOCKS] or w[a + M.T_TICKET : a + w[M.W_THREAD_WORDS]].any()):
            wrong.append(f"thread {t}: between two operations, and still holds something")
    return wrong


def audit(w: Block) -> list[str]:
    """What is wrong with the book-keeping of a world, one sentence each; empty if nothing is."""
    return [*_frames(w), *_slots(w), *_locks(w)]
