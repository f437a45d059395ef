"""Completion queues and queue pairs of a device come and go, and queue pairs change their state."""

from __future__ import annotations

import errno
import functools
import secrets
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.host import control, endings, process

if TYPE_CHECKING:
    from unpinned.host.device import Device

Words = NDArray[np.int64]


@dataclass
class Queue:
    """A completion queue's record, and how many queue pairs still use it."""

    cq: int
    """-1 once it is retired."""
    depth: int
    users: int = 0
    _left: list[endings.Step] = field(default_factory=list)  # of what it gives back in the end


@dataclass
class QueuePair:
    """A queue pair's record and what it holds on to."""

    q: int
    number: int
    send: Queue
    receive: Queue
    rings: list[tuple[int, int]]
    _gone: int = 0
    _left: list[endings.Step] = field(default_factory=list)  # of what it gives back in the end


class _Changes:
    """Stands for a device's block while `hca.setup` writes to it: reads pass, writes are kept for one step."""

    def __init__(self, h: Words) -> None:
        self._h = h
        self.words: dict[int, int] = {}

    def __getitem__(self, index: int) -> int:
        return self.words.get(index, int(self._h[index]))

    def __setitem__(self, index: int, value: int) -> None:
        self.words[index] = int(value)


@dataclass
class _Staged:
    """As much of `setup.Tables` as the steps need that are staged here."""

    h: _Changes


