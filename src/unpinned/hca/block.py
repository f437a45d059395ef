"""Making a device block and its arena, and handing out rings from it. Control plane: plain Python, lock held by the caller."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unpinned.hca import layout as L

Words = NDArray[np.int64]


def _power_of_two(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()


def create(
    *,
    qps: int = 4096,
    mrs: int = 16384,
    cqs: int = 8192,
    waiting: int = 4096,
    waiting_per_qp: int = 256,
    packets: int = 1024,
    burst: int = 64,
    ring_words: int = 1 << 26,
    window_bytes: int = 1 << 20,
    spare_bytes: int = 0,
    read_chunk_bytes: int = 1 << 19,
) -> tuple[Words, int]:
    """A zeroed device block and the size of the arena that goes with it, bytes.

    Args:
        qps, mrs, cqs: capacities (rounded up to powers of two).
        waiting, waiting_per_qp: packets that may wait for pages: of the device, and of one QP each direction.
        packets: most packets in one receive burst; burst: most packets in one transmit burst.
        ring_words: words set aside for work queues and completion queues; they cost memory only once used.
        window_bytes: bytes that all QPs together may have in flight; spare_bytes: what READs may have besides where many QPs read.
        read_chunk_bytes: bytes that one READ request asks for at most.
    """
    qps, mrs, cqs = _power_of_two(qps), _power_of_two(mrs), _power_of_two(cqs)
    acts = packets + 64
    parts = (
        (L.H_QP_BASE, qps * L.QP_WORDS), (L.H_MR_BASE, (mrs + 1) * L.MR_WORDS), (L.H_KEY_BASE, 8 * mrs),
        (L.H_CQ_BASE, cqs * L.CQ_WORDS), (L.H_READY_BASE, qps), (L.H_PACKET_BASE, packets * L.PACKET_WORDS),
        (L.H_TX_BASE, burst * L.TX_WORDS), (L.H_ACT_BASE, acts * L.ACT_WORDS), (L.H_POOL_BASE, waiting * L.POOL_WORDS),
        (L.H_FREE, ring_words),
    )  # fmt: skip
    h = np.zeros(L.HEADER_WORDS + sum(size for _, size in parts), np.int64)
    at = L.HEADER_WORDS
    for word, size in parts:
        h[word] = at
        at += size
    h[L.H_MAGIC], h[L.H_WORDS] = L.MAGIC, h.size
    h[L.H_QP_COUNT], h[L.H_MR_COUNT], h[L.H_CQ_COUNT] = qps, mrs, cqs
    h[L.H_KEY_MASK], h[L.H_READY_MASK] = 4 * mrs - 1, qps - 1
    h[L.H_PACKET_DEPTH], h[L.H_TX_DEPTH], h[L.H_ACT_DEPTH] = packets, burst, acts
    h[L.H_POOL_COUNT], h[L.H_POOL_LIMIT] = waiting, waiting_per_qp
    h[L.H_NEXT_TIMER] = 1 << 62
    h[L.H_WINDOW], h[L.H_READ_CHUNK], h[L.H_TX_BURST] = window_bytes, read_chunk_bytes, min(30, burst)
    h[L.H_SPARE] = spare_bytes
    h[L.H_FAULT_NS] = 100_000
    pool = h[h[L.H_POOL_BASE] : h[L.H_POOL_BASE] + waiting * L.POOL_WORDS].reshape(waiting, L.POOL_WORDS)
    pool[:, L.POOL_NEXT] = np.arange(1, waiting + 1)
    pool[-1, L.POOL_NEXT] = -1
    h[L.H_RX_TEMPLATE], h[L.H_TX_TEMPLATE] = 0, L.TEMPLATE_BYTES
    h[L.H_RX_ARENA] = 4096
    h[L.H_TX_ARENA] = h[L.H_RX_ARENA] + L.RECV_BURSTS * L.BURST_BYTES
    h[L.H_POOL_ARENA] = h[L.H_TX_ARENA] + burst * L.PACKET_BYTES
    return h, int(h[L.H_POOL_ARENA]) + waiting * L.PACKET_BYTES


class Rings:
    """First-fit-by-size store of rings: a ring given back serves the next of its size."""

    def __init__(self, h: Words) -> None:
        self._h = h
        self._next = int(h[L.H_FREE])
        self._free: dict[int, list[int]] = defaultdict(list)

    def take(self, words: int) -> int:
        """Index of ``words`` zeroed words.

        Raises:
            MemoryError: the device's ring memory is used up.
        """
        words = _power_of_two(words)
        if self._free[words]:
            at = self._free[words].pop()
        elif self._next + words <= self._h.size:
            at, self._next = self._next, self._next + words
        else:
            raise MemoryError(f"device ring memory is used up: {words * 8} bytes asked for")
        self._h[at : at + words] = 0
        return at

    def give(self, at: int, words: int) -> None:
        """Take a ring back."""
        self.taker(words)(at)

    def taker(self, words: int) -> Callable[[int], None]:
        """What takes a ring of so many words back, at its index: C all the way, so that nothing comes between."""
        return self._free[_power_of_two(words)].append


def insert_key(h: Words, key: int, mr: int) -> bool:
    """Enter ``key`` -> region record ``mr`` into the key table; False when it is taken or its neighbourhood full."""
    mask = int(h[L.H_KEY_MASK])
    at = (key * 40503 + (key >> 16)) & mask
    slots = [int(h[L.H_KEY_BASE]) + 2 * ((at + probe) & mask) for probe in range(16)]
    free = [slot for slot in slots if h[slot + 1] <= 0]
    if not free or any(h[slot] == key and h[slot + 1] > 0 for slot in slots):
        return False
    h[free[0]], h[free[0] + 1] = key, mr
    return True


def remove_key(h: Words, key: int, mr: int) -> None:
    """Forget a key of a region record, if it still is; a tombstone keeps later ones reachable."""
    mask = int(h[L.H_KEY_MASK])
    at = (key * 40503 + (key >> 16)) & mask
    for probe in range(16):
        slot = int(h[L.H_KEY_BASE]) + 2 * ((at + probe) & mask)
        if h[slot] == key and h[slot + 1] == mr:
            h[slot], h[slot + 1] = 0, -1
            return
