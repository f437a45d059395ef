"""Queue pairs: reliable connections (RC)."""

from __future__ import annotations

import dataclasses
import errno
import functools
import secrets
import threading
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.host import device as engine
from unpinned.host.device import Device
from unpinned.host.owned import empty
from unpinned.host.queues import QueuePair
from unpinned.verbs import batch, states
from unpinned.verbs import enums as e
from unpinned.verbs.addr import GID, AHAttr, GlobalRoute
from unpinned.verbs.attributes import ATTRIBUTE_BITS, PeerInfo, QPAttr, QPInitAttr, check_init, park_ns, retuned
from unpinned.verbs.context import Resource
from unpinned.verbs.errors import ArgumentError, caller_level, closed, coded, instance, integer, refused
from unpinned.verbs.events import QP_EVENTS, happened
from unpinned.verbs.memory import peek
from unpinned.verbs.mr import MR
from unpinned.verbs.pd import PD
from unpinned.verbs.port import MTU_BYTES, path_mtu
from unpinned.verbs.wr import U32, U64, RecvWR, SendWR, refuse_circle, signed

_QP_ACCESS = e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_ATOMIC
_INLINE_OPCODES = {
    e.IBV_WR_SEND, e.IBV_WR_SEND_WITH_IMM, e.IBV_WR_SEND_WITH_INV, e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_WRITE_WITH_IMM,
}  # fmt: skip
_SENDING = (L.QPS_RTS, L.QPS_SQD, L.QPS_ERR)
_RECEIVING = (L.QPS_INIT, L.QPS_RTR, L.QPS_RTS, L.QPS_SQD, L.QPS_ERR)


