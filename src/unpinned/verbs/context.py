"""Context: an open device. The root of everything else; closing it closes all that was made from it."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from unpinned.hca import layout as L
from unpinned.host.device import Device, Use, open_device
from unpinned.host.events import forget_descriptor
from unpinned.host.process import Departure, departing
from unpinned.host.regions import REGIONS
from unpinned.host.udp import ROCE_PORT
from unpinned.host.undisturbed import undisturbed
from unpinned.verbs import enums as e
from unpinned.verbs.addr import GID, GIDEntry
from unpinned.verbs.errors import ArgumentError, closed, coded, instance, integer
from unpinned.verbs.events import AsyncEvent, Event, arrival, await_one
from unpinned.verbs.port import PortAttr, interface_index, path_mtu
from unpinned.wire.headers import DEFAULT_PKEY

NAME_PREFIX = "unpinned-"
"""A device's name is this and its address."""
MAX_WR = 1 << 15
MAX_CQE = 1 << 20


class Resource:
    """What contexts, domains, queues and regions have in common: closed once, by hand, by ``with``, or by the collector."""

    _what = "resource"
    _device: Device
    _event: Event | None = None
    """The descriptor of its events, where it has such."""

    def __init__(self) -> None:
        self._children: weakref.WeakSet[Resource] = weakref.WeakSet()
        self._departure: Departure | None = None
        self._open = False

    def _leave_by(self, leave: Callable[[bool], bool]) -> None:
        """What a close has to do at the end, as for `Departure`. At exit the process closes its devices itself, in order."""
        self._departure = departing(self, leave)
        self._open = True

    def _belong_to(self, *parents: Resource) -> None:
        """Be closed with each of these. ENODEV when another thread closes one meanwhile: it may not have heard of this."""
        for parent in parents:
            parent._children.add(self)
        for parent in parents:
            if not parent._open:
                self.close()
                raise closed(parent._what)

    def _made_from_this(self) -> list[Resource]:
        while True:
            with contextlib.suppress(RuntimeError):  # another thread made or dropped one during the look
                return list(self._children)

    @property
    def closed(self) -> bool:
        """Is it closed? In a forked child everything of the parent's is."""
        return not self._open or self._device.closed

    @property
    def device(self) -> Device:
        """The device below. OSError ENODEV when this is closed, or came with a fork."""
        device = self._device
        if device.closed or not self._open:
            raise closed(self._what)
        return device

    def _happened(self, device: Device) -> int | None:
        """Take an asynchronous event of this: IBV_EVENT_*, or None."""
        return None

    def close(self) -> None:
        """Close what was made from this, then this; who waits for an event of it is told. Idempotent."""
        announces = None if self.closed else self._event
        self._open = False  # first: nothing more is made from it, and who wakes finds it closed
        if announces is not None:
            with contextlib.suppress(OSError):
                announces.wake()
        for child in self._made_from_this():
            child.close()
        if self._departure is not None:
            self._departure.begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class DeviceAttr:
    """What the device can do at most (ibv_device_attr)."""

    fw_version: str = "0.1.0"
    node_guid: int = 0
    sys_image_guid: int = 0
    max_mr_size: int = 1 << 47
    page_size_cap: int = 0xFFFFFFFFFFFFF000
    vendor_id: int = 0
    vendor_part_id: int = 0
    hw_ver: int = 0
    max_qp: int = 0
    max_qp_wr: int = MAX_WR
    device_cap_flags: int = 0
    max_sge: int = L.SGE_MAX
    max_sge_rd: int = L.SGE_MAX
    max_cq: int = 0
    max_cqe: int = MAX_CQE
    max_mr: int = REGIONS
    max_pd: int = 1 << 31
    max_qp_rd_atom: int = L.READ_RING
    max_res_rd_atom: int = 0
    max_qp_init_rd_atom: int = L.READ_RING
    atomic_cap: int = e.IBV_ATOMIC_HCA
    max_mw: int = 0
    max_srq: int = 0
    max_srq_wr: int = 0
    max_srq_sge: int = 0
    max_ah: int = 0
    max_ee: int = 0
    max_rdd: int = 0
    max_ee_rd_atom: int = 0
    max_ee_init_rd_atom: int = 0
    max_raw_ipv6_qps: int = 0
    max_raw_ethy_qp: int = 0
    max_mcast_grp: int = 0
    max_mcast_qp_attach: int = 0
    max_fmr: int = 0
    max_map_per_fmr: int = 0
    max_pkeys: int = 1
    local_ca_ack_delay: int = 15
    phys_port_cnt: int = 1

    @property
    def atomic_caps(self) -> int:
        """pyverbs' name of ``atomic_cap``."""
        return self.atomic_cap


