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
    world: str  #: where it dies (mutant_worlds.py)
    kills: str  #: the property whose break is its death
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
        world="unmap", kills="I3",
    ),
    Mutant(
        "start-does-not-tell-faults", "paging.notifier", "invalidate_start",
        "    faults_under_way(p, start, end, 1)\n", "    faults_under_way(p, start, end, 0)\n",
        "[odp] invalidation missed because `set_seq` was skipped: the fault under way never hears of it",
        world="unmap", kills="I3",
    ),
    Mutant(
        "chunk-begins-inside-an-invalidation", "paging.faults", "fault_chunk",
        "    if blocked(p, start, end):\n        _wait(p, slot, P.FAULT_QUEUED)\n        return 0\n", "",
        "a fault's snapshot is taken between start and finish, of a page that is about to go",
        world="migrate", kills="I3",
    ),
    Mutant(
        "scan-begins-inside-an-invalidation", "paging.faults", "fault_take",
        "        elif blocked(p, p[slot + P.FAULT_CURSOR], p[slot + P.FAULT_END]):\n            _wait(p, slot, state)\n", "",
        "the same for the look at what is resident",
        world="unmap-deferred-twice", kills="I3",
    ),
    Mutant(
        "scan-answer-ignored", "paging.faults", "fault_scanned",
        "    upto = min(end, upto) & ~((1 << p[P.PAGE_SHIFT]) - 1)\n", "    upto = end\n",
        "what the scan did not find is installed too",
        world="absent", kills="LIVELOCK",
    ),
    Mutant(
        "populate-error-ignored", "paging.faults", "fault_commit",
        "    if err:\n", "    if 0:\n",
        "an address that is not mapped any more gets an entry all the same",
        world="unmap", kills="LIVELOCK",
    ),
    Mutant(
        "error-path-keeps-the-slot", "paging.faults", "fault_commit",
        "            return _finish(p, slot, P.FAULT_FAILED, err, now)\n", "            return P.FAILED\n",
        "[odp] lock left held on the error path: here the slot, and whoever waits for it",
        world="unmap", kills="DEADLOCK",
    ),
    Mutant(
        "read-fault-grants-write", "paging.faults", "fault_commit",
        "    rights = P.PRESENT | P.WRITE if p[slot + P.FAULT_WRITE] else P.PRESENT\n",
        "    rights = P.PRESENT | P.WRITE\n",
        "a page brought in for a read may be read-only to the CPU, or shared with another process",
        world="readonly-absent", kills="I2",
    ),
    Mutant(
        "scan-grants-write", "paging.faults", "fault_scanned",
        "        rights = P.PRESENT | P.WRITE if write == 2 else P.PRESENT\n",
        "        rights = P.PRESENT | P.WRITE if write else P.PRESENT\n",
        "present is taken for writable: the write goes to a page that copy-on-write still shares",
        world="reclaim-refused", kills="I2",
    ),
    Mutant(
        "write-fault-grants-read", "paging.faults", "fault_commit",
        "    rights = P.PRESENT | P.WRITE if p[slot + P.FAULT_WRITE] else P.PRESENT\n",
        "    rights = P.PRESENT\n",
        "[odp] endless fault loop (permission mask 0): the page is brought in, the right never comes, the write faults again",
        world="migrate", kills="LIVELOCK",
    ),
    Mutant(
        "translate-tests-valid-only", "paging.table", "translate",
        "        need |= P.WRITE\n", "        need |= 0\n",
        "[odp] write allowed on a page mapped for read: the test is for valid, not for write",
        world="reclaim-refused", kills="I2",
    ),
    Mutant(
        "translate-uses-stale", "paging.table", "translate",
        "    mask = need | P.STALE\n", "    mask = need\n",
        "an entry whose invalidation is owed is used again, and cached again, after the flush has passed it",
        world="unmap-deferred-twice", kills="I3",
    ),
    Mutant(
        "fault-ignores-what-is-owed", "paging.collisions", "blocked",
        "    return 1 if owed or is_active(p, start, end) else 0", "    return 1 if is_active(p, start, end) else 0",
        "a fault makes an entry fresh whose flush is owed: what is cached anew while the flush runs survives it, and is taken for gone",
        world="soft-dirty-twice", kills="I3",
    ),
    Mutant(
        "fault-beyond-the-region", "paging.faults", "fault_begin",
        "start < p[at + P.REGION_START] or end > p[at + P.REGION_END] or is_revoked(p, region, start, end)",
        "start < p[at + P.REGION_START] or is_revoked(p, region, start, end)",
        "[odp] fault served beyond the region's bounds",
        world="region", kills="I8",
    ),
    Mutant(
        "retries-without-bound", "paging.faults", "_collided",
        "    if p[slot + P.FAULT_RETRIES] > p[P.RETRIES_MAX]:\n", "    if 0:\n",
        "the kernel's own retry loop: a fault and an invalidation chase each other for ever",
        world="discard-three-times", kills="I8",
    ),
    Mutant(
        "prefetch-never-freed", "paging.faults", "_finish",
        "    if p[slot + P.FAULT_WAITERS] == 0:\n        _free(p, slot)\n        return P.OVER\n", "",
        "[odp] teardown hangs with a prefetch in flight: nobody waits for it, so nobody frees it",
        world="prefetch", kills="I8",
    ),
    Mutant(
        "one-waiter-frees-for-all", "paging.faults", "fault_end",
        "    p[slot + P.FAULT_WAITERS] -= 1\n", "    p[slot + P.FAULT_WAITERS] = 0\n",
        "two requests share a fault, and the first to leave takes it away from the other",
        world="readonly", kills="DEADLOCK",
    ),
    Mutant(
        "finish-wakes-nobody", "paging.notifier", "invalidate_finish",
        "    fault_poll(p)\n    return P.DONE", "    return P.DONE",
        "a fault that waited for the invalidation sleeps for ever",
        world="unmap", kills="DEADLOCK",
    ),
    Mutant(
        "flush-wakes-nobody", "paging.flushes", "flush_end",
        "    fault_poll(p)\n    return P.DONE", "    return P.DONE",
        "a fault that waited for the flush sleeps for ever",
        world="discard-deferred", kills="DEADLOCK",
    ),
    Mutant(
        "zap-forgotten", "paging.notifier", "invalidate_start",
        "    changed = change_range(p, start, end, keep, add)\n", "    changed = next_present(p, start, end) >= 0\n",
        "the device is flushed, its table is not: the next translation brings the old frame back",
        world="unmap", kills="I3",
    ),
    Mutant(
        "zap-stops-after-one-page", "paging.table", "change_range",
        "            index += 1\n            page = (page | within) + 1\n        _release(p, node)\n",
        "            page = last\n        _release(p, node)\n",
        "[odp] page offset not reset per page: of a range of several pages only the first is taken out",
        world="second-page", kills="I3",
    ),
    Mutant(
        "no-flush", "paging.notifier", "invalidate_start",
        "        if cached and (owed or p[P.EVICTED] or changed > 0):\n", "        if 0:\n",
        "[odp] page freed before the flush: the table is clean, the device's cache is not",
        world="reclaim-twice", kills="I3",
    ),
    Mutant(
        "flush-not-asked-for", "paging.notifier", "invalidate_start",
        "            p[P.FLUSH_WANTED] |= 1\n            return P.WAIT\n", "            return P.WAIT\n",
        "the invalidation waits for a flush that nobody begins",
        world="unmap", kills="DEADLOCK",
    ),
    Mutant(
        "overlap-forgets-the-flush", "paging.collisions", "flush_owed",
        "    if owed != P.FLUSH_OWED and p[P.TLB]:\n", "    if 0:\n",
        "[here] the second of two overlapping invalidations finds the table clean and does not wait for the first one's flush",
        world="overlap", kills="I3",
    ),
    Mutant(
        "poll-ignores-copies", "paging.notifier", "invalidate_poll",
        "    if dma_collides(p, p[at + P.ACTIVE_START], p[at + P.ACTIVE_END], verdict == P.DOWNGRADE):\n        return P.WAIT\n", "",
        "the flush is waited for, a copy in flight is not",
        world="unmap", kills="I3",
    ),
    Mutant(
        "collision-by-first-byte", "paging.dma", "dma_collides",
        "            and p[at + P.DMA_VA] + p[at + P.DMA_LENGTH] > start\n", "            and p[at + P.DMA_VA] >= start\n",
        "[odp] only the first byte is looked at: a copy that began on the page before is not seen",
        world="wide", kills="I3",
    ),
    Mutant(
        "reads-and-writes-swapped", "paging.dma", "dma_collides",
        "            if not writes_only or p[at + P.DMA_OP] != P.OP_READ:\n",
        "            if not writes_only or p[at + P.DMA_OP] == P.OP_READ:\n",
        "a downgrade waits for the reads and lets the writes go on",
        world="protect", kills="I3",
    ),
    Mutant(
        "invalidation-by-first-page", "paging.collisions", "is_active",
        "            if p[at + P.ACTIVE_START] < end and start < p[at + P.ACTIVE_END]:\n",
        "            if p[at + P.ACTIVE_START] <= start and start < p[at + P.ACTIVE_END]:\n",
        "a fault that begins on the page before does not see the invalidation of its second page",
        world="discard-two-pages", kills="I8",
    ),
    Mutant(
        "waits-for-every-invalidation", "paging.collisions", "is_active",
        "            if p[at + P.ACTIVE_START] < end and start < p[at + P.ACTIVE_END]:\n", "            if start < end:\n",
        "[odp] a fault waits for all active ranges of the address space: invalidations of other pages starve it",
        world="unrelated", kills="LIVELOCK",
    ),
    Mutant(
        "downgrade-keeps-write", "paging.notifier", "invalidate_start",
        "        keep, which = ~P.WRITE,", "        keep, which = -1,",
        "the reads go on, and so do the writes",
        world="protect", kills="I3",
    ),
    Mutant(
        "deferred-entries-stay-fresh", "paging.notifier", "invalidate_start",
        "        keep, add, which = -1, P.STALE, P.COUNT_PAGES_DEFERRED", "        keep, add, which = -1, 0, P.COUNT_PAGES_DEFERRED",
        "what was deferred may be translated, and cached, anew while the flush runs",
        world="unmap-deferred-twice", kills="I3",
    ),
    Mutant(
        "freed-while-the-flush-runs", "paging.flushes", "obligation_done",
        "    return 1 if p[at + P.DEFERRAL_FLUSH] == P.FLUSH_OVER else 0",
        "    return 1 if p[at + P.DEFERRAL_FLUSH] >= P.FLUSH_RUNNING else 0",
        "[odp] page freed before the flush was acknowledged: asked for is taken for done",
        world="discard-deferred", kills="I1",
    ),
    Mutant(
        "joins-a-running-flush", "paging.flushes", "deferral_for",
        "        if p[at + P.DEFERRAL_FLUSH] == P.FLUSH_OWED and p[at + P.DEFERRAL_CAUSE] == cause:\n",
        "        if p[at + P.DEFERRAL_FLUSH] != P.FLUSH_NONE and p[at + P.DEFERRAL_CAUSE] == cause:\n",
        "the next page is added to a batch whose flush has already passed it",
        world="discard-two-pages", kills="I3",
    ),
    Mutant(
        "batch-covers-one-page", "paging.flushes", "owe",
        "    p[at + P.DEFERRAL_END] = max(p[at + P.DEFERRAL_END], end)\n", "    p[at + P.DEFERRAL_END] += 0\n",
        "[odp] a multi-page flush that drops its first page only",
        world="discard-two-pages", kills="I3",
    ),
    Mutant(
        "flush-ends-over-a-copy", "paging.flushes", "flush_end",
        "            if dma_collides(p, p[at + P.DEFERRAL_START], p[at + P.DEFERRAL_END], 0):\n                return P.WAIT\n",
        "            pass\n",
        "the translations are gone, a copy that had used one is still in flight",
        world="discard-deferred", kills="I3",
    ),
    Mutant(
        "sleeps-where-it-may-not", "paging.notifier", "invalidate_start",
        "    if not may_sleep and token < 0 and (copying or cached):\n", "    if 0:\n",
        "the OOM reaper is told to wait",
        world="reaper", kills="I8",
    ),
    Mutant(
        "refusal-asks-for-no-flush", "paging.flushes", "ask_for_flush",
        "        p[P.FLUSH_WANTED] |= 2\n        return 1\n", "        return 1\n",
        "[here] who may not sleep is refused because of the device's cache, and nobody empties it: the retry is refused for ever",
        world="unsleepable", kills="LIVELOCK",
    ),
    Mutant(
        "flush-is-not-remembered", "paging.flushes", "flush_begin",
        "    if p[P.FLUSH_WANTED] & 2:\n", "    if 0:\n",
        "the cache is emptied for who may not sleep, and what is in the table is taken for cached all the same",
        world="unsleepable", kills="LIVELOCK",
    ),
    Mutant(
        "running-flush-taken-for-done", "paging.flushes", "ask_for_flush",
        " or (p[P.FLUSHING] and next_with(p, start, end, P.PRESENT) >= 0)", "",
        "who may not sleep comes again while the flush runs, and is told that the device is out",
        world="unsleepable", kills="I3",
    ),
    Mutant(
        "holds-more-than-the-bound", "paging.notifier", "invalidate_start",
        "        held = p[P.HELD_PAGES] + ((end - start) >> p[P.PAGE_SHIFT])\n", "        held = (end - start) >> p[P.PAGE_SHIFT]\n",
        "[here] the bound of a deferral starts a flush, and what comes while a slow one runs is held on top of it",
        world="discard-bounded", kills="BOUND",
    ),
    Mutant(
        "joined-prefetch-frees-itself", "paging.faults", "_finish",
        "    if p[slot + P.FAULT_WAITERS] == 0:\n", "    if p[slot + P.FAULT_WAITERS] == 0 or p[slot + P.FAULT_TOKEN] < 0:\n",
        "a prefetch that a request has joined is over, its slot is free, and the request is never told",
        world="prefetch-joined", kills="DEADLOCK",
    ),
    Mutant(
        "refuses-after-the-zap", "paging.notifier", "invalidate_start",
        "            count_range(p, start, end, P.COUNT_REFUSED, 1, 0)\n            return P.REFUSED\n        verdict = P.NOW\n",
        "            change_range(p, start, end, 0, 0)\n            return P.REFUSED\n        verdict = P.NOW\n",
        "a refusal that has already changed something",
        world="reclaim-refused", kills="I10",
    ),
    Mutant(
        "sequence-left-open", "paging.notifier", "invalidate_finish",
        "    for i in range(at, at + P.ACTIVE_WORDS):\n        p[i] = 0\n    p[P.ACTIVE_COUNT] -= 1\n", "    p[P.ACTIVE_COUNT] -= 0\n",
        "[odp] start without finish",
        world="unmap", kills="DEADLOCK",
    ),
)  # fmt: skip

