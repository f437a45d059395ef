"""`execute`: the one place where the live device touches a region's memory.

A batch of DMA descriptors (paging/dma.py) is carried out in its order, by one of two paths:

* PATH_DIRECT: loads and stores at our own mapping of memory whose end cannot move. Nothing here can fault for good. What
  nobody has written yet is read from its file instead (`holes`). A packet's payload is summed as it is copied (COPY_SUMS).
* PATH_PROCESS_VM: ``process_vm_readv/writev`` on our own pid, which obeys the page tables of that very moment and
  answers EFAULT where plain loads and stores would raise a signal. Neighbours of one direction share one call of up to
  IOVECS descriptors. The call pins the pages of its remote side and copies from or to its local side as any system call
  does; the remote side here is the *arena*, which is in huge pages and of which pieces with a packet's headers between
  them are one iovec (the headers are copied onto themselves). So nobody pins a page of the region.
* PATH_FOREIGN: the same, for memory that the application may replace at any moment. Linux tells of that too late to stop a
  copy; what was copied while a change of mappings was under way (it may have strayed) is counted in COPY_AT_RISK.
  What was never touched is read as zeros (`zeros`).

A descriptor that meets a bad address becomes DMA_FAILED with its errno, and the later ones of the same queue pair (the
token's low 32 bits) DMA_FAILED with ECANCELED: a request past a hole must not be carried out. Other queue pairs go on.
"""

from __future__ import annotations

import os

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.atomics import compare_exchange, compare_exchange_at, fetch_add, fetch_add_at
from unpinned.compiled.copying import copy_ahead
from unpinned.compiled.crc32 import crc32_copy
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.libc import EFAULT, monotonic_ns, sys_process_vm_readv, sys_process_vm_writev
from unpinned.host import layout as L
from unpinned.host.holes import read_hole
from unpinned.host.layout import Arena, Words
from unpinned.host.userfaultfd import pending
from unpinned.host.zeros import end_run, read_untouched
from unpinned.paging import layout as P
from unpinned.paging.layout import Block

ECANCELED = 125
_QP = 0xFFFFFFFF


def copy_scratch() -> Words:
    """Scratch for `execute`, of one thread of this process."""
    s = np.zeros(L.COPY_WORDS, np.int64)
    s[L.COPY_PID] = os.getpid()
    return s


@kernel
def execute(p: Block, b: Arena, s: Words) -> int:
    """Carry out the issued descriptors of block *p* against arena *b*; returns how many failed.

    Afterwards each is DMA_DONE, or DMA_FAILED with an errno in DMA_STATUS; atomics have DMA_RESULT.
    """
    since = monotonic_ns()
    failed = 0
    end_run(s)
    for i in range(min(p[P.DMA_COUNT], L.SUMS)):
        s[L.COPY_SUMS + i] = -1
    d = p[P.DMA]
    end = d + p[P.DMA_COUNT] * P.DMA_WORDS
    while d < end:
        after = d + P.DMA_WORDS
        if p[d + P.DMA_STATE] == P.DMA_ISSUED:
            op = p[d + P.DMA_OP]
            if op != P.OP_READ:
                end_run(s)
            if op == P.OP_CMP_SWAP or op == P.OP_FETCH_ADD:
                failed += _settle(p, s, d, end, _atomic(p, s, d))
            elif p[d + P.DMA_PATH] == P.PATH_DIRECT:
                _direct(p, b, s, d)
            elif op != P.OP_READ or _zeros(p, b, s, d) == 0:
                after = _gather(p, b, s, d, end)
                lost = _system_copy(p, s, end)
                if lost:
                    failed += lost
                    after = d  # come back for those that the failure kept from being copied
        d = after
    spent = monotonic_ns() - since
    s[L.COPY_SPENT] = spent
    if spent > L.SLOW_NS:
        s[L.COPY_SLOW] += 1
        s[L.COPY_SLOW_NS] += spent
    return failed


@kernel
def _settle(p: Block, s: Words, d: int, end: int, status: int) -> int:
    """Write the outcome of descriptor *d*; returns how many descriptors failed by it."""
    if status == 0:
        p[d + P.DMA_STATE] = P.DMA_DONE
        return 0
    s[L.COPY_FAILED] += 1
    failed = 0
    qp = p[d + P.DMA_TOKEN] & _QP
    while d < end:
        if p[d + P.DMA_STATE] == P.DMA_ISSUED and p[d + P.DMA_TOKEN] & _QP == qp:
            p[d + P.DMA_STATE] = P.DMA_FAILED
            p[d + P.DMA_STATUS] = status
            status = ECANCELED
            failed += 1
        d += P.DMA_WORDS
    return failed


@kernel
def _direct(p: Block, b: Arena, s: Words, d: int) -> None:
    """Copy descriptor *d* with our own loads and stores."""
    va, length = p[d + P.DMA_VA], p[d + P.DMA_LENGTH]
    local = address_of(b) + p[d + P.DMA_OFFSET]
    if p[d + P.DMA_OP] == P.OP_READ:
        if (s[L.COPY_HOLED] == 0 and s[L.COPY_ZEROS] < 0) or read_hole(s, va, length, local) == 0:
            i = (d - p[P.DMA]) // P.DMA_WORDS
            if length < L.SUMMED or i >= L.SUMS:
                copy_ahead(local, va, length)
            else:
                s[L.COPY_SUMS + i] = crc32_copy(local, va, length)
    else:
        copy_ahead(va, local, length)
    s[L.COPY_DIRECT_BYTES] += length
    p[d + P.DMA_STATE] = P.DMA_DONE


