"""RemoteArray: an array of another process that behaves like NumPy's where that can be had with one-sided reads and writes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unpinned.remote import transfers
from unpinned.remote.descriptions import Description
from unpinned.remote.indexing import Selection, select
from unpinned.remote.transfers import Progress
from unpinned.remote.visitor import RANGES_MAX

if TYPE_CHECKING:
    from unpinned.remote.client import Client

ITERATION_BYTES = 1 << 20
"""Iterating reads about so much at a time."""
PREFETCH_GAP_BYTES = 1 << 16
PREFETCH_MESSAGES_MAX = 16
_ATOMIC_DTYPES = (np.dtype(np.int64), np.dtype(np.uint64))


class RemoteArray:
    """An array that another process serves.

    ``array[index]`` reads and returns what NumPy would (slices are copies, not views); integers, slices with steps, ``...``,
    ``None``, integer arrays and boolean masks may be mixed as in NumPy. ``array[index] = values`` writes, if it is served
    writable. Every access is one or many RDMA READs or WRITEs, in no order among themselves and not atomic as a whole; the
    owner's Python takes no part in it.

    OSErrors: RemoteAccessError (the memory behind it is gone), Disconnected (its owner is gone; the next access connects again).
    """

    __slots__ = ("_array", "_client")
    __array_priority__ = -1.0

    def __init__(self, client: Client, array: Description) -> None:
        self._client = client
        self._array = array

    # ---- what it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name it is served under."""
        return self._array.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._array.dtype

    @property
    def ndim(self) -> int:
        return len(self._array.shape)

    @property
    def size(self) -> int:
        return math.prod(self._array.shape)

    @property
    def itemsize(self) -> int:
        return self._array.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self._array.nbytes

    @property
    def writable(self) -> bool:
        """Whether it may be assigned to."""
        return self._array.writable

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __repr__(self) -> str:
        rights = "writable" if self.writable else "read-only"
        return f"<RemoteArray {self.name!r} {self.shape} {self.dtype}, {rights}, on {self._client.address}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled array connects by itself where it is unpickled; the token goes along."""
        return _reopen, (self._client, self._array)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "unpinned", str(self._client.address), self.name, self.shape, str(self.dtype)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        selection = self._select(index)
        result = selection.finish(self._read(selection, index))
        return result[()] if selection.scalar else result

    def read_into(self, out: NDArray[Any], index: Any = (), *, progress: Progress | None = None) -> NDArray[Any]:
        """``out[...] = array[index]`` without another copy; *out* must have that shape and this dtype. Returns *out*.

        Memory of `unpinned.empty` is the fastest to read into. *progress* is called with the bytes of each step.
        """
        selection = self._select(index)
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out: a NumPy array is needed, not {type(out).__name__}")
        if out.shape != selection.shape or out.dtype != self.dtype:
            raise ValueError(f"out: shape {selection.shape} and dtype {self.dtype} are needed, not {out.shape} and {out.dtype}")
        if not out.flags.writeable:
            raise ValueError("out: the array is read-only")
        landing = selection.arrange(out)
        if np.may_share_memory(landing, out) or not out.size:
            self._read(selection, index, landing, progress)
        else:
            out[...] = selection.finish(self._read(selection, index, None, progress))
        return out

    def _read(
        self, selection: Selection, index: Any, landing: NDArray[Any] | None = None, progress: Progress | None = None
    ) -> NDArray[Any]:
        if landing is None:
            landing = np.empty(selection.counts, self.dtype)
        if selection.size:
            with self._client.operation(self._array, index) as (lane, array):
                transfers.read(lane, array, selection, landing, progress)
        return landing

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a remote array cannot be had without a copy")
        found: NDArray[Any] = self[...]
        return found if dtype is None else found.astype(dtype, copy=False)

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        row = max(1, self.nbytes // max(1, len(self)))
        step = max(1, ITERATION_BYTES // row)
        for start in range(0, len(self), step):
            yield from self[start : start + step]

    def prefetch(self, index: Any = ()) -> None:
        """Ask the owner's device to bring in what *index* selects, and return at once. A hint: errors and limits (about 4,000
        stretches, as many pages as the device has faults to spare) make it do less."""
        selection = self._select(index)
        if not selection.size:
            return
        ranges: list[int] = []
        for _, part in selection.without_gaps(PREFETCH_GAP_BYTES).parts(1 << 40, 1 << 16):
            blocks, run = part.blocks()
            blocks = np.sort(blocks)
            firsts = np.flatnonzero(np.concatenate(([True], np.diff(blocks) > run + PREFETCH_GAP_BYTES)))
            starts = blocks[firsts]
            lengths = blocks[np.append(firsts[1:], blocks.size) - 1] + run - starts
            ranges += np.stack([starts, lengths], axis=1).reshape(-1).tolist()
            if len(ranges) > 2 * RANGES_MAX * PREFETCH_MESSAGES_MAX:
                break
        for i in range(0, min(len(ranges), 2 * RANGES_MAX * PREFETCH_MESSAGES_MAX), 2 * RANGES_MAX):
            self._client.prefetch(self._array, ranges[i : i + 2 * RANGES_MAX])

    # ---- writing ---------------------------------------------------------------------------------------------------

    def __setitem__(self, index: Any, values: Any) -> None:
        self.write(values, index)

    def write(self, values: Any, index: Any = (), *, progress: Progress | None = None) -> None:
        """``array[index] = values``, broadcast and converted as NumPy does it. *progress* as in `read_into`."""
        selection = self._select(index)
        self._check_writable()
        given = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=_known(values) or self.dtype)
        spread = _broadcast(given, selection.shape)
        if selection.size:
            with self._client.operation(self._array, index) as (lane, array):
                transfers.write(lane, array, selection, spread, progress)

    # ---- atomics ---------------------------------------------------------------------------------------------------

    def fetch_add(self, index: Any, value: Any) -> Any:
        """Add *value* to each selected word, atomically, wrapping around; what was there before.

        int64 and uint64 only. Atomic towards everybody who comes through the owner's device, not towards its CPU. A word that
        is selected twice is added to twice (unlike ``array[index] += value``).
        """
        selection = self._select_words(index)
        return self._atomics(selection, index, self._word_values("value", value, selection))

    def compare_swap(self, index: Any, expected: Any, desired: Any) -> Any:
        """Where a selected word is *expected*, make it *desired*, atomically; what was there before (*expected*: it was done)."""
        selection = self._select_words(index)
        return self._atomics(
            selection, index, self._word_values("expected", expected, selection), self._word_values("desired", desired, selection)
        )

    def _select_words(self, index: Any) -> Selection:
        if self.dtype not in _ATOMIC_DTYPES:
            raise TypeError(f"{self.name!r} is {self.dtype}: atomics work on int64 and uint64 (in this machine's byte order)")
        if self._array.address % 8:
            raise TypeError(f"{self.name!r} does not begin on a multiple of 8 bytes at its owner: atomics need that")
        self._check_writable()
        return self._select(index)

    def _word_values(self, name: str, value: Any, selection: Selection) -> NDArray[Any]:
        given = np.asarray(value)
        if given.dtype == object and all(type(v) is int and -(1 << 63) <= v < 1 << 64 for v in given.flat):
            given = np.asarray([v % (1 << 64) for v in given.flat], np.uint64).reshape(given.shape)
        if given.dtype.kind not in "iu":
            raise TypeError(f"{name}: integers of 64 bits are needed, not {given.dtype}")
        # Wrapping around is the point: -1 is a fine addend for uint64.
        try:
            return np.broadcast_to(given.astype(np.uint64), selection.shape)
        except ValueError:
            raise ValueError(f"{name}: shape {given.shape} does not broadcast to {selection.shape}, which is selected") from None

    def _atomics(self, selection: Selection, index: Any, operand: NDArray[Any], swap: NDArray[Any] | None = None) -> Any:
        if not selection.size:
            return np.empty(selection.shape, self.dtype)
        with self._client.operation(self._array, index) as (lane, array):
            found = transfers.atomics(lane, array, selection, operand, swap)
        result = selection.finish(found)
        return result[()] if selection.scalar else result

    # ---- common ----------------------------------------------------------------------------------------------------

    def selected_shape(self, index: Any) -> tuple[int, ...]:
        """The shape that ``array[index]`` has."""
        return self._select(index).shape

    def _select(self, index: Any) -> Selection:
        return select(index, self.shape, self._array.strides, self.itemsize)

    def _check_writable(self) -> None:
        if not self.writable:
            raise ValueError(f"assignment destination is read-only: {self.name!r} is not served writable")


def _known(values: Any) -> np.dtype[Any] | None:
    """The dtype of what has one."""
    found = getattr(values, "dtype", None)
    return found if isinstance(found, np.dtype) else None


def _broadcast(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """As NumPy does in an assignment: leading dimensions of length 1 may be too many."""
    surplus = values.ndim - len(shape)
    if surplus > 0 and all(length == 1 for length in values.shape[:surplus]):
        values = values.reshape(values.shape[surplus:])
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        here, there = (str(lengths).replace(" ", "") for lengths in (values.shape, shape))
        raise ValueError(f"could not broadcast input array from shape {here} into shape {there}") from None


def _reopen(client: Client, array: Description) -> RemoteArray:
    return RemoteArray(client, array)


