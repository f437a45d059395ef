"""Packets in a byte arena, for tests of `wire`: read every field by the tables, write it again."""

import numpy as np

from support.captures import Packet
from unpinned.wire import headers as H
from unpinned.wire import icrc as I
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be16, be24, be32, be64, get8, put32, put64

TEMPLATE, PACKET, ARENA_BYTES = 0, 128, 8192


def arena() -> np.ndarray:
    """A byte arena with room for a template at TEMPLATE and a packet at PACKET, filled with rubbish."""
    return np.full(ARENA_BYTES, 0xA5, np.uint8)


def solver() -> np.ndarray:
    return np.zeros(I.SOLVER_WORDS, np.int64)


def put_packet(b: np.ndarray, packet: Packet) -> tuple[int, int]:
    """Template and UDP payload of *packet* into *b*: (template length, payload length without ICRC)."""
    b[PACKET : PACKET + len(packet.payload)] = np.frombuffer(packet.payload, np.uint8)
    length = put_template(b, packet.version, packet.source, packet.target, packet.source_port)
    return length, len(packet.payload) - O.ICRC_BYTES


def put_template(b: np.ndarray, version: int, source: bytes, target: bytes, port: int) -> int:
    if version == 4:
        numbers = [int.from_bytes(address, "big") for address in (source, target)]
        return I.template4(b, TEMPLATE, *numbers, port, H.UDP_PORT)
    halves = [int.from_bytes(a[i : i + 8], "big", signed=True) for a in (source, target) for i in (0, 8)]
    return I.template6(b, TEMPLATE, *halves, port, H.UDP_PORT)


def parse(b: np.ndarray, o: int, n: int) -> dict:
    """Every field of the packet of *n* bytes (without ICRC) at *o*."""
    opcode = get8(b, o + H.BTH_OPCODE)
    row, payload = int(O.OPCODE[opcode]), o + int(O.HEADER_LENGTH[opcode])
    flags = get8(b, o + H.BTH_FLAGS)
    fields = {
        "opcode": opcode,
        "se": flags >> 7,
        "pad": H.bth_pad(b, o),
        "dqpn": be24(b, o + H.BTH_DQPN),
        "ackreq": get8(b, o + H.BTH_ACKREQ) >> 7,
        "psn": be24(b, o + H.BTH_PSN),
    }
    assert flags & (H.BTH_MIG_BIT | H.BTH_VERSION_MASK) == 0 and get8(b, o + H.BTH_ECN) == 0
    assert be16(b, o + H.BTH_PKEY) == H.DEFAULT_PKEY
    first = o + O.BTH_BYTES
    if row & O.DETH:
        fields["deth"] = be32(b, first + H.DETH_QKEY), be24(b, first + H.DETH_SQPN)
    if row & O.FETH:
        word = be32(b, first)
        fields["feth"] = word & H.FETH_PLT_MASK, (word & H.FETH_SEL_MASK) >> H.FETH_SEL_SHIFT
    if row & O.RETH:
        r = o + int(O.RETH_OFFSET[opcode])
        fields["reth"] = be64(b, r + H.RETH_VA), be32(b, r + H.RETH_RKEY), be32(b, r + H.RETH_LENGTH)
    if row & O.ATOMICETH:
        key = be32(b, first + H.ATOMICETH_RKEY)
        values = be64(b, first + H.ATOMICETH_SWAP), be64(b, first + H.ATOMICETH_COMPARE)
        fields["atomiceth"] = be64(b, first + H.ATOMICETH_VA), key, *values
    if row & O.AETH:
        a = o + int(O.AETH_OFFSET[opcode])
        fields["aeth"] = get8(b, a + H.AETH_SYNDROME), be24(b, a + H.AETH_MSN)
    if row & O.ATOMICACKETH:
        fields["original"] = be64(b, first + O.AETH_BYTES + H.ATOMICACKETH_ORIGINAL)
    if row & O.IMMDT:
        fields["immdt"] = be32(b, o + int(O.IMMDT_OFFSET[opcode]))
    if row & O.IETH:
        fields["ieth"] = be32(b, first)
    fields["payload"] = bytes(b[payload : o + n])
    return fields


def emit(b: np.ndarray, o: int, f: dict) -> int:
    """Write the packet with the fields *f* at *o*; its length without ICRC."""
    H.put_bth(b, o, f["opcode"], f["se"], f["pad"], f["dqpn"], f["ackreq"], f["psn"])
    at = o + O.BTH_BYTES
    for name, write, size in (
        ("deth", H.put_deth, O.DETH_BYTES),
        ("feth", H.put_feth, O.FETH_BYTES),
        ("reth", H.put_reth, O.RETH_BYTES),
        ("atomiceth", H.put_atomiceth, O.ATOMICETH_BYTES),
        ("aeth", H.put_aeth, O.AETH_BYTES),
    ):
        if name in f:
            write(b, at, *f[name])
            at += size
    if "original" in f:
        put64(b, at, f["original"])
        at += O.ATOMICACKETH_BYTES
    for name in ("immdt", "ieth"):
        if name in f:
            put32(b, at, f[name])
            at += 4
    assert at == o + O.HEADER_LENGTH[f["opcode"]]
    b[at : at + len(f["payload"])] = np.frombuffer(f["payload"], np.uint8)
    return at + len(f["payload"]) - o
