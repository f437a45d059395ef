"""The port: which interface carries the device's address, and the largest payload that fits its frames."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from unpinned.host.udp import IPAddress
from unpinned.verbs import enums as e
from unpinned.wire.opcodes import BTH_BYTES

MTU_BYTES = {e.IBV_MTU_256: 256, e.IBV_MTU_512: 512, e.IBV_MTU_1024: 1024, e.IBV_MTU_2048: 2048, e.IBV_MTU_4096: 4096}
_SIOCGIFADDR, _SIOCGIFMTU = 0x8915, 0x8921
_EXTENSIONS = 16 + 4  # RETH and immediate data: the longest that a full payload comes with
_ICRC = 4
_UDP, _IPV4, _IPV6 = 8, 20, 40


@dataclass(frozen=True)
class PortAttr:
    """The one port of a device (ibv_port_attr)."""

    active_mtu: int
    state: int = e.IBV_PORT_ACTIVE
    max_mtu: int = e.IBV_MTU_4096
    gid_tbl_len: int = 1
    port_cap_flags: int = 0
    max_msg_sz: int = 1 << 31
    bad_pkey_cntr: int = 0
    qkey_viol_cntr: int = 0
    pkey_tbl_len: int = 1
    lid: int = 0
    sm_lid: int = 0
    lmc: int = 0
    max_vl_num: int = 1
    sm_sl: int = 0
    subnet_timeout: int = 0
    init_type_reply: int = 0
    active_width: int = 1
    active_speed: int = 1
    phys_state: int = 5
    link_layer: int = e.IBV_LINK_LAYER_ETHERNET
    flags: int = 0
    port_cap_flags2: int = 0
    active_speed_ex: int = 0


def path_mtu(address: IPAddress) -> int:
    """The largest IBV_MTU_* whose packets fit the frames of the interface that has *address*."""
    return largest_mtu(interface_mtu(address), address.version)


def largest_mtu(frame_bytes: int, ip_version: int) -> int:
    """The largest IBV_MTU_* that fits IP packets of *frame_bytes* with all its headers; IBV_MTU_256 when none does.

    >>> largest_mtu(1500, 4)
    3
    """
    room = frame_bytes - (_IPV6 if ip_version == 6 else _IPV4) - _UDP - BTH_BYTES - _EXTENSIONS - _ICRC
    return max((code for code, size in MTU_BYTES.items() if size <= room), default=e.IBV_MTU_256)


def local_addresses() -> list[IPAddress]:
    """The addresses of this machine whose interface is up, an interface's first IPv4 address and its global IPv6 ones; loopback
    first."""
    found: list[IPAddress] = [IPv4Address("127.0.0.1")]
    for _, name in socket.if_nameindex():
        packed = _first_ipv4(name)
        if packed is not None:
            found.append(IPv4Address(packed))
    found += [address for address, _ in _ipv6() if not address.is_link_local]
    return sorted(dict.fromkeys(found), key=lambda address: not address.is_loopback)


def interface_index(address: IPAddress) -> int:
    """The index of the interface that has *address*; 0 when it cannot be found."""
    name = _interface(address)
    try:
        return socket.if_nametoindex(name) if name else 0
    except OSError:
        return 0


def _interface(address: IPAddress) -> str | None:
    return "lo" if address.is_loopback else _interface6(address) if address.version == 6 else _interface4(address)


def interface_mtu(address: IPAddress) -> int:
    """Bytes of the largest IP packet of the interface that has *address*; 1500 when it cannot be found."""
    name = _interface(address)
    if name is None:
        return 1500
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFMTU, struct.pack("16s16x", name.encode()))
        except OSError:
            return 1500
    return int(struct.unpack_from("i", answer, 16)[0])


def _interface4(address: IPAddress) -> str | None:
    return next((name for _, name in socket.if_nameindex() if _first_ipv4(name) == address.packed), None)


def _first_ipv4(name: str) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            return fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("16s24x", name.encode()))[20:24]
        except OSError:
            return None


def _interface6(address: IPAddress) -> str | None:
    return next((name for other, name in _ipv6() if other == address), None)


def _ipv6() -> list[tuple[IPv6Address, str]]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return []
    return [(IPv6Address(bytes.fromhex(line.split()[0])), line.split()[-1]) for line in lines]
