"""CRC-32 and ICRC on hot buffers: the best of many rounds, in one thread, called from a kernel."""

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from unpinned.compiled import folding, kernel
from unpinned.compiled.crc32 import crc32
from unpinned.wire import icrc as I

ROUNDS, REPEAT = 40, 10_000
PACKET = 128


@kernel
def sum_bytes(address, length, repeat):
    crc = 0
    for _ in range(repeat):
        crc = crc32(crc, address, length)
    return crc


@kernel
def send(b, tlen, n, repeat):
    total = 0
    for i in range(repeat):
        total += I.put_icrc(b, 0, tlen, PACKET, n, i & 15)
    return total


@kernel
def receive(b, tlen, n, k, solver, repeat):
    total = 0
    for _ in range(repeat):
        total += I.verify(b, 0, tlen, PACKET, n, k, -1, solver)
    return total


def best_ns(call: Callable[[int], object]) -> float:
    """Nanoseconds of one repetition in the best round."""
    call(1)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        call(REPEAT)
        times.append(time.perf_counter_ns() - began)
    return round(min(times) / REPEAT, 1)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    b, solver = np.zeros(16384, np.uint8), np.zeros(I.SOLVER_WORDS, np.int64)
    address = b.ctypes.data
    crc = {}
    for n in (48, 256, 1024, 4096, 4112):
        ns = best_ns(lambda repeat, n=n: sum_bytes(address, n, repeat))
        crc[n] = {"ns": ns, "gb_per_s": round(n / ns, 1)}
    packets = {}
    tlen = I.template4(b, 0, 1, 2, 49152, 4791)
    for n in (16, 1052, 4124):
        print(f"icrc of {n} bytes", file=sys.stderr)
        sent = best_ns(lambda repeat, n=n: send(b, tlen, n, repeat))
        I.put_icrc(b, 0, tlen, PACKET, n, 40000)
        guessed = best_ns(lambda repeat, n=n: receive(b, tlen, n, 40000, solver, repeat))
        solved = best_ns(lambda repeat, n=n: receive(b, tlen, n, 0, solver, repeat))
        packets[n] = {"put_ns": sent, "verify_guessed_ns": guessed, "verify_solved_ns": solved}
    print(json.dumps({"lanes": folding.lanes(), "crc32_bytes": crc, "icrc_packet_bytes": packets}))


if __name__ == "__main__":
    main()
