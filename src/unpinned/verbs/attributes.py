"""Attributes of queue pairs, as verbs' structures have them, and what a peer must know to connect."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from unpinned.hca import layout as L
from unpinned.hca.setup import timeout_ns
from unpinned.host.udp import ROCE_PORT
from unpinned.verbs import enums as e
from unpinned.verbs.addr import AHAttr
from unpinned.verbs.context import MAX_WR
from unpinned.verbs.cq import CQ
from unpinned.verbs.errors import instance, integer, unsupported

MAX_INLINE = 4096
PARK_FOREIGN_NS = 8_000_000  # longest park before a peer whose timeout we cannot know
PARK_FOREVER_NS = 1_000_000_000  # longest park before a peer of ours that never times out

_TYPES = {
    e.IBV_QPT_RC: "RC", e.IBV_QPT_UC: "UC", e.IBV_QPT_UD: "UD", e.IBV_QPT_RAW_PACKET: "RAW_PACKET",
    e.IBV_QPT_XRC_SEND: "XRC_SEND", e.IBV_QPT_XRC_RECV: "XRC_RECV", e.IBV_QPT_DRIVER: "DRIVER",
}  # fmt: skip


@dataclass
class QPCap:
    """Depths of the queues. `QP` writes back what it got (at least what was asked for)."""

    max_send_wr: int = 1
    max_recv_wr: int = 10
    max_send_sge: int = 1
    max_recv_sge: int = 1
    max_inline_data: int = 0


def _of_cap(name: str) -> Any:
    return property(lambda attr: getattr(attr.cap, name), lambda attr, value: setattr(attr.cap, name, value))


@dataclass
class QPInitAttr:
    """What a queue pair is made with. ``sq_sig_all``: every send completes visibly, not only the signaled ones."""

    qp_type: int = e.IBV_QPT_RC
    qp_context: Any = None
    scq: CQ | None = None
    rcq: CQ | None = None
    srq: Any = None
    cap: QPCap = None  # type: ignore[assignment]  # pyverbs' default; a QPCap() then
    sq_sig_all: int = 1

    @property
    def send_cq(self) -> CQ | None:
        return self.scq

    @send_cq.setter
    def send_cq(self, value: CQ | None) -> None:
        self.scq = value

    @property
    def recv_cq(self) -> CQ | None:
        return self.rcq

    @recv_cq.setter
    def recv_cq(self, value: CQ | None) -> None:
        self.rcq = value

    max_send_wr = _of_cap("max_send_wr")
    max_recv_wr = _of_cap("max_recv_wr")
    max_send_sge = _of_cap("max_send_sge")
    max_recv_sge = _of_cap("max_recv_sge")
    max_inline_data = _of_cap("max_inline_data")

    def __post_init__(self) -> None:
        self.cap = self.cap or QPCap()


@dataclass
class QPAttr:
    """Attributes of a queue pair. The defaults are usable (verbs has zeros).

    Extensions: ``peer_unpinned`` says that the peer is another unpinned, whose timeout is known to be at least ours, so a
    request may wait for its page longer; ``dest_port`` is the peer's UDP port.
    """

    qp_state: int = e.IBV_QPS_INIT
    cur_qp_state: int = e.IBV_QPS_RESET
    port_num: int = 1
    path_mtu: int = e.IBV_MTU_1024
    path_mig_state: int = e.IBV_MIG_MIGRATED
    qkey: int = 0
    rq_psn: int = 0
    sq_psn: int = 0
    dest_qp_num: int = 0
    qp_access_flags: int = 0
    cap: QPCap = field(default_factory=QPCap)
    ah_attr: AHAttr = field(default_factory=AHAttr)
    pkey_index: int = 0
    sq_draining: int = 0
    en_sqd_async_notify: int = 0
    max_rd_atomic: int = L.READ_RING
    max_dest_rd_atomic: int = L.READ_RING
    min_rnr_timer: int = 12
    timeout: int = 14
    retry_cnt: int = 7
    rnr_retry: int = 7
    dest_port: int = ROCE_PORT
    peer_unpinned: bool = False

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """ArgumentError or TypeError that names the attribute which is out of its range."""
        for name, low, high in _RANGES:
            integer(name, getattr(self, name), low, high)


_RANGES = (
    ("qp_state", 0, e.IBV_QPS_UNKNOWN), ("cur_qp_state", 0, e.IBV_QPS_UNKNOWN),
    ("port_num", 1, 1), ("path_mtu", 1, 5), ("rq_psn", 0, 0xFFFFFF), ("sq_psn", 0, 0xFFFFFF), ("dest_qp_num", 0, 0xFFFFFF),
    ("qp_access_flags", 0, 0xFFFFFFFF), ("pkey_index", 0, 0), ("max_rd_atomic", 0, L.READ_RING), ("max_dest_rd_atomic", 0, L.READ_RING),
    ("min_rnr_timer", 0, 31), ("timeout", 0, 31), ("retry_cnt", 0, 7), ("rnr_retry", 0, 7), ("dest_port", 1, 65535),
)  # fmt: skip


@dataclass(frozen=True)
class PeerInfo:
    """What a queue pair's peer must know of it to connect (an extension): plain numbers, to be sent in any way."""

    gid: str
    port: int
    qpn: int
    psn: int
    mtu: int
    timeout: int = 14
    unpinned: bool = True

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