_KERNEL: Final = (
    Mutant(
        "frames-not-held", "model.adapter", "hold",
        "            w[frame_at(w, frame) + M.F_HOLD + d] = token", "            w[frame_at(w, frame) + M.F_HOLD + d] = 0",
        "[odp] page freed before the flush was acknowledged: the obligation of a deferral is not kept",
        world="discard-deferred", kills="I1",
    ),
    Mutant(
        "refusal-ignored", "model.operations", "may_refuse",
        "    return 1 if w[M.W_MODE] == M.MODE_UNSLEEPABLE or not leaves_never(op) else 0", "    return 0",
        "[odp] refused invalidation ignored: the kernel goes on as if the device had agreed",
        world="reclaim-refused", kills="I3",
    ),
    Mutant(
        "start-without-finish", "model.operations", "notify_phase",
        "M.PHASE_FINISH if gone", "M.PHASE_OVER if gone",
        "[odp] start without finish: one device refuses, those that had been started are never told that it is over",
        world="two-devices", kills="DEADLOCK",
    ),
    Mutant(
        "lock-kept-after-a-refusal", "model.operations", "end_line",
        "    unlock_all(w, t)\n    forget_tokens(w, t)\n",
        "    if w[a + M.T_REFUSED] == 0:\n        unlock_all(w, t)\n    forget_tokens(w, t)\n",
        "[odp] lock left held on the error path: mmap_lock, or the page's, when a device has refused",
        world="reclaim-refused-at-last", kills="I8",
    ),
    Mutant(
        "entry-installed-without-the-lock", "model.worker", "populate_page",
        "    w[seen] = w[pte_at(w, 0, page)] >> M.PTE_SHIFT\n",
        "    w[seen] = w[pte_at(w, 0, page)] >> M.PTE_SHIFT\n    size = 1 << p[P.PAGE_SHIFT]\n"
        "    install(p, page * size, (page + 1) * size, P.PRESENT | (P.WRITE if write else 0), 0)\n"
        "    retag(p, page * size, w[pte_at(w, 0, page)] >> M.PTE_SHIFT)\n",
        "[odp] entry installed after the lock was dropped: nobody looks whether an invalidation is going on",
        needs="from unpinned.paging.table import install, retag",
        world="discard-two-pages", kills="I8",
    ),
    Mutant(
        "waits-for-the-first-device-only", "model.adapter", "all_ready",
        "    for d in range(w[M.W_DEVICES]):\n", "    for d in range(1):\n",
        "two devices are started together, one is waited for",
        world="two-devices", kills="I8",
    ),
    Mutant(
        "flush-drops-one-page", "model.adapter", "flush_step",
        "        for i in range(tlb, tlb + w[M.W_PAGES]):\n            if w[i] & M.TLB_OLD:\n",
        "        for i in range(tlb, tlb + 1):\n            if w[i] & M.TLB_OLD:\n",
        "[odp] page offset not reset per page of a multi-page flush: the device drops its first translation only",
        world="second-page", kills="I3",
    ),
    Mutant(
        "dirty-mark-lost", "model.machine", "unmap_frame",
        "        w[f + M.F_FLAGS] |= M.FRAME_DIRTY\n", "        pass\n",
        "a page that the device wrote is dropped as clean: set_page_dirty was forgotten",
        world="reclaim-twice-uncached", kills="I4",
    ),
    Mutant(
        "address-handed-out-early", "model.adapter", "address_owed",
        "                return 1\n", "                return 0\n",
        "an address gets a new meaning while a flush of its old one is owed",
        world="discard-deferred", kills="I3",
    ),
    Mutant(
        "held-frame-taken-in-hand", "model.locks", "isolate",
        "    if is_held(w, e >> M.PTE_SHIFT):\n        return 0\n", "",
        "[here] mremap under deferral: the page is written back at its new address, the device writes it through the old one afterwards",
        world="remap-deferred", kills="I4",
    ),
    Mutant(
        "write-back-before-the-flush", "model.operations", "after_phase",
        "        if w[a + M.T_SUB] == 0:\n            if not obligations_done(w, t):\n                return 0\n",
        "        if w[a + M.T_SUB] == 0:\n",
        "reclaim under deferral: write-back reads the page, the device writes it afterwards, the frame is dropped as clean",
        world="reclaim-deferred", kills="I4",
    ),
)  # fmt: skip

