"""The device lock: a futex mutex, and the notifier's priority over it.

A mutex that sleeps in the kernel, not a fair ticket lock: beside one busy process on two cores a ticket lock falls from
36,000 bursts a second to 1,000, because its holder-to-be is often not running. Priority for the notifier comes from
E_HALT instead: a driver looks at it before each burst and stands aside.

    notifier                          driver
    halt += 1                         (burst in progress)
    lock  ............................ unlock, EXECUTING = 1 set under the lock
    wait until EXECUTING == 0 ........ copy; EXECUTING = 0, wake
    read events, zap                  wants the lock: sleeps
    unlock; halt -= 1, wake           sees halt == 0, goes on
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.atomics import compare_exchange, exchange, fetch_add, load_acquire, store_release
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.libc import futex_wait, futex_wake
from unpinned.host import engine_words as E

ALL = 1 << 30
MILLISECOND = 1_000_000


@kernel
def lock(e, word):
    """Take the mutex in e[word]."""
    if compare_exchange(e, word, 0, 1) == 0:
        return 0
    while exchange(e, word, 2) != 0:
        futex_wait(address_of(e) + 8 * word, 2, -1)
    return 0


@kernel
def unlock(e, word):
    """Give the mutex back, waking one sleeper if there may be one."""
    if exchange(e, word, 0) == 2:
        futex_wake(address_of(e) + 8 * word, 1)
    return 0


@kernel
def lock_for_step(e):
    """The driver's way in: a waiting notifier goes first."""
    while load_acquire(e, E.E_HALT) > 0:
        futex_wait(address_of(e) + 8 * E.E_HALT, load_acquire(e, E.E_HALT), MILLISECOND)
    return lock(e, E.E_LOCK)


@kernel
def executed(e):
    """The driver's copies are done: let a waiting notifier see it."""
    store_release(e, E.E_EXECUTING, 0)
    if load_acquire(e, E.E_HALT) > 0:
        futex_wake(address_of(e) + 8 * E.E_EXECUTING, ALL)
    return 0


@kernel
def halt(e):
    """Make the device stand still: on return the lock is held and no copy is in flight."""
    fetch_add(e, E.E_HALT, 1)
    lock(e, E.E_LOCK)
    while load_acquire(e, E.E_EXECUTING):
        futex_wait(address_of(e) + 8 * E.E_EXECUTING, 1, MILLISECOND)
    return 0


@kernel
def resume(e):
    """Let a device that ``halt`` stopped go on."""
    unlock(e, E.E_LOCK)
    if fetch_add(e, E.E_HALT, -1) == 1:
        futex_wake(address_of(e) + 8 * E.E_HALT, ALL)
    return 0
