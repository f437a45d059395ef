"""Completion queues, what they hold, and the channels that announce it."""

from __future__ import annotations

import errno
import functools
import socket
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unpinned.hca import layout as L
from unpinned.host.device import WAIT_SLICE_NS, Device, poll
from unpinned.host.queues import Queue
from unpinned.host.undisturbed import undisturbed
from unpinned.verbs import enums as e
from unpinned.verbs.context import MAX_CQE, Context, Resource
from unpinned.verbs.errors import (
    ArgumentError,
    CompletionError,
    coded,
    instance,
    integer,
    refused,
    seconds,
    wc_status_to_str,
)
from unpinned.verbs.events import CQ_EVENTS, Event, arrival, await_one, happened
from unpinned.verbs.wr import U64

WC_DTYPE: Final = np.dtype(
    [(name, "<i8") for name in ("wr_id", "status", "opcode", "byte_len", "qp_num", "imm_data", "wc_flags", "src_qp")]
)
"""A completion in a batch (`CQ.poll_into`). ``imm_data`` is the plain number, not in network order."""

assert WC_DTYPE.itemsize == 8 * L.CQE_WORDS

_WC_OPCODES = {
    e.IBV_WC_SEND: "send", e.IBV_WC_RDMA_WRITE: "rdma-write", e.IBV_WC_RDMA_READ: "rdma-read", e.IBV_WC_COMP_SWAP: "comp-swap",
    e.IBV_WC_FETCH_ADD: "fetch-add", e.IBV_WC_LOCAL_INV: "local-inv", e.IBV_WC_RECV: "recv",
    e.IBV_WC_RECV_RDMA_WITH_IMM: "recv-rdma-with-imm",
}  # fmt: skip


@dataclass(slots=True)
class WC:
    """A work completion. With another status than IBV_WC_SUCCESS only ``wr_id``, ``qp_num`` and ``vendor_err`` mean
    anything besides, as in verbs. ``imm_data`` is in network byte order (`socket.ntohl`)."""

    wr_id: int = 0
    status: int = 0
    opcode: int = 0
    vendor_err: int = 0
    byte_len: int = 0
    qp_num: int = 0
    src_qp: int = 0
    imm_data: int = 0
    wc_flags: int = 0
    pkey_index: int = 0
    slid: int = 0
    sl: int = 0
    dlid_path_bits: int = 0

    @property
    def invalidated_rkey(self) -> int:
        """The key that the peer's SEND_WITH_INV revoked; shares its place with ``imm_data``, as in verbs."""
        return self.imm_data

    def check(self, what: str = "") -> WC:
        """This, if it is a success; else a CompletionError whose text begins with *what* (an extension)."""
        if self.status != e.IBV_WC_SUCCESS:
            raise CompletionError(self.status, self.wr_id, what)
        return self

    def __str__(self) -> str:
        kind = _WC_OPCODES.get(self.opcode, str(self.opcode))
        return f"wr_id {self.wr_id}: {wc_status_to_str(self.status)} ({kind}, {self.byte_len} bytes, qp {self.qp_num:#x})"


def _wc(record: list[int]) -> WC:
    wr_id, status, opcode, length, qpn, imm, flags, src = record
    wc = WC(wr_id & U64, status, opcode, 0, length, qpn, src, imm, flags)
    if flags & e.IBV_WC_WITH_IMM:
        wc.imm_data = socket.htonl(imm)
    return wc


def _words_of(out: NDArray[Any]) -> NDArray[np.int64]:
    """The memory of an array for completions, which is written in place."""
    instance("out", out, np.ndarray)
    if out.dtype is not WC_DTYPE and out.dtype != WC_DTYPE and out.dtype != np.int64:
        raise ArgumentError("out", f"records of WC_DTYPE (or int64 words) are needed, not {out.dtype}")
    if not out.flags.c_contiguous:
        raise ArgumentError("out", "the array is not contiguous")
    if not out.flags.writeable:
        raise ArgumentError("out", "the array is read-only")
    return out.view(np.int64).reshape(-1)


