"""What UDP leaves of a WRITE: two loops that copy, sum and send as a device does, and have no protocol at all.

``bare_wire.py SECONDS`` prints one JSON document: MiB/s from a cold array of 256 MiB to another, in the other process. A packet is 4 KiB
behind 12 bytes of header, with a CRC-32 of both behind it; 15 of them are one segmented send. The one end copies and sums in one
pass, the other sums, then copies. How much has come is told through shared memory, which no wire has: no device can be faster.
"""

import json
import mmap
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.arena import le32, put_le32
from unpinned.compiled.atomics import fetch_add, load_acquire
from unpinned.compiled.copying import copy_ahead
from unpinned.compiled.crc32 import combine, combine_constant, crc32, crc32_copy
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.libc import monotonic_ns
from unpinned.host import layout as H
from unpinned.host import system
from unpinned.host.datagrams import receive_many, send
from unpinned.host.udp import address_words, open_endpoint, udp_scratch

SPAN = 256 << 20
SECOND = 1_000_000_000
ETIMEDOUT = 110
PAYLOAD, HEAD, PACKET, PACKETS = 4096, 12, 4112, 15
BURST = PACKETS * PACKET
SLOTS, WINDOW = 16, 8 * BURST
ARRIVED, OVER, DAMAGED = 0, 8, 16  # words of the shared page, a line of the cache each


@kernel
def pump(u, b, source, shared, hi, lo, port, ns):
    """Send from *source*, round and round, for *ns*; nanoseconds that it took, or -errno."""
    constant = combine_constant(PAYLOAD)
    began = monotonic_ns()
    sent, place, slot = 0, 0, 0
    while monotonic_ns() - began < ns:
        while sent - load_acquire(shared, ARRIVED) > WINDOW:
            if monotonic_ns() - began > ns + SECOND:  # what is lost here is lost
                return -ETIMEDOUT
        burst = slot * H.BURST_BYTES
        for k in range(PACKETS):
            o = burst + k * PACKET
            base = address_of(b) + o
            crc = crc32_copy(base + HEAD, source + place, PAYLOAD)
            put_le32(b, o + HEAD + PAYLOAD, combine(crc32(0, base, HEAD), crc, constant))
            place = (place + PAYLOAD) % SPAN
        status = send(u, b, burst, BURST, PACKET, hi, lo, port)
        if status != BURST:
            return min(status, -1)
        sent += BURST
        slot = (slot + 1) % SLOTS
    return monotonic_ns() - began


@kernel
def drain(u, b, target, shared):
    """Receive into *target*, round and round, until OVER."""
    place = 0
    while load_acquire(shared, OVER) == 0:
        for i in range(max(receive_many(u, b, 0, 4), 0)):
            burst = i * H.BURST_BYTES
            for k in range(PACKETS):
                o = burst + k * PACKET
                shared[DAMAGED] += crc32(0, address_of(b) + o, HEAD + PAYLOAD) != le32(b, o + HEAD + PAYLOAD)
            for k in range(PACKETS):
                copy_ahead(target + place, address_of(b) + burst + k * PACKET + HEAD, PAYLOAD)
                place = (place + PAYLOAD) % SPAN
            fetch_add(shared, ARRIVED, u[H.U_RX + H.RX_WORDS * i + H.RX_BYTES])
    return 0


def array(length):
    """Shared memory, filled."""
    made = np.frombuffer(mmap.mmap(-1, length), np.uint8)
    made[:] = 1
    return made


def main(seconds: float) -> int:
    shared = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)
    ends = [open_endpoint("127.0.0.1", 0) for _ in range(2)]
    scratch, arena = [udp_scratch(end) for end in ends], [system.zeroed(SLOTS * H.BURST_BYTES) for _ in range(2)]
    hi, lo = address_words(ends[1].address)
    for ns in (0, 1):  # compiled before there are two
        pump(scratch[0], arena[0], array(PAYLOAD * PACKETS).ctypes.data, shared, hi, lo, ends[1].port, ns)
    shared[OVER] = 1
    drain(scratch[1], arena[1], 0, shared)
    shared[OVER] = shared[ARRIVED] = 0
    parent = os.getpid()
    other = os.fork()
    memory = array(SPAN)  # each end its own
    if other == 0:
        signal.alarm(int(seconds) + 60)
        try:
            drain(scratch[1], arena[1], memory.ctypes.data, shared)
        finally:
            os._exit(parent == os.getpid())
    try:
        took = pump(scratch[0], arena[0], memory.ctypes.data, shared, hi, lo, ends[1].port, int(seconds * 1e9))
        arrived = int(shared[ARRIVED])
    finally:
        shared[OVER] = 1
        os.waitpid(other, 0)
    if took < 0 or shared[DAMAGED]:
        print(f"bare_wire: {os.strerror(-took) if took < 0 else 'damaged packets'}", file=sys.stderr)
        return 1
    print(json.dumps({"mib_per_s": round(arrived / PACKET * PAYLOAD / (1 << 20) / (took / 1e9), 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
