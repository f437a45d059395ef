"""`copy_ahead`: copies of packet payloads, faster than memcpy where the region is not in the cache.

The CPU's prefetcher does not run ahead of a copy's *target*, so memcpy into cold memory waits for each line. Here both
sides are prefetched. Bursts of 15 x 4 KiB, idle machine: hot 24 GB/s against memcpy's 21, cold reads 9.1 against 8.8, cold
writes 9.6 against 5.9. Non-temporal stores are not used: 12 cold, but 12 hot too, and the reader then misses.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from unpinned.compiled.decorator import INTERPRETED, kernel
from unpinned.compiled.intrinsics import copy_bytes, emit_prefetch

LINE = 64
AHEAD = 1024  # bytes between the copy and its prefetch: flat between 512 and 4,096 where it was measured

_I64 = ir.IntType(64)
_LINE = ir.VectorType(_I64, LINE // 8)


@intrinsic
def move_line(typing_context: Any, target: Any, source: Any) -> Any:
    """``move_line(target, source)``: copy 64 bytes between two addresses of any alignment; returns 0.

    It also asks for the lines AHEAD bytes further on: a prefetch of an address that is not mapped is ignored.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, ahead = _LINE.as_pointer(), ir.Constant(_I64, AHEAD)
        target, source = args
        emit_prefetch(builder, builder.add(source, ahead), False)
        emit_prefetch(builder, builder.add(target, ahead), True)
        line = builder.load(builder.inttoptr(source, pointer), align=1)
        builder.store(line, builder.inttoptr(target, pointer), align=1)
        return ir.Constant(_I64, 0)

    return types.int64(types.int64, types.int64), generate


if INTERPRETED:
    from unpinned.compiled.interpreted import move_line


@kernel
def copy_ahead(target: int, source: int, length: int) -> int:
    """Copy *length* bytes between addresses that do not overlap; returns 0."""
    done = 0
    while done + LINE <= length:
        move_line(target + done, source + done)
        done += LINE
    if done < length:
        copy_bytes(target + done, source + done, length - done)
    return 0


__all__ = ["AHEAD", "LINE", "copy_ahead", "move_line"]