ATTRIBUTE_BITS = {
    "qp_access_flags": e.IBV_QP_ACCESS_FLAGS, "pkey_index": e.IBV_QP_PKEY_INDEX, "port_num": e.IBV_QP_PORT,
    "ah_attr": e.IBV_QP_AV, "path_mtu": e.IBV_QP_PATH_MTU, "dest_qp_num": e.IBV_QP_DEST_QPN,
    "rq_psn": e.IBV_QP_RQ_PSN, "sq_psn": e.IBV_QP_SQ_PSN, "max_dest_rd_atomic": e.IBV_QP_MAX_DEST_RD_ATOMIC,
    "min_rnr_timer": e.IBV_QP_MIN_RNR_TIMER, "timeout": e.IBV_QP_TIMEOUT,
    "retry_cnt": e.IBV_QP_RETRY_CNT, "rnr_retry": e.IBV_QP_RNR_RETRY, "max_rd_atomic": e.IBV_QP_MAX_QP_RD_ATOMIC,
    "peer_unpinned": e.IBV_QP_AV, "dest_port": e.IBV_QP_AV,
}  # fmt: skip


def park_ns(timeout: int, unpinned: bool) -> int:
    """How long a request may wait for its page before the peer is sent an RNR NAK: a quarter of the timeout (taken for the
    peer's), and at most 8 ms when the peer may be anything.

    >>> park_ns(14, False), park_ns(18, True)
    (8000000, 268435456)
    """
    quarter = timeout_ns(timeout) // 4 or PARK_FOREVER_NS
    return quarter if unpinned else min(quarter, PARK_FOREIGN_NS)


def retuned(attr: QPAttr, mask: int, old: QPAttr) -> dict[int, int]:
    """What may change while nothing is under way (SQD), as words of the queue pair's record; the peer's address apart."""
    words: dict[int, int] = {}
    if mask & e.IBV_QP_TIMEOUT:
        words[L.QP_TIMEOUT_NS] = timeout_ns(attr.timeout)
    if mask & e.IBV_QP_RETRY_CNT:
        words[L.QP_RETRY_MAX] = words[L.QP_RETRIES] = attr.retry_cnt
    if mask & e.IBV_QP_RNR_RETRY:
        words[L.QP_RNR_MAX] = words[L.QP_RNR_RETRIES] = attr.rnr_retry
    if mask & e.IBV_QP_MAX_QP_RD_ATOMIC:
        words[L.QP_RD_MAX] = attr.max_rd_atomic
    if mask & e.IBV_QP_MAX_DEST_RD_ATOMIC:
        words[L.QP_DEST_RD_MAX] = attr.max_dest_rd_atomic
    if mask & e.IBV_QP_AV:
        words[L.QP_PEER_PORT], words[L.QP_FOREIGN] = attr.dest_port, int(not attr.peer_unpinned)
    if mask & (e.IBV_QP_AV | e.IBV_QP_TIMEOUT):
        timeout = attr.timeout if mask & e.IBV_QP_TIMEOUT else old.timeout
        words[L.QP_PARK_NS] = park_ns(timeout, attr.peer_unpinned if mask & e.IBV_QP_AV else old.peer_unpinned)
    return words


def check_init(attr: QPInitAttr) -> None:
    instance("init_attr", attr, QPInitAttr)
    instance("cap", attr.cap, QPCap)
    if attr.qp_type != e.IBV_QPT_RC:
        raise unsupported(f"qp_type {_TYPES.get(attr.qp_type, attr.qp_type)}")
    if attr.srq is not None:
        raise unsupported("shared receive queues")
    for name in ("scq", "rcq"):
        instance(name, getattr(attr, name), CQ)
    integer("max_send_wr", attr.cap.max_send_wr, 0, MAX_WR)
    integer("max_recv_wr", attr.cap.max_recv_wr, 0, MAX_WR)
    integer("max_send_sge", attr.cap.max_send_sge, 0, L.SGE_MAX)
    integer("max_recv_sge", attr.cap.max_recv_sge, 0, L.SGE_MAX)
    integer("max_inline_data", attr.cap.max_inline_data, 0, MAX_INLINE)