def _nanoseconds(timeout: float | None) -> int:
    """A waiting time in seconds as the device takes it."""
    limit = seconds("timeout", timeout)
    return 1 << 62 if limit is None else int(limit * 1e9)


def _leave(device: Device, queue: Queue, parting: _Parting, wait: bool) -> bool:
    return device.queues.leave_cq(queue, parting)


class _Parting:
    """A queue lets go of its channel's descriptor, if it has one. Idempotent."""

    def __init__(self, event: Event | None) -> None:
        self.event = event

    def __call__(self) -> None:
        if self.event is not None:
            self.event.queues.discard(self)


class CompChannel(Resource):
    """A completion channel: a file descriptor that becomes readable when an armed queue has a completion.

    For select, poll and epoll it is a file object (``fileno``); in asyncio, ``cq = await channel``. Closing it closes its queues.
    """

    _what = "completion channel"
    _event: Event

    @coded
    def __init__(self, context: Context) -> None:
        super().__init__()
        instance("context", context, Context)
        self.context = context
        self._device = context.device
        self._event = undisturbed(Event)
        self._leave_by(self._event.leave)
        self._belong_to(context)

    def fileno(self) -> int:
        """The event descriptor, non-blocking. ENODEV when the channel is closed, or came with a fork."""
        self.device.check()
        return self._event.fd

    @property
    def fd(self) -> int:
        return self.fileno()

    @coded
    def get_cq_event(self, expected_cq: CQ | None = None, timeout: float | None = None) -> CQ:
        """Wait for the next event and take it; the queue it came from. `CQ.req_notify` asks for the next one after it.

        OSError: ETIMEDOUT after *timeout* seconds, EINVAL when another queue than *expected_cq* had it.
        """
        cq = await_one(self._take, self.fileno, timeout, "completion event")
        if expected_cq is not None and cq is not expected_cq:
            raise refused(errno.EINVAL, "expected_cq: the event came from another completion queue")
        return cq

    async def event(self) -> CQ:
        """The next event, without blocking the loop. OSError ENODEV when the channel is closed meanwhile."""
        return await arrival(self._take, self.fileno)

    def __await__(self) -> Generator[Any, None, CQ]:
        return self.event().__await__()

    def _take(self) -> CQ | None:
        """Take an event: the queue it came from, or None when none waits."""
        while True:
            self.device.check()
            if not self._event.take():
                return None
            for cq in self._made_from_this():
                if isinstance(cq, CQ) and cq._fired():
                    return cq
            # Else its queue was closed meanwhile, or armed twice: go on.


