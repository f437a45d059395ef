"""Bursts between two hosts (namespaces and a veth pair): path MTU, both families, scoped addresses."""

import sys
from pathlib import Path
from subprocess import Popen

import pytest

from support.network import Pair, Side

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
SOURCES = Path(__file__).resolve().parents[2] / "src"

COMMON = """
import select, sys
import numpy as np
sys.path.insert(0, {sources!r})
from unpinned.host import layout as L
from unpinned.host.datagrams import receive_many, send
from unpinned.host.udp import address_words, open_endpoint, parse_address, udp_scratch, words_address
mine, peer = {mine!r}, {peer!r}
b = np.zeros(1 << 20, np.uint8)
endpoint = open_endpoint(mine)
s = udp_scratch(endpoint)
"""

RECEIVER = """
print('ready', flush=True)
data = b''
sizes = []
while len(data) < {length}:
    assert select.select([endpoint.fd], [], [], 20)[0], (len(data), sizes)
    for i in range(receive_many(s, b, 0, 4)):
        r = L.U_RX + L.RX_WORDS * i
        assert words_address(s[r + L.RX_HI], s[r + L.RX_LO]) == parse_address(peer)[0]
        start = i * L.BURST_BYTES
        data += b[start : start + s[r + L.RX_BYTES]].tobytes()
        sizes.append(int(s[r + L.RX_SEGMENT]))
expected = (np.arange({length}) % 251).astype(np.uint8).tobytes()
print(sorted(data) == sorted(expected) if len(set(sizes)) > 1 else data == expected, set(sizes))
"""

SENDER = """
b[:{length}] = np.arange({length}) % 251
address = address_words(parse_address(peer)[0])
too_long = send(s, b, 0, 20_000, 0, *address, 4791), send(s, b, 0, 40_000, 10_000, *address, 4791)
print(too_long, send(s, b, 0, {length}, {segment}, *address, 4791), int(s[L.U_SENDS]))
"""


def start(side: Side, code: str, mine: str, peer: str, length: int, segment: int) -> Popen[str]:
    text = (COMMON + code).format(sources=str(SOURCES), mine=mine, peer=peer, length=length, segment=segment)
    return side.start([sys.executable, "-c", text], stdout=-1)


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "link-local"])
def test_a_burst_between_hosts(hosts: Pair, family: str) -> None:
    length, segment = 61_680, 4112
    addresses = [link_local(side) if family == "link-local" else getattr(side, family) for side in hosts.sides]
    receiver = start(hosts.right, RECEIVER, addresses[1], addresses[0], length, segment)
    try:
        assert receiver.stdout.readline() == "ready\n"
        sender = start(hosts.left, SENDER, addresses[0], addresses[1], length, segment)
        sent, _ = sender.communicate(timeout=60)
        assert sent == f"(-90, -90) {length} 3\n", "what exceeds the path's MTU is refused, the burst goes in one call"
        answer, _ = receiver.communicate(timeout=60)
        assert answer == f"True {{{segment}}}\n"
    finally:
        receiver.kill()
        receiver.wait()


def link_local(side: Side) -> str:
    """The address that every interface gives itself, with its scope; it takes a moment to settle."""
    code = """
import time
for _ in range(200):
    with open('/proc/net/if_inet6') as lines:
        rows = [line.split() for line in lines]
    found = [row[0] for row in rows if row[0].startswith('fe80') and not int(row[4], 16) & 0x40]
    if found:
        print(':'.join(found[0][i : i + 4] for i in range(0, 32, 4)))
        break
    time.sleep(0.05)
"""
    return side.run([sys.executable, "-c", code]).stdout.strip() + f"%{side.interface}"
