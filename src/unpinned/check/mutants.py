"""Seeded defects: each one is a real mistake, switched on by name, and killed by the exploration of a small world.

The live code carries none of this. A mutant is a substitution in the source of one function, `old` for `new`, made in a
copy of the package that only the check of mutants imports (`mutate.py`). `old` must occur exactly once in the function,
so a mutant whose place has moved is an error, not a survivor.

`imitates` says whose mistake it was. Those marked [odp] are the bugs that kernels and drivers really had; those marked
[here] were made and found while this project was written; the rest leave out one rule of `paging/notifier.py`.

`kills` names the property that the shortest trace breaks; the tests hold to it, because a mutant that dies of something
else tells that either the mutant or the property is not what it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Mutant:
    """One seeded defect."""

    name: str
    module: str  #: below `unpinned`
    function: str
    old: str
    new: str
    imitates: str
    needs: str = ""  #: an import that `new` wants

    @property
    def of_requests(self) -> bool:
        """Killed by the requests (requests.py), not by an exploration."""
        return self.module.startswith("hca.")


_PAGING: Final = (
    Mutant(
        "commit-without-recheck", "paging.faults", "_collided",
        "    hit = p[slot + P.FAULT_HIT]\n", "    hit = 0\n",
        "[odp] no re-check after faulting: the sequence moved while the page was brought in, and it is installed anyway",
    ),
    Mutant(
        "start-does-not-tell-faults", "paging.notifier", "invalidate_start",
        "    faults_under_way(p, start, end, 1)\n", "    faults_under_way(p, start, end, 0)\n",
        "[odp] invalidation missed because `set_seq` was skipped: the fault under way never hears of it",
    ),
    Mutant(
        "chunk-begins-inside-an-invalidation", "paging.faults", "fault_chunk",
        "    if blocked(p, start, end):\n        _wait(p, slot, P.FAULT_QUEUED)\n        return 0\n", "",
        "a fault's snapshot is taken between start and finish, of a page that is about to go",
    ),
    Mutant(
        "scan-begins-inside-an-invalidation", "paging.faults", "fault_take",
        "        elif blocked(p, p[slot + P.FAULT_CURSOR], p[slot + P.FAULT_END]):\n            _wait(p, slot, state)\n", "",
        "the same for the look at what is resident",
    ),
    Mutant(
        "scan-answer-ignored", "paging.faults", "fault_scanned",
        "    upto = min(end, upto) & ~((1 << p[P.PAGE_SHIFT]) - 1)\n", "    upto = end\n",
        "what the scan did not find is installed too",
    ),
    Mutant(
        "populate-error-ignored", "paging.faults", "fault_commit",
        "    if err:\n", "    if 0:\n",
        "an address that is not mapped any more gets an entry all the same",
    ),
    Mutant(
        "error-path-keeps-the-slot", "paging.faults", "fault_commit",
        "            return _finish(p, slot, P.FAULT_FAILED, err, now)\n", "            return P.FAILED\n",
        "[odp] lock left held on the error path: here the slot, and whoever waits for it",
    ),
    Mutant(
        "read-fault-grants-write", "paging.faults", "fault_commit",
        "    rights = P.PRESENT | P.WRITE if p[slot + P.FAULT_WRITE] else P.PRESENT\n",
        "    rights = P.PRESENT | P.WRITE\n",
        "a page brought in for a read may be read-only to the CPU, or shared with another process",
    ),
    Mutant(
        "scan-grants-write", "paging.faults", "fault_scanned",
        "        rights = P.PRESENT | P.WRITE if write == 2 else P.PRESENT\n",
        "        rights = P.PRESENT | P.WRITE if write else P.PRESENT\n",
        "present is taken for writable: the write goes to a page that copy-on-write still shares",
    ),
    Mutant(
        "write-fault-grants-read", "paging.faults", "fault_commit",
        "    rights = P.PRESENT | P.WRITE if p[slot + P.FAULT_WRITE] else P.PRESENT\n",
        "    rights = P.PRESENT\n",
        "[odp] endless fault loop (permission mask 0): the page is brought in, the right never comes, the write faults again",
    ),
    Mutant(
        "translate-tests-valid-only", "paging.table", "translate",
        "        need |= P.WRITE\n", "        need |= 0\n",
        "[odp] write allowed on a page mapped for read: the test is for valid, not for write",
    ),
    Mutant(
        "translate-uses-stale", "paging.table", "translate",
        "    mask = need | P.STALE\n", "    mask = need\n",
        "an entry whose invalidation is owed is used again, and cached again, after the flush has passed it",
    ),
    Mutant(
        "fault-beyond-the-region", "paging.faults", "fault_begin",
        "start < p[at + P.REGION_START] or end > p[at + P.REGION_END] or is_revoked(p, region, start, end)",
        "start < p[at + P.REGION_START] or is_revoked(p, region, start, end)",
        "[odp] fault served beyond the region's bounds",
    ),
    Mutant(
        "retries-without-bound", "paging.faults", "_collided",
        "    if p[slot + P.FAULT_RETRIES] > p[P.RETRIES_MAX]:\n", "    if 0:\n",
        "the kernel's own retry loop: a fault and an invalidation chase each other for ever",
    ),
    Mutant(
        "prefetch-never-freed", "paging.faults", "_finish",
        "    if p[slot + P.FAULT_WAITERS] == 0:\n        _free(p, slot)\n        return P.OVER\n", "",
        "[odp] teardown hangs with a prefetch in flight: nobody waits for it, so nobody frees it",
    ),
    Mutant(
        "one-waiter-frees-for-all", "paging.faults", "fault_end",
        "    p[slot + P.FAULT_WAITERS] -= 1\n", "    p[slot + P.FAULT_WAITERS] = 0\n",
        "two requests share a fault, and the first to leave takes it away from the other",
    ),
    Mutant(
        "finish-wakes-nobody", "paging.notifier", "invalidate_finish",
        "    fault_poll(p)\n    return P.DONE", "    return P.DONE",
        "a fault that waited for the invalidation sleeps for ever",
    ),
    Mutant(
        "flush-wakes-nobody", "paging.flushes", "flush_end",
        "    fault_poll(p)\n    return P.DONE", "    return P.DONE",
        "a fault that waited for the flush sleeps for ever",
    ),
    Mutant(
        "zap-forgotten", "paging.notifier", "invalidate_start",
        "    changed = change_range(p, start, end, keep, add)\n", "    changed = next_present(p, start, end) >= 0\n",
        "the device is flushed, its table is not: the next translation brings the old frame back",
    ),
    Mutant(
        "zap-stops-after-one-page", "paging.table", "change_range",
        "            index += 1\n            page = (page | within) + 1\n        _release(p, node)\n",
        "            page = last\n        _release(p, node)\n",
        "[odp] page offset not reset per page: of a range of several pages only the first is taken out",
    ),
    Mutant(
        "no-flush", "paging.notifier", "invalidate_start",
        "        if owed or p[P.EVICTED] or changed > 0:\n", "        if 0:\n",
        "[odp] page freed before the flush: the table is clean, the device's cache is not",
    ),
    Mutant(
        "flush-not-asked-for", "paging.notifier", "invalidate_start",
        "            p[P.FLUSH_WANTED] = 1\n            return P.WAIT\n", "            return P.WAIT\n",
        "the invalidation waits for a flush that nobody begins",
    ),
    Mutant(
        "overlap-forgets-the-flush", "paging.collisions", "flush_owed",
        "    if owed != P.FLUSH_OWED and p[P.TLB]:\n", "    if 0:\n",
        "[here] the second of two overlapping invalidations finds the table clean and does not wait for the first one's flush",
    ),
    Mutant(
        "poll-ignores-copies", "paging.notifier", "invalidate_poll",
        "    if dma_collides(p, p[at + P.ACTIVE_START], p[at + P.ACTIVE_END], verdict == P.DOWNGRADE):\n        return P.WAIT\n", "",
        "the flush is waited for, a copy in flight is not",
    ),
    Mutant(
        "collision-by-first-byte", "paging.dma", "dma_collides",
        "            and p[at + P.DMA_VA] + p[at + P.DMA_LENGTH] > start\n", "            and p[at + P.DMA_VA] >= start\n",
        "[odp] only the first byte is looked at: a copy that began on the page before is not seen",
    ),
    Mutant(
        "reads-and-writes-swapped", "paging.dma", "dma_collides",
        "            if not writes_only or p[at + P.DMA_OP] != P.OP_READ:\n",
        "            if not writes_only or p[at + P.DMA_OP] == P.OP_READ:\n",
        "a downgrade waits for the reads and lets the writes go on",
    ),
    Mutant(
        "invalidation-by-first-page", "paging.collisions", "is_active",
        "            if p[at + P.ACTIVE_START] < end and start < p[at + P.ACTIVE_END]:\n",
        "            if p[at + P.ACTIVE_START] <= start and start < p[at + P.ACTIVE_END]:\n",
        "a fault that begins on the page before does not see the invalidation of its second page",
    ),
    Mutant(
        "downgrade-keeps-write", "paging.notifier", "invalidate_start",
        "        keep, which = ~P.WRITE,", "        keep, which = -1,",
        "the reads go on, and so do the writes",
    ),
    Mutant(
        "deferred-entries-stay-fresh", "paging.notifier", "invalidate_start",
        "        keep, add, which = -1, P.STALE, P.COUNT_PAGES_DEFERRED", "        keep, add, which = -1, 0, P.COUNT_PAGES_DEFERRED",
        "what was deferred may be translated, and cached, anew while the flush runs",
    ),
    Mutant(
        "freed-while-the-flush-runs", "paging.flushes", "obligation_done",
        "    return 1 if p[at + P.DEFERRAL_FLUSH] == P.FLUSH_OVER else 0",
        "    return 1 if p[at + P.DEFERRAL_FLUSH] >= P.FLUSH_RUNNING else 0",
        "[odp] page freed before the flush was acknowledged: asked for is taken for done",
    ),
    Mutant(
        "joins-a-running-flush", "paging.flushes", "deferral_for",
        "        if p[at + P.DEFERRAL_FLUSH] == P.FLUSH_OWED and p[at + P.DEFERRAL_CAUSE] == cause:\n",
        "        if p[at + P.DEFERRAL_FLUSH] != P.FLUSH_NONE and p[at + P.DEFERRAL_CAUSE] == cause:\n",
        "the next page is added to a batch whose flush has already passed it",
    ),
    Mutant(
        "batch-covers-one-page", "paging.flushes", "owe",
        "    p[at + P.DEFERRAL_END] = max(p[at + P.DEFERRAL_END], end)\n", "    p[at + P.DEFERRAL_END] += 0\n",
        "[odp] a multi-page flush that drops its first page only",
    ),
    Mutant(
        "flush-ends-over-a-copy", "paging.flushes", "flush_end",
        "            if dma_collides(p, p[at + P.DEFERRAL_START], p[at + P.DEFERRAL_END], 0):\n                return P.WAIT\n",
        "            pass\n",
        "the translations are gone, a copy that had used one is still in flight",
    ),
    Mutant(
        "fault-ignores-what-is-owed", "paging.collisions", "blocked",
        "    return 1 if owed or is_active(p, start, end) else 0", "    return 1 if is_active(p, start, end) else 0",
        "the device holds an old and a new translation of one page",
    ),
    Mutant(
        "sleeps-where-it-may-not", "paging.notifier", "invalidate_start",
        "    if not may_sleep and token < 0 and (copying or cached):\n", "    if 0:\n",
        "the OOM reaper is told to wait",
    ),
    Mutant(
        "refuses-after-the-zap", "paging.notifier", "invalidate_start",
        "            count_range(p, start, end, P.COUNT_REFUSED, 1, 0)\n            return P.REFUSED\n        verdict = P.NOW\n",
        "            change_range(p, start, end, 0, 0)\n            return P.REFUSED\n        verdict = P.NOW\n",
        "a refusal that has already changed something",
    ),
    Mutant(
        "sequence-left-open", "paging.notifier", "invalidate_finish",
        "    for i in range(at, at + P.ACTIVE_WORDS):\n        p[i] = 0\n    p[P.ACTIVE_COUNT] -= 1\n", "    p[P.ACTIVE_COUNT] -= 0\n",
        "[odp] start without finish",
    ),
)  # fmt: skip

_KERNEL: Final = (
    Mutant(
        "frames-not-held", "model.adapter", "hold",
        "            w[frame_at(w, frame) + M.F_HOLD + d] = token", "            w[frame_at(w, frame) + M.F_HOLD + d] = 0",
        "[odp] page freed before the flush was acknowledged: the obligation of a deferral is not kept",
    ),
    Mutant(
        "refusal-ignored", "model.operations", "may_refuse",
        "    return 1 if w[M.W_MODE] == M.MODE_UNSLEEPABLE or not leaves_never(op) else 0", "    return 0",
        "[odp] refused invalidation ignored: the kernel goes on as if the device had agreed",
    ),
    Mutant(
        "start-without-finish", "model.operations", "notify_phase",
        "M.PHASE_FINISH if gone", "M.PHASE_OVER if gone",
        "[odp] start without finish: one device refuses, those that had been started are never told that it is over",
    ),
    Mutant(
        "lock-kept-after-a-refusal", "model.operations", "end_line",
        "    unlock_all(w, t)\n    forget_tokens(w, t)\n",
        "    if w[a + M.T_REFUSED] == 0:\n        unlock_all(w, t)\n    forget_tokens(w, t)\n",
        "[odp] lock left held on the error path: mmap_lock, or the page's, when a device has refused",
    ),
    Mutant(
        "entry-installed-without-the-lock", "model.worker", "populate_page",
        "    w[a + M.D_POPULATED] = page + 1\n",
        "    w[a + M.D_POPULATED] = page + 1\n    size = 1 << p[P.PAGE_SHIFT]\n"
        "    install(p, page * size, (page + 1) * size, P.PRESENT | (P.WRITE if write else 0), 0)\n"
        "    retag(p, page * size, w[pte_at(w, 0, page)] >> M.PTE_SHIFT)\n",
        "[odp] entry installed after the lock was dropped: nobody looks whether an invalidation is going on",
        "from unpinned.paging.table import install, retag",
    ),
    Mutant(
        "waits-for-the-first-device-only", "model.adapter", "all_ready",
        "    for d in range(w[M.W_DEVICES]):\n", "    for d in range(1):\n",
        "two devices are started together, one is waited for",
    ),
    Mutant(
        "flush-drops-one-page", "model.adapter", "flush_step",
        "        for i in range(tlb, tlb + w[M.W_PAGES]):\n            if w[i] & M.TLB_OLD:\n",
        "        for i in range(tlb, tlb + 1):\n            if w[i] & M.TLB_OLD:\n",
        "[odp] page offset not reset per page of a multi-page flush: the device drops its first translation only",
    ),
    Mutant(
        "device-dirty-bit-lost", "model.adapter", "drop_translation",
        "            w[f + M.F_FLAGS] |= M.FRAME_DIRTY\n", "            pass\n",
        "the device wrote through a translation, and the kernel drops the page as clean",
    ),
    Mutant(
        "address-handed-out-early", "model.adapter", "address_owed",
        "                return 1\n", "                return 0\n",
        "an address gets a new meaning while a flush of its old one is owed",
    ),
    Mutant(
        "write-back-before-the-flush", "model.operations", "after_phase",
        "        if w[a + M.T_SUB] == 0:\n            if not obligations_done(w, t):\n                return 0\n",
        "        if w[a + M.T_SUB] == 0:\n",
        "reclaim under deferral: write-back reads the page, the device writes it afterwards, the frame is dropped as clean",
    ),
)  # fmt: skip

_HCA: Final = (
    Mutant(
        "atomic-maps-one-byte", "hca.fetches", "atomic_request",
        "    found = lookup(h, p, mr, va, 8, 1, now)\n", "    found = lookup(h, p, mr, va, 1, 1, now)\n",
        "[odp] atomic maps one byte: the seven behind it are not looked up",
    ),
    Mutant(
        "pinned-key-faults", "hca.regions", "lookup",
        "    if h[mr + L.MR_PINNED]:\n        return HIT\n", "",
        "[odp] non-ODP key in a fault: a pinned region asks the page table",
    ),
    Mutant(
        "key-of-any-domain", "hca.regions", "authorize",
        " or h[mr + L.MR_PD] != pd", "",
        "a key of another protection domain opens its region",
    ),
    Mutant(
        "length-not-tested", "hca.regions", "authorize",
        " or va - start > h[mr + L.MR_LENGTH] - length", " or va - start > h[mr + L.MR_LENGTH]",
        "[odp] fault served beyond the region's bounds: a request may end behind them",
    ),
)  # fmt: skip

MUTANTS: Final[dict[str, Mutant]] = {mutant.name: mutant for mutant in (*_PAGING, *_KERNEL, *_HCA)}