@dataclass(frozen=True)
class ODPCaps:
    """On-demand paging: what may touch memory that is not there."""

    general_caps: int = e.IBV_ODP_SUPPORT | e.IBV_ODP_SUPPORT_IMPLICIT
    rc_odp_caps: int = (
        e.IBV_ODP_SUPPORT_SEND
        | e.IBV_ODP_SUPPORT_RECV
        | e.IBV_ODP_SUPPORT_WRITE
        | e.IBV_ODP_SUPPORT_READ
        | e.IBV_ODP_SUPPORT_ATOMIC
    )
    uc_odp_caps: int = 0
    ud_odp_caps: int = 0
    xrc_odp_caps: int = 0


@dataclass(frozen=True)
class DeviceAttrEx:
    """`DeviceAttr` and what came later (ibv_device_attr_ex)."""

    orig_attr: DeviceAttr
    odp_caps: ODPCaps = field(default_factory=ODPCaps)
    comp_mask: int = 0
    completion_timestamp_mask: int = 0
    hca_core_clock: int = 0
    device_cap_flags_ex: int = 0
    max_wq_type_rq: int = 0
    raw_packet_caps: int = 0
    max_dm_size: int = 0
    phys_port_cnt_ex: int = 1


def _leave(use: Use, events: Event, wait: bool) -> bool:
    """As `process.Departure` wants it."""
    with events.guard:  # nothing is made meanwhile that has the descriptor
        if events.there and not use.device.closed:  # else the number may be another's by now
            forget_descriptor(use.device.e, events.fd)
        events.close()
    return use.leave(wait)


