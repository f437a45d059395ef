"""Remote arrays between two hosts: IPv4 and IPv6, short and long frames, two clients on one address, a lost cable."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import network
from support.remote import owner

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]

TOKEN = "a token of some length"
SETUP = """
t = np.arange(1 << 20, dtype="i4").reshape(-1, 64)
notes = np.zeros((65536, 4), "i4")  # a row for each client: its port
server = unpinned.serve({{"t": t, "notes": notes}}, address={address!r}, token={token!r}, writable=True)
"""
CLIENT = """
import sys, numpy as np, unpinned
t = np.arange(1 << 20, dtype="i4").reshape(-1, 64)
client = unpinned.connect(sys.argv[1], token=sys.argv[2])
remote = client["t"]
rows = np.random.default_rng(1).integers(0, len(t), 500)
assert np.array_equal(remote[...], t) and np.array_equal(remote[rows], t[rows])
port = client._connected().context.port
client["notes"][port] = t[port % len(t), :4]
assert np.array_equal(client["notes"][port], t[port % len(t), :4])
print("well", port, flush=True)
sys.stdin.readline()
try:
    remote[3]
    print("still there")
except OSError as error:
    print(type(error).__name__, flush=True)
"""


def client(side, address):
    argv = side.command([sys.executable, "-c", CLIENT, address, TOKEN])
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ended(process, line=""):
    return process.communicate(line, timeout=100)[0].split()


@pytest.mark.parametrize("version", ["ipv4", "ipv6"])
def test_between_two_hosts(hosts, version):
    address = getattr(hosts.left, version)
    with owner(SETUP.format(address=address, token=TOKEN), hosts.left.command) as process:
        one, two = client(hosts.right, process.address), client(hosts.right, process.address)
        said = sorted(ended(one, "\n")[:2] + ended(two, "\n")[:2])
        ports = {word for word in said if word != "well"}
        # Who came second found RoCE's port taken by the first, unless it had gone already.
        assert said.count("well") == 2 and "4791" in ports
        assert ended(client(hosts.left, process.address), "\n")[0] == "well"  # the owner's own machine


def test_over_ordinary_frames(borrow):
    pair = borrow(network.namespace_pair(mtu_bytes=1500))
    with owner(SETUP.format(address=pair.left.ipv4, token=TOKEN), pair.left.command) as process:
        assert ended(client(pair.right, process.address), "\n") == ["well", "4791", "still", "there"]


def test_a_cable_that_is_pulled(hosts):
    with owner(SETUP.format(address=hosts.left.ipv4, token=TOKEN), hosts.left.command) as process:
        peer = client(hosts.right, process.address)
        assert peer.stdout.readline().split()[0] == "well"
        subprocess.run(["ip", "-n", hosts.left.name, "link", "set", hosts.left.interface, "down"], check=True)
        assert ended(peer, "\n") == ["Disconnected"]
