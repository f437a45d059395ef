"""A device by hand (`support.ends`), entered where datagrams come in: each with its ICRC, or with a broken one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from support.ends import End
from unpinned.hca import layout as L
from unpinned.host import burst
from unpinned.host import engine_words as E
from unpinned.wire.headers import BTH_ECN
from unpinned.wire.icrc import ICRC_BYTES, SOLVER_WORDS, put_icrc
from unpinned.wire.opcodes import BTH_BYTES

PORT = 4791
IPV4 = 0xFFFF << 32


class Broken(bytes):
    """A packet without ICRC, of which bit *flip* (modulo its length) turns over after it was sealed."""

    flip: int

    def __new__(cls, data: bytes, flip: int) -> Broken:
        made = super().__new__(cls, data)
        made.flip = flip
        return made

    @property
    def judged(self) -> bool:
        """Is its ICRC looked at? Not where the length alone tells."""
        return BTH_BYTES <= len(self) <= L.PACKET_BYTES


@dataclass
class Entrance(End):
    """An `End` whose datagrams are checked as the live device checks them.

    Addresses are the low words of IPv6 addresses; those from IPV4 on are IPv4's, and *ident* is what their senders' stack puts
    into the header.
    """

    ident: int = 0
    e: np.ndarray = field(init=False, default_factory=lambda: np.zeros(E.E_WORDS, np.int64))
    solver: np.ndarray = field(init=False, default_factory=lambda: np.zeros(SOLVER_WORDS, np.int64))

    def receive(self, datagrams: list[tuple[bytes, int]]) -> None:
        h, b, e = self.h, self.b, self.e
        h[L.H_PACKET_NEXT] = h[L.H_PACKET_COUNT] = 0
        at = int(h[L.H_RX_ARENA])
        for data, source in datagrams:
            e[E.E_RX_LO], e[E.E_RX_PORT] = source, PORT
            e[E.E_RX_TEMPLATE] = burst.template(e, b, h[L.H_RX_TEMPLATE], 0, source, 0, self.address, PORT << 16 | PORT)
            size = len(data)
            b[at : at + size] = np.frombuffer(data, np.uint8)
            if size >= BTH_BYTES:
                put_icrc(b, h[L.H_RX_TEMPLATE], e[E.E_RX_TEMPLATE], at, size, self.ident)
            if isinstance(data, Broken):
                byte, bit = divmod(data.flip % (8 * (size + ICRC_BYTES)), 8)
                b[at + byte + (byte == BTH_ECN)] ^= 1 << bit  # which the ICRC does not cover
            burst.take_packet(e, h, b, self.solver, at, size, 0)
            at += size + ICRC_BYTES
