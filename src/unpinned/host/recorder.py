"""Recording what a device does: small hooks in its kernels, a bounded ring, and a thread that carries it to a file.

Off, a hook is one load and one branch a burst. On, it is a record for each run of neighbouring copies, fault, chunk and
invalidation (`recording.layout`). The order of the records is the order of the steps: copies are noted before the notifier
may go on, everything else under the device lock.

The thread needs the GIL, the hooks do not: while an application keeps the GIL the ring fills (262,144 records, 16 MiB), and
what finds no room is lost and counted, in the file too. Nobody waits for the recorder.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unpinned.compiled import kernel
from unpinned.compiled.libc import monotonic_ns
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.hca.regions import find_key
from unpinned.host import engine_words as E
from unpinned.paging import layout as P
from unpinned.paging.causes import Cause
from unpinned.recording import layout as R
from unpinned.recording.file import Writer
from unpinned.recording.ring import put, take

if TYPE_CHECKING:
    from unpinned.host.device import Device

CAPACITY: Final = 1 << 18
DRAIN_S: Final = 0.02
LOW32 = 0xFFFFFFFF


# --- the hooks: called where e[E_RECORD] is not 0 ----------------------------------------------------------------------------


@kernel
def message_left(h, q, op, end):
    """What is left of the message whose copies have reached table address `end`, or 0 when they belong to one that ended."""
    if op == P.OP_READ and h[q + L.QP_BUSY] == L.BUSY_READ:
        mr = find_key(h, h[q + L.QP_READ_KEY])
        if mr and h[q + L.QP_READ_VA] + h[mr + L.MR_DELTA] == end:
            return h[q + L.QP_READ_LEFT]
    if op == P.OP_WRITE and h[q + L.QP_RESP_OP] == 2:
        mr = find_key(h, h[q + L.QP_RESP_KEY])
        if mr and h[q + L.QP_RESP_VA] + h[mr + L.MR_DELTA] == end:
            return h[q + L.QP_RESP_LEFT]
    return 0


@kernel
def note_copies(e, h, p, now):
    """The batch that has just been executed: a record for each run of one queue pair's neighbours in one direction."""
    r = words_at(e[E.E_RECORD], e[E.E_RECORD + 1])
    d = p[P.DMA]
    last = d + p[P.DMA_COUNT] * P.DMA_WORDS
    while d < last:
        state = p[d + P.DMA_STATE]
        start = p[d + P.DMA_VA]
        end = start + p[d + P.DMA_LENGTH]
        op = p[d + P.DMA_OP]
        token = p[d + P.DMA_TOKEN]
        d += P.DMA_WORDS
        while d < last and p[d + P.DMA_VA] == end and p[d + P.DMA_OP] == op:
            if p[d + P.DMA_TOKEN] != token or p[d + P.DMA_STATE] != state:
                break
            end += p[d + P.DMA_LENGTH]
            d += P.DMA_WORDS
        if state == P.DMA_DONE:
            q = token & LOW32
            put(r, R.ACCESS, now, start, end - start, message_left(h, q, op, end), op, q)
    return 0


