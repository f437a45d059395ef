"""RoCEv2 packets of real peers: the captures in tests/data/captures, without the need for a packet library."""

import json
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "data" / "captures"
ROCE_PORT = 4791
_PCAP_MAGIC = b"\xd4\xc3\xb2\xa1"
_IPV4, _IPV6, _UDP = 0x0800, 0x86DD, 17


@dataclass(frozen=True)
class Packet:
    """A RoCEv2 packet as captured: *payload* is the UDP payload, from the BTH to the ICRC."""

    scenario: str
    number: int
    version: int
    source: bytes
    target: bytes
    source_port: int
    ident: int
    payload: bytes
    frame: bytes

    @property
    def opcode(self) -> int:
        return self.payload[0]

    def __str__(self) -> str:
        return f"{self.scenario}#{self.number} opcode {self.opcode:#04x}"


def scenarios() -> list[str]:
    """Names of all captures."""
    return sorted(path.stem for path in FOLDER.glob("*.pcap"))


def facts(scenario: str) -> dict:
    """The JSON beside a capture; empty if it has none."""
    path = FOLDER / f"{scenario}.json"
    return json.loads(path.read_text()) if path.exists() else {}


@cache
def packets(scenario: str) -> tuple[Packet, ...]:
    """The RoCEv2 packets of a capture, in order."""
    data = (FOLDER / f"{scenario}.pcap").read_bytes()
    assert data[:4] == _PCAP_MAGIC
    found = []
    offset, number = 24, 0
    while offset < len(data):
        captured, on_wire = struct.unpack_from("<II", data, offset + 8)
        assert captured == on_wire, "truncated packet"
        offset, number = offset + 16 + captured, number + 1
        if packet := _parse(scenario, number, data[offset - captured : offset]):
            found.append(packet)
    return tuple(found)


def _parse(scenario: str, number: int, frame: bytes) -> Packet | None:
    (kind,) = struct.unpack_from(">H", frame, 12)
    ip = frame[14:]
    if kind == _IPV4 and ip[9] == _UDP:
        version, header, ident, addresses = 4, 20, struct.unpack_from(">H", ip, 4)[0], (ip[12:16], ip[16:20])
    elif kind == _IPV6 and ip[6] == _UDP:
        version, header, ident, addresses = 6, 40, 0, (ip[8:24], ip[24:40])
    else:
        return None
    source_port, target_port, length = struct.unpack_from(">HHH", ip, header)
    if target_port != ROCE_PORT:
        return None
    payload = ip[header + 8 : header + length]
    return Packet(scenario, number, version, *addresses, source_port, ident, payload, frame)


def every_packet() -> list[Packet]:
    """All packets of all captures."""
    return [packet for scenario in scenarios() for packet in packets(scenario)]
