"""Memory that this project owns: NumPy arrays on a sealed memfd that is mapped twice.

The application works in one mapping, the device in the other, so whatever the application does to its addresses, no copy of
the device can land anywhere else. The seals forbid shrinking, so direct loads and stores cannot meet the end of the file.
Being shared memory, such an array is shared with forked children (a child's writes are seen by the parent), like
multiprocessing.shared_memory.
"""

from __future__ import annotations

import fcntl
import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unpinned.host import endings, system
from unpinned.host.undisturbed import undisturbed
from unpinned.host.vmas import Vma

Identity = tuple[int, int]


@dataclass(frozen=True)
class Block:
    """A sealed memfd and its two mappings."""

    base: int
    """The application's mapping."""
    device_base: int
    """The device's. Not inherited by forked children."""
    length: int
    identity: Identity
    """Device and inode, by which the kernel names the file in a list of mappings."""
    pid: int
    fd: int
    """The memfd's descriptor, by which reads of what was never written need not allocate it; -1 where it is not kept."""


DESCRIPTORS = 256
"""So many arrays keep their descriptor: the rest must do without, as processes may have few."""

_blocks: dict[Identity, endings.Ending] = {}


class _Holder:
    """What an owned array's memory belongs to: when the last array (or region) on it is gone, it is unmapped."""

    __slots__ = ("__array_interface__", "__weakref__", "block")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.__array_interface__ = {
            "version": 3,
            "shape": (block.length,),
            "typestr": "|u1",
            "data": (block.base, False),
        }


def empty(shape: int | Sequence[int], dtype: DTypeLike = float, *, huge: bool = False) -> NDArray[Any]:
    """An array like `numpy.empty`'s (zeros, in fact) in memory that the device can serve without a stray byte.

    Nothing is populated: an array larger than RAM is fine. *huge*: ask for transparent huge pages.
    TypeError for a dtype that holds Python objects; OSError where memory or addresses run out, or memfd_create is refused.
    """
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"dtype {kind} holds Python objects: they mean nothing in another process")
    lengths = _lengths(shape)
    size = kind.itemsize * math.prod(lengths)
    if size == 0:
        return np.empty(lengths, kind)
    endings.settle()
    return np.asarray(undisturbed(lambda: _allocate(size, huge)))[:size].view(kind).reshape(lengths)


def _lengths(shape: int | Sequence[int]) -> tuple[int, ...]:
    """As NumPy takes a shape: an integer, or a sequence of them."""
    try:
        found = tuple(map(operator.index, shape)) if isinstance(shape, Sequence) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"shape: an integer or a tuple of integers is needed, not {shape!r}") from None
    if any(length < 0 for length in found):
        raise ValueError(f"shape: {found} has negative dimensions")
    return found


def holder_of(vma: Vma) -> _Holder | None:
    """The living owner of the memory that *vma* maps, if it is ours and of this process (not a parent's)."""
    reference = _blocks.get((vma.device, vma.inode))
    holder = reference() if reference is not None else None
    return holder if holder is not None and holder.block.pid == os.getpid() else None


def sealed_length(vma: Vma) -> int:
    """How long the file that *vma* maps will always be: 0 unless it is ours, or a parent's."""
    reference = _blocks.get((vma.device, vma.inode))
    holder = reference() if reference is not None else None
    return holder.block.length if holder is not None else 0


def _allocate(size: int, huge: bool) -> _Holder:
    length = system.page_ceil(size)
    alignment = system.HUGE if length >= system.HUGE else system.PAGE
    fd = system.memfd("unpinned", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    bases: list[int] = []
    try:
        os.ftruncate(fd, length)
        fcntl.fcntl(fd, system.F_ADD_SEALS, system.F_SEAL_SHRINK | system.F_SEAL_GROW | system.F_SEAL_SEAL)
        for _ in range(2):
            bases.append(system.reserve(length, alignment))
            system.map_shared(fd, length, True, at=bases[-1])
            if huge:
                system.advise(bases[-1], length, system.MADV_HUGEPAGE)
        system.keep_from_children(bases[1], length)
        status = os.fstat(fd)
        kept = fd if fd < system.PAGE and len(_blocks) < DESCRIPTORS else -1
        holder = _hold(Block(bases[0], bases[1], length, (status.st_dev, status.st_ino), os.getpid(), kept))
    except BaseException:
        for base in bases:
            system.unmap(base, length)
        endings.descriptors.discard(fd)
        os.close(fd)
        raise
    if kept < 0:
        os.close(fd)
    return holder


def _hold(block: Block) -> _Holder:
    holder = _Holder(block)
    steps: list[endings.Step] = [(_blocks.pop, block.identity, None), (system.munmap, block.base, block.length)]
    own: list[endings.Step] = [(system.munmap, block.device_base, block.length)]
    if block.fd >= 0:
        own += endings.closing(block.fd)
    _blocks[block.identity] = endings.at_end(holder, steps, own)
    return holder
