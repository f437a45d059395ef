"""Carrying out selections over a lane: gather, scatter, atomics.

A *part* of a selection goes through one slot of the lane's staging buffer: its blocks land there side by side (neighbours as
one request, near neighbours with their gaps, see `pieces`) and are copied to where they belong; or the other way round. While
one slot is copied the other is on the wire. What is long and contiguous goes straight from or to its place instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.remote.descriptions import Description
from unpinned.remote.indexing import Selection
from unpinned.remote.lanes import SLOT_BYTES, SLOTS, Batch, Lane
from unpinned.remote.pieces import Cover, Pieces, cover, cut, join
from unpinned.verbs import MR
from unpinned.verbs.enums import (
    IBV_WR_ATOMIC_CMP_AND_SWP,
    IBV_WR_ATOMIC_FETCH_AND_ADD,
    IBV_WR_RDMA_READ,
    IBV_WR_RDMA_WRITE,
)

DIRECT_BYTES = 8 << 20
"""Contiguous memory at least this long is registered and used in place; below, registering costs more than a copy."""
DIRECT_RUN_BYTES = 64 << 10
"""... if its blocks are this long: short ones are quicker through the cache-hot staging buffer."""
BLOCKS_MAX = 1 << 15
WORD = 8

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Unit:
    """A part of a selection that fits a slot, and how to ask for it."""

    place: tuple[slice, ...]
    part: Selection
    run: int
    pieces: Pieces
    covered: Cover | None

    def target(self, axis: int, ranks: NDArray[np.int64] | None) -> tuple[Any, ...]:
        """Its place in a landing buffer whose *axis* is in the order that the caller asked for: place i is asked for as ranks[i]."""
        return self.place if ranks is None else (*self.place[:axis], ranks[self.place[axis]], *self.place[axis + 1 :])


def read(lane: Lane, array: Description, selection: Selection, landing: NDArray[Any], progress: Progress | None = None) -> None:
    """Read what is selected into *landing*, whose shape is the selection's counts."""
    if _lies_well(selection, landing):
        _move_in_place(lane, IBV_WR_RDMA_READ, array, selection, landing, progress)
        return
    landing = _plain(landing)
    # What fits one part is sorted there (`pieces.cover`); over several, neighbours would be asked for in different ones.
    whole = selection.nbytes <= SLOT_BYTES and selection.size <= BLOCKS_MAX
    selection, axis, ranks = (selection, 0, None) if whole else selection.ascending()
    under_way: deque[tuple[Unit, Batch, NDArray[np.uint8]]] = deque()
    for number, unit in enumerate(_units(selection)):
        if len(under_way) == SLOTS:
            _land(lane, landing, axis, ranks, *under_way.popleft(), progress)
        slot = lane.slot(number)
        under_way.append((unit, _submit(lane, IBV_WR_RDMA_READ, array, unit.pieces, slot), slot))
    while under_way:
        _land(lane, landing, axis, ranks, *under_way.popleft(), progress)


