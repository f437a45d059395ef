"""Connections: who gets in, what strangers cannot do, forks, deaths on either side, and that nothing is left behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import unpinned
from support.leaks import no_leaks, resident
from support.remote import owner
from unpinned.remote import Disconnected, ProtocolError, Refused, RemoteError
from unpinned.remote import messages as M
from unpinned.remote.admission import Limits

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]

TABLE = np.arange(20_000 * 32, dtype="i4").reshape(20_000, 32)
SETUP = "t = np.arange(20_000 * 32, dtype='i4').reshape(20_000, 32)\n"
TOKEN = "a token of some length"


@pytest.fixture
def server():
    with unpinned.serve({"t": TABLE}, port=0) as found:
        yield found


def eventually(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


# ---- tokens ------------------------------------------------------------------------------------------------------------


def test_the_right_token_is_needed_and_enough():
    with unpinned.serve({"t": TABLE}, token=TOKEN, port=0) as server:
        for wrong, words in ((TOKEN + "x", "token is wrong"), (None, "asks for a token")):
            with pytest.raises(Refused, match=words):
                unpinned.connect(server.address, token=wrong)
        with unpinned.connect(server.address, token=TOKEN) as client:
            assert client["t"][3, 4] == TABLE[3, 4]
        assert server.stats()["turned_away"] >= 1


def test_a_token_for_a_server_that_asks_for_none_is_suspicious(server):
    with pytest.raises(Refused, match="asks for no token"):
        unpinned.connect(server.address, token=TOKEN)


@pytest.mark.parametrize("token", [None, "short"])
def test_an_open_address_needs_a_token(token):
    with pytest.raises(ValueError, match="token"):
        unpinned.serve({"t": TABLE}, address="192.0.2.1", token=token)


def test_an_address_is_one_address():
    with pytest.raises(ValueError, match="every address"):
        unpinned.serve({"t": TABLE}, address="0.0.0.0", token=TOKEN)
    for address, problem in (("192.0.2.1", "not an address of this machine"), ("no such host", "is no address")):
        with pytest.raises(OSError, match=problem) as refused:
            unpinned.serve({"t": TABLE}, address=address, token=TOKEN)
        assert refused.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"arrays": TABLE}, TypeError, "arrays"),
        ({"arrays": {}, "address": 5}, TypeError, "address"),
        ({"arrays": {}, "token": 12345678}, TypeError, "token"),
        ({"arrays": {}, "port": "5000"}, TypeError, "port"),
        ({"arrays": {}, "port": 70_000}, ValueError, "port: 70000"),
        ({"arrays": {}, "address": "127.0.0.1:0"}, ValueError, "address: '127.0.0.1:0' has a port .* argument of its own"),
        ({"arrays": {}, "address": "[::1]:5000"}, ValueError, "address: '\\[::1\\]:5000' has a port .* argument of its own"),
    ],
)
def test_a_wrong_argument_is_named(arguments, error, named):
    with pytest.raises(error, match=named):
        unpinned.serve(**arguments)


def test_a_wrong_argument_of_a_client_is_named():
    with pytest.raises(TypeError, match="address"):
        unpinned.connect(None)
    with pytest.raises(TypeError, match="token"):
        unpinned.connect("127.0.0.1", 5)


def test_a_port_in_use_is_said_so(server):
    host, port = server.address.split(":")
    with socket.create_server((host, 0)) as other, pytest.raises(OSError, match="in use"):
        unpinned.serve({"t": TABLE}, address=host, port=other.getsockname()[1])


# ---- strangers ---------------------------------------------------------------------------------------------------------


def dial(server, timeout=10.0):
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), timeout)


def drained(sock):
    """Whatever the other end still says, until it hangs up."""
    data = b""
    try:
        while chunk := sock.recv(1 << 16):
            data += chunk
    except ConnectionResetError:
        pass
    return data


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 5000, b"\0\0\0\0", M.LENGTH.pack(10) + b"not json!!",
        M.encode({"unpinned": 1}), M.encode({"unpinned": 99, "nonce": "x"}), M.LENGTH.pack(1000) + b"[" * 1000,
        M.encode({"op": "open", "id": 1, "qps": []}), M.encode({"unpinned": 1, "nonce": "\ud800"}),
    ],
)  # fmt: skip
def test_a_stranger_s_bytes_end_his_connection_only(server, junk, capfd):
    with unpinned.connect(server.address) as client, dial(server) as stranger:
        stranger.sendall(junk)
        drained(stranger)
        assert client["t"][5, 5] == TABLE[5, 5]
    assert server.stats()["turned_away"] == 1
    assert not capfd.readouterr().err


def test_a_mistake_of_ours_does_not_end_the_service(server, capfd, monkeypatch):
    seen = []

    def mistake():
        seen.append(1)
        raise ValueError("seeded")

    monkeypatch.setattr(server._regions, "look_after_files", mistake)
    assert eventually(lambda: len(seen) > 1)
    with unpinned.connect(server.address) as client:
        assert client["t"][5, 5] == TABLE[5, 5]
    assert "ValueError: seeded" in capfd.readouterr().err


def test_silence_is_not_waited_for_for_ever():
    with unpinned.serve({"t": TABLE}, port=0, limits=Limits(handshake_s=0.3, strangers=4)) as server:
        silent = [dial(server) for _ in range(6)]  # two more than may stand at the door
        with unpinned.connect(server.address) as client:
            assert client["t"][1, 1] == TABLE[1, 1]
        for sock in silent:
            drained(sock)
            sock.close()
        assert eventually(lambda: not server._connections)


def test_more_connections_than_allowed_wait():
    with unpinned.serve({"t": TABLE}, port=0, limits=Limits(connections=2)) as server:
        first, second = unpinned.connect(server.address), unpinned.connect(server.address)
        third: list[unpinned.remote.Client] = []
        thread = threading.Thread(target=lambda: third.append(unpinned.connect(server.address)))
        thread.start()
        thread.join(0.7)
        assert not third
        first.close()
        thread.join(20)
        assert third and third[0]["t"][0, 1] == 1
        second.close()
        third[0].close()


def test_a_queue_pair_elsewhere_is_not_connected(server):
    """Nobody can have a server send to a third party."""
    with unpinned.connect(server.address) as client:
        link = client._connected()
        wanted = {"gid": "::ffff:192.0.2.9", "port": 4791, "qpn": 77, "psn": 5, "mtu": 5, "timeout": 14, "unpinned": True}
        with pytest.raises((ProtocolError, RemoteError), match="192.0.2.9"):
            link.request("open", qps=[wanted])


def test_a_client_has_so_many_queue_pairs(server):
    with unpinned.connect(server.address) as client:
        link = client._connected()
        mine = {"gid": "::ffff:127.0.0.1", "port": 4791, "qpn": 77, "psn": 5, "mtu": 5, "timeout": 14, "unpinned": True}
        with pytest.raises(RemoteError, match="more than 64 queue pairs"):
            for _ in range(20):
                link.request("open", qps=[mine] * 4)


def test_another_protocol_is_recognised():
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=lambda: other.accept()[0].sendall(b"SSH-2.0-OpenSSH_9.9\r\n"), daemon=True).start()
        with pytest.raises(ProtocolError, match="not an unpinned peer"):
            unpinned.connect(f"127.0.0.1:{other.getsockname()[1]}")


# ---- forks -------------------------------------------------------------------------------------------------------------


def _read_in_child(array, rows):
    return array[rows]


def test_workers_of_a_pool_read_for_themselves(server):
    with unpinned.connect(server.address) as client:
        table = client["t"]
        assert table[0, 1] == 1  # connected before the fork
        with multiprocessing.get_context("fork").Pool(2) as pool:
            rows = [np.arange(i, i + 5) for i in range(0, 1000, 100)]
            for got, wanted in zip(pool.starmap(_read_in_child, [(table, r) for r in rows]), rows):
                np.testing.assert_array_equal(got, TABLE[wanted])
        np.testing.assert_array_equal(table[7], TABLE[7])


def test_a_forked_child_inherits_the_array_and_disturbs_nobody(server):
    with unpinned.connect(server.address) as client:
        table = client["t"]
        table[0]
        child = os.fork()
        if child == 0:
            good = False
            try:
                good = bool(np.array_equal(table[[5, 6, 5]], TABLE[[5, 6, 5]])) and server.close() is None
            finally:
                os._exit(0 if good else 1)
        for i in range(50):
            np.testing.assert_array_equal(table[i], TABLE[i])
        assert os.waitpid(child, 0)[1] == 0
        np.testing.assert_array_equal(table[9], TABLE[9])


def test_an_owner_may_fork_and_its_children_may_live_on():
    setup = SETUP + "import os, time\nserver = unpinned.serve({'t': t}, port=0)"
    with owner(setup) as process, unpinned.connect(process.address) as client:
        assert client["t"][2, 2] == TABLE[2, 2]
        process.do("child = os.fork() or (time.sleep(300), os._exit(0))")
        np.testing.assert_array_equal(client["t"][::7], TABLE[::7])
        process.do("server.close()")
        with pytest.raises(Disconnected):  # the child holds neither the connection nor the port
            client["t"][0]
        process.do("os.kill(child, 9), os.waitpid(child, 0)")


# ---- deaths ------------------------------------------------------------------------------------------------------------


def test_a_killed_owner_is_an_error_at_once_and_may_come_back():
    host = f"127.99.{random.randrange(256)}.{random.randrange(1, 255)}"  # nobody else takes it meanwhile
    with owner(SETUP + f"server = unpinned.serve({{'t': t}}, address={host!r}, port=0)") as process:
        client = unpinned.connect(process.address)
        table = client["t"]
        assert table[1, 1] == TABLE[1, 1]
        process.process.kill()
        process.process.wait()
        with pytest.raises(Disconnected):
            table[2]
        with pytest.raises(Disconnected, match="nothing listens"):
            table[2]
        port = process.address.partition(":")[2]
        with owner(SETUP + f"server = unpinned.serve({{'t': t}}, address={host!r}, port={port})"):
            assert table[3, 3] == TABLE[3, 3]
        with owner(f"server = unpinned.serve({{'t': np.zeros(3)}}, address={host!r}, port={port})"):
            with pytest.raises(RemoteError, match="another array now"):
                table[3]
        client.close()


def test_an_owner_killed_in_the_middle_of_a_read():
    with owner("big = unpinned.empty(1 << 28, 'u1')\nserver = unpinned.serve({'big': big}, port=0)") as process:
        with unpinned.connect(process.address) as client:
            out = np.empty(1 << 28, "u1")
            threading.Timer(0.02, process.process.kill).start()
            with pytest.raises((Disconnected, RemoteError)):
                for _ in range(200):
                    client["big"].read_into(out)
        process.process.wait()


CLIENT = """
import sys, numpy as np, unpinned
big = unpinned.connect(sys.argv[1])["big"]
out = np.empty(big.shape, big.dtype)
print("reading", flush=True)
try:
    while True:
        big.read_into(out)
