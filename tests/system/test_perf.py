"""`unpinned perf` between real processes: every test, both ways of being two ends, and clients that are none."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unpinned.perf.options import TESTS
from unpinned.remote.messages import Reader

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]

COMMAND = [sys.executable, "-m", "unpinned", "perf"]
FIGURES = {
    "bw": {"MsgSize", "n_iterations", "BW_peak", "BW_average", "MsgRate"},
    "lat": {
        "MsgSize", "n_iterations", "t_min", "t_max", "t_typical", "t_avg", "t_stdev", "percentile_99", "percentile_99.9",
    },
}  # fmt: skip


def measured(*words: str) -> dict:
    done = subprocess.run([*COMMAND, *words, "--json"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("test", TESTS)
def test_every_test_runs_on_loopback(test):
    document = measured(test, "--loopback", "-n", "37", "-t", "16")
    (result,) = document["results"]
    assert set(result) == FIGURES[test.partition("_")[2]]
    assert result["n_iterations"] == 37 and document["test_info"]["mtu"] == 4096
    assert all(value > 0 for name, value in result.items() if name != "t_stdev")


def test_ctrl_c_while_the_other_end_starts_is_one_line():
    """It is not told of Ctrl-C at all, or it would say so in its own way."""
    command = [*COMMAND, "read_bw", "--loopback", "-D", "60"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        while process.poll() is None and not (started := children.read_text().split()):
            time.sleep(0.001)
        while b"perf.loopback" not in Path(f"/proc/{started[0]}/cmdline").read_bytes():
            time.sleep(0.001)
        assert os.getpgid(int(started[0])) != process.pid
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "unpinned perf: interrupted\n" and process.returncode == 130
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "words",
    [("--pinned", "-q", "3", "-m", "1024"), ("--implicit", "-D", "0.2", "-s", "3M", "-t", "3"), ("-a", "-n", "5")],
    ids=" ".join,
)
def test_options(words):
    document = measured("read_bw", "--loopback", *(() if "-n" in words or "-D" in words else ("-n", "20")), *words)
    assert len(document["results"]) == (23 if "-a" in words else 1)


@pytest.mark.parametrize("test", ["send_lat", "send_bw", "write_lat"])
def test_all_sizes_need_no_more_receives_than_one(test):
    document = measured(test, "--loopback", "-a", "-n", "5", "-t", "4")
    assert [result["n_iterations"] for result in document["results"]] == [5] * 23


@pytest.mark.parametrize("test", ["read_bw", "read_lat"])
def test_the_shortest_time_measures_something(test):
    (result,) = measured(test, "--loopback", "-D", "1e-9", "-t", "4")["results"]
    assert result["n_iterations"] >= 1


@pytest.mark.parametrize("words", [("read_bw",), ("read_bw", "127.0.0.1")], ids=" ".join)
def test_a_port_that_is_none_is_one_sentence(words):
    done = subprocess.run([*COMMAND, *words, "-p", "70000"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "unpinned perf: port: must be an integer between 0 and 65535, not 70000\n")


class Server:
    """`unpinned perf TEST` that waits for a client on a port of its own choosing."""

    def __init__(self, test: str, *words: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, test, "-p", "0", "--json", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        found = re.search(r"port (\d+)", self.process.stderr.readline())
        assert found
        self.port = int(found[1])

    def end(self) -> tuple[int, str, str]:
        try:
            out, errors = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
            self.process.wait()
        return self.process.returncode, out, errors


def test_server_and_client_report_the_same():
    server = Server("send_bw")
    theirs = measured("send_bw", "127.0.0.1", "-p", str(server.port), "-n", "100", "-s", "4K")
    status, out, errors = server.end()
    assert status == 0, errors
    assert json.loads(out)["results"] == theirs["results"]


@pytest.mark.parametrize("address", ["127.97.1.1", "::1"])
def test_both_ends_on_one_address(address):
    """Only one of them can have RoCE's port there; of IPv6's loopback there is one address only."""
    server = Server("read_bw", "-d", address)
    result = measured("read_bw", address, "-d", address, "-p", str(server.port), "-n", "20", "-s", "4K")
    assert server.end()[0] == 0 and result["results"][0]["n_iterations"] == 20


def test_ipv6_needs_no_address_of_ours():
    server = Server("read_bw", "-d", "::1")
    assert measured("read_bw", "::1", "-p", str(server.port), "-n", "20", "-s", "4K")["results"]
    assert server.end()[0] == 0


def test_a_client_that_is_none_ends_the_server_in_one_sentence():
    server = Server("read_bw")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        connection.settimeout(60)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert "error" in Reader(1 << 16).feed(answer)[0]
    status, out, errors = server.end()
    assert (status, out) == (1, "")
    assert errors.count("\n") == 1 and "Traceback" not in errors
