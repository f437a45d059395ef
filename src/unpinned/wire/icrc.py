"""The invariant CRC of a RoCEv2 packet (IBTA annex A17), and how to check it from a socket.

CRC-32, stored little-endian, over eight bytes of ones, the IP header, the UDP header and everything from the BTH
to the pad, with what a router may change set to ones: TOS, TTL and header checksum (IPv6: traffic class, flow
label, hop limit), the UDP checksum, and BTH byte 4.

**Template.** Ones, IP and UDP header are the same for every packet between two ends but for two lengths and the
identification, so they are written once (`template4`, `template6`) and patched for each packet. A slot of
`TEMPLATE_BYTES` holds one; its last 12 bytes are scratch, for the BTH with byte 4 masked. The packet is not touched.

**Identification.** The IPv4 identification is covered, and a UDP socket shows it to nobody. A CRC is linear: two
packets that differ in the identification alone have CRCs that differ by ``id(x) * x**(8 * behind + 32) mod P``, where
``behind`` counts the bytes that follow the field. x is invertible modulo P, so ``id(x)`` is that difference times a
constant of the length, and the packet is sound only if the product has a degree below 16: one multiplication
instead of 16 equations. The constants are kept in a *solver* block of `SOLVER_WORDS` words, zeroed by its owner.

An identification found this way leaves 16 of the 32 bits to catch damage. Once a peer's last one is known, only
the next 256 are taken, and those that a sender like ours uses: below 128, the position in one segmented send.
"""

from __future__ import annotations

from typing import Any

from unpinned.compiled import kernel
from unpinned.compiled.crc32 import combine, crc32, multiply, power
from unpinned.compiled.folding import POLYNOMIAL
from unpinned.compiled.intrinsics import address_of, copy_bytes
from unpinned.wire.bytes import le32, put8, put16, put32, put64, put_le32
from unpinned.wire.headers import BTH_ECN
from unpinned.wire.opcodes import BTH_BYTES, ICRC_BYTES

LRH_BYTES = 8
"""The ones that stand for InfiniBand's local routing header."""
IPV4_BYTES = 20
IPV6_BYTES = 40
UDP_BYTES = 8
TEMPLATE4_BYTES = LRH_BYTES + IPV4_BYTES + UDP_BYTES
TEMPLATE6_BYTES = LRH_BYTES + IPV6_BYTES + UDP_BYTES
TEMPLATE_BYTES = 72
"""Size of a template slot: the longer template, the BTH behind it, rounded up to eight."""

SOLVER_SLOTS = 64
SOLVER_WORDS = 2 * SOLVER_SLOTS
"""Size of a solver block: for each of 64 slots a length and its constant."""

DAMAGED = -1
IDENT_LIMIT = 128
"""Segments that Linux sends at most in one call: identifications below it are always plausible."""
IDENT_WINDOW = 256
"""How far a peer's identification may be ahead of its last one."""

_ONES = -1
_DONT_FRAGMENT = 0x4000
_UDP = 17
_INVERSE_X = (POLYNOMIAL & 0x7FFFFFFF) << 1 | 1  # P without its x**0 term, divided by x

assert TEMPLATE6_BYTES + BTH_BYTES <= TEMPLATE_BYTES


@kernel
def _udp(b: Any, o: int, sport: int, dport: int) -> int:
    """UDP header with an empty length; ones for the checksum. The offset behind it."""
    put16(b, o, sport)
    put16(b, o + 2, dport)
    put32(b, o + 4, 0xFFFF)
    return o + UDP_BYTES


@kernel
def template4(b: Any, t: int, src_ip: int, dst_ip: int, sport: int, dport: int) -> int:
    """Write at *t* the template of packets from *src_ip* to *dst_ip* (IPv4 addresses as numbers); its length.

    Don't Fragment is assumed: RoCEv2 senders set it.
    """
    o = t + LRH_BYTES
    put64(b, t, _ONES)
    put32(b, o, 0x45FF0000)
    put32(b, o + 4, _DONT_FRAGMENT)
    put32(b, o + 8, 0xFF00FFFF | _UDP << 16)
    put32(b, o + 12, src_ip)
    put32(b, o + 16, dst_ip)
    return _udp(b, o + IPV4_BYTES, sport, dport) - t


