"""From blocks to work requests: neighbours become one, near neighbours too where reading the gap costs less than asking twice.

Pure: NumPy and nothing else. A *block* is a place in the remote array (an offset; all blocks of a batch are equally long); a
*piece* is one work request: remote offset, length, and place in the landing buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Offsets = NDArray[np.int64]

GAP_BYTES = 1024
"""A gap up to this long is read along: one request costs about as much as 2 to 4 KiB of payload, so half of that gains."""
PIECE_BYTES_MAX = 1 << 20
"""No request is longer, so a transfer can be cut short soon."""
WORTH = 0.6
"""Blocks are joined across gaps when that leaves at most this share of the requests."""


@dataclass(frozen=True)
class Pieces:
    """Work requests: ``length[i]`` bytes at ``remote[i]``, at ``local[i]`` of the landing buffer."""

    remote: Offsets
    length: Offsets
    local: Offsets

    @property
    def count(self) -> int:
        return self.remote.size

    @property
    def nbytes(self) -> int:
        return int(self.length.sum())


def join(blocks: Offsets, run: int, piece_max: int = PIECE_BYTES_MAX) -> Pieces:
    """One piece for each stretch of blocks that follow one another both in the array and in the landing buffer; long ones cut."""
    firsts = np.flatnonzero(np.concatenate(([True], np.diff(blocks) != run)))
    counts = np.diff(np.append(firsts, blocks.size))
    pieces = Pieces(blocks[firsts], counts * run, firsts * run)
    return cut(pieces, piece_max) if pieces.count and pieces.length.max() > piece_max else pieces


def cut(pieces: Pieces, piece_max: int) -> Pieces:
    """The same with no piece longer than that."""
    parts = -(-pieces.length // piece_max)
    owner = np.repeat(np.arange(pieces.count), parts)
    at = (np.arange(owner.size) - np.repeat(np.cumsum(parts) - parts, parts)) * piece_max
    length = np.minimum(pieces.length[owner] - at, piece_max)
    return Pieces(pieces.remote[owner] + at, length, pieces.local[owner] + at)


@dataclass(frozen=True)
class Cover:
    """Pieces that read gaps along: block ``i`` lies at ``at[i]`` of the landing buffer (of ``nbytes`` bytes)."""

    pieces: Pieces
    at: Offsets
    nbytes: int

    def pick(self, landed: NDArray[np.uint8], dtype: np.dtype[Any], per_block: int, run: int) -> NDArray[Any]:
        """The blocks, one a row of *per_block* items, out of the landing buffer."""
        steps = np.diff(self.at)
        if steps.size == 0 or (steps == steps[0]).all():
            first = landed[int(self.at[0]) :]
            step = int(steps[0]) if steps.size else run
            rows = as_strided(first, (self.at.size, run), (step, 1))
        else:
            windows = as_strided(landed, (landed.size - run + 1, run), (1, 1))
            rows = windows[self.at]
        return rows.view(dtype).reshape(self.at.size, per_block)


def cover(blocks: Offsets, run: int, gap: int = GAP_BYTES) -> Cover | None:
    """Read near neighbours together; None when too few are near for it to be worth while."""
    count = blocks.size
    if count < 2 or run >= 4 * gap:
        return None
    low, high = int(blocks.min()), int(blocks.max())
    if high - low > count * (run + gap) * 4:
        return None  # too far apart on average; spares the sort
    steps = np.diff(blocks)
    ascending = bool((steps >= 0).all())
    order = None if ascending else np.argsort(blocks, kind="stable")
    ordered = blocks if order is None else blocks[order]
    steps = steps if order is None else np.diff(ordered)
    breaks = np.concatenate(([True], steps > run + gap))
    firsts = np.flatnonzero(breaks)
    if firsts.size > WORTH * count:
        return None
    if order is None and bool(((steps == run) | breaks[1:]).all()):
        return None  # nothing but neighbours: `join` does it without picking
    lasts = np.append(firsts[1:], count) - 1
    lengths = ordered[lasts] + run - ordered[firsts]
    starts = np.cumsum(lengths) - lengths
    group = np.cumsum(breaks) - 1
    at = starts[group] + ordered - ordered[firsts][group]
    if order is not None:
        back = np.empty_like(at)
        back[order] = at
        at = back
    pieces = Pieces(ordered[firsts], lengths, starts)
    return Cover(cut(pieces, PIECE_BYTES_MAX), at, int(lengths.sum()))


def chunks(count: int, size: int) -> Iterator[tuple[int, int]]:
    """[0, count) in stretches of *size*."""
    for start in range(0, count, size):
        yield start, min(start + size, count)
