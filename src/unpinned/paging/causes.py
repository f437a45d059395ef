"""Causes: who changes the CPU's page table, what of an invalidation may then be skipped or delayed, and what must be
proved for it.

Linux tells its notifiers less than it knows (`enum mmu_notifier_event`; CLEAR alone stands for reclaim, migration,
copy-on-write and discard), and no RDMA driver reads even that. Here the cause is an argument of invalidate_start, and
a policy (policy.py) turns it into a verdict. What each cause means is data, so that tools can print it and the model
can test it:

* `raised_by`: the kernel's own occasions, and the event that Linux passes for them.
* `live`: what user space learns of it on Linux today.
* `may_skip`: the work that can be left out without breaking an invariant.
* `obligation`: what the host must keep to for a deferral (or a downgrade) to be safe: the proof obligation that
  `check` tests.

The facts are those of mm/ in Linux 6.16 and later, and of Documentation/mm/mmu_notifier.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from unpinned.paging import layout as P


class Cause(IntEnum):
    """Why a range of the CPU's page table changes. The numbers index the policy table in the block."""

    UNKNOWN = P.CAUSE_UNKNOWN
    UNMAP = P.CAUSE_UNMAP
    REMAP = P.CAUSE_REMAP
    DISCARD = P.CAUSE_DISCARD
    RECLAIM = P.CAUSE_RECLAIM
    MIGRATE = P.CAUSE_MIGRATE
    COW = P.CAUSE_COW
    PROTECT = P.CAUSE_PROTECT
    SOFT_DIRTY = P.CAUSE_SOFT_DIRTY
    MERGE = P.CAUSE_MERGE
    RELEASE = P.CAUSE_RELEASE


class Verdict(IntEnum):
    """What a policy does about a cause."""

    NOW = P.NOW  #: zap, flush, wait
    DOWNGRADE = P.DOWNGRADE  #: drop the write right; reads go on
    DEFER = P.DEFER  #: mark stale, batch, one flush for many; the host holds the frames until then
    REFUSE_IF_BUSY = P.REFUSE_IF_BUSY  #: idle: as NOW; busy: leave the page with its owner, nothing changed


class Point(IntEnum):
    """Past it, the old translation is never used again (invariant I3)."""

    START = P.POINT_START
    FINISH = P.POINT_FINISH
    FLUSH = P.POINT_FLUSH


@dataclass(frozen=True)
class Meaning:
    """One cause, documented. See the module for what the fields say."""

    raised_by: str
    live: str
    may_skip: str
    obligation: str
    deferrable: bool  #: a deferral is safe if the obligation holds; False: no obligation can make it safe
    downgradable: bool  #: the old translation may still be read from
    refusable: bool  #: the host can leave the page as it is


