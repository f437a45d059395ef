"""What the device's copies cost against the other way to make them: 30 payloads of 4 KiB between a region and an arena of packets.

Sums: copied and summed in one pass, over copied and then summed. Private memory: process_vm with the region as its local side, as
`copies.execute` calls it, over the region as its remote side, whose pages the kernel then pins. The regions are out of the cache.
"""

import mmap
import os

import numpy as np
from _common import MIB, Figure, Options, interleave, main, median, spread

from unpinned.compiled import kernel
from unpinned.compiled.copying import copy_ahead
from unpinned.compiled.crc32 import crc32, crc32_copy
from unpinned.compiled.libc import monotonic_ns, sys_process_vm_readv, sys_process_vm_writev
from unpinned.host import layout as H
from unpinned.host import system
from unpinned.host.copies import copy_scratch, execute
from unpinned.paging import layout as P

PAYLOAD, STEP, PACKETS, HEAD, SLOTS = 4096, 4112, 30, 12, 8
BATCH = PACKETS * PAYLOAD


@kernel
def one_pass(arena, region, rounds):
    """Nanoseconds a batch."""
    began = monotonic_ns()
    total = 0
    for r in range(rounds):
        for i in range(PACKETS):
            total ^= crc32_copy(arena + HEAD + i * STEP, region + r * BATCH + i * PAYLOAD, PAYLOAD)
    return (monotonic_ns() - began + (total & 1)) // rounds


@kernel
def two_passes(arena, region, rounds):
    began = monotonic_ns()
    total = 0
    for r in range(rounds):
        for i in range(PACKETS):
            copy_ahead(arena + HEAD + i * STEP, region + r * BATCH + i * PAYLOAD, PAYLOAD)
        for i in range(PACKETS):
            total ^= crc32(0, arena + HEAD + i * STEP, PAYLOAD)
    return (monotonic_ns() - began + (total & 1)) // rounds


@kernel
def region_is_local(p, b, s, region, read, rounds):
    spent = 0
    for r in range(rounds):
        p[P.DMA_COUNT] = PACKETS
        for i in range(PACKETS):
            d = p[P.DMA] + i * P.DMA_WORDS
            p[d + P.DMA_STATE], p[d + P.DMA_PATH], p[d + P.DMA_TOKEN] = P.DMA_ISSUED, P.PATH_FOREIGN, 0
            p[d + P.DMA_OP] = P.OP_READ if read else P.OP_WRITE
            p[d + P.DMA_VA], p[d + P.DMA_LENGTH] = region + r * BATCH + i * PAYLOAD, PAYLOAD
            p[d + P.DMA_OFFSET] = r % SLOTS * PACKETS * STEP + HEAD + i * STEP
        if execute(p, b, s):
            return -1
        spent += s[H.COPY_SPENT]
    return spent // rounds


@kernel
def region_is_remote(iovecs, address, arena, region, read, pid, rounds):
    """The region in one iovec behind those of the arena."""
    spent = 0
    for r in range(rounds):
        for i in range(PACKETS):
            iovecs[2 * i] = arena + r % SLOTS * PACKETS * STEP + HEAD + i * STEP
            iovecs[2 * i + 1] = PAYLOAD
        iovecs[2 * PACKETS], iovecs[2 * PACKETS + 1] = region + r * BATCH, BATCH
        began = monotonic_ns()
        if read:
            done = sys_process_vm_readv(pid, address, PACKETS, address + 16 * PACKETS, 1)
        else:
            done = sys_process_vm_writev(pid, address, PACKETS, address + 16 * PACKETS, 1)
        spent += monotonic_ns() - began
        if done != BATCH:
            return -1
    return spent // rounds


def memory(length, flags):
    """Filled, in small pages."""
    made = mmap.mmap(-1, length, flags=flags | mmap.MAP_ANONYMOUS)
    made.madvise(mmap.MADV_NOHUGEPAGE)
    array = np.frombuffer(made, np.uint8)
    array[:] = 1
    return array


def measure(options: Options) -> list[Figure]:
    span = options.pick(256, 4) * MIB
    rounds = span // BATCH
    shared, private = memory(span, mmap.MAP_SHARED), memory(span, mmap.MAP_PRIVATE)
    b, s, iovecs = system.zeroed(SLOTS * PACKETS * STEP + 4096), copy_scratch(), np.zeros(2 * PACKETS + 2, np.int64)
    b[:] = 0
    p = P.create(levels=1, bits=1, leaves=1, regions=0, dma=256, faults=0)
    arena, region = b.ctypes.data, private.ctypes.data

    def local(read):
        return lambda: region_is_local(p, b, s, region, read, rounds) / 1e3

    def remote(read):
        return lambda: region_is_remote(iovecs, iovecs.ctypes.data, arena, region, read, os.getpid(), rounds) / 1e3

    variants = {
        "one_pass": lambda: one_pass(arena, shared.ctypes.data, rounds) / 1e3,
        "two_passes": lambda: two_passes(arena, shared.ctypes.data, rounds) / 1e3,
        "read_local": local(1), "read_remote": remote(1), "write_local": local(0), "write_remote": remote(0),
    }  # fmt: skip
    for variant in variants.values():
        if variant() < 0:
            raise OSError("process_vm did not copy all")
    gave = interleave(options.pick(9, 2), variants)
    figures = []
    for what, one, other in (
        ("30 payloads from shared memory, summed while they are copied / afterwards", "one_pass", "two_passes"),
        ("30 payloads from private memory, as process_vm's local side / its remote side", "read_local", "read_remote"),
        ("30 payloads to private memory, as process_vm's local side / its remote side", "write_local", "write_remote"),
    ):
        parts = {f"{name}_us": spread(gave[name]) for name in (one, other)}
        figures.append(Figure(what, median(gave[one]) / median(gave[other]), "times", "", parts))
    return figures


if __name__ == "__main__":
    main(measure, globals())
