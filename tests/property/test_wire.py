"""Any packet: written as scapy would, read back the same, its ICRC scapy's, its identification found."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from support.wire import ARENA_BYTES, PACKET, TEMPLATE, arena, emit, parse, put_template, solver
from unpinned.wire import headers as H
from unpinned.wire import icrc as I
from unpinned.wire import opcodes as O

inet, inet6 = pytest.importorskip("scapy.layers.inet"), pytest.importorskip("scapy.layers.inet6")
roce = pytest.importorskip("scapy.contrib.roce")


def _unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


_SIGNED64 = st.integers(-(2**63), 2**63 - 1)
_EXTENSIONS = {
    O.DETH: ("deth", st.tuples(_unsigned(32), _unsigned(24))),
    O.FETH: ("feth", st.tuples(_unsigned(4), _unsigned(2))),
    O.RETH: ("reth", st.tuples(_SIGNED64, _unsigned(32), _unsigned(32))),
    O.ATOMICETH: ("atomiceth", st.tuples(_SIGNED64, _unsigned(32), _SIGNED64, _SIGNED64)),
    O.AETH: ("aeth", st.tuples(_unsigned(8), _unsigned(24))),
    O.ATOMICACKETH: ("original", _SIGNED64),
    O.IMMDT: ("immdt", _unsigned(32)),
    O.IETH: ("ieth", _unsigned(32)),
}


@st.composite
def fields(draw: st.DrawFn) -> dict:
    """A packet of any known opcode; a multiple of four bytes, as all are."""
    opcode = draw(st.sampled_from(sorted(O.NAMES)))
    row = int(O.OPCODE[opcode])
    made: dict[str, Any] = {"opcode": opcode, "se": draw(_unsigned(1)), "ackreq": draw(_unsigned(1))}
    made |= {"pad": draw(_unsigned(2)), "dqpn": draw(_unsigned(24)), "psn": draw(_unsigned(24))}
    made |= {name: draw(values) for bit, (name, values) in _EXTENSIONS.items() if row & bit}
    payload = draw(st.binary(max_size=1100)) if row & O.PAYLOAD else b""
    return made | {"payload": payload[: len(payload) & -4]}


def _written(made: dict) -> tuple[np.ndarray, int]:
    b = arena()
    return b, emit(b, PACKET, made)


def _as_scapy(made: dict, below: Any, udp_payload: bytes) -> bytes:
    """The frame that scapy makes of the same fields; it computes the ICRC itself."""
    bth = roce.BTH(
        opcode=made["opcode"], solicited=made["se"], padcount=made["pad"], dqpn=made["dqpn"],
        ackreq=made["ackreq"], psn=made["psn"],
    )  # fmt: skip
    return bytes(below / bth / udp_payload[O.BTH_BYTES :])


@given(fields())
def test_what_is_written_is_read_back(made: dict) -> None:
    b, n = _written(made)
    assert parse(b, PACKET, n) == made
    assert n == O.HEADER_LENGTH[made["opcode"]] + len(made["payload"])


@given(fields(), st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
       _unsigned(16), _unsigned(16), _unsigned(8), _unsigned(8), st.integers(0, 63))  # fmt: skip
def test_ipv4_is_scapys_and_the_identification_is_found(
    made: dict, ends: tuple[bytes, bytes], port: int, ident: int, tos: int, ttl: int, k: int
) -> None:
    b, n = _written(made)
    names = [".".join(map(str, end)) for end in ends]
    ip = inet.IP(src=names[0], dst=names[1], id=ident, flags="DF", tos=tos, ttl=ttl)
    frame = _as_scapy(made, ip / inet.UDP(sport=port, dport=H.UDP_PORT, chksum=0), bytes(b[PACKET : PACKET + n]))
    tlen = put_template(b, 4, *ends, port)
    I.put_icrc(b, TEMPLATE, tlen, PACKET, n, ident)
    assert bytes(b[PACKET : PACKET + n + O.ICRC_BYTES]) == frame[28:]
    assert I.verify(b, TEMPLATE, tlen, PACKET, n, k, -1, solver()) == ident
    assert I.verify(b, TEMPLATE, tlen, PACKET, n, k, (ident - 1) & 0xFFFF, solver()) == ident


@given(fields(), st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)), _unsigned(16))
def test_ipv6_is_scapys(made: dict, ends: tuple[bytes, bytes], port: int) -> None:
    b, n = _written(made)
    names = [":".join(f"{end[i]:02x}{end[i + 1]:02x}" for i in range(0, 16, 2)) for end in ends]
    ip = inet6.IPv6(src=names[0], dst=names[1], tc=3, fl=0x12345, hlim=7)
    frame = _as_scapy(made, ip / inet.UDP(sport=port, dport=H.UDP_PORT, chksum=0), bytes(b[PACKET : PACKET + n]))
    tlen = put_template(b, 6, *ends, port)
    I.put_icrc(b, TEMPLATE, tlen, PACKET, n, 0)
    assert bytes(b[PACKET : PACKET + n + O.ICRC_BYTES]) == frame[48:]
    assert I.verify(b, TEMPLATE, tlen, PACKET, n, 0, -1, solver()) == 0


@given(fields(), _unsigned(16), st.data())
def test_damage_that_is_no_identification_is_found(made: dict, ident: int, data: st.DataObject) -> None:
    b, n = _written(made)
    tlen = put_template(b, 4, bytes(4), bytes(4), 1)
    I.put_icrc(b, TEMPLATE, tlen, PACKET, n, ident)
    place = data.draw(st.integers(0, n + O.ICRC_BYTES - 1))
    assume(place != H.BTH_ECN)
    b[PACKET + place] ^= data.draw(st.integers(1, 255))
    found = I.verify(b, TEMPLATE, tlen, PACKET, n, 0, (ident - 1) & 0xFFFF, solver())
    assert found != ident


@given(_unsigned(32), st.integers(12, ARENA_BYTES))
def test_a_solution_makes_the_difference(difference: int, n: int) -> None:
    found = I.solve(difference, n, solver())
    assert -1 <= found <= 0xFFFF and (found == 0) == (difference == 0)
