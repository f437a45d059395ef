"""What an index selects of an array that is not here: which bytes, in which order, and how the result is shaped.

Pure: NumPy and nothing else. ``select`` gives a *selection*: where each selected item lies in the array, as a base offset and
*dimensions*. A dimension counts in even steps (a slice) or has a list of offsets (a *group*: all integer and boolean arrays of
an index, broadcast together). Dimensions stand in **landing order**, widest steps first, all steps positive, so that
neighbours in memory are neighbours in the landing buffer whatever the index (or Fortran order) says; `Selection.finish` gives
the landed items the shape and order that NumPy would.

Slices are not reimplemented: a *probe* with the array's shape and strides, but items of no bytes, is indexed instead, so
every rule and every error message is NumPy's own.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Offsets = NDArray[np.int64]

_INT64 = np.iinfo(np.int64)
_NOT_AN_INDEX = (
    "only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and integer or boolean arrays are valid indices"
)
_NO_FIELDS = "fields of a remote array cannot be read alone; index the result instead"
_NOT_AN_INDEX_ARRAY = "arrays used as indices must be of integer (or boolean) type"


@dataclass(frozen=True)
class Dimension:
    """``count`` places, ``step`` bytes apart, or at ``offsets``."""

    count: int
    step: int
    offsets: Offsets | None = None

    def part(self, start: int, stop: int) -> tuple[int, Dimension]:
        """Bytes to its place *start*, and the dimension of places [start, stop) counted from there."""
        if self.offsets is not None:
            return 0, Dimension(stop - start, self.step, self.offsets[start:stop])
        return start * self.step, Dimension(stop - start, self.step)

    def places(self) -> Offsets:
        """Offset of each place."""
        return np.arange(self.count, dtype=np.int64) * self.step if self.offsets is None else self.offsets


@dataclass(frozen=True)
class Selection:
    """What an index selects; `dims` in landing order."""

    base: int
    """Offset of the first item, bytes from the array's first."""
    dims: tuple[Dimension, ...]
    itemsize: int
    shape: tuple[int, ...]
    """Shape that NumPy's result would have."""
    scalar: bool = False
    """The result is an item, not an array of no dimensions."""
    order: tuple[int, ...] = ()
    """For each dimension of the result (a group counts once), its place in `dims`."""
    flips: tuple[int, ...] = ()
    """Places in `dims` that the result runs through backwards."""
    group: tuple[int, tuple[int, ...]] | None = None
    """Dimension of the result (a group counts once) that is the group, and the shape of the group."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Shape of the landing buffer, items."""
        return tuple(dim.count for dim in self.dims)

    @property
    def size(self) -> int:
        """Number of items."""
        return math.prod(self.counts)

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def finish(self, landed: NDArray[Any]) -> NDArray[Any]:
        """The landing buffer's items (shape `counts`), as a view in the result's shape and order."""
        for place in self.flips:
            landed = np.flip(landed, place)
        return landed.transpose(self.order).reshape(self.shape)

    def arrange(self, values: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `finish`: values in the result's shape, as a view in landing order (a copy for a group of several
        dimensions)."""
        if self.group is not None:
            at, shape = self.group
            merged = (*self.shape[:at], math.prod(shape), *self.shape[at + len(shape) :])
            values = values.reshape(merged)
        else:
            values = values.reshape(self.shape)
        landing = values.transpose(np.argsort(self.order)) if self.order else values
        for place in self.flips:
            landing = np.flip(landing, place)
        return landing

    def without_repeats(self) -> tuple[Selection, tuple[Any, ...]]:
        """For a scatter: the same with each place once, ascending, and the index that takes the last value given for each."""
        for place, dim in enumerate(self.dims):
            if dim.offsets is None or bool(np.all(dim.offsets[1:] > dim.offsets[:-1])):
                continue
            ranks = np.argsort(dim.offsets, kind="stable")
            ordered = dim.offsets[ranks]
            last = np.append(ordered[1:] != ordered[:-1], True) if ordered.size else np.zeros(0, bool)
            kept = Dimension(int(last.sum()), dim.step, ordered[last])
            dims = (*self.dims[:place], kept, *self.dims[place + 1 :])
            return replace(self, dims=dims), (*(slice(None),) * place, ranks[last])
        return self, ()

    def ascending(self) -> tuple[Selection, int, Offsets | None]:
        """For a gather: the same with its list of offsets in order, the place in `dims` of that list, and where in the list each
        one stood; None when it is in order already."""
        for place, dim in enumerate(self.dims):
            if dim.offsets is not None and not bool(np.all(dim.offsets[1:] >= dim.offsets[:-1])):
                ranks = np.argsort(dim.offsets, kind="stable")
                sorted_dim = Dimension(dim.count, dim.step, dim.offsets[ranks])
                return replace(self, dims=(*self.dims[:place], sorted_dim, *self.dims[place + 1 :])), place, ranks
        return self, 0, None

    def run(self) -> tuple[int, int]:
        """Contiguous bytes that one place of the outer dimensions stands for, and the number of outer dimensions."""
        run, outer = self.itemsize, len(self.dims)
        while outer and (self.dims[outer - 1].count == 1 or self._continues(outer - 1, run)):
            if self.dims[outer - 1].offsets is not None:
                break
            run *= self.dims[outer - 1].count
            outer -= 1
        return run, outer

    def without_gaps(self, gap: int) -> Selection:
        """What a hint may say instead, in far fewer blocks: it takes along the gaps of regular steps, where they are that short."""
        run, outer = self.itemsize, len(self.dims)
        while outer and self.dims[outer - 1].offsets is None and self.dims[outer - 1].step <= run + gap:
            run += (self.dims[outer - 1].count - 1) * self.dims[outer - 1].step
            outer -= 1
        return replace(self, dims=self.dims[:outer], itemsize=run)

    def _continues(self, place: int, run: int) -> bool:
        return self.dims[place].offsets is None and self.dims[place].step == run

    def blocks(self) -> tuple[Offsets, int]:
        """Offset of every contiguous block in landing order, and the bytes of each."""
        run, outer = self.run()
        offsets = np.full(1, self.base, np.int64)
        for dim in self.dims[:outer]:
            offsets = (offsets[:, None] + dim.places()[None, :]).reshape(-1)
        return offsets, run

    def parts(self, bytes_max: int, blocks_max: int) -> Iterator[tuple[tuple[slice, ...], Selection]]:
        """Cut it into selections of at most so many bytes and blocks (one item at least), with their place in the landing
        buffer."""
        if self.size == 0:
            return
        run, outer = self.run()
        at, inner_bytes, inner_blocks = len(self.dims), self.itemsize, 1
        while at and self.dims[at - 1].count * inner_bytes <= bytes_max:
            blocks = inner_blocks * (self.dims[at - 1].count if at <= outer else 1)
            if blocks > blocks_max:
                break
            at, inner_bytes, inner_blocks = at - 1, inner_bytes * self.dims[at - 1].count, blocks
        if at == 0:
            yield tuple(slice(0, count) for count in self.counts), self
            return
        blocks_room = blocks_max // inner_blocks if at <= outer else bytes_max
        stride = max(1, min(bytes_max // inner_bytes, blocks_room))
        for head in np.ndindex(*self.counts[: at - 1]):
            for start in range(0, self.dims[at - 1].count, stride):
                stop = min(start + stride, self.dims[at - 1].count)
                ends = [(i, i + 1) for i in head] + [(start, stop)] + [(0, dim.count) for dim in self.dims[at:]]
                yield tuple(slice(*end) for end in ends), self._cut(ends)

    def _cut(self, ends: list[tuple[int, int]]) -> Selection:
        cut = [dim.part(*end) for dim, end in zip(self.dims, ends)]
        return replace(self, base=self.base + sum(first for first, _ in cut), dims=tuple(dim for _, dim in cut))


def select(index: Any, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> Selection:
    """What *index* selects of an array of *shape* whose items lie *strides* bytes apart. IndexError as NumPy raises it."""
    entries = index if isinstance(index, tuple) else (index,)
    entries = tuple(_entry(entry) for entry in entries)
    probe = as_strided(np.empty(1, "V0"), shape, strides)
    if any(isinstance(entry, np.ndarray) for entry in entries):
        return _select_arrays(entries, probe, itemsize)
    whole = any(entry is Ellipsis for entry in entries)
    view = probe[entries if whole else (*entries, Ellipsis)]
    base = view.__array_interface__["data"][0] - probe.__array_interface__["data"][0] if view.size else 0
    dims: list[tuple[int, int, Offsets | None]] = [(count, step, None) for count, step in zip(view.shape, view.strides)]
    return _selection(base, dims, itemsize, view.shape, scalar=not whole and not view.shape)


def _entry(entry: Any) -> Any:
    """An element of an index: None, Ellipsis, a slice, an int, or an array of integers or booleans of one dimension or more."""
    if entry is None or entry is Ellipsis or isinstance(entry, slice):
        return entry
    if isinstance(entry, (bool, np.bool_)):
        raise IndexError("True and False are no indices of a remote array; use a mask of its shape")
    if isinstance(entry, (int, np.integer)):
        return _bounded(operator.index(entry))
    if isinstance(entry, (str, bytes)):
        raise IndexError(_NO_FIELDS)
    array = np.asarray(entry)
    if array.dtype.kind in "US":
        raise IndexError(_NO_FIELDS)
    if array.size == 0 and not isinstance(entry, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype == object and not isinstance(entry, np.ndarray):
        for item in array.flat:  # integers beyond 64 bits are still integers
            if type(item) is int:
                _bounded(item)
    if array.dtype.kind not in "iub":
        raise IndexError(_NOT_AN_INDEX_ARRAY if isinstance(entry, np.ndarray) else _NOT_AN_INDEX)
    if array.ndim == 0:
        return _entry(array[()])
    return array


def _bounded(number: int) -> int:
    """*number*, if NumPy takes it for an index at all: it may lie within some axis."""
    if not _INT64.min <= number <= _INT64.max:
        raise IndexError(f"index {number} is out of bounds for every axis")
    return number


def _select_arrays(entries: tuple[Any, ...], probe: NDArray[Any], itemsize: int) -> Selection:
    """Advanced indexing: arrays, and beside them integers, broadcast to one group; slices as ever."""
    # Everything but the arrays is NumPy's to judge.
    plain: list[Any] = []
    for entry in entries:
        plain += [slice(None)] * (entry.ndim if entry.dtype == bool else 1) if isinstance(entry, np.ndarray) else [entry]
    probe[tuple(plain) if any(entry is Ellipsis for entry in plain) else (*plain, Ellipsis)]
    taken = sum(entry is not None and entry is not Ellipsis for entry in plain)
    missing = (slice(None),) * (probe.ndim - taken)
    where = next((i for i, entry in enumerate(entries) if entry is Ellipsis), len(entries))
    spread = (*entries[:where], *missing, *entries[where + 1 :])
    split = where < len(entries) and not missing  # an ellipsis for nothing separates arrays all the same

    base, axis, before = 0, 0, None
    dims: list[tuple[int, int, Offsets | None]] = []
    arrays: list[NDArray[Any]] = []
    widths: list[int] = []
    positions: list[int] = []
    for position, entry in enumerate(spread):
        if entry is None:
            dims.append((1, 0, None))
        elif isinstance(entry, slice):
            start, stop, step = entry.indices(probe.shape[axis])
            dims.append((len(range(start, stop, step)), step * probe.strides[axis], None))
            base += start * probe.strides[axis]
            axis += 1
        else:
            before = len(dims) if before is None else before
            for one in _integers(entry, probe.shape, axis):
                arrays.append(one)
                widths.append(probe.strides[axis])
                positions.append(position + (split and position >= where))
                axis += 1
    first = before if before is not None and max(positions) - min(positions) < len(set(positions)) else 0
    group = _broadcast(arrays)
    offsets = np.zeros(group, np.int64)
    for one, width in zip(arrays, widths):
        offsets += one * width
    if 0 in [count for count, _, _ in dims]:
        base = 0
    dims.insert(first, (offsets.size, max(widths), offsets.reshape(-1)))
    counts = [count for count, _, _ in dims]
    shape = (*counts[:first], *group, *counts[first + 1 :])
    return _selection(base, dims, itemsize, shape, scalar=False, group=(first, group))


def _integers(entry: Any, shape: tuple[int, ...], axis: int) -> list[NDArray[np.int64]]:
    """The integer arrays that an entry stands for, one an axis, all within bounds and not negative."""
    if isinstance(entry, np.ndarray) and entry.dtype == bool:
        for i, length in enumerate(entry.shape):
            if length != shape[axis + i]:
                raise IndexError(f"boolean index did not match indexed array along axis {axis + i}; size of axis is "
                                 f"{shape[axis + i]} but size of corresponding boolean axis is {length}")  # fmt: skip
        return [part.astype(np.int64, copy=False) for part in entry.nonzero()]
    array = np.asarray(entry).astype(np.int64, copy=False)
    size = shape[axis]
    low, high = (int(array.min()), int(array.max())) if array.size else (0, -1)
    if low < -size or high >= size:
        wrong = low if low < -size else high
        raise IndexError(f"index {wrong} is out of bounds for axis {axis} with size {size}")
    return [np.where(array < 0, array + size, array) if low < 0 else array]


def _broadcast(arrays: list[NDArray[Any]]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        shapes = " ".join(str(array.shape) for array in arrays)
        raise IndexError(f"shape mismatch: indexing arrays could not be broadcast together with shapes {shapes}") from None


def _selection(
    base: int,
    dims: list[tuple[int, int, Offsets | None]],
    itemsize: int,
    shape: tuple[int, ...],
    *,
    scalar: bool,
    group: tuple[int, tuple[int, ...]] | None = None,
) -> Selection:
    """Turn steps positive and put the widest first."""
    turned: list[Dimension] = []
    backwards = []
    for count, step, offsets in dims:
        if offsets is None and step < 0:
            base += (count - 1) * step if count else 0
        backwards.append(offsets is None and step < 0)
        turned.append(Dimension(count, abs(step) if count > 1 or offsets is not None else 0, offsets))
    # Dimensions of one place go first, where they are in nobody's way.
    ranks = sorted(range(len(turned)), key=lambda i: (turned[i].count > 1, -turned[i].step))
    order = tuple(ranks.index(i) for i in range(len(ranks)))
    flips = tuple(order[i] for i, back in enumerate(backwards) if back)
    placed = tuple(turned[i] for i in ranks)
    return Selection(int(base), placed, itemsize, tuple(shape), scalar, order, flips, group)