@kernel
def fault_flags(p, slot, now):
    """The last word of a fault's record. Before its step, which may free it."""
    flags = p[slot + P.FAULT_REGION] & R.FAULT_REGION
    if p[slot + P.FAULT_WRITE]:
        flags |= R.FAULT_WRITE
    if p[slot + P.FAULT_TOKEN] < 0:
        flags |= R.FAULT_PREFETCH
    if p[slot + P.FAULT_CHUNK] == 0:
        flags |= R.FAULT_RESIDENT
    return flags | min((now - p[slot + P.FAULT_SINCE]) // 1000, R.FAULT_AGE_MAX) << R.FAULT_AGE_SHIFT


@kernel
def note(e, kind, time, a, b, c, d, last):
    """One record of any other kind."""
    r = words_at(e[E.E_RECORD], e[E.E_RECORD + 1])
    return put(r, kind, time, a, b, c, d, last)


# --- the file ------------------------------------------------------------------------------------------------------------------


def _totals(p: P.Block) -> dict[str, Any]:
    """What the block has counted so far, by name."""
    totals = P.view(p, "totals")[0]
    return {name: totals[name].tolist() for name in totals.dtype.names}


class Recorder:
    """Records one device to a file from now on, until `stop`. Raises OSError when the file cannot be written."""

    def __init__(self, device: Device, path: str | Path) -> None:
        from unpinned.compiled.build import ensure

        ensure([("unpinned.recording.ring", "put", "wiiiiiii")])
        self._device, self._pid = device, os.getpid()
        self._ring = R.create(CAPACITY)
        self._writer = Writer(path, _header(device))
        self._stop = threading.Event()
        self._totals = _totals(device.p)
        self._regions: dict[int, tuple[int, int]] = {}
        self.path = Path(path)
        self.active = True
        for region in list(device.regions.open.values()):
            low, high = region.pages
            known = P.view(device.p, "regions")[region.slot]
            self.opened(region.slot, int(known["start"]), int(known["end"]), int(known["flags"]))
        device.e[E.E_RECORD + 1] = self._ring.size
        device.e[E.E_RECORD] = self._ring.ctypes.data
        self._thread = threading.Thread(target=self._carry, name=f"unpinned-recorder-{device.address}", daemon=True)
        self._thread.start()

    def opened(self, slot: int, low: int, high: int, flags: int) -> None:
        """A region came."""
        if self.active:
            put(self._ring, R.OPEN, time.monotonic_ns(), low, high, flags, slot, 0)

    def closed(self, slot: int, low: int, high: int) -> None:
        """A region went."""
        if self.active:
            now = time.monotonic_ns()
            put(self._ring, R.INVALIDATE, now, low, high, int(Cause.RELEASE), slot, 0)
            put(self._ring, R.CLOSE, now, low, high, 0, slot, 0)

    def stop(self) -> int:
        """End the recording and close its file; how many records it has. Idempotent; nothing in a forked child."""
        if not self.active or os.getpid() != self._pid:
            return self._writer.records
        self.active = False
        counted = _totals(self._device.p)
        self._device.e[E.E_RECORD] = 0
        time.sleep(0.002)  # a hook that has begun ends; the ring lives as long as the device
        self._stop.set()
        self._thread.join()
        self._writer.add(take(self._ring))
        before = self._totals
        difference = {
            name: [a - b for a, b in zip(value, before[name])] if isinstance(value, list) else value - before[name]
            for name, value in counted.items()
        }
        self._writer.close({"totals": difference, "lost": int(self._ring[R.RING_LOST])})
        return self._writer.records

    def _carry(self) -> None:
        while not self._stop.wait(DRAIN_S):
            self._writer.add(take(self._ring))


def _header(device: Device) -> dict[str, Any]:
    """What a replay must know of the device."""
    import platform

    from unpinned import __version__

    p = device.p
    geometry = {"levels": P.LEVELS, "bits": P.BITS, "leaves": P.NODE_COUNT, "regions": P.REGION_CAPACITY,
                "revoked": P.REVOKED_CAPACITY, "dma": P.DMA_CAPACITY, "faults": P.FAULT_CAPACITY}  # fmt: skip
    settings = {"horizon_ns": P.HORIZON_NS, "provisional_ns": P.PROVISIONAL_NS, "provisional_trust_ns": P.PROVISIONAL_TRUST_NS,
                "tlb": P.TLB, "huge": P.HUGE, "fault_max_bytes": P.FAULT_MAX_BYTES, "chunk_bytes": P.CHUNK_BYTES,
                "read_ahead_bytes": P.READ_AHEAD_BYTES, "retries_max": P.RETRIES_MAX}  # fmt: skip
    return {
        "device": f"{device.address} port {device.port}",
        "version": __version__,
        "kernel": platform.release(),
        "began_ns": int(monotonic_ns()),
        "geometry": {name: int(p[word]) for name, word in geometry.items()},
        "settings": {name: int(p[word]) for name, word in settings.items()},
    }
