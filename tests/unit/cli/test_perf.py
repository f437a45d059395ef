"""`unpinned perf`: options, perftest's layout, and one sentence for each mistake. No device is opened here."""

import subprocess
import sys

import pytest

from unpinned import cli
from unpinned.cli import perf
from unpinned.perf.options import TESTS, Options
from unpinned.perf.table import header, row


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "unpinned", "perf", *words], capture_output=True, text=True, timeout=60)


def parsed(*words: str) -> Options:
    parser = cli._verb_parser("perf", perf)
    return perf._options(parser.parse_args(list(words)))


def test_the_verb_and_the_package_know_the_same_tests():
    assert perf._TESTS == TESTS


def test_perftest_s_options_mean_what_they_do_there():
    options = parsed("read_bw", "--loopback", "-s", "1M", "-n", "50", "-t", "16", "-q", "2", "-m", "1024", "--pinned")
    assert options == Options("read_bw", 1 << 20, 50, 0.0, 16, 2, 1024, False, "pinned")
    assert parsed("write_lat", "-D", "2.5").duration == 2.5
    assert parsed("send_bw", "-a").sizes == tuple(2**power for power in range(1, 24))
    assert parsed("atomic_lat").size == 8
    assert parsed("read_bw").memory == "odp"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("read_bw", "--loopback", "-s", "0"), "size"),
        (("read_bw", "--loopback", "-s", "many"), "size"),
        (("atomic_bw", "--loopback", "-s", "16"), "8 bytes"),
        (("read_lat", "--loopback", "-q", "2"), "qps"),
        (("write_bw", "--loopback", "-m", "1500"), "mtu"),
        (("write_bw", "--loopback", "-t", "0"), "depth"),
        (("write_bw", "somewhere", "--loopback"), "--loopback"),
        (("write_bw", "127.0.0.1", "-p", "1"), "127.0.0.1 port 1"),
        (("write_bw", "-p", "65536"), "port: must be an integer between 0 and 65535, not 65536"),
        (("write_bw", "127.0.0.1", "-p", "-1"), "port: must be"),
        (("read_bw", "-s", "0"), "size"),  # of a server
        (("read_bw", "--loopback", "-D", "0"), "duration: must be more than 0 seconds"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(words, named):
    result = run(*words)
    assert result.returncode == 1, result.stderr
    assert named in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("read_tp",), ("read_bw", "-s", "8", "-a"), ("read_bw", "--odp", "--pinned")])
def test_wrong_words_are_status_2(words):
    assert run(*words).returncode == 2


BANDWIDTH = {"MsgSize": 65536, "n_iterations": 1000, "BW_peak": 4096.5, "BW_average": 4000.25, "MsgRate": 0.064}
LATENCY = {
    "MsgSize": 2, "n_iterations": 1000, "t_min": 10.5, "t_max": 99999.5, "t_typical": 12.25, "t_avg": 13.5, "t_stdev": 1.5,
    "percentile_99": 20.25, "percentile_99.9": 35.0,
}  # fmt: skip


@pytest.mark.parametrize(("test", "result"), [("read_bw", BANDWIDTH), ("write_lat", LATENCY)])
def test_the_table_is_narrow_and_its_columns_stand_under_their_names(test, result):
    end = {
        "device": "fe80:1234:1234:1234:1234:1234:1234:1234", "address": 0x7F0965E00000, "rkey": 0xB6A6FECC,
        "links": [{"qpn": 0xFFFFFF, "psn": 0xFFFFFF, "mtu": 5}],
    }  # fmt: skip
    lines = "\n".join(header(Options(test, result["MsgSize"]), end, end)).splitlines()
    assert max(map(len, lines)) < 80
    names = next(line for line in lines if line.startswith("#bytes"))
    printed = row(Options(test, result["MsgSize"]), result)
    assert len(printed) < 80
    assert len(printed.split()) == len(names.replace("BW ", "").split())
    assert "4096[B]" in "\n".join(lines)
