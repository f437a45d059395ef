"""The lenders give back what they lend, also when the test fails; a leak is seen."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support import Missing, cgroup, leaks, network, swap

pytestmark = pytest.mark.system


def lend(manager):
    """Enter ``manager``, fail inside it, and return what was lent; skip when it is missing."""
    try:
        with manager as lent:
            raise RuntimeError("the test failed")
    except RuntimeError:
        return lent
    except Missing as missing:
        pytest.skip(str(missing))


def test_swap_is_there_and_goes(swap_space):
    assert swap.free_swap_bytes() >= swap_space.size_bytes // 2


def test_a_swap_file_is_removed_when_the_test_fails():
    lent = lend(swap.swap_file(swap.free_swap_bytes() + (16 << 20)))
    assert not lent.path.exists()
    assert str(lent.path) not in Path("/proc/swaps").read_text()


def test_a_cgroup_limits_its_process(memory_cgroup):
    group = memory_cgroup(64 << 20)
    child = subprocess.Popen(
        [sys.executable, "-c", "input(); data = bytearray(4 << 20); print('held', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        group.add(child.pid)
        print(file=child.stdin, flush=True)
        assert child.stdout.readline() == "held\n"
        assert group.pids() == [child.pid]
        assert 4 << 20 <= group.usage_bytes() <= 64 << 20
        assert group.oom_kills() == 0
        print(file=child.stdin, flush=True)


def test_a_cgroup_goes_with_the_processes_in_it():
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            with cgroup.memory_cgroup() as group:
                group.add(child.pid)
        except Missing as missing:
            child.kill()
            pytest.skip(str(missing))
        assert child.wait(10) == -9
    assert not group.path.exists()


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_two_hosts_reach_each_other(hosts, family):
    source, target = getattr(hosts.left, family), getattr(hosts.right, family)
    kind = "AF_INET6" if family == "ipv6" else "AF_INET"
    make = f"import socket; s = socket.socket(socket.{kind}, socket.SOCK_DGRAM); s.settimeout(10); "
    listen = make + f"s.bind(('{target}', 4791)); print('up', flush=True); print(s.recvfrom(9)[1][0])"
    listener = hosts.right.start([sys.executable, "-c", listen], stdout=subprocess.PIPE)
    with listener:
        assert listener.stdout.readline() == "up\n"
        hosts.left.run([sys.executable, "-c", make + f"s.sendto(b'hello', ('{target}', 4791))"], check=True)
        assert listener.stdout.readline().strip() == source


def test_namespaces_go_when_the_test_fails():
    lent = lend(network.namespace_pair())
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(side.name in listed for side in lent.sides)


def test_a_leaked_thread_and_descriptor_are_named():
    before = leaks.holdings()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    reader, writer = os.pipe()
    try:
        words = " ".join(leaks.leaked(before))
        assert "thread" in words and f"descriptor {reader} -> pipe:" in words
    finally:
        stop.set()
        thread.join()
        os.close(reader)
        os.close(writer)
    with leaks.no_leaks():
        pass
