"""Ending a driver's sleep."""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.atomics import load_acquire
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.libc import eventfd_write, futex_wake
from unpinned.host import engine_words as E


@kernel
def kick(e):
    """There is work: end a driver's sleep, or the background thread's pause."""
    if load_acquire(e, E.E_SLEEPING) > 0:
        eventfd_write(e[E.E_WAKE_FD], 1)
    elif load_acquire(e, E.E_PAUSED) > 0:
        futex_wake(address_of(e) + 8 * E.E_PAUSED, 1)
    return 0