class CQ(Resource):
    """A completion queue.

    Args:
        context: the device.
        cqe: entries at least; more completions than fit end the queue pairs that make them, so count the requests.
        cq_context: anything; kept as ``cq_context``.
        channel: where `req_notify` announces completions.
        comp_vector: 0.
    """

    _what = "completion queue"

    @coded
    def __init__(
        self, context: Context, cqe: int, cq_context: Any = None, channel: CompChannel | None = None, comp_vector: int = 0
    ) -> None:
        super().__init__()
        instance("context", context, Context)
        integer("comp_vector", comp_vector, 0, 0)
        self.context = context
        self.cq_context = cq_context
        self.comp_channel = channel
        self._device = context.device
        event = None
        if channel is not None:
            instance("channel", channel, CompChannel)
            channel.fileno()
            if channel._device is not self._device:
                raise ArgumentError("channel", "the completion channel is of another device")
            event = channel._event
        depth, parting = integer("cqe", cqe, 1, MAX_CQE), _Parting(event)
        try:
            # Before the device has it: the number of one that is closed meanwhile may be another's.
            fd = -1 if event is None else event.join(parting)
            self._queue = context._event.lend(lambda async_fd: self._device.queues.create_cq(depth, fd, async_fd))
        except BaseException:
            parting()
            raise
        self._armed = False
        self._leave_by(functools.partial(_leave, self._device, self._queue, parting))
        self._belong_to(context, *([channel] if channel is not None else []))

    @property
    def cqe(self) -> int:
        """Entries it holds."""
        return self._queue.depth

    @coded
    def resize(self, cqe: int) -> None:
        """Hold *cqe* entries at least from now on; no completion is lost, and the queue may be in use meanwhile.

        OSError: EINVAL where more than *cqe* completions wait in it, ENOMEM where the device has no memory left; it then stays as
        it was.
        """
        device = self.device
        device.queues.resize_cq(self._queue, integer("cqe", cqe, 1, MAX_CQE))

    def poll(self, num_entries: int = 1) -> tuple[int, list[WC]]:
        """Take up to *num_entries* completions, without waiting: (how many, they)."""
        return self._poll(num_entries, 0)

    def wait(self, num_entries: int = 1, timeout: float | None = None) -> tuple[int, list[WC]]:
        """As `poll`, but sleep until there is one, at most *timeout* seconds (an extension). (0, []) after that."""
        return self._poll(num_entries, _nanoseconds(timeout))

    def _poll(self, num_entries: int, timeout_ns: int) -> tuple[int, list[WC]]:
        count = integer("num_entries", num_entries, 0, MAX_CQE)
        out = np.empty(count * L.CQE_WORDS, np.int64)
        got = self._take(out, count, timeout_ns)
        if not got:
            return 0, []
        return got, [_wc(record) for record in out.reshape(count, L.CQE_WORDS)[:got].tolist()]

    def poll_into(self, out: NDArray[Any], timeout: float = 0.0) -> int:
        """Take completions into *out*, a contiguous array of WC_DTYPE (or int64 words); how many (the batch extension).

        Sleeps at most *timeout* seconds for the first one. ArgumentError or TypeError for another *out*: no completion is lost.
        """
        words = _words_of(out)
        return self._take(words, words.size // L.CQE_WORDS, _nanoseconds(timeout))

    def _take(self, words: NDArray[np.int64], count: int, timeout_ns: int) -> int:
        while True:
            # First the record, then whether it is open: who closes it, another thread, perhaps in between, has the reverse order.
            cq = self._queue.cq
            device = self.device
            if not count:
                return 0  # nothing can be taken: the device would look again for ever at what waits
            # In slices: Python's signal handlers run in between, and another thread may close the queue.
            got = poll(device, cq, count, min(timeout_ns, WAIT_SLICE_NS), words)
            timeout_ns -= WAIT_SLICE_NS
            if got or timeout_ns <= 0:
                return got

    @coded
    def req_notify(self, solicited_only: bool = False) -> None:
        """Have the channel announce the next completion (or the next solicited or failed one). Completions that are there
        already are not announced: poll once more after this."""
        if self.comp_channel is None:
            raise ArgumentError("channel", "the queue was made without one")
        device = self.device
        self._armed = True
        device.queues.arm_cq(self._queue, bool(solicited_only))

    def ack_events(self, num_events: int) -> None:
        """Nothing to do here: an event that was taken is acknowledged."""
        integer("num_events", num_events, 0, 1 << 31)

    def _fired(self) -> bool:
        """Was the queue armed, and has its event been sent?"""
        h, cq = self._device.h, self._queue.cq
        if not self._armed or self.closed or h[cq + L.CQ_ARMED] or h[cq + L.CQ_EVENT] & L.TELL_COMPLETION:
            return False
        self._armed = False
        return True

    def _happened(self, device: Device) -> int | None:
        cq = self._queue.cq  # first, as in `_take`
        return None if self.closed else happened(device, cq + L.CQ_ASYNC, CQ_EVENTS)

    def __repr__(self) -> str:
        return f"<CQ of {self.cqe}{', closed' if self.closed else ''}>"
