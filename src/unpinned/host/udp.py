"""The device's socket: unconnected, never fragmenting, bursts both ways.

Unconnected, because a connected socket numbers its IPv4 identifications from a random start, and the ICRC that we compute
beforehand covers them; with "don't fragment" an unconnected one sends 0 (and k in the k-th datagram of a burst).
SO_NO_CHECK is not used: the kernel refuses to cut up bursts without a UDP checksum, and on loopback it computes none.
Over IPv6, Linux's own RoCE (as other senders may) leaves the UDP checksum 0, and a socket drops such datagrams unless it says that
it will not (UDP_NO_CHECK6_RX): the ICRC covers more than that checksum would.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

import numpy as np

from unpinned.host import datagrams as D
from unpinned.host import layout as L
from unpinned.host.layout import Words

ROCE_PORT = 4791
BUFFER_BYTES = 8 << 20
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2
_UDP_NO_CHECK6_RX = 102
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
_LOOPBACK_CANDIDATES = 250

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> tuple[IPAddress, int]:
    """A numeric address or a host name -> (address, scope id). ::ffff:a.b.c.d is IPv4. OSError when unknown."""
    try:
        info = socket.getaddrinfo(text, None, type=socket.SOCK_DGRAM)[0]
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"{text!r} is no address: {error.strerror}") from None
    sockaddr = info[4]
    address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
    scope = int(sockaddr[3]) if len(sockaddr) > 3 else 0
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped, 0
    return address, scope


def address_words(address: IPAddress) -> tuple[int, int]:
    """The (hi, lo) words that kernels know *address* by."""
    if isinstance(address, ipaddress.IPv4Address):
        return 0, L.MAPPED_PREFIX | int(address)
    packed = address.packed
    return int.from_bytes(packed[:8], "big", signed=True), int.from_bytes(packed[8:], "big", signed=True)


def words_address(hi: int, lo: int) -> IPAddress:
    """The inverse of `address_words`."""
    mask = (1 << 64) - 1
    address = ipaddress.IPv6Address((int(hi) & mask) << 64 | int(lo) & mask)
    return address.ipv4_mapped or address


@dataclass
class Endpoint:
    """A bound socket and what the kernel granted it."""

    socket: socket.socket
    address: IPAddress
    port: int
    scope: int
    receive_bytes: int
    """Receive buffer, as SO_RCVBUF reports it: bookkeeping included, about half of it is payload."""
    send_bytes: int
    segmentation: bool
    """Bursts are cut up by the kernel (UDP_SEGMENT)."""
    coalescing: bool
    """Bursts arrive whole (UDP_GRO)."""

    @property
    def fd(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        """Idempotent."""
        self.socket.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_endpoint(address: str | None = None, port: int = ROCE_PORT, buffer_bytes: int = BUFFER_BYTES) -> Endpoint:
    """A socket on *address*; None finds a free 127.x.y.z. OSError: the address is taken or not ours, in one sentence."""
    if address is None:
        return find_loopback(port, buffer_bytes)
    parsed, scope = parse_address(address)
    return _open(parsed, scope, port, buffer_bytes)


def find_loopback(port: int = ROCE_PORT, buffer_bytes: int = BUFFER_BYTES) -> Endpoint:
    """The first free address of 127.0.0.0/8, 127.0.0.1 first, taken by binding it (so nobody can be faster)."""
    for i in range(_LOOPBACK_CANDIDATES):
        try:
            return _open(ipaddress.IPv4Address(0x7F000001 + i), 0, port, buffer_bytes)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"no free loopback address for UDP port {port} (tried {_LOOPBACK_CANDIDATES})")


def _open(address: IPAddress, scope: int, port: int, buffer_bytes: int) -> Endpoint:
    six = address.version == 6
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
            _has(sock, _UDP_NO_CHECK6_RX, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        _bind(sock, address, scope, port)
        return Endpoint(
            socket=sock,
            address=address,
            port=sock.getsockname()[1],
            scope=scope,
            receive_bytes=grow(sock, socket.SO_RCVBUF, SO_RCVBUFFORCE, buffer_bytes),
            send_bytes=grow(sock, socket.SO_SNDBUF, SO_SNDBUFFORCE, buffer_bytes),
            segmentation=_has(sock, D.UDP_SEGMENT, 0),
            coalescing=_has(sock, D.UDP_GRO, 1),
        )
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, address: IPAddress, scope: int, port: int) -> None:
    try:
        sock.bind((str(address), port, 0, scope) if address.version == 6 else (str(address), port))
    except OSError as error:
        where = f"UDP port {port} on {address}"
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"{where} is in use, perhaps by another unpinned process") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise OSError(errno.EADDRNOTAVAIL, f"{address} is not an address of this machine") from None
        raise OSError(error.errno, f"cannot bind {where}: {error.strerror}") from None


def grow(sock: socket.socket, option: int, force: int, size: int) -> int:
    """Ask for a buffer of *size* bytes, beyond the system's limit where we may; what was granted."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, option, size)
    return sock.getsockopt(socket.SOL_SOCKET, option)


def _has(sock: socket.socket, option: int, value: int) -> bool:
    try:
        sock.setsockopt(D.SOL_UDP, option, value)
    except OSError:
        return False
    return True


def udp_scratch(endpoint: Endpoint, slots: int = 4) -> Words:
    """Scratch for `datagrams`: its structures, built. *slots*: bursts that one receive call may bring."""
    s = np.zeros(L.U_RX + slots * L.U_SLOT_WORDS, np.int64)
    six = endpoint.address.version == 6
    s[L.U_FD] = endpoint.fd
    s[L.U_FAMILY] = D.AF_INET6 if six else D.AF_INET
    s[L.U_SCOPE] = endpoint.scope
    s[L.U_SLOTS] = slots
    s[L.U_GSO] = endpoint.segmentation
    _message(s, L.U_TX_HEADER, L.U_TX_NAME, L.U_TX_IOVEC, L.U_TX_CONTROL)
    s[L.U_TX_HEADER + 1] = D.NAME_BYTES if six else 16
    s[L.U_TX_CONTROL] = 18  # CMSG_LEN of a uint16
    s[L.U_TX_CONTROL + 1] = D.SOL_UDP | D.UDP_SEGMENT << 32
    for i in range(slots):
        iovec = L.U_RX + slots * D.IOVECS + 2 * i
        control = L.U_RX + slots * D.CONTROLS + 8 * i
        _message(s, L.U_RX + slots * D.HEADERS + 8 * i, L.U_RX + slots * D.NAMES + 4 * i, iovec, control)
        s[iovec + 1] = L.BURST_BYTES
    return s


def _message(s: Words, header: int, name: int, iovec: int, control: int) -> None:
    """Point a struct msghdr at its parts."""
    base = s.ctypes.data
    s[header] = base + 8 * name
    s[header + 2] = base + 8 * iovec
    s[header + 3] = 1
    s[header + 4] = base + 8 * control