@kernel
def _zeros(p: Block, b: Arena, s: Words, d: int) -> int:
    """Carry out descriptor *d* if it reads private memory that was never touched; 1 if so."""
    if p[d + P.DMA_PATH] != P.PATH_FOREIGN or s[L.COPY_SCAN] == 0:
        end_run(s)
        return 0
    done = read_untouched(s, p[d + P.DMA_VA], p[d + P.DMA_LENGTH], address_of(b) + p[d + P.DMA_OFFSET])
    if done:
        p[d + P.DMA_STATE] = P.DMA_DONE
    return done


@kernel
def _gather(p: Block, b: Arena, s: Words, d: int, end: int) -> int:
    """Collect descriptors like *d* into iovecs; returns the descriptor after them."""
    op, path = p[d + P.DMA_OP], p[d + P.DMA_PATH]
    count, regions, arenas, total = 0, 0, 0, 0
    va_end, arena_end = -1, -1
    while d < end and count < L.IOVECS and p[d + P.DMA_OP] == op and p[d + P.DMA_PATH] == path:
        if p[d + P.DMA_STATE] == P.DMA_ISSUED:
            va, length = p[d + P.DMA_VA], p[d + P.DMA_LENGTH]
            at = address_of(b) + p[d + P.DMA_OFFSET]
            seam = at - arena_end
            if arenas == 0 or seam < 0 or seam > L.SEAM:
                arenas += _iovec(s, L.COPY_ARENA + 2 * arenas, at, length)
            else:
                s[L.COPY_ARENA + 2 * arenas - 1] += seam + length
                total += seam
                if seam:  # copied onto itself
                    regions += _iovec(s, L.COPY_REGION + 2 * regions, arena_end, seam)
                    va_end = -1
            if va == va_end:
                s[L.COPY_REGION + 2 * regions - 1] += length
            else:
                regions += _iovec(s, L.COPY_REGION + 2 * regions, va, length)
            total += length
            va_end, arena_end = va + length, at + length
            s[L.COPY_INDEX + count] = d
            s[L.COPY_UPTO + count] = total
            count += 1
        d += P.DMA_WORDS
    s[L.COPY_COUNT], s[L.COPY_REGIONS], s[L.COPY_ARENAS] = count, regions, arenas
    return d


@kernel
def _iovec(s: Words, at: int, address: int, length: int) -> int:
    """Write one; returns 1."""
    s[at] = address
    s[at + 1] = length
    return 1


@kernel
def _system_copy(p: Block, s: Words, end: int) -> int:
    """One call for the gathered descriptors, and what became of each; returns how many failed."""
    first = s[L.COPY_INDEX]
    done = _call(s, p[first + P.DMA_OP] == P.OP_READ, s[L.COPY_REGIONS], s[L.COPY_ARENAS])
    at_risk = done > 0 and _may_stray(p, s, first)
    status = EFAULT if done >= 0 else -done
    copied, failed = 0, 0
    for i in range(s[L.COPY_COUNT]):
        d = s[L.COPY_INDEX + i]
        short = s[L.COPY_UPTO + i] - done
        copied += max(p[d + P.DMA_LENGTH] - max(short, 0), 0)
        if short > 0:
            failed = _settle(p, s, d, end, status)
            break
        p[d + P.DMA_STATE] = P.DMA_DONE
    s[L.COPY_BYTES] += copied
    if at_risk:
        s[L.COPY_AT_RISK] += copied
    return failed


@kernel
def _may_stray(p: Block, s: Words, d: int) -> bool:
    """Was descriptor *d*, which has just been copied, on its way while the mappings around it changed?"""
    return p[d + P.DMA_PATH] == P.PATH_FOREIGN and s[L.COPY_UFFD] != 0 and pending(s[L.COPY_UFFD])


@kernel
def _call(s: Words, read: bool, regions: int, arenas: int) -> int:
    """The system call itself: bytes copied, seams included, or -errno. For the kernel the arena is the remote side."""
    s[L.COPY_CALLS] += 1
    region = address_of(s) + 8 * L.COPY_REGION
    arena = address_of(s) + 8 * L.COPY_ARENA
    if read:
        return sys_process_vm_writev(s[L.COPY_PID], region, regions, arena, arenas)
    return sys_process_vm_readv(s[L.COPY_PID], region, regions, arena, arenas)


@kernel
def _atomic(p: Block, s: Words, d: int) -> int:
    """Carry out one atomic on native-endian memory, serialised by whoever runs `execute`; 0 or errno."""
    va, swap = p[d + P.DMA_VA], p[d + P.DMA_OP] == P.OP_CMP_SWAP
    x0, x1 = p[d + P.DMA_X0], p[d + P.DMA_X1]
    if p[d + P.DMA_PATH] == P.PATH_DIRECT:
        p[d + P.DMA_RESULT] = compare_exchange_at(va, x0, x1) if swap else fetch_add_at(va, x0)
        return 0
    _iovec(s, L.COPY_REGION, va, 8)
    _iovec(s, L.COPY_ARENA, address_of(s) + 8 * L.COPY_CELL, 8)
    done = _call(s, True, 1, 1)
    if done == 8:
        p[d + P.DMA_RESULT] = compare_exchange(s, L.COPY_CELL, x0, x1) if swap else fetch_add(s, L.COPY_CELL, x0)
        done = _call(s, False, 1, 1) if not swap or p[d + P.DMA_RESULT] == x0 else 8
        if done == 8 and _may_stray(p, s, d):
            s[L.COPY_AT_RISK] += 8
    return 0 if done == 8 else -done if done < 0 else EFAULT