_HCA: Final = (
    Mutant(
        "atomic-maps-one-byte", "hca.fetches", "atomic_request",
        "    found = lookup(h, p, mr, va, 8, 1, now)\n", "    found = lookup(h, p, mr, va, 1, 1, now)\n",
        "[odp] atomic maps one byte: the seven behind it are not looked up",
        world="requests", kills="KEYS",
    ),
    Mutant(
        "pinned-key-faults", "hca.regions", "lookup",
        "    if h[mr + L.MR_PINNED]:\n        return HIT\n", "",
        "[odp] non-ODP key in a fault: a pinned region asks the page table",
        world="requests", kills="KEYS",
    ),
    Mutant(
        "key-of-any-domain", "hca.regions", "authorize",
        " or h[mr + L.MR_PD] != pd", "",
        "a key of another protection domain opens its region",
        world="requests", kills="KEYS",
    ),
    Mutant(
        "length-not-tested", "hca.regions", "authorize",
        " or va - start > h[mr + L.MR_LENGTH] - length", " or va - start > h[mr + L.MR_LENGTH]",
        "[odp] fault served beyond the region's bounds: a request may end behind them",
        world="requests", kills="KEYS",
    ),
    Mutant(
        "seen-for-reading-is-written", "hca.regions", "lookup",
        " and write <= h[L.H_SEEN_WRITE]", "",
        "what a READ has found in this step is written without the right",
        world="requests", kills="KEYS",
    ),
    Mutant(
        "step-does-not-forget", "hca.device", "finish",
        "    forget(h)\n", "",
        "what was looked up before the lock was let go is used after it",
        world="requests", kills="KEYS",
    ),
    Mutant(
        "looks-beyond-what-it-found", "hca.regions", "look",
        "    h[L.H_SEEN_END] = table_va + found\n", "    h[L.H_SEEN_END] = table_va + ahead\n",
        "the whole of what a step looked at counts as found",
        world="requests", kills="KEYS",
    ),
)  # fmt: skip

CANARY: Final = Mutant(
    "canary", "paging.notifier", "invalidate_poll",
    "    if verdict == P.DEFER:\n        return P.DONE\n",
    "    if verdict == P.DEFER or verdict == P.DEFER + 100:\n        return P.DONE\n",
    "nothing: it must survive, or whatever kills it would kill everything",
    world="unmap", kills="",
)  # fmt: skip

MUTANTS: Final[dict[str, Mutant]] = {mutant.name: mutant for mutant in (*_PAGING, *_KERNEL, *_HCA)}