class QP(Resource):
    """A queue pair of *creator*, in RESET; with *qp_attr* in INIT.

    OSError: EOPNOTSUPP for another type than RC and for a shared receive queue, ENOMEM when the device is full.
    """

    _what = "queue pair"

    @coded
    def __init__(self, creator: PD, init_attr: QPInitAttr, qp_attr: QPAttr | None = None) -> None:
        super().__init__()
        instance("creator", creator, PD)
        check_init(init_attr)
        cap = init_attr.cap
        assert init_attr.scq is not None and init_attr.rcq is not None
        self.pd, self.scq, self.rcq = creator, init_attr.scq, init_attr.rcq
        self.qp_context = init_attr.qp_context
        self._device = creator.device
        for name, cq in (("scq", self.scq), ("rcq", self.rcq)):
            if cq.closed:
                raise closed(f"{name} of the queue pair")
            if cq._device is not self._device:
                raise ArgumentError(name, "the queue is of another device")
        create = functools.partial(
            self._device.queues.create_qp, pd=creator.handle, send_cq=self.scq._queue, recv_cq=self.rcq._queue, sends=cap.max_send_wr,
            recvs=cap.max_recv_wr, send_sges=cap.max_send_sge, recv_sges=cap.max_recv_sge, sig_all=bool(init_attr.sq_sig_all),
        )  # fmt: skip
        self._pair = creator.context._event.lend(lambda fd: create(async_fd=fd))
        self._q = self._pair.q
        self._leave_by(functools.partial(_leave, self._device, self._pair))
        self._init_attr = init_attr
        self._attr = QPAttr(qp_state=e.IBV_QPS_RESET, sq_psn=secrets.randbits(24))
        self._inline: tuple[NDArray[np.uint8], MR] | None = None
        self._turn = threading.RLock()  # a signal handler that posts may have interrupted who has it
        self._stowing = False
        h = self._device.h
        self._stride = int(h[self._q + L.QP_SQ_STRIDE])
        self._recv_stride = int(h[self._q + L.QP_RQ_STRIDE])
        cap.max_send_wr, cap.max_recv_wr = int(h[self._q + L.QP_SQ_MASK]) + 1, int(h[self._q + L.QP_RQ_MASK]) + 1
        self._cap = dataclasses.replace(cap)
        self._belong_to(creator, self.scq, self.rcq)
        if qp_attr is not None:
            self.to_init(qp_attr)

    # ---- state -----------------------------------------------------------------------------------------------------

    @property
    def qp_num(self) -> int:
        return self._pair.number

    @property
    def qp_type(self) -> int:
        return e.IBV_QPT_RC

    @property
    def qp_state(self) -> int:
        return int(self.device.h[self._q + L.QP_STATE])

    @property
    def state(self) -> str:
        """The state's name: "RESET", "INIT", "RTR", "RTS", "SQD" or "ERR"."""
        return states.STATES[self.qp_state]

    @property
    def max_inline_data(self) -> int:
        return self._cap.max_inline_data

    def query(self, attr_mask: int = 0) -> tuple[QPAttr, QPInitAttr]:
        """All attributes as they are now (whatever *attr_mask*), and those it was made with."""
        state = self.qp_state
        draining = int(state == e.IBV_QPS_SQD and not self._drained())
        attr = dataclasses.replace(self._attr, qp_state=state, cur_qp_state=state, sq_draining=draining, cap=self._cap)
        return attr, self._init_attr

    def to_init(self, qp_attr: QPAttr) -> None:
        """RESET -> INIT."""
        self._go(qp_attr, e.IBV_QPS_INIT, states.TO_INIT)

    def to_rtr(self, qp_attr: QPAttr) -> None:
        """To RTR, by INIT if need be."""
        if self.qp_state != e.IBV_QPS_INIT:
            self.to_init(qp_attr)
        self._go(qp_attr, e.IBV_QPS_RTR, states.TO_RTR)

    def to_rts(self, qp_attr: QPAttr) -> None:
        """To RTS, by INIT and RTR if need be."""
        if self.qp_state != e.IBV_QPS_RTR:
            self.to_rtr(qp_attr)
        self._go(qp_attr, e.IBV_QPS_RTS, states.TO_RTS)

    def to_error(self) -> None:
        """To ERR: everything posted completes, with IBV_WC_WR_FLUSH_ERR, and no memory is touched any more."""
        self.modify(dataclasses.replace(self._attr, qp_state=e.IBV_QPS_ERR), e.IBV_QP_STATE)

    def _go(self, qp_attr: QPAttr, state: int, mask: int) -> None:
        qp_attr.qp_state = state
        self.modify(qp_attr, mask)

    @coded
    def modify(self, qp_attr: QPAttr, comp_mask: int) -> None:
        """Change the attributes that *comp_mask* names (IBV_QP_*).

        OSError: EINVAL with the transition and what is missing or too much, or with the attribute that is out of its range.
        """
        instance("qp_attr", qp_attr, QPAttr)
        qp_attr.check()
        integer("comp_mask", comp_mask, 0, U32)
        state = self.qp_state
        new = qp_attr.qp_state if comp_mask & e.IBV_QP_STATE else state
        if comp_mask & e.IBV_QP_CUR_STATE and qp_attr.cur_qp_state != state:
            raise ArgumentError("cur_qp_state", f"the queue pair is in {states.STATES[state]}")
        states.check(self.qp_num, state, new, comp_mask)
        if state == e.IBV_QPS_SQD and new in (e.IBV_QPS_SQD, e.IBV_QPS_RTS) and not self._drained():
            raise refused(errno.EINVAL, f"{self._name}: the send queue is still draining")
        if new == e.IBV_QPS_RESET:
            self.device.queues.reset_qp(self._pair)
            self._attr.sq_psn = secrets.randbits(24)  # what is still under way from before is nobody's
        elif new == e.IBV_QPS_ERR:
            self.device.queues.to_error(self._pair)
        elif not self._change(qp_attr, state, new, comp_mask):
            raise refused(errno.EINVAL, f"{self._name}: it left {states.STATES[state]} meanwhile")
        self._remember(qp_attr, comp_mask)

    def _change(self, attr: QPAttr, state: int, new: int, mask: int) -> bool:
        if (state, new) == (e.IBV_QPS_INIT, e.IBV_QPS_RTR):
            access = attr.qp_access_flags if mask & e.IBV_QP_ACCESS_FLAGS else self._attr.qp_access_flags
            return self.device.queues.to_rtr(self._pair, self._path(attr, access))
        words: dict[int, int] = {}
        if mask & e.IBV_QP_ACCESS_FLAGS:
            words[L.QP_ACCESS] = attr.qp_access_flags & _QP_ACCESS
        if mask & e.IBV_QP_MIN_RNR_TIMER:
            words[L.QP_MIN_RNR] = attr.min_rnr_timer
        if (state, new) == (e.IBV_QPS_RTR, e.IBV_QPS_RTS):
            words[L.QP_PARK_NS] = park_ns(attr.timeout, self._attr.peer_unpinned)
            sending = setup.Sending(attr.sq_psn, attr.timeout, attr.retry_cnt, attr.rnr_retry, attr.max_rd_atomic)
            return self.device.queues.to_rts(self._pair, sending, words)
        if state == e.IBV_QPS_SQD:
            words |= retuned(attr, mask, self._attr)
            if mask & e.IBV_QP_AV:
                words[L.QP_PEER_HI], words[L.QP_PEER_LO] = self._peer(attr)
        words[L.QP_DRAIN] = int(state != new == e.IBV_QPS_SQD and bool(mask & e.IBV_QP_EN_SQD_ASYNC_NOTIFY and attr.en_sqd_async_notify))
        return self.device.queues.change(self._pair, state, {L.QP_STATE: new, **words})

    def _drained(self) -> bool:
        """Is the send queue of a queue pair in SQD drained? Then it stays so until it goes on."""
        return self.device.queues.drained(self._pair)

    def _peer(self, attr: QPAttr) -> tuple[int, int]:
        """The peer's address, as the device has it."""
        instance("ah_attr", attr.ah_attr, AHAttr)
        gid = attr.ah_attr.dgid
        local = self._device.endpoint.address
        if gid.address.version != local.version:
            raise ArgumentError("ah_attr", f"{gid.address} cannot be reached from {local}")
        return gid.words

    def _path(self, attr: QPAttr, access: int) -> setup.Path:
        high, low = self._peer(attr)
        local = self._device.endpoint.address
        carried = path_mtu(local)
        if attr.path_mtu > carried:
            text = f"path_mtu {MTU_BYTES[attr.path_mtu]} does not fit the interface of {local}: lowered to {MTU_BYTES[carried]}"
            warnings.warn(f"{text}, which must be so at the peer too", RuntimeWarning, stacklevel=caller_level())
            attr.path_mtu = carried
        return setup.Path(
            dest_qpn=attr.dest_qp_num, peer_hi=high, peer_lo=low, rq_psn=attr.rq_psn, mtu=MTU_BYTES[attr.path_mtu],
            port=attr.dest_port, min_rnr_timer=attr.min_rnr_timer, max_dest_rd_atomic=attr.max_dest_rd_atomic,
            access=access & _QP_ACCESS, park_ns=park_ns(attr.timeout, attr.peer_unpinned),
            foreign=not attr.peer_unpinned,
        )  # fmt: skip

    def _remember(self, attr: QPAttr, mask: int) -> None:
        """Keep what was set, for `query`."""
        for name, bit in ATTRIBUTE_BITS.items():
            if mask & bit:
                setattr(self._attr, name, getattr(attr, name))

    # ---- connecting, the short way -----------------------------------------------------------------------------------

    @property
    def psn(self) -> int:
        """The PSN this queue pair sends first when `connect` sets it up: random, and another one after each reset."""
        return self._attr.sq_psn

    def info(self, timeout: int = 14) -> PeerInfo:
        """What to tell the peer's `connect`."""
        endpoint = self.device.endpoint
        return PeerInfo(GID(endpoint.address).gid, endpoint.port, self.qp_num, self.psn, path_mtu(endpoint.address), timeout)

    @coded
    def connect(
        self, peer: PeerInfo, access: int = 0, *, mtu: int = e.IBV_MTU_4096, timeout: int = 14, **attributes: Any
    ) -> None:
        """To RTS with *peer* (an extension): the smaller MTU of both, the peer's PSN, ours as `info` told it.

        Args:
            access: what the peer may do (IBV_ACCESS_REMOTE_*).
            mtu: largest IBV_MTU_* wanted.
            timeout: as told in `info`.
            attributes: any other of `QPAttr`.
        """
        endpoint = self.device.endpoint
        attr = QPAttr(
            path_mtu=min(mtu, peer.mtu, path_mtu(endpoint.address)), rq_psn=peer.psn, sq_psn=self.psn, dest_qp_num=peer.qpn,
            qp_access_flags=access, timeout=min(timeout, peer.timeout) if peer.unpinned else timeout, dest_port=peer.port,
            peer_unpinned=peer.unpinned, ah_attr=AHAttr(is_global=1, gr=GlobalRoute(dgid=GID(peer.gid))), **attributes,
        )  # fmt: skip
        self.to_rts(attr)

    # ---- work ------------------------------------------------------------------------------------------------------

    def post_send(self, wr: SendWR, bad_wr: SendWR | None = None) -> None:
        """Post a send request, and what follows it by ``next_wr``.

        OSError: EINVAL in a state that takes none, ENOMEM when the queue is full, EAGAIN in a signal handler that came amid a
        post with inline data. *bad_wr* then becomes the first request that was not posted.
        """
        device = self._ready("post_send", _SENDING)
        refuse_circle(wr)
        current: SendWR | None = wr
        while current is not None:
            try:
                self._check_send(current)
                inline = current._flags & e.IBV_SEND_INLINE
                with self._turn:  # inline data lies beside the entry that its request gets
                    self._check_turn()
                    taken = self._post_inline(current) if inline else _post(device, self._q, current._words, 1, False)
                if not taken:
                    raise refused(errno.ENOMEM, f"{self._name}: the send queue is full ({self._cap.max_send_wr})")
            except OSError:
                if bad_wr is not None:
                    bad_wr.become(current)
                raise
            current = current.next_wr

    def _ready(self, what: str, takes: tuple[int, ...]) -> Device:
        """The device, if the queue pair is in a state that takes requests."""
        device = self.device
        if device.h[self._q + L.QP_STATE] not in takes:
            raise refused(errno.EINVAL, f"{self._name}: {what} in {self.state}")
        return device

    @property
    def _name(self) -> str:
        return f"queue pair {self.qp_num:#x}"

    def _check_turn(self) -> None:
        """The caller has the turn. EAGAIN for a signal handler that came amid a post with inline data: the next entry is that one's."""
        if self._stowing:
            raise refused(errno.EAGAIN, f"{self._name}: a signal handler posts amid a post with inline data, which goes first")

    def _check_send(self, wr: SendWR) -> None:
        instance("wr", wr, SendWR)
        if len(wr._sg) > self._cap.max_send_sge:
            raise ArgumentError("num_sge", f"{wr.num_sge}, the queue pair takes {self._cap.max_send_sge}")
        wr.check()

    def _post_inline(self, wr: SendWR) -> int:
        """Post the request with its payload in memory of the queue pair's own: the caller's is free at once."""
        length, most = int(wr._words[L.W_LENGTH]), self._cap.max_inline_data
        if wr.opcode not in _INLINE_OPCODES:
            raise ArgumentError("send_flags", "IBV_SEND_INLINE is for SEND and RDMA WRITE")
        if length > most:
            raise ArgumentError("send_flags", f"IBV_SEND_INLINE of {length} bytes, max_inline_data is {most}")
        words = wr._words.copy()
        words[L.W_FLAGS] &= ~e.IBV_SEND_INLINE
        try:
            self._stowing = True
            return self._post_stowed(wr, words, length)
        finally:
            self._stowing = False

    def _post_stowed(self, wr: SendWR, words: NDArray[np.int64], length: int) -> int:
        if length:
            pieces = words[L.W_SGE : L.W_SGE + L.SGE_WORDS * len(wr._sg)].reshape(-1, L.SGE_WORDS)  # as when it was made
            address, key = self._stow(b"".join(peek(int(addr) & U64, int(size)) for addr, size, _ in pieces))
            words[L.W_NSGE] = 1
            words[L.W_SGE : L.W_SGE + L.SGE_WORDS] = (address, length, key)
        return _post(self._device, self._q, words, 1, False)

    def _stow(self, data: bytes) -> tuple[int, int]:
        """Put inline data beside the queue's next entry, which is free once its last request has completed: address, key."""
        if self._inline is None:
            size = (self._cap.max_inline_data + 63) & -64
            store = empty((self._cap.max_send_wr, size), np.uint8)
            self._inline = store, MR(self.pd, store, e.IBV_ACCESS_ON_DEMAND)
        store, mr = self._inline
        h = self._device.h
        tail = int(h[self._q + L.QP_SQ_TAIL])
        if tail - int(h[self._q + L.QP_SQ_HEAD]) < len(store):  # else the post will find the queue full
            store[tail % len(store), : len(data)] = np.frombuffer(data, np.uint8)
        return signed(store[tail % len(store)].ctypes.data), mr.lkey

    def close(self) -> None:
        """As for all; the memory for inline data goes last."""
        super().close()
        inline, self._inline = self._inline, None
        if inline is not None:
            inline[1].close()

    def post_recv(self, wr: RecvWR, bad_wr: RecvWR | None = None) -> None:
        """Post a receive request, and what follows it by ``next_wr``. Errors as for `post_send`."""
        device = self._ready("post_recv", _RECEIVING)
        refuse_circle(wr)
        current: RecvWR | None = wr
        while current is not None:
            try:
                instance("wr", current, RecvWR)
                if current.num_sge > self._cap.max_recv_sge:
                    raise ArgumentError("num_sge", f"{current.num_sge}, the queue pair takes {self._cap.max_recv_sge}")
                if not _post(device, self._q, current._words, 1, True):
                    raise refused(errno.ENOMEM, f"{self._name}: the receive queue is full ({self._cap.max_recv_wr})")
            except OSError:
                if bad_wr is not None:
                    bad_wr.become(current)
                raise
            current = current.next_wr

    # ---- batches (extensions) ----------------------------------------------------------------------------------------

    @property
    def send_dtype(self) -> np.dtype[Any]:
        """A send request of this queue pair as a record, for `post_send_many`.

        Fields: wr_id, opcode, flags, length (written by the post), remote_addr, rkey, imm (the plain number, or the key to
        invalidate), compare_add, swap, num_sge, and sge (addr, length, lkey; as many as max_send_sge).
        """
        return batch.send_dtype(self._cap.max_send_sge, self._stride)

    @property
    def recv_dtype(self) -> np.dtype[Any]:
        """A receive request as a record, for `post_recv_many`: wr_id, length (written), num_sge, sge (addr, length, lkey)."""
        return batch.recv_dtype(self._cap.max_recv_sge, self._recv_stride)

    def post_send_many(self, wrs: NDArray[Any], count: int | None = None) -> int:
        """Post the first *count* (all) of *wrs*, a contiguous array of `send_dtype`; how many the queue took.

        One call for thousands: they are checked, and copied, by compiled code.
        OSError: EINVAL or EOPNOTSUPP for a record that cannot be posted; none is then.
        """
        device = self._ready("post_send_many", _SENDING)
        rows = batch.rows_of(wrs, count, self._stride)
        batch.check_sends(rows, self._cap.max_send_sge)
        with self._turn:
            self._check_turn()
            return _post(device, self._q, rows.reshape(-1), len(rows), False)

    def post_recv_many(self, wrs: NDArray[Any], count: int | None = None) -> int:
        """Post the first *count* (all) of *wrs*, a contiguous array of `recv_dtype`; how many the queue took."""
        device = self._ready("post_recv_many", _RECEIVING)
        rows = batch.rows_of(wrs, count, self._recv_stride)
        batch.check_receives(rows, self._cap.max_recv_sge)
        return _post(device, self._q, rows.reshape(-1), len(rows), True)

    def _happened(self, device: Device) -> int | None:
        return None if self.closed else happened(device, self._q + L.QP_ASYNC, QP_EVENTS)

    def __repr__(self) -> str:
        return f"<QP {self.qp_num:#x}, {'closed' if self.closed else self.state}>"


def _post(device: Device, q: int, words: NDArray[np.int64], count: int, receive: bool) -> int:
    """How many the queue took. ENODEV when another thread has closed the queue pair since it was looked at."""
    taken = engine.post(device, q, words, count, receive)
    if taken < 0:
        raise closed(QP._what)
    return taken


def _leave(device: Device, pair: QueuePair, wait: bool) -> bool:
    return device.queues.leave_qp(pair, wait)