except KeyboardInterrupt:
    print("stopped", flush=True)
out[:] = 1
assert (big[:9] == 0).all() and (out == 1).all()
print("and well", flush=True)
"""


def start_client(address):
    process = subprocess.Popen([sys.executable, "-c", CLIENT, address], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reading\n"
    return process


def test_a_client_killed_in_the_middle_frees_everything():
    with unpinned.serve({"big": unpinned.empty(1 << 28, "u1"), "t": TABLE}, port=0) as server:
        process = start_client(server.address)
        assert eventually(lambda: server.stats()["device"]["tx_bytes"] > 1 << 20)
        process.kill()
        process.wait()
        process.stdout.close()
        assert eventually(lambda: server.stats()["clients"] == 0)
        assert eventually(lambda: not any(pair for c in server._connections.values() for pair in c.visitor.queue_pairs))
        with unpinned.connect(server.address) as client:
            assert client["t"][1, 2] == TABLE[1, 2]


def test_ctrl_c_stops_a_long_read_and_nothing_lands_afterwards():
    with unpinned.serve({"big": unpinned.empty(1 << 28, "u1")}, port=0) as server:
        process = start_client(server.address)
        assert eventually(lambda: server.stats()["device"]["tx_bytes"] > 1 << 20)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "stopped\nand well\n"
        assert process.returncode == 0


# ---- what is left ------------------------------------------------------------------------------------------------------


def test_servers_and_clients_come_and_go_without_a_trace():
    with unpinned.serve({"t": TABLE}, port=0) as server, unpinned.connect(server.address) as client:
        client["t"][0]  # whatever is made once is made now
    with no_leaks(mappings_slack=30):
        for _ in range(5):
            with unpinned.serve({"t": TABLE}, port=0) as server, unpinned.connect(server.address) as client:
                np.testing.assert_array_equal(client["t"][:10], TABLE[:10])


@pytest.mark.slow
def test_a_thousand_connections_leave_nothing(server):
    with unpinned.connect(server.address) as keeper:  # keeps the client side's device
        keeper["t"][0]
        with no_leaks(mappings_slack=30):
            for i in range(1000):
                if i == 100:  # what lists and pools grow to, they have grown to
                    memory = resident()
                with unpinned.connect(server.address) as client:
                    if i % 50 == 0:
                        assert client["t"][i, 1] == TABLE[i, 1]
            assert eventually(lambda: server.stats()["clients"] == 1)
        assert resident() - memory < 900 << 13  # 8 KiB for each of 900
    assert server.stats()["accepted"] >= 1000


def test_a_client_that_is_forgotten_is_closed_by_the_collector(server):
    client = unpinned.connect(server.address)
    client["t"][0]
    del client
    assert eventually(lambda: server.stats()["clients"] == 0)


def test_a_closed_client_says_so(server):
    client = unpinned.connect(server.address)
    table = client["t"]
    client.close()
    client.close()
    with pytest.raises(Disconnected, match="was closed"):
        table[0]
