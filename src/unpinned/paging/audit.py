"""Is a block consistent? Plain Python, slow, for tests, the model's assertions and a curious debugger.

Every statement here holds after every step, whatever the order of the steps (invariant I8, and what the layout
promises: free records are zero, the lowest free one is taken next, counts agree with what they count).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unpinned.paging import layout as P
from unpinned.paging.layout import Block, view


def entries(p: Block) -> dict[int, int]:
    """The table as a dict: page number -> entry (a huge entry appears once for each of its pages)."""
    return {page: word for page, word, _ in _walk(p)}


def _walk(p: Block) -> list[tuple[int, int, int]]:
    """(page, entry, node) for every page present."""
    bits = int(p[P.BITS])
    found = []
    waiting = [(0, 0, int(p[P.LEVELS]) - 1)]
    while waiting:
        node, first, level = waiting.pop()
        base = int(p[P.NODES]) + (node << bits)
        for slot in range(1 << bits):
            word = int(p[base + slot])
            page = first + (slot << (bits * level))
            if word & P.PRESENT:
                found += [(page + i, word, node) for i in range(1 << (bits * level))]
            elif word:
                waiting.append((((word >> P.FLAG_BITS) - int(p[P.NODES])) >> bits, page, level - 1))
    return sorted(found)


def audit(p: Block) -> list[str]:
    """What is wrong with the block, one sentence each; empty if nothing is."""
    wrong = [*_audit_records(p), *_audit_faults(p), *_audit_table(p), *_audit_promises(p)]
    if (int(p[p[P.COUNTERS] + P.SEQUENCE]) & 1) != (p[P.ACTIVE_COUNT] > 0):
        wrong.append(f"sequence {p[p[P.COUNTERS] + P.SEQUENCE]} with {p[P.ACTIVE_COUNT]} active invalidations")
    return wrong


def _audit_records(p: Block) -> list[str]:
    wrong = []
    kinds = (
        ("active", "state", P.ACTIVE_COUNT),
        ("deferrals", "flush", P.DEFERRAL_COUNT),
        ("dma", "state", P.DMA_LIVE),
        ("faults", "state", P.FAULT_LIVE),
        ("revoked", "region", P.REVOKED_COUNT),
        ("provisional", "until", P.PROVISIONAL_COUNT),
        ("nodes", "up", P.NODES_LIVE),
    )
    for name, key, count in kinds:
        records = view(p, name)
        used = records[key] != 0
        if used.sum() != p[count]:
            wrong.append(f"{name}: {used.sum()} in use, counted {p[count]}")
        if records[~used].view("<i8").any():
            wrong.append(f"{name}: a free record is not zero")
    owed = view(p, "deferrals")
    held = int((owed["end"] - owed["start"]).sum()) >> int(p[P.PAGE_SHIFT])
    if held != p[P.HELD_PAGES]:
        wrong.append(f"deferrals: {held} pages, counted {p[P.HELD_PAGES]}")
    used = np.flatnonzero(view(p, "dma")["state"])
    if p[P.DMA_COUNT] != (used[-1] + 1 if used.size else 0):
        wrong.append(f"dma: DMA_COUNT {p[P.DMA_COUNT]}, in use {used.tolist()}")
    free = np.flatnonzero(view(p, "nodes")["up"] == 0)
    if p[P.NODE_FREE] != (free[0] if free.size else p[P.NODE_COUNT]):
        wrong.append(f"nodes: the lowest free is not {p[P.NODE_FREE]}")
    flushes = [*view(p, "active")["flush"], *view(p, "deferrals")["flush"]]
    if not p[P.FLUSHING] and P.FLUSH_RUNNING in flushes:
        wrong.append("a record waits for a flush that is not running")
    return wrong


def _audit_faults(p: Block) -> list[str]:
    wrong = []
    slots = {int(p[P.FAULTS]) + i * P.FAULT_WORDS: fault for i, fault in enumerate(view(p, "faults"))}
    queues: tuple[tuple[int, int, int], ...] = (
        (P.SCAN_QUEUE, P.SCAN_LENGTH, P.FAULT_SCAN),
        (P.RUN_QUEUE, P.RUN_LENGTH, P.FAULT_QUEUED),
    )
    for queue, length, state in queues:
        words = p[p[queue] : p[queue] + p[P.FAULT_CAPACITY]].tolist()
        queued, rest = words[: p[length]], words[p[length] :]
        if any(rest) or sorted(queued) != [s for s, f in slots.items() if f["state"] == state]:
            wrong.append(f"queue of state {state}: {words} does not hold exactly the slots in it")
    waiting = sum(f["state"] == P.FAULT_WAIT for f in slots.values())
    if waiting != p[P.FAULT_WAITING]:
        wrong.append(f"faults: {waiting} wait, counted {p[P.FAULT_WAITING]}")
    for slot, f in slots.items():
        if f["state"] and not f["start"] <= f["cursor"] <= f["end"]:
            wrong.append(f"fault {slot}: cursor {f['cursor']} outside [{f['start']}, {f['end']})")
        if f["retries"] > p[P.RETRIES_MAX] + 1:
            wrong.append(f"fault {slot}: {f['retries']} retries")
    return wrong


def _audit_table(p: Block) -> list[str]:
    wrong = []
    bits = int(p[P.BITS])
    nodes = view(p, "nodes")
    pages = _walk(p)
    if len(pages) != p[P.PAGES]:
        wrong.append(f"table: {len(pages)} pages present, counted {p[P.PAGES]}")
    for i, node in enumerate(nodes):
        base = int(p[P.NODES]) + (i << bits)
        slots = p[base : base + (1 << bits)]
        if node["up"] == 0 and slots.any():
            wrong.append(f"node {i}: free and not zero")
        if node["filled"] != np.count_nonzero(slots) or node["children"] != np.count_nonzero(
            (slots & 1) < (slots != 0)
        ):
            wrong.append(f"node {i}: counts {node} do not agree with {slots.tolist()}")
        if i > 0 and node["up"] and node["filled"] == 0:
            wrong.append(f"node {i}: in use and empty")
        if i > 0 and node["up"] and p[node["up"]] != base << P.FLAG_BITS:
            wrong.append(f"node {i}: its parent's slot does not point to it")
        huge = (slots & P.HUGE_ENTRY) != 0
        if node["up"] and huge.any() != (node["level"] > 0 and ((slots & P.PRESENT) != 0).any()):
            wrong.append(f"node {i}: huge entries at level {node['level']}: {slots.tolist()}")
    return wrong


def _audit_promises(p: Block) -> list[str]:
    """Rule 1 of the notifier: what must not be in the table while an invalidation is active or owed."""
    wrong = []
    pages: dict[int, int] = entries(p)
    shift = int(p[P.PAGE_SHIFT])

    def within(record: Any) -> list[int]:
        return [e for page, e in pages.items() if record["start"] >> shift <= page < record["end"] >> shift]

    for ticket, a in enumerate(view(p, "active")):
        if a["state"] and a["verdict"] == P.NOW and within(a):
            wrong.append(f"ticket {ticket}: entries inside a range that is being invalidated")
        if a["state"] and a["verdict"] == P.DOWNGRADE and any(e & P.WRITE for e in within(a)):
            wrong.append(f"ticket {ticket}: the write right inside a range that is being downgraded")
    for token, d in enumerate(view(p, "deferrals")):
        if d["flush"] in (P.FLUSH_OWED, P.FLUSH_RUNNING) and not all(e & P.STALE for e in within(d)):
            wrong.append(f"token {token}: an entry that is not stale inside a range whose flush is owed")
    return wrong