@kernel
def template6(b: Any, t: int, src_hi: int, src_lo: int, dst_hi: int, dst_lo: int, sport: int, dport: int) -> int:
    """Write at *t* the template of packets between two IPv6 addresses (halves as signed words); its length."""
    o = t + LRH_BYTES
    put64(b, t, _ONES)
    put32(b, o, 0x6FFFFFFF)
    put32(b, o + 4, _UDP << 8 | 0xFF)
    put64(b, o + 8, src_hi)
    put64(b, o + 16, src_lo)
    put64(b, o + 24, dst_hi)
    put64(b, o + 32, dst_lo)
    return _udp(b, o + IPV6_BYTES, sport, dport) - t


@kernel
def icrc(b: Any, t: int, tlen: int, o: int, n: int, ident: int) -> int:
    """The ICRC of the packet whose BTH is at *o*, *n* bytes long without its ICRC, sent under the template at *t*.

    *ident* is its IPv4 identification (not used for IPv6). *n* is at least 12.
    """
    return crc32(_begin(b, t, tlen, o, n, ident), address_of(b) + o + BTH_BYTES, n - BTH_BYTES)


@kernel
def _begin(b: Any, t: int, tlen: int, o: int, n: int, ident: int) -> int:
    """As far as the BTH."""
    udp_length = UDP_BYTES + n + ICRC_BYTES
    if tlen == TEMPLATE4_BYTES:
        put32(b, t + LRH_BYTES + 2, (IPV4_BYTES + udp_length) << 16 | ident)
    else:
        put16(b, t + LRH_BYTES + 4, udp_length)
    put16(b, t + tlen - 4, udp_length)
    base = address_of(b)
    copy_bytes(base + t + tlen, base + o, BTH_BYTES)
    put8(b, t + tlen + BTH_ECN, 0xFF)
    return crc32(0, base + t, tlen + BTH_BYTES)


@kernel
def put_icrc(b: Any, t: int, tlen: int, o: int, n: int, ident: int) -> int:
    """Compute the ICRC and store it behind the *n* bytes at *o*; the packet's whole length."""
    put_le32(b, o + n, icrc(b, t, tlen, o, n, ident))
    return n + ICRC_BYTES


@kernel
def put_icrc_of(b: Any, t: int, tlen: int, o: int, n: int, ident: int, summed: int, crc: int, constant: int) -> int:
    """`put_icrc`, where *crc* is that of the last *summed* bytes already and *constant* is `combine_constant` of these."""
    head = crc32(_begin(b, t, tlen, o, n, ident), address_of(b) + o + BTH_BYTES, n - BTH_BYTES - summed)
    put_le32(b, o + n, combine(head, crc, constant))
    return n + ICRC_BYTES


@kernel
def verify(b: Any, t: int, tlen: int, o: int, n: int, k: int, last_id: int, solver: Any) -> int:
    """Check a received packet: its identification (IPv6: 0), or a negative number if it is not to be believed.

    *k* is its position in the burst that one receive call returned (the identification that a sender like ours gave
    it); *last_id* the peer's latest identification, or -1 if none is known.

    Returns `DAMAGED`, or ``-2 - ident`` when only an identification out of the window would make it right: damage,
    or a peer that was quiet (Linux lets the counter run on meanwhile). Then drop it; if its retransmission says
    the same again, start afresh with *last_id* = -1.
    """
    difference = icrc(b, t, tlen, o, n, k) ^ le32(b, o + n)
    if tlen != TEMPLATE4_BYTES:
        return 0 if difference == 0 else DAMAGED
    if difference == 0:
        return k
    found = solve(difference, n, solver)
    if found < 0:
        return DAMAGED
    ident = found ^ k
    ahead = (ident - last_id) & 0xFFFF
    if last_id < 0 or ident < IDENT_LIMIT or 0 < ahead <= IDENT_WINDOW:
        return ident
    return -2 - ident


@kernel
def solve(difference: int, n: int, solver: Any) -> int:
    """The identification whose CRC is *difference* in a packet of *n* bytes (as in `icrc`), or -1 if there is none."""
    slot = 2 * (n & (SOLVER_SLOTS - 1))
    if solver[slot] != n:
        solver[slot] = n
        # The field is followed by the other 14 bytes of the IP header, then UDP, BTH ... pad.
        solver[slot + 1] = power(_INVERSE_X, 8 * (14 + UDP_BYTES + n) + 32)
    found = multiply(difference, solver[slot + 1])
    if found & 0xFFFF:
        return -1  # degree 16 or more
    # Reflected: bit 31 is x**0, and the wire's most significant byte holds the highest powers, low bit first.
    low_first = found >> 16
    return (low_first & 0xFF) << 8 | low_first >> 8