class Context(Resource):
    """An open device on one address of this machine.

    Args:
        name: a device's name, as ``Context.name`` gives it, or an address: the same as *address*.
        address: IPv4, IPv6 or a host name; None finds a free loopback address.
        port: UDP port; RoCEv2's by default, and a peer of another make knows no other.

    Contexts of one process on the same address share one device. OSError: EADDRINUSE when another process has the
    address, EADDRNOTAVAIL when it is not this machine's.
    """

    _what = "context"
    _event: Event

    @coded
    def __init__(self, name: str | None = None, address: str | None = None, *, port: int = ROCE_PORT) -> None:
        super().__init__()
        for argument, value in (("name", name), ("address", address)):
            if value is not None:
                instance(argument, value, str)
        wanted = address if address is not None else name
        if wanted in ("0.0.0.0", "::"):
            raise ArgumentError("address", f"{wanted} is every address of this machine; a device has one of them")
        self._use = open_device(wanted.removeprefix(NAME_PREFIX) if wanted else None, integer("port", port, 0, 65535))
        self._device = self._use.device
        self._event = undisturbed(Event)
        self._leave_by(functools.partial(_leave, self._use, self._event))

    @property
    def name(self) -> str:
        return f"{NAME_PREFIX}{self._device.address}"

    @property
    def address(self) -> str:
        """The device's IP address."""
        return self._device.address

    @property
    def port(self) -> int:
        """The device's UDP port."""
        return self._device.port

    @property
    def num_comp_vectors(self) -> int:
        return 1

    def query_device(self) -> DeviceAttr:
        h = self.device.h
        guid = int.from_bytes(self.query_gid(1, 0).raw[8:], "big")
        queues = int(h[L.H_QP_COUNT]) - 2
        return DeviceAttr(node_guid=guid, sys_image_guid=guid, max_qp=queues, max_cq=int(h[L.H_CQ_COUNT]),
                          max_res_rd_atom=queues * L.READ_RING)  # fmt: skip

    def query_device_ex(self) -> DeviceAttrEx:
        return DeviceAttrEx(self.query_device())

    @coded
    def query_port(self, port_num: int = 1) -> PortAttr:
        integer("port_num", port_num, 1, 1)
        return PortAttr(active_mtu=path_mtu(self.device.endpoint.address))

    @coded
    def query_gid(self, port_num: int = 1, index: int = 0) -> GID:
        integer("port_num", port_num, 1, 1)
        integer("index", index, 0, 0)
        return GID(self.device.endpoint.address)

    def query_gid_type(self, port_num: int, index: int) -> int:
        """IBV_GID_TYPE_SYSFS_ROCE_V2, all there is."""
        self.query_gid(port_num, index)
        return e.IBV_GID_TYPE_SYSFS_ROCE_V2

    @coded
    def query_gid_ex(self, port_num: int, gid_index: int, flags: int = 0) -> GIDEntry:
        integer("flags", flags, 0, 0)
        gid = self.query_gid(port_num, gid_index)
        return GIDEntry(gid, gid_index, port_num, ndev_ifindex=interface_index(self.device.endpoint.address))

    @coded
    def query_gid_table(self, max_entries: int, flags: int = 0) -> list[GIDEntry]:
        """At most *max_entries* entries; the device has one."""
        integer("max_entries", max_entries, 1, 1 << 31)
        return [self.query_gid_ex(1, 0, flags)]

    @coded
    def query_pkey(self, port_num: int, index: int) -> int:
        """The partition key in the table's one place: the default one, 0xFFFF."""
        integer("port_num", port_num, 1, 1)
        integer("index", index, 0, 0)
        self.device  # noqa: B018 (ENODEV when closed)
        return DEFAULT_PKEY

    @coded
    def get_pkey_index(self, port_num: int, pkey: int) -> int:
        """Where *pkey* stands in the table. ArgumentError when it does not."""
        if pkey != self.query_pkey(port_num, 0):
            raise ArgumentError("pkey", f"{pkey:#x} is not in the table, which has {DEFAULT_PKEY:#x} alone")
        return 0

    @property
    def async_fd(self) -> int:
        """A non-blocking descriptor that becomes readable when an asynchronous event waits. ENODEV when the context is closed."""
        self.device  # noqa: B018
        return self._event.fd

    @coded
    def get_async_event(self, timeout: float | None = None) -> AsyncEvent:
        """Wait for the next asynchronous event of this context's queues and take it: what no completion tells.

        IBV_EVENT_CQ_ERR: a completion queue overran; IBV_EVENT_QP_FATAL: a queue pair ended by that. IBV_EVENT_QP_REQ_ERR and
        IBV_EVENT_QP_ACCESS_ERR: it ended because the peer asked for what is no valid request, or not allowed, or not there any
        more. IBV_EVENT_COMM_EST: a request came to a queue pair in RTR. IBV_EVENT_SQ_DRAINED: all that a queue pair had begun is done,
        as was asked for when it was put into SQD. One of each kind waits for each queue at most, in no order
        between queues; those of a closed queue are gone. OSError ETIMEDOUT after *timeout* seconds.
        """
        return await_one(self._take_event, self._async_fd, timeout, "asynchronous event")

    async def async_event(self) -> AsyncEvent:
        """`get_async_event` without blocking the loop (an extension). OSError ENODEV when the context is closed meanwhile."""
        return await arrival(self._take_event, self._async_fd)

    def _async_fd(self) -> int:
        return self.async_fd

    def _take_event(self) -> AsyncEvent | None:
        """Take an asynchronous event, or None when none waits."""
        while True:
            device = self.device
            if not self._event.take():
                return None
            for child in self._made_from_this():
                for queue in (child, *child._made_from_this()):  # completion queues are its children, queue pairs those of its domains
                    if (kind := queue._happened(device)) is not None:
                        return AsyncEvent(kind, queue)
            # Else its queue was closed meanwhile: go on.

    def counters(self) -> dict[str, int]:
        """Every counter of the device, by name (an extension)."""
        return self.device.counters()

    def __repr__(self) -> str:
        return f"<Context {self.name}{', closed' if self.closed else ''}>"
