"""A middleman between two devices, in a process of its own: it loses, repeats and reorders datagrams as a seed says.

Each device takes the middleman for its peer, so every address it sees is the one it was told. A packet's ICRC covers the
addresses; it is checked here against those it came with and made anew for those it goes on with. That is all
that is changed in it. No root, no network namespace and no `tc netem` is needed.
"""

from __future__ import annotations

import threading

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of, copy_bytes
from unpinned.compiled.libc import monotonic_ns, poll1
from unpinned.host import layout as H
from unpinned.host.datagrams import receive_many, send
from unpinned.host.udp import address_words, open_endpoint, parse_address, udp_scratch
from unpinned.wire.icrc import SOLVER_WORDS, TEMPLATE_BYTES, put_icrc, template4, verify

SLOTS = 4
PORT = 4791
MILLION = 1_000_000
LOW32 = 0xFFFFFFFF
HELD = SLOTS * H.BURST_BYTES  # where a packet waits to be late, one per direction; then the templates
HELD_BYTES = 8192
TEMPLATES = HELD + 2 * HELD_BYTES
ARENA_BYTES = TEMPLATES + 4 * 128

# the words of its block
STOP, SEED, LOSS, REPEAT, REORDER = range(5)  # chances are in millionths
PASSED, LOST, REPEATED, REORDERED, DAMAGED = range(5, 10)
ONE, OTHER, OWN = 10, 11, 12  # low words of the addresses
LATE = 14  # per direction: length of the packet that waits, after how many others it goes, and until when at the latest
WORDS = 32
assert TEMPLATE_BYTES <= 128


@kernel
def chance(w, of):
    """Whether something happens that happens *of* times in a million."""
    w[SEED] = w[SEED] * 6364136223846793005 + 1442695040888963407
    return (w[SEED] >> 33 & 0x7FFFFFFF) % MILLION < of


@kernel
def forward(w, b, u, at, length, way):
    """Seal a packet for where it goes, and send it."""
    t = TEMPLATES + 128 * (2 + way)
    template4(b, t, w[OWN] & LOW32, w[OTHER - way] & LOW32, PORT, PORT)
    put_icrc(b, t, 36, at, length, 0)
    send(u, b, at, length + 4, 0, 0, w[OTHER - way], PORT)
    return 0


@kernel
def release(w, b, u, way, now):
    """Send the packet that waits in a direction, once enough others have overtaken it or it has waited a millisecond."""
    late = LATE + 3 * way
    if w[late] and (w[late + 1] <= 0 or now > w[late + 2]):
        length = w[late]
        w[late] = 0
        forward(w, b, u, HELD + way * HELD_BYTES, length, way)
    return 0


@kernel
def meet(w, b, u, at, length, way, now):
    """One packet's fate."""
    late = LATE + 3 * way
    w[late + 1] -= 1
    if chance(w, w[LOSS]):
        w[LOST] += 1
        return 0
    if w[late] == 0 and length < HELD_BYTES - 4 and chance(w, w[REORDER]):
        w[REORDERED] += 1
        copy_bytes(address_of(b) + HELD + way * HELD_BYTES, address_of(b) + at, length)
        w[late] = length
        w[late + 1] = 3
        w[late + 2] = now + 1_000_000
        return 0
    forward(w, b, u, at, length, way)
    w[PASSED] += 1
    if chance(w, w[REPEAT]):
        w[REPEATED] += 1
        forward(w, b, u, at, length, way)
    return 0


@kernel
def relay(w, b, u, solver):
    """Until STOP. Direction 0 is from ONE to OTHER."""
    while w[STOP] == 0:
        bursts = receive_many(u, b, 0, SLOTS)
        now = monotonic_ns()
        release(w, b, u, 0, now)
        release(w, b, u, 1, now)
        if bursts <= 0:
            poll1(u[H.U_FD], 1)
            continue
        for i in range(bursts):
            r = H.U_RX + H.RX_WORDS * i
            way = 0 if u[r + H.RX_LO] == w[ONE] else 1
            if u[r + H.RX_LO] != w[ONE + way]:
                continue
            t = TEMPLATES + 128 * way
            template4(b, t, w[ONE + way] & LOW32, w[OWN] & LOW32, u[r + H.RX_PORT], PORT)
            at, left, k = i * H.BURST_BYTES, u[r + H.RX_BYTES], 0
            while left > 0:
                n = min(left, u[r + H.RX_SEGMENT])
                if verify(b, t, 36, at, n - 4, k, -1, solver) < 0:
                    w[DAMAGED] += 1
                else:
                    # The ICRC is rewritten in place; a copy that is sent twice is sealed twice.
                    meet(w, b, u, at, n - 4, way, now)
                at += n
                left -= n
                k += 1
    return 0


class Middleman:
    """Stands between the devices at two IPv4 addresses, from construction to `close`. Chances are per packet."""

    def __init__(
        self, one: str, other: str, *, seed: int, loss: float = 0.0, repeat: float = 0.0, reorder: float = 0.0
    ) -> None:
        self.endpoint = open_endpoint(None)
        self.address = str(self.endpoint.address)
        self.w = np.zeros(WORDS, np.int64)
        self.w[SEED] = seed
        self.set(loss, repeat, reorder)
        for word, text in ((ONE, one), (OTHER, other), (OWN, self.address)):
            self.w[word] = address_words(parse_address(text)[0])[1]
        blocks = np.zeros(ARENA_BYTES, np.uint8), udp_scratch(self.endpoint, SLOTS), np.zeros(SOLVER_WORDS, np.int64)
        self.w[STOP] = 1
        relay(self.w, *blocks)  # compiles, perhaps for long, and returns
        self.w[STOP] = 0
        self.thread = threading.Thread(target=relay, args=(self.w, *blocks), daemon=True)
        self.thread.start()

    def set(self, loss: float, repeat: float, reorder: float) -> None:
        """What happens from now on."""
        self.w[LOSS], self.w[REPEAT], self.w[REORDER] = (int(x * MILLION) for x in (loss, repeat, reorder))

    def counts(self) -> dict[str, int]:
        names = ("passed", "lost", "repeated", "reordered", "damaged")
        return {name: int(value) for name, value in zip(names, self.w[PASSED : DAMAGED + 1])}

    def close(self) -> None:
        self.w[STOP] = 1
        self.thread.join()
        self.endpoint.close()
