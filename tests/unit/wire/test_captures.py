"""Every packet that a real peer sent: parsed, checked, solved, and written again byte for byte."""

import hashlib
import zlib

import pytest

from support import captures
from support.captures import Packet
from support.wire import ARENA_BYTES, PACKET, TEMPLATE, arena, emit, parse, put_packet, solver
from unpinned.compiled.crc32 import crc32
from unpinned.compiled.intrinsics import address_of
from unpinned.wire import headers as H
from unpinned.wire import icrc as I
from unpinned.wire import opcodes as O

ALL = captures.every_packet()
SOUND = [packet for packet in ALL if packet.opcode != O.RC_FLUSH]


def test_the_captures_hold_what_the_tests_assume() -> None:
    assert len(ALL) == 343
    assert sum(packet.version == 4 for packet in ALL) == 328
    assert len({packet.opcode for packet in ALL}) == 29


@pytest.mark.parametrize("scenario", captures.scenarios())
def test_icrc_of_every_packet_and_the_hidden_identification(scenario: str) -> None:
    b, s = arena(), solver()
    last: dict[bytes, int] = {}
    for packet in captures.packets(scenario):
        if packet not in SOUND:
            continue
        tlen, n = put_packet(b, packet)
        assert I.icrc(b, TEMPLATE, tlen, PACKET, n, packet.ident).to_bytes(4, "little") == packet.payload[-4:]
        assert I.verify(b, TEMPLATE, tlen, PACKET, n, 0, -1, s) == packet.ident, str(packet)
        known = last.get(packet.source, -1)
        assert I.verify(b, TEMPLATE, tlen, PACKET, n, 3, known, s) == packet.ident, str(packet)
        last[packet.source] = packet.ident


@pytest.mark.parametrize("scenario", captures.scenarios())
def test_every_packet_is_written_again_byte_for_byte(scenario: str) -> None:
    b = arena()
    for packet in captures.packets(scenario):
        tlen, n = put_packet(b, packet)
        fields = parse(b, PACKET, n)
        b[PACKET:ARENA_BYTES] = 0x5A
        assert emit(b, PACKET, fields) == n, str(packet)
        if packet in SOUND:
            assert I.put_icrc(b, TEMPLATE, tlen, PACKET, n, packet.ident) == len(packet.payload)
            n = len(packet.payload)
        assert bytes(b[PACKET : PACKET + n]) == packet.payload[:n], str(packet)


def test_the_kernels_icrc_of_a_flush_request_sums_bth_feth_and_reth_twice() -> None:
    b, s = arena(), solver()
    (packet,) = [packet for packet in ALL if packet.opcode == O.RC_FLUSH]
    tlen, n = put_packet(b, packet)
    right = I.icrc(b, TEMPLATE, tlen, PACKET, n, packet.ident)
    stored = int.from_bytes(packet.payload[-4:], "little")
    assert I.verify(b, TEMPLATE, tlen, PACKET, n, 0, -1, s) == I.DAMAGED
    assert right != stored == zlib.crc32(packet.payload[:-4], right)
    assert crc32(right, address_of(b) + PACKET, n) == stored


def test_fields_of_a_write_agree_with_what_the_application_asked_for() -> None:
    facts = captures.facts("rc_write_64k_mtu1024")
    b = arena()
    requests = []
    for packet in captures.packets("rc_write_64k_mtu1024"):
        _, n = put_packet(b, packet)
        requests.append(parse(b, PACKET, n))
    writes = [f for f in requests if O.OPCODE[f["opcode"]] & O.WRITE]
    (ack,) = [f for f in requests if f["opcode"] == O.RC_ACK]
    assert [f["psn"] for f in writes] == [(facts["A"]["sq_psn"] + i) & H.PSN_MASK for i in range(64)]
    assert {f["dqpn"] for f in writes} == {facts["B"]["qpn"]} and ack["dqpn"] == facts["A"]["qpn"]
    va, rkey, length = writes[0]["reth"]
    assert rkey == int(facts["B"]["rkey"], 16) and length == 65536
    assert va - int(facts["B"]["buf"], 16) in range(facts["B"]["len"])
    content = b"".join(hashlib.sha256(f"A:{i}".encode()).digest() for i in range(65536 // 32))
    assert b"".join(f["payload"] for f in writes) == content
    assert ack["aeth"][0] == H.ACK_UNLIMITED and ack["psn"] == writes[-1]["psn"]


def test_syndromes_of_refusals() -> None:
    def syndromes(scenario: str) -> set[int]:
        b, found = arena(), set()
        for packet in captures.packets(scenario):
            _, n = put_packet(b, packet)
            fields = parse(b, PACKET, n)
            found |= {fields["aeth"][0]} if "aeth" in fields else set()
        return found

    assert syndromes("rc_nak_bad_rkey_read") == {H.NAK_REMOTE_ACCESS}
    assert {s & H.SYNDROME_KIND_MASK for s in syndromes("rc_rnr_exceeded")} == {H.SYNDROME_RNR}


@pytest.mark.parametrize("packet", SOUND[:: len(SOUND) // 12], ids=str)
def test_one_flipped_bit_is_found(packet: Packet) -> None:
    b, s = arena(), solver()
    tlen, n = put_packet(b, packet)
    for bit in range(0, 8 * (n + O.ICRC_BYTES), 37):
        if bit // 8 == H.BTH_ECN:
            continue  # routers may change it: not covered
        b[PACKET + bit // 8] ^= 1 << bit % 8
        last = packet.ident - 1 if packet.ident else -1
        assert I.verify(b, TEMPLATE, tlen, PACKET, n, 0, last, s) != packet.ident
        b[PACKET + bit // 8] ^= 1 << bit % 8
