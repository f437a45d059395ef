"""Recording what a device does: small hooks in its kernels, a bounded ring, and a thread that carries it to a file.

Off, a hook is one load and one branch a burst. On, it is a record for each run of copies of a message, for each step of a fault
and for each invalidation (`recording.layout`). The order of the records is the order of the steps: what copies found in the
table is noted before an invalidation may take it out, everything else under the device lock.

The thread needs the GIL, the hooks do not: while an application keeps the GIL the ring fills (262,144 records, 16 MiB), and
what finds no room is lost and counted, in the file too. Nobody waits for the recorder. A process that is killed loses the last
second.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.atomics import load_acquire
from unpinned.compiled.libc import monotonic_ns
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.hca.regions import find_key
from unpinned.host import engine_words as E
from unpinned.paging import layout as P
from unpinned.recording import layout as R
from unpinned.recording.file import Writer
from unpinned.recording.layout import Words
from unpinned.recording.ring import end_runs, put, put_run, take

if TYPE_CHECKING:
    from unpinned.host.device import Device

CAPACITY: Final = 1 << 18
DRAIN_S: Final = 0.1
WHOLE_DRAINS: Final = 10
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
            put_run(r, q, op, start, end, message_left(h, q, op, end), now)
    return 0


@kernel
def note_faults(e, p, now):
    """Faults that have begun since the driver last listed what it must look at, and others that it lists now. Lock held."""
    r = words_at(e[E.E_RECORD], e[E.E_RECORD + 1])
    for i in range(p[P.SCAN_LENGTH]):
        slot = p[p[P.SCAN_QUEUE] + i]
        if i < e[E.E_SCANS_SEEN] or p[slot + P.FAULT_RETRIES]:
            if i < E.SCANS:
                put(r, R.LISTED, now, 0, 0, number(p, slot), 0, 0)
            continue
        flags = R.FAULT_WRITE if p[slot + P.FAULT_WRITE] else 0
        if p[slot + P.FAULT_TOKEN] < 0:
            flags |= R.FAULT_PREFETCH
        if p[slot + P.FAULT_CHUNK] == 0:
            flags |= R.FAULT_RESIDENT
        if i >= E.SCANS:
            flags |= R.FAULT_LATER
        end = p[slot + P.FAULT_DEMAND]
        put(r, R.FAULT, p[slot + P.FAULT_SINCE], p[slot + P.FAULT_START], end, number(p, slot), p[slot + P.FAULT_REGION], flags)
    return 0


@kernel
def number(p, slot):
    """A fault slot's number."""
    return (slot - p[P.FAULTS]) // P.FAULT_WORDS


@kernel
def nobody_waits(p, slot):
    """1 for a fault whose waiters have gone: its step will install nothing."""
    return 1 if p[slot + P.FAULT_WAITERS] == 0 and p[slot + P.FAULT_TOKEN] >= 0 else 0


@kernel
def note(e, kind, time, a, b, c, d, last):
    """One record of any other kind."""
    r = words_at(e[E.E_RECORD], e[E.E_RECORD + 1])
    return put(r, kind, time, a, b, c, d, last)


@kernel
def end_copies(e):
    """What the open runs of copies hold, into the ring. The device is halted."""
    return end_runs(words_at(e[E.E_RECORD], e[E.E_RECORD + 1]))


@kernel
def counted(e, p, out):
    """All counters of the block, and behind them how far the ring has come. Lock held: they belong together."""
    for i in range(P.COUNT_WORDS):
        out[i] = p[p[P.TOTALS] + i]
    if e[E.E_RECORD]:
        r = words_at(e[E.E_RECORD], e[E.E_RECORD + 1])
        out[P.COUNT_WORDS] = load_acquire(r, R.RING_HEAD)
    return 0


# --- the file ------------------------------------------------------------------------------------------------------------------


class Recorder:
    """Records one device to a file from now on, until `stop`.

    Raises OSError when the file cannot be written, or should not be (`recording.file.Writer`). When that happens later, the
    recording ends, whole up to there; the device goes on. `error` says so, `stop` raises it.
    """

    def __init__(self, device: Device, path: str | Path) -> None:
        self._device, self._pid = device, os.getpid()
        self._ring = R.create(CAPACITY)
        self._before = _counters()
        self._writer = Writer(path, _header(device), self._sums(self._before))
        self._stop = threading.Event()
        self.path = Path(path)
        self.error: OSError | None = None
        _control().record(device.e, self._ring, self._before)
        self._thread = threading.Thread(target=self._carry, name=f"unpinned-recorder-{device.address}", daemon=True)
        self._thread.start()

    @property
    def active(self) -> bool:
        """Something is still recorded: neither stopped nor ended by an error."""
        return self.error is None and not self._stop.is_set()

    @property
    def records(self) -> int:
        """Records in the file so far."""
        return self._writer.records

    def stop(self) -> int:
        """End the recording and close its file; how many records it has. Idempotent; nothing in a forked child.

        Raises OSError when it could not be written to its end.
        """
        if os.getpid() != self._pid or self._stop.is_set():
            return self._writer.records
        self._stop.set()
        self._thread.join()
        if self.error is None:  # else the device may have another recorder by now
            now = _counters()
            _control().record(self._device.e, self._ring[:0], now)
            try:
                self._writer.add(take(self._ring))
                self._writer.close(self._sums(now))
            except OSError as error:
                self.error = error
        if self.error is not None:
            raise OSError(self.error.errno, f"the recording ends early: {self.error.strerror}", str(self.path))
        return self._writer.records

    def _sums(self, now: Words) -> dict[str, Any]:
        """What the device has counted since the recording began."""
        difference = (now - self._before)[: P.COUNT_WORDS].view(P.COUNT_DTYPE)[0]
        totals = {name: difference[name].tolist() for name in difference.dtype.names}
        return {"totals": totals, "lost": int(self._ring[R.RING_LOST])}

    def _carry(self) -> None:
        """Take what is in the ring, ten times a second; once a second, make the file whole."""
        drains = 0
        while not self._stop.wait(DRAIN_S):
            drains += 1
            try:
                if drains % WHOLE_DRAINS:
                    self._writer.add(take(self._ring))
                else:
                    now = _counters()
                    _control().recorded(self._device.e, now)
                    self._writer.add(take(self._ring, int(now[P.COUNT_WORDS])))
                    self._writer.flush(self._sums(now))
            except OSError as error:
                _control().record(self._device.e, self._ring[:0], _counters())
                self._writer.abandon(error)
                self.error = error
                return


def _counters() -> Words:
    """Room for `counted`."""
    return np.zeros(P.COUNT_WORDS + 1, np.int64)


def _control() -> Any:
    """The kernels that Python calls; they import the hooks above."""
    from unpinned.host import control

    return control


def _header(device: Device) -> dict[str, Any]:
    """What a replay must know of the device."""
    import platform

    from unpinned import __version__

    p = device.p
    geometry = {"levels": P.LEVELS, "bits": P.BITS, "leaves": P.NODE_COUNT, "regions": P.REGION_CAPACITY,
                "revoked": P.REVOKED_CAPACITY, "dma": P.DMA_CAPACITY, "faults": P.FAULT_CAPACITY}  # fmt: skip
    settings = {"provisional_ns": P.PROVISIONAL_NS, "provisional_trust_ns": P.PROVISIONAL_TRUST_NS,
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
