"""Datagrams in bursts, from compiled code: one system call moves up to 64 KiB, or several times that.

A burst is datagrams of one length to one address, laid end to end; the last may be shorter. The kernel cuts it up on the
way out (UDP_SEGMENT, "GSO") and, on loopback or behind a NIC that can, hands it over whole on the way in (UDP_GRO).
Every structure that the system calls want is built once in the scratch (`udp.udp_scratch`); a call patches a few words.

Addresses in kernels are two words and a port: the big-endian halves of an IPv6 address, or of ::ffff:a.b.c.d for IPv4.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.libc import EINVAL, sys_recvmmsg, sys_sendmsg
from unpinned.host import layout as L
from unpinned.host.layout import Arena, Words

AF_INET, AF_INET6 = 2, 10
EIO, EMSGSIZE, EAFNOSUPPORT = 5, 90, 97
MSG_TRUNC, MSG_DONTWAIT, MSG_NOSIGNAL = 0x20, 0x40, 0x4000
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
LOW32 = 0xFFFFFFFF
CONTROL_BYTES = 64  # of a receive slot
NAME_BYTES = 28  # struct sockaddr_in6
# What lies behind the results, counted in slots (of as many words each): U_RX + slots * THIS + slot * its words.
HEADERS, NAMES, IOVECS, CONTROLS = 8, 16, 20, 22
# struct msghdr in words; struct mmsghdr adds the length
_NAME, _NAME_LENGTH, _IOVEC, _IOVECS, _CONTROL, _CONTROL_LENGTH, _FLAGS, _LENGTH = range(8)


@kernel
def swap32(x: int) -> int:
    """The low 32 bits of *x* with their bytes reversed."""
    return (x & 0xFF) << 24 | (x >> 8 & 0xFF) << 16 | (x >> 16 & 0xFF) << 8 | (x >> 24 & 0xFF)


@kernel
def swap64(x: int) -> int:
    """*x* with its bytes reversed."""
    low = swap32(x)
    return (low - ((low >> 31) << 32)) << 32 | swap32(x >> 32)  # signed before it is shifted: no overflow


@kernel
def receive_many(s: Words, b: Arena, offset: int, count: int) -> int:
    """Receive up to *count* bursts (at most the scratch's slots) into *b*, BURST_BYTES apart from *offset* on.

    Returns how many came, or -errno: -EAGAIN (11) when none waits. Burst i is told by words U_RX + RX_WORDS * i on.
    """
    slots = s[L.U_SLOTS]
    count = min(count, slots)
    header = L.U_RX + slots * HEADERS
    for i in range(count):
        s[header + 8 * i + _NAME_LENGTH] = NAME_BYTES
        s[header + 8 * i + _CONTROL_LENGTH] = CONTROL_BYTES
        s[L.U_RX + slots * IOVECS + 2 * i] = address_of(b) + offset + i * L.BURST_BYTES
    got = sys_recvmmsg(s[L.U_FD], address_of(s) + 8 * header, count, MSG_DONTWAIT)
    for i in range(got):
        _received(s, i, slots)
    s[L.U_RECEIVES] += got > 0
    return got


@kernel
def _received(s: Words, i: int, slots: int) -> None:
    """Fill the result words of slot *i* from what the kernel wrote."""
    header = L.U_RX + slots * HEADERS + 8 * i
    control = L.U_RX + slots * CONTROLS + 8 * i
    r = L.U_RX + L.RX_WORDS * i
    length = s[header + _LENGTH] & LOW32
    s[r + L.RX_BYTES] = 0 if s[header + _FLAGS] & MSG_TRUNC else length
    s[r + L.RX_SEGMENT] = length
    # struct cmsghdr {size_t len; int level; int type;}, int segment
    if s[header + _CONTROL_LENGTH] >= 20 and s[control + 1] == SOL_UDP | UDP_GRO << 32:
        s[r + L.RX_SEGMENT] = s[control + 2] & LOW32
    name = L.U_RX + slots * NAMES + 4 * i
    word = s[name]
    s[r + L.RX_PORT] = (word >> 16 & 0xFF) << 8 | (word >> 24 & 0xFF)
    if s[L.U_FAMILY] == AF_INET:
        s[r + L.RX_HI] = 0
        s[r + L.RX_LO] = L.MAPPED_PREFIX | swap32(word >> 32)
    else:
        s[r + L.RX_HI] = swap64(s[name + 1])
        s[r + L.RX_LO] = swap64(s[name + 2])


@kernel
def send(s: Words, b: Arena, offset: int, length: int, segment: int, hi: int, lo: int, port: int) -> int:
    """Send b[offset : offset + length] to (hi, lo), cut into datagrams of *segment* bytes; 0: one datagram.

    Bytes sent: less than *length* when the socket buffer filled up between datagrams. -errno when nothing was:
    -EAGAIN, -EMSGSIZE (a datagram exceeds the path's MTU, or the burst SEGMENTS_MAX or BURST_SEND_MAX), -ENETUNREACH,
    -EIO (no segmentation on this route after all: U_GSO is 0 from now on, build the burst again).
    The k-th datagram of a burst has IPv4 identification k with U_GSO, and 0 without: the ICRC covers it.
    """
    status = _set_name(s, hi, lo, port)
    if status < 0:
        return status
    if segment <= 0 or segment >= length:
        return _send_one(s, b, offset, length, 0)
    if s[L.U_GSO]:
        if length > L.BURST_SEND_MAX or length > segment * L.SEGMENTS_MAX:
            return -EMSGSIZE
        status = _send_one(s, b, offset, length, segment)
        if status == -EIO:
            s[L.U_GSO] = 0
        return -EMSGSIZE if status == -EINVAL else status  # older kernels' word for it
    sent = 0
    while sent < length:
        status = _send_one(s, b, offset + sent, min(segment, length - sent), 0)
        if status < 0:
            return sent if sent else status
        sent += status
    return sent


@kernel
def _set_name(s: Words, hi: int, lo: int, port: int) -> int:
    """Put the destination into the struct sockaddr; 0 or -EAFNOSUPPORT."""
    word = s[L.U_FAMILY] | (port & 0xFF) << 24 | (port >> 8 & 0xFF) << 16
    mapped = hi == 0 and lo >> 32 == 0xFFFF
    if mapped != (s[L.U_FAMILY] == AF_INET):
        return -EAFNOSUPPORT
    if mapped:
        address = swap32(lo)
        s[L.U_TX_NAME] = word | (address - ((address >> 31) << 32)) << 32
    else:
        s[L.U_TX_NAME] = word
        s[L.U_TX_NAME + 1] = swap64(hi)
        s[L.U_TX_NAME + 2] = swap64(lo)
        s[L.U_TX_NAME + 3] = s[L.U_SCOPE] if hi >> 54 & 0x3FF == 0x3FA else 0  # fe80::/10
    return 0


@kernel
def _send_one(s: Words, b: Arena, offset: int, length: int, segment: int) -> int:
    """One sendmsg; *segment* 0: one datagram."""
    s[L.U_TX_IOVEC] = address_of(b) + offset
    s[L.U_TX_IOVEC + 1] = length
    s[L.U_TX_HEADER + _CONTROL_LENGTH] = 24 if segment else 0
    s[L.U_TX_CONTROL + 2] = segment
    s[L.U_SENDS] += 1
    return sys_sendmsg(s[L.U_FD], address_of(s) + 8 * L.U_TX_HEADER, MSG_DONTWAIT | MSG_NOSIGNAL)
