"""Times that a profile of the live device is made of: of this machine's kernel, and of the device's own steps.

Runs in a child, as `_end` does. Each function says what it times.
"""

from __future__ import annotations

import ctypes
import os
import time

import numpy as np
from _common import KIB, MIB
from _end import domain, held_gil, register
from _kernels import bring_in, looks, walks

from unpinned.host import system
from unpinned.host.memory import map_file
from unpinned.host.pagemap import close_scratch, resident, scan_scratch
from unpinned.paging import layout as P
from unpinned.paging.table import install
from unpinned.verbs import IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, IBV_ADVISE_MR_FLAG_FLUSH, SGE

PAGE, APART = 4 * KIB, 2 * MIB
MANY = 1024  # pages of a long look, and of a long munmap
CHUNK = 64  # pages of a fault's first chunk
SWAPPED = 128 * MIB
MADV_NOHUGEPAGE = 15
_swapped: list[int] = []


# --- the owner's kernel, and our own -------------------------------------------------------------------------------------


def look(rounds: int) -> dict[str, list[int]]:
    """Looks at one page and at many that are there; ns."""
    address, scratch = system.map_anonymous(MANY * PAGE), scan_scratch()
    ctypes.memset(address, 1, MANY * PAGE)
    places, gave = np.full(rounds, address), {}
    for name, pages in (("warm", 1), ("one", 1), ("many", MANY)):
        times = np.zeros(rounds, np.int64)
        if looks(places, pages * PAGE, scratch, times):
            raise RuntimeError("pages that were written are not there")
        gave[name] = times.tolist()
    close_scratch(scratch)
    system.unmap(address, MANY * PAGE)
    return gave


def minor(path: str, count: int) -> dict[str, list[int]]:
    """Bringing in a page that needs no disk, each far from all others; ns: of a file in memory, and of private memory."""
    gave = {}
    mapping = map_file(path, False)
    gave["page cache"] = brought(mapping.table_base, count)
    mapping.close()
    for name, write in (("private, read", 0), ("private, written", 1)):
        address = system.map_anonymous(count * APART)
        system.advise(address, count * APART, MADV_NOHUGEPAGE)
        gave[name] = brought(address, count, write=write)
        system.unmap(address, count * APART)
    return gave


def brought(address: int, count: int, pages: int = 1, apart: int = APART, write: int = 0) -> list[int]:
    """Bring in *pages* pages at each of *count* places, in random order; ns."""
    places = address + np.random.default_rng(1).permutation(count) * apart
    times = np.zeros(count, np.int64)
    if error := bring_in(places, pages * PAGE, write, times):
        raise OSError(error, os.strerror(error))
    return times.tolist()


def put_out() -> dict[str, float]:
    """Write private memory and put it out to swap: ns a page, and how many bytes stayed. `bring_back` ends it."""
    address, scratch = system.map_anonymous(SWAPPED), scan_scratch()
    system.advise(address, SWAPPED, MADV_NOHUGEPAGE)
    view = np.ctypeslib.as_array((ctypes.c_int64 * (SWAPPED // 8)).from_address(address))
    view[:] = np.random.default_rng(2).integers(1, 1 << 62, SWAPPED // 8)  # nothing that a compressed swap makes small
    began = time.perf_counter_ns()
    system.advise(address, SWAPPED, system.MADV_PAGEOUT)
    took = time.perf_counter_ns() - began
    left = int(resident(address, address + SWAPPED, scratch))
    close_scratch(scratch)
    _swapped.append(address)
    return {"ns": took / max(1, (SWAPPED - left) // PAGE), "left": left}


def bring_back(pages: int) -> list[int]:
    """Bring in *pages* pages at a time of what `put_out` put out, one such chunk a MiB; ns."""
    address = _swapped.pop()
    gave = brought(address, SWAPPED // MIB, pages, MIB)
    system.unmap(address, SWAPPED)
    return gave


def unmap(pages: int, rounds: int) -> dict[str, list[float]]:
    """munmap of private memory that nobody else uses, registered and brought in or not, by turns, with the GIL held; us."""
    pd, gave = domain(), {"registered": [], "plain": []}
    for i in range(2 * rounds):
        address, length = system.map_anonymous(pages * PAGE), pages * PAGE
        ctypes.memset(address, 1, length)
        mr = None
        if i % 2:
            mr = register(np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(address)))
            pd.advise_mr(IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, IBV_ADVISE_MR_FLAG_FLUSH, [SGE(address, length, mr.lkey)])
        time.sleep(0.001)  # what that woke is asleep again
        began = time.perf_counter_ns()
        held_gil.munmap(address, length)
        gave["registered" if mr else "plain"].append((time.perf_counter_ns() - began) / 1e3)
        if mr:
            mr.close()
    return gave


def walk(pages: int, rounds: int) -> list[float]:
    """A look into the device's table for one of *pages* pages, at random; ns, means of a thousand."""
    random, p = np.random.default_rng(1), P.create(levels=4, bits=9, leaves=pages // 512 + 8, regions=1)
    p[P.HUGE] = 0
    install(p, 0, pages * PAGE, P.PRESENT | P.WRITE, 0)
    took = [walks(p, random.integers(0, pages, 1000) * PAGE, 1) for _ in range(rounds)]
    if min(took) < 0:
        raise RuntimeError("an entry that was installed is not there")
    return [each / 1000 for each in took]

