"""Addresses: a GID is an IPv6 address, or an IPv4 address as ::ffff:a.b.c.d."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from unpinned.host.udp import IPAddress, address_words
from unpinned.verbs.enums import IBV_GID_TYPE_ROCE_V2
from unpinned.verbs.errors import ArgumentError, instance, integer


class GID:
    """A global identifier.

    >>> GID("192.0.2.1").gid
    '0000:0000:0000:0000:0000:ffff:c000:0201'
    >>> GID("2001:db8::1") == GID(GID("2001:db8::1").raw)
    True
    """

    __slots__ = ("_address",)

    def __init__(self, val: str | bytes | IPAddress | GID | None = None) -> None:
        self.gid = val if val is not None else "::"  # type: ignore[assignment]

    @property
    def gid(self) -> str:
        """All 16 bytes in groups of four hexadecimal digits, as verbs' tools print them."""
        return self._address.packed.hex(":", 2)  # `exploded` writes a mapped address otherwise since Python 3.13

    @gid.setter
    def gid(self, val: str | bytes | IPAddress | GID) -> None:
        if isinstance(val, GID):
            self._address: ipaddress.IPv6Address = val._address
            return
        try:
            parsed = ipaddress.ip_address(val)
        except ValueError as error:
            raise ArgumentError("gid", str(error)) from None
        if isinstance(parsed, ipaddress.IPv4Address):
            parsed = ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + parsed.packed)
        self._address = parsed

    @property
    def raw(self) -> bytes:
        """The 16 bytes in network order."""
        return self._address.packed

    @property
    def address(self) -> IPAddress:
        """As an address of the IP version that carries it."""
        return self._address.ipv4_mapped or self._address

    @property
    def words(self) -> tuple[int, int]:
        """As the device's tables hold it."""
        return address_words(self.address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GID) and self._address == other._address

    def __hash__(self) -> int:
        return hash(self._address)

    def __str__(self) -> str:
        return self.gid

    def __repr__(self) -> str:
        return f"GID({str(self.address)!r})"


@dataclass(frozen=True)
class GIDEntry:
    """A line of a device's table of GIDs (ibv_gid_entry)."""

    gid: GID
    gid_index: int = 0
    port_num: int = 1
    gid_type: int = IBV_GID_TYPE_ROCE_V2
    ndev_ifindex: int = 0

    @property
    def gid_subnet_prefix(self) -> int:
        """The upper 64 bits."""
        return int.from_bytes(self.gid.raw[:8], "big")

    @property
    def gid_interface_id(self) -> int:
        """The lower 64 bits."""
        return int.from_bytes(self.gid.raw[8:], "big")

    def gid_str(self) -> str:
        return self.gid.gid


@dataclass
class GlobalRoute:
    """The global routing part of an address: where to (``dgid``)."""

    dgid: GID | None = None
    flow_label: int = 0
    sgid_index: int = 0
    hop_limit: int = 1
    traffic_class: int = 0


@dataclass
class AHAttr:
    """The address of a peer. RoCE routes by GID only, so ``is_global`` must be 1 and ``gr`` given."""

    dlid: int = 0
    sl: int = 0
    src_path_bits: int = 0
    static_rate: int = 0
    is_global: int = 0
    port_num: int = 1
    gr: GlobalRoute | None = field(default=None)

    def __post_init__(self) -> None:
        integer("port_num", self.port_num, 1, 1)
        if self.is_global and self.gr is None:
            raise ArgumentError("gr", "a global address needs a GlobalRoute")

    @property
    def dgid(self) -> GID:
        """The peer's GID. ArgumentError when there is none, as RoCE needs one, or when it is to be reached from a GID of ours that
        is not there."""
        if not self.is_global or self.gr is None or self.gr.dgid is None:
            raise ArgumentError("ah_attr", "RoCE needs a global address: is_global=1, gr=GlobalRoute(dgid=...)")
        instance("gr", self.gr, GlobalRoute)
        instance("dgid", self.gr.dgid, GID)
        integer("sgid_index", self.gr.sgid_index, 0, 0)
        return self.gr.dgid

    @property
    def sgid_index(self) -> int:
        return self._route.sgid_index

    @property
    def hop_limit(self) -> int:
        return self._route.hop_limit

    @property
    def traffic_class(self) -> int:
        return self._route.traffic_class

    @property
    def flow_label(self) -> int:
        return self._route.flow_label

    @property
    def _route(self) -> GlobalRoute:
        return self.gr if self.gr is not None else GlobalRoute()