MEANINGS: Final[dict[Cause, Meaning]] = {
    Cause.UNKNOWN: Meaning(
        raised_by="a notifier that passes no cause (Linux before 5.2; every driver that does not read the event)",
        live="an event that could not be understood",
        may_skip="nothing: it may be any of the others",
        obligation="that of the strictest cause, which allows no delay",
        deferrable=False,
        downgradable=False,
        refusable=False,
    ),
    Cause.UNMAP: Meaning(
        raised_by="munmap, MAP_FIXED over a mapping, a shrinking mremap; MMU_NOTIFY_UNMAP",
        live="userfaultfd UNMAP: late, the mapping is gone when it arrives; the region is revoked",
        may_skip="the wait: the pages are leaving anyway",
        obligation="the frames are held until the flush, and the address is not handed out again before it",
        deferrable=True,
        downgradable=False,
        refusable=False,
    ),
    Cause.REMAP: Meaning(
        raised_by="mremap that moves a mapping; MMU_NOTIFY_UNMAP over the old place",
        live="userfaultfd REMAP, and UNMAP of the old place after it",
        may_skip="the wait for the old place; the new one starts empty",
        obligation="before the flush the old address is not handed out again, and at their new one the frames are neither "
        "freed nor written back, moved or merged",
        deferrable=True,
        downgradable=False,
        refusable=False,
    ),
    Cause.DISCARD: Meaning(
        raised_by="MADV_DONTNEED, MADV_FREE, MADV_REMOVE, truncation, hole punching; MMU_NOTIFY_CLEAR (truncation: UNMAP)",
        live="userfaultfd REMOVE for the madvise ones: early, and nothing marks the end; truncation is silent",
        may_skip="saving what the device wrote: the owner threw it away",
        obligation="the frames are held until the flush; nobody faults the address in before it",
        deferrable=True,
        downgradable=False,
        refusable=False,
    ),
    Cause.RECLAIM: Meaning(
        raised_by="kswapd, direct reclaim, MADV_PAGEOUT, memory cgroups; MMU_NOTIFY_CLEAR",
        live="silent; seen afterwards by scanning the page map",
        may_skip="everything, if the page is refused: it simply stays; or the wait, if the frame is held",
        obligation="write-back reads the page, and the frame is reused, only after the flush has recorded the dirty bit",
        deferrable=True,
        downgradable=False,
        refusable=True,
    ),
    Cause.MIGRATE: Meaning(
        raised_by="compaction, NUMA balancing, hotplug, CMA, huge-page collapse; MMU_NOTIFY_CLEAR (device memory: MIGRATE)",
        live="silent, and harmless: the process's own MMU translates",
        may_skip="the move itself, if it is refused: another page will do",
        obligation="never past the moment when the new entry is visible: from then on the old frame is somebody else's",
        deferrable=False,
        downgradable=False,
        refusable=True,
    ),
    Cause.COW: Meaning(
        raised_by="a write to a copy-on-write page, which is replaced by its copy; MMU_NOTIFY_CLEAR",
        live="silent, and harmless: the process's own MMU translates",
        may_skip="nothing: the device would read, or write, the page of another process",
        obligation="never past the moment when the copy is visible",
        deferrable=False,
        downgradable=False,
        refusable=False,
    ),
    Cause.PROTECT: Meaning(
        raised_by="mprotect (MMU_NOTIFY_PROTECTION_VMA); fork, which write-protects what it shares (PROTECTION_PAGE)",
        live="silent; a copy into the range fails with EFAULT",
        may_skip="the reads: only the write right goes",
        obligation="the write right is gone when start is done; to PROT_NONE it is an UNMAP and must be raised as one",
        deferrable=False,
        downgradable=True,
        refusable=False,
    ),
    Cause.SOFT_DIRTY: Meaning(
        raised_by="a write to /proc/PID/clear_refs, userfaultfd write protection; MMU_NOTIFY_SOFT_DIRTY",
        live="silent",
        may_skip="the reads; and a flush a page, if the log is read once for many",
        obligation="the device's dirty bits are in the log before the caller returns",
        deferrable=True,
        downgradable=True,
        refusable=False,
    ),
    Cause.MERGE: Meaning(
        raised_by="same-page merging (KSM): write protection, a comparison, then the other page; MMU_NOTIFY_CLEAR",
        live="silent, and harmless: the process's own MMU translates",
        may_skip="the merge itself, if it is refused; the reads, until the operation ends, for the content is equal",
        obligation="the write right is gone before the comparison; the old frame is not read after finish",
        deferrable=False,
        downgradable=False,
        refusable=True,
    ),
    Cause.RELEASE: Meaning(
        raised_by="exit, exec, the OOM reaper (which may not sleep); MMU_NOTIFY_RELEASE",
        live="the life cycle of the device: close, fork, exit",
        may_skip="nothing",
        obligation="none would do: there is nobody left to keep it",
        deferrable=False,
        downgradable=False,
        refusable=False,
    ),
}

assert len(Cause) == P.CAUSES == len(MEANINGS)
