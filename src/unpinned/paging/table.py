"""stub"""
from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.layout import Block


@kernel
def translate(p: Block, va: int, length: int, need_write: int, now: int) -> int:
    """How many leading bytes of ``[va, va + length)`` the device may use now: 0 .. length.

    Usable means: present, with the asked right, no invalidation owed, validated within p[HORIZON_NS].
    """
    return 0


@kernel
def install(p: Block, start: int, end: int, rights: int, now: int) -> int:
    """Install page-aligned ``[start, end)`` with `rights` (PRESENT, or PRESENT | WRITE), validated at `now`; -> pages installed.

    Only for worlds that install without a fault (pinned regions, tests): it does not ask the notifier.
    """
    return 0


@kernel
def zap_range(p: Block, start: int, end: int) -> int:
    """Remove every entry of ``[start, end)`` (outward to pages); -> pages removed. Bounded: absent subtrees are skipped."""
    return 0


@kernel
def downgrade_range(p: Block, start: int, end: int) -> int:
    """Take the write right from every entry of ``[start, end)``; -> pages that had it."""
    return 0


@kernel
def mark_stale(p: Block, start: int, end: int) -> int:
    """Mark every entry of ``[start, end)`` STALE; -> pages newly marked."""
    return 0


@kernel
def zap_all(p: Block) -> int:
    """Drop the whole table (an unknown event, the end); -> pages removed."""
    return 0


@kernel
def entry(p: Block, va: int) -> int:
    """The entry that covers `va`, or 0 (a huge entry has HUGE_ENTRY set)."""
    return 0


@kernel
def retag(p: Block, va: int, value: int) -> int:
    """Set what an entry carries above its flags (the model: the frame); -> 1, or 0 when `va` is not present."""
    return 0
