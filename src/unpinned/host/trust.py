"""For how long the device believes what it looked up: the longer, the longer nothing has left unnoticed.

The kernel tells nobody when it reclaims a page. Using an entry of such a page is right all the same (the process's own
MMU translates), but the copy sleeps on the disk, and with it the device; so an entry older than the horizon is looked
at again before it is used. A look costs 20 ns a page and an interruption of the stream, 6 % of a hot one.

So trust is earned. The horizon begins at HORIZON_NS, and each time that a look at what the table has, a whole horizon after
the last change, finds all of it, the horizon doubles, up to HORIZON_MAX_NS. At the first sign of reclaim it is HORIZON_NS
again, for all entries at once: a page that the table has and a look does not find, or a batch of copies that took long
while the process had a major fault. What is risked is one such batch.

Two things keep it short: a region of whose changes no event tells (what was discarded there has left unnoticed, and
somebody's fault handler may take its time); and a discard lately, whose entries expire early by being dated back
(`paging.collisions.validated_at`) and must not come to life again.
"""

from __future__ import annotations

import platform

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import load64, stack_words
from unpinned.compiled.libc import sys_call
from unpinned.host import engine_words as E
from unpinned.host.recorder import end_copies, note
from unpinned.paging import layout as P
from unpinned.paging.table import entry
from unpinned.recording import layout as R

HORIZON_NS = 20_000_000
HORIZON_MAX_NS = 32 * HORIZON_NS
SLEPT_NS = 100_000  # copies that take so long have perhaps waited for a disk

SYS_GETRUSAGE = 98 if platform.machine() == "x86_64" else 165
RU_MAJFLT = 9  # its word in struct rusage (getrusage(2)): behind two times of two words come longs


@kernel
def looked(e, p, start, end, upto, write, now):
    """A look at [start, end), for writing where *write*, found [start, upto) there. Lock held, nothing installed yet."""
    right = P.PRESENT | P.WRITE if write else P.PRESENT  # what may be read without being there (`nearby`) has not left
    if upto < end and entry(p, upto) & (right | P.STALE) == right:
        return distrust(e, p, now)
    if e[E.E_UNTOLD]:
        return believe(e, p, HORIZON_NS, now)
    horizon = p[P.HORIZON_NS]
    if horizon >= HORIZON_MAX_NS or now - e[E.E_HORIZON_SINCE] < horizon or entry(p, start) & P.PRESENT == 0:
        return 0
    for i in range(p[P.PROVISIONAL_COUNT]):
        if now < p[p[P.PROVISIONAL] + i * P.PROVISIONAL_WORDS + P.PROVISIONAL_UNTIL] + 2 * horizon:
            return 0
    believe(e, p, 2 * horizon, now)
    return 1


@kernel
def took(e, p, ns, now):
    """A batch of copies took so long; -> 1 if it has cost the device its trust. By the driver, which alone changes the
    horizon, and before it says that its copies are over: no notifier has stopped it yet.
    """
    if ns < SLEPT_NS:
        return 0
    seen = major_faults()
    if seen == e[E.E_MAJOR_FAULTS]:
        return 0
    e[E.E_MAJOR_FAULTS] = seen
    distrust(e, p, now)
    return 1


@kernel
def distrust(e, p, now):
    """Begin anew with the shortest horizon."""
    e[E.E_HORIZON_SINCE] = now
    return believe(e, p, HORIZON_NS, now)


@kernel
def believe(e, p, ns, now):
    """Change the horizon, if that is one; a recording has it between what came before and what comes after."""
    if p[P.HORIZON_NS] == ns:
        return 0
    p[P.HORIZON_NS] = ns
    e[E.E_HORIZON_SINCE] = now
    if e[E.E_RECORD]:
        end_copies(e)
        note(e, R.HORIZON, now, ns, 0, 0, 0, 0)
    return 0


@kernel
def major_faults():
    """Those of this process, of all its threads, that waited for a disk or for somebody's fault handler."""
    usage = stack_words(18)  # struct rusage
    sys_call(SYS_GETRUSAGE, 0, usage, 0, 0, 0, 0)  # RUSAGE_SELF
    return load64(usage + 8 * RU_MAJFLT)