def _units(selection: Selection) -> Iterator[Unit]:
    for place, part in selection.parts(SLOT_BYTES, BLOCKS_MAX):
        blocks, run = part.blocks()
        covered = cover(blocks, run)
        if covered is not None and covered.nbytes > SLOT_BYTES:
            # The gaps make it too long for a slot: ask for so much less at a time.
            fraction = max(run, part.nbytes * SLOT_BYTES // covered.nbytes // 2)
            for inner, smaller in part.parts(fraction, BLOCKS_MAX):
                yield _unit(_within(place, inner), smaller)
        else:
            yield Unit(place, part, run, covered.pieces if covered else join(blocks, run), covered)


def _unit(place: tuple[slice, ...], part: Selection) -> Unit:
    blocks, run = part.blocks()
    covered = cover(blocks, run)
    if covered is not None and covered.nbytes > SLOT_BYTES:
        covered = None
    return Unit(place, part, run, covered.pieces if covered else join(blocks, run), covered)


def _within(outer: tuple[slice, ...], inner: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(outer, inner))


def _submit(lane: Lane, opcode: int, array: Description, pieces: Pieces, slot: NDArray[np.uint8]) -> Batch:
    local = pieces.local + slot.ctypes.data
    return lane.submit(Batch(opcode, pieces.remote + array.address, array.rkey, local, lane.region.lkey, pieces.length))


def _land(
    lane: Lane, landing: NDArray[Any], axis: int, ranks: NDArray[np.int64] | None, unit: Unit, batch: Batch,
    slot: NDArray[np.uint8], progress: Progress | None,
) -> None:  # fmt: skip
    """Wait for a unit and copy it to its place."""
    lane.wait(batch)
    part = unit.part
    if unit.covered is not None:
        rows = unit.covered.pick(slot[: unit.covered.nbytes], landing.dtype, unit.run // landing.itemsize, unit.run)
    else:
        rows = slot[: part.nbytes].view(landing.dtype)
    landing[unit.target(axis, ranks)] = rows.reshape(part.counts)
    if progress is not None:
        progress(part.nbytes)


def _lies_well(selection: Selection, here: NDArray[Any]) -> bool:
    """Whether the device may as well use the caller's memory itself."""
    return selection.nbytes >= DIRECT_BYTES and here.flags.c_contiguous and selection.run()[0] >= DIRECT_RUN_BYTES


def _move_in_place(
    lane: Lane, opcode: int, array: Description, selection: Selection, here: NDArray[Any], progress: Progress | None
) -> None:
    raw = here.reshape(-1).view(np.uint8)
    under_way: deque[Batch] = deque()
    with MR(lane.pd, raw) as region:  # once it is closed nothing touches it, whatever is still on its way
        at = region.buf
        for _, part in selection.parts(4 * SLOT_BYTES, BLOCKS_MAX):
            pieces = cut(join(*part.blocks()), SLOT_BYTES // 8)
            remote = pieces.remote + array.address
            batch = Batch(opcode, remote, array.rkey, pieces.local + at, region.lkey, pieces.length)
            under_way.append(lane.submit(batch))
            at += part.nbytes
            if len(under_way) > SLOTS:
                _finish(lane, under_way.popleft(), progress)
        while under_way:
            _finish(lane, under_way.popleft(), progress)


def _finish(lane: Lane, batch: Batch, progress: Progress | None) -> None:
    lane.wait(batch)
    if progress is not None:
        progress(int(batch.length.sum()))


def write(lane: Lane, array: Description, selection: Selection, values: NDArray[Any], progress: Progress | None = None) -> None:
    """Write *values*, in the result's shape and of any dtype, to what is selected. Of a place selected twice the last value
    stays."""
    values = selection.arrange(values)
    selection, keep = selection.without_repeats()
    if keep:
        values = values[keep]
    same = values.dtype == array.dtype
    if same and _lies_well(selection, values):
        _move_in_place(lane, IBV_WR_RDMA_WRITE, array, selection, values, progress)
        return
    if same:
        values = _plain(values)
    under_way: deque[tuple[Batch, int]] = deque()
    for number, (place, part) in enumerate(selection.parts(SLOT_BYTES, BLOCKS_MAX)):
        if len(under_way) == SLOTS:
            _written(lane, *under_way.popleft(), progress)
        slot = lane.slot(number)
        staged = slot[: part.nbytes].view(values.dtype if same else array.dtype).reshape(part.counts)
        if array.dtype.names is not None and not same:
            slot[: part.nbytes] = 0  # what lies between the fields goes along
        np.copyto(staged, _part(values, place), casting="unsafe")
        pieces = join(*part.blocks())
        under_way.append((_submit(lane, IBV_WR_RDMA_WRITE, array, pieces, slot), part.nbytes))
    while under_way:
        _written(lane, *under_way.popleft(), progress)


def _written(lane: Lane, batch: Batch, nbytes: int, progress: Progress | None) -> None:
    lane.wait(batch)
    if progress is not None:
        progress(nbytes)


def atomics(
    lane: Lane, array: Description, selection: Selection, operand: NDArray[Any], swap: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Fetch-and-add, or with *swap* compare-and-swap, each selected word; what they held, in landing order.

    *operand* and *swap* are of the array's dtype, in the result's shape.
    """
    opcode = IBV_WR_ATOMIC_FETCH_AND_ADD if swap is None else IBV_WR_ATOMIC_CMP_AND_SWP
    found = np.empty(selection.counts, array.dtype)
    operands = selection.arrange(operand)
    swaps = None if swap is None else selection.arrange(swap)
    for place, part in selection.parts(min(SLOT_BYTES, WORD * BLOCKS_MAX), BLOCKS_MAX):
        remote = _words(part) + array.address
        slot = lane.slot(0)
        local = slot.ctypes.data + WORD * np.arange(remote.size)
        batch = Batch(
            opcode, remote, array.rkey, local, lane.region.lkey, np.full(remote.size, WORD),
            _bits(_part(operands, place)), None if swaps is None else _bits(_part(swaps, place)),
        )  # fmt: skip
        lane.wait(lane.submit(batch))
        found[place] = slot[: part.nbytes].view(array.dtype).reshape(part.counts)
    return found


def _words(part: Selection) -> NDArray[np.int64]:
    """The offset of every selected word."""
    blocks, run = part.blocks()
    return (blocks[:, None] + WORD * np.arange(run // WORD)).reshape(-1)


def _part(values: NDArray[Any], place: tuple[slice, ...]) -> NDArray[Any]:
    """A view, an array even where it has no dimensions."""
    index: Any = (*place, ...)
    return values[index]


def _bits(values: NDArray[Any]) -> NDArray[np.int64]:
    return np.ascontiguousarray(values).reshape(-1).view(np.int64)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Structured items as opaque ones: they are moved, not converted field by field."""
    return values.view(np.dtype((np.void, values.dtype.itemsize))) if values.dtype.names is not None else values