class Queues:
    """The queues of a device, and its free records."""

    def __init__(self, device: Device) -> None:
        self._owner = weakref.ref(device)  # no cycle: a device's blocks go with its last user, not with the collector's next round
        self._tables = device.tables

    @property
    def _device(self) -> Device:
        device = self._owner()
        assert device is not None, "who uses the queues holds the device"
        return device

    # ---- completion queues -----------------------------------------------------------------------------------------

    def create_cq(self, depth: int, fd: int = -1, async_fd: int = -1) -> Queue:
        """A completion queue of at least *depth* entries. *fd*: an eventfd that announces completions once armed; *async_fd*: one that
        announces an overrun.
        """
        with process.control:
            self._device.check()
            try:
                cq = setup.add_cq(self._tables, depth, fd, async_fd)
            except MemoryError as error:
                raise OSError(errno.ENOMEM, str(error)) from None
        return Queue(cq, int(self._device.h[cq + L.CQ_MASK]) + 1)

    def leave_cq(self, queue: Queue, after: Callable[[], None] | None = None) -> bool:
        """Retire a completion queue, if no queue pair uses it, and call *after*; was it? As `process.Departure` wants it."""
        device = self._device
        with process.control:
            if queue.users and not device.closed:
                return False
            cq = queue.cq
            if cq >= 0 and not device.closed:
                if not queue._left:
                    index = (cq - int(device.h[L.H_CQ_BASE])) // L.CQ_WORDS
                    words = (int(device.h[cq + L.CQ_MASK]) + 1) * L.CQE_WORDS
                    queue._left = [
                        (self._tables.free_cqs.insert, 0, index),  # last in line: a poller of the old queue must not meet a new one
                        (self._tables.rings.taker(words), int(device.h[cq + L.CQ_RING])),
                    ]
                control.clear_cq(device.e, cq)  # again, if it was interrupted: the record is not free yet
            queue.cq = -1
            endings.work_off(queue._left)
        if after is not None:
            after()
        process.settle()  # a channel may have waited for this
        return True

    def resize_cq(self, queue: Queue, entries: int) -> None:
        """Room for at least *entries* completions; those that wait stay. EINVAL where more wait, ENOMEM without memory."""
        device = self._device
        with process.control:  # one at a time, and none while the queue leaves
            device.check()
            if queue.cq < 0:
                raise OSError(errno.ENODEV, "the completion queue is closed")
            depth = setup.cq_depth(entries)
            [(ring, words)] = self._take_rings([depth * L.CQE_WORDS])
            left = np.array([ring, depth, entries], np.int64)
            moved = control.resize_cq(device.e, queue.cq, left) == control.DONE
            queue.depth = int(device.h[queue.cq + L.CQ_MASK]) + 1
            self._tables.rings.give(int(left[0]), int(left[1]) * L.CQE_WORDS if moved else words)
        if not moved:
            raise OSError(errno.EINVAL, f"cqe: more than {entries} completions wait in the queue")

    def arm_cq(self, queue: Queue, solicited_only: bool) -> None:
        """Ask for an event on the queue's descriptor at its next completion."""
        with process.control:  # not while the queue leaves
            self._device.check()
            if queue.cq < 0:
                raise OSError(errno.ENODEV, "the completion queue is closed")
            control.arm_cq(self._device.e, queue.cq, 2 if solicited_only else 1)

    # ---- queue pairs -----------------------------------------------------------------------------------------------

    def create_qp(
        self, *, pd: int, send_cq: Queue, recv_cq: Queue, sends: int, recvs: int, send_sges: int, recv_sges: int, sig_all: bool,
        async_fd: int = -1,
    ) -> QueuePair:  # fmt: skip
        """A queue pair in RESET. *async_fd*: an eventfd that announces its asynchronous events."""
        device = self._device
        count = int(device.h[L.H_QP_COUNT])
        send_stride, recv_stride = stride(L.W_SGE, send_sges), stride(L.R_SGE, recv_sges)
        record = np.zeros(L.QP_WORDS, np.int64)
        with process.control:
            device.check()
            if send_cq.cq < 0 or recv_cq.cq < 0:
                raise OSError(errno.ENODEV, "the completion queue is closed")
            if not self._tables.free_qps:
                raise OSError(errno.ENOMEM, f"the device has no free queue pair ({count - 2} are in use)")
            rings = self._take_rings([depth(sends) * send_stride, depth(recvs) * recv_stride])
            index = self._tables.free_qps.pop()
            number = setup.qp_number(secrets.randbits(24), count, index)
            for word, value in (
                (L.QP_NUMBER, number), (L.QP_PD, pd), (L.QP_SEND_CQ, send_cq.cq), (L.QP_RECV_CQ, recv_cq.cq),
                (L.QP_SIG_ALL, int(sig_all)), (L.QP_ASYNC_FD, async_fd), (L.QP_STATE, L.QPS_RESET), (L.QP_LAST_ID, -1),
                (L.QP_SQ_RING, rings[0][0]), (L.QP_SQ_MASK, depth(sends) - 1), (L.QP_SQ_STRIDE, send_stride),
                (L.QP_RQ_RING, rings[1][0]), (L.QP_RQ_MASK, depth(recvs) - 1), (L.QP_RQ_STRIDE, recv_stride),
            ):  # fmt: skip
                record[word] = value
            record[L.QP_AT_PSN : L.QP_AT_PSN + L.READ_RING] = -1
            q = int(device.h[L.H_QP_BASE]) + index * L.QP_WORDS
            control.install_qp(device.e, q, record)
            send_cq.users += 1
            recv_cq.users += 1
        return QueuePair(q, number, send_cq, recv_cq, rings)

    def _take_rings(self, sizes: list[int]) -> list[tuple[int, int]]:
        """A ring of each size, words: (index, size) each; none when memory runs out."""
        taken: list[tuple[int, int]] = []
        try:
            for size in sizes:
                taken.append((self._tables.rings.take(size), size))
        except MemoryError as error:
            for ring in taken:
                self._tables.rings.give(*ring)
            raise OSError(errno.ENOMEM, str(error)) from None
        return taken

    def leave_qp(self, pair: QueuePair, wait: bool) -> bool:
        """Retire a queue pair; was it? Then nothing of it is sent, received or completed any more, and its completions are gone."""
        device = self._device
        if pair._gone == 0 and not device.closed:
            retire = functools.partial(control.reset_qp, device.e, pair.q, pair.number, L.QPS_FREE)
            if self._between_batches(retire, 100_000 if wait else 20) == control.NOT_NOW:  # GONE: it was interrupted in between
                return False
            pair._gone = 1
        if pair._gone and not device.closed:
            with process.control:
                if pair._gone == 1:
                    index = (pair.q - int(device.h[L.H_QP_BASE])) // L.QP_WORDS
                    left: list[endings.Step] = [(self._tables.free_qps.insert, 0, index)]
                    left += [(self._tables.rings.taker(words), ring) for ring, words in pair.rings]
                    send, receive = pair.send, pair.receive
                    pair._left, pair._gone = left, 2  # no call from here on: no signal handler comes between
                    send.users -= 1
                    receive.users -= 1
                endings.work_off(pair._left)
        process.settle()  # a completion queue may have waited for this
        return True

    def _between_batches(self, step: Callable[[], int], tries: int) -> int:
        """Try a step that must not meet a batch between its copies and its completions; what it says."""
        for _ in range(tries):
            result = step()
            if result != control.NOT_NOW or self._device.closed:
                return result or control.GONE
            self._device.drive()
            time.sleep(0)
        return control.NOT_NOW

    def reset_qp(self, pair: QueuePair) -> None:
        """Back to RESET: queues empty, nothing in flight, its completions gone."""
        self._now(functools.partial(control.reset_qp, self._device.e, pair.q, pair.number, L.QPS_RESET))

    def to_error(self, pair: QueuePair) -> None:
        """Move a queue pair to the error state and flush it."""
        self._now(functools.partial(control.break_qp, self._device.e, pair.q, pair.number))
        self._device.drive()

    def _now(self, step: Callable[[], int]) -> None:
        self._device.check()
        if _there(self._between_batches(step, 100_000)) == control.NOT_NOW:
            raise OSError(errno.EBUSY, "the device never came to rest")

    def change(self, pair: QueuePair, before: int, words: dict[int, int]) -> bool:
        """Write words of a queue pair's record (QP_*: value), if it is in the state *before*; was it?"""
        return self._write({pair.q + word: value for word, value in words.items()}, pair, before)

    def drained(self, pair: QueuePair) -> bool:
        """Is all done that a queue pair in SQD had begun?"""
        return bool(control.has_drained(self._device.e, pair.q) == control.DONE)

    def to_rtr(self, pair: QueuePair, path: setup.Path) -> bool:
        """INIT -> RTR; False when it was not in INIT."""
        changes = _Changes(self._device.h)
        setup.to_rtr(cast("setup.Tables", _Staged(changes)), pair.q, path)
        return self._write(changes.words, pair, L.QPS_INIT)

    def to_rts(self, pair: QueuePair, sending: setup.Sending, words: dict[int, int]) -> bool:
        """RTR -> RTS, writing *words* too (as for `change`); False when it was not in RTR."""
        changes = _Changes(self._device.h)
        setup.to_rts(cast("setup.Tables", _Staged(changes)), pair.q, sending)
        changes.words |= {pair.q + word: value for word, value in words.items()}
        return self._write(changes.words, pair, L.QPS_RTR)

    def _write(self, words: dict[int, int], pair: QueuePair, state: int) -> bool:
        self._device.check()
        flat = [value for item in words.items() for value in item]
        staged = np.array([pair.q, pair.number, state, len(words), *flat], np.int64)
        written = _there(control.write_words(self._device.e, staged)) == control.DONE
        self._device.drive()
        return written


def _there(result: int) -> int:
    """What a step on a queue pair said. ENODEV when another thread has closed it meanwhile."""
    if result == control.GONE:
        raise OSError(errno.ENODEV, "the queue pair is closed")
    return result


def depth(entries: int) -> int:
    """Entries of a ring that takes at least so many: a power of two."""
    return 1 << max(0, entries - 1).bit_length()


def stride(head: int, sges: int) -> int:
    """Words from one entry of a queue to the next: *head* words, and the pieces; a power of two."""
    return 1 << (head + sges * L.SGE_WORDS - 1).bit_length()
