"""Sockets and bursts on loopback, both families, with and without segmentation."""

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpinned.host import layout as L
from unpinned.host.datagrams import EAFNOSUPPORT, EMSGSIZE, receive_many, send, swap32, swap64
from unpinned.host.udp import (
    Endpoint,
    address_words,
    find_loopback,
    open_endpoint,
    parse_address,
    udp_scratch,
    words_address,
)

EAGAIN = 11
AREA = 4 * L.BURST_BYTES  # where the receiver's buffers begin


class End:
    """An endpoint with its scratch and an arena: bursts go out of its start and come in at AREA."""

    def __init__(self, endpoint: Endpoint, slots: int = 4) -> None:
        self.endpoint = endpoint
        self.s = udp_scratch(endpoint, slots)
        self.b = np.zeros(2 * AREA, np.uint8)

    def send(self, to: "End", data: bytes, segment: int = 0) -> int:
        self.b[: len(data)] = np.frombuffer(data, np.uint8)
        return send(self.s, self.b, 0, len(data), segment, *address_words(to.endpoint.address), to.endpoint.port)

    def receive(self, count: int = 4) -> list[tuple[bytes, int, ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
        got = receive_many(self.s, self.b, AREA, count)
        bursts = []
        for i in range(got):
            length, segment, hi, lo, port = (int(x) for x in self.s[L.U_RX + L.RX_WORDS * i :][:5])
            start = AREA + i * L.BURST_BYTES
            bursts.append((self.b[start : start + length].tobytes(), segment, words_address(hi, lo), port))
        return bursts


@pytest.fixture(params=["127.0.0.1", "::1"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[End, End]]:
    with ExitStack() as stack:
        pair = [open_endpoint(request.param, 0) for _ in range(2)]
        for endpoint in pair:
            stack.callback(endpoint.close)
        yield End(pair[0]), End(pair[1])


def data(length: int) -> bytes:
    return np.random.default_rng(length).bytes(length)


@pytest.mark.parametrize("length", [0, 1, 28, 4112, 60_000])
def test_one_datagram(ends: tuple[End, End], length: int) -> None:
    one, two = ends
    assert two.receive() == [] and receive_many(two.s, two.b, AREA, 4) == -EAGAIN
    assert one.send(two, data(length)) == length
    assert two.receive() == [(data(length), length, one.endpoint.address, one.endpoint.port)]


@pytest.mark.parametrize(("length", "segment"), [(61_680, 4112), (300, 100), (301, 100), (64 * 500, 500), (200, 199)])
def test_a_burst_arrives_whole(ends: tuple[End, End], length: int, segment: int) -> None:
    one, two = ends
    assert one.endpoint.segmentation and two.endpoint.coalescing
    assert one.send(two, data(length), segment) == length
    assert two.receive() == [(data(length), segment, one.endpoint.address, one.endpoint.port)]
    assert one.s[L.U_SENDS] == 1


def test_several_bursts_in_one_call(ends: tuple[End, End]) -> None:
    one, two = ends
    sizes = [4000, 10, 3000, 20, 30]
    for size in sizes:
        one.send(two, data(size), 1000)
    assert [len(burst[0]) for burst in two.receive()] == sizes[:4]
    assert [len(burst[0]) for burst in two.receive(2)] == sizes[4:]
    assert two.s[L.U_RECEIVES] == 2


def test_without_segmentation_each_datagram_goes_alone(ends: tuple[End, End]) -> None:
    one, two = ends
    one.s[L.U_GSO] = 0
    assert one.send(two, data(250), 100) == 250
    assert [burst[:2] for burst in two.receive()] == [
        (data(250)[:100], 100),
        (data(250)[100:200], 100),
        (data(250)[200:], 50),
    ]
    assert one.s[L.U_SENDS] == 3


def test_a_receiver_without_coalescing(ends: tuple[End, End]) -> None:
    one, two = ends
    two.endpoint.socket.setsockopt(17, 104, 0)
    assert one.send(two, data(250), 100) == 250
    assert [len(burst[0]) for burst in two.receive()] == [100, 100, 50]


@pytest.mark.parametrize("ends", ["127.0.0.1", "::1"], indirect=True)
def test_a_datagram_without_a_udp_checksum_comes_in(ends: tuple[End, End]) -> None:
    """As Linux's own RoCE sends them, over IPv6 as well."""
    two = ends[1]
    address = str(two.endpoint.address)
    family = socket.AF_INET6 if two.endpoint.address.version == 6 else socket.AF_INET
    try:
        raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("needs raw sockets (CAP_NET_RAW)")
    with raw:
        raw.sendto(struct.pack(">HHHH", 0xC123, two.endpoint.port, 8 + 20, 0) + data(20), (address, 0))
    assert two.receive() == [(data(20), 20, two.endpoint.address, 0xC123)]


def test_what_does_not_fit(ends: tuple[End, End]) -> None:
    one, two = ends
    assert one.send(two, data(70_000)) == -EMSGSIZE
    assert one.send(two, data(L.BURST_SEND_MAX + 1), 4000) == -EMSGSIZE
    assert one.send(two, data(65 * 10), 10) == -EMSGSIZE
    assert one.send(two, data(64 * 10), 10) == 640


def test_a_full_buffer_is_eagain_or_loss_and_never_blocks(ends: tuple[End, End]) -> None:
    one, two = ends
    two.endpoint.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    assert all(one.send(two, data(60_000), 4000) in (60_000, -EAGAIN) for _ in range(20))
    assert len(two.receive()) >= 1


def test_the_other_family_is_refused(ends: tuple[End, End]) -> None:
    one, _ = ends
    other = "::1" if one.endpoint.address.version == 4 else "127.0.0.1"
    assert send(one.s, one.b, 0, 10, 0, *address_words(ipaddress.ip_address(other)), 9) == -EAFNOSUPPORT


def test_ipv4_bursts_do_not_fragment_and_sockets_do_not_connect(ends: tuple[End, End]) -> None:
    one, _ = ends
    if one.endpoint.address.version == 4:
        assert one.endpoint.socket.getsockopt(socket.IPPROTO_IP, 10) == 2  # IP_MTU_DISCOVER: IP_PMTUDISC_DO
    else:
        assert one.endpoint.socket.getsockopt(socket.IPPROTO_IPV6, 23) == 2
    with pytest.raises(OSError):
        one.endpoint.socket.getpeername()


def test_an_address_in_use_is_one_sentence() -> None:
    with find_loopback() as first:
        with pytest.raises(OSError, match=r"UDP port 4791 on 127\.\d+\.\d+\.\d+ is in use") as caught:
            open_endpoint(str(first.address))
        assert caught.value.errno == errno.EADDRINUSE
        assert "\n" not in str(caught.value)
        with find_loopback() as second:
            assert second.address != first.address and second.address.is_loopback and second.port == first.port


@pytest.mark.parametrize(("address", "sentence"), [("192.0.2.1", "not an address of this machine"), ("no such", "is no address")])
def test_an_address_that_is_not_ours(address: str, sentence: str) -> None:
    with pytest.raises(OSError, match=sentence) as caught:
        open_endpoint(address)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_mapped_addresses_are_ipv4() -> None:
    assert parse_address("::ffff:127.0.0.3") == (ipaddress.IPv4Address("127.0.0.3"), 0)
    with open_endpoint("::ffff:127.0.0.1", 0) as endpoint:
        assert endpoint.address.version == 4


def test_link_local_addresses_keep_their_scope() -> None:
    index = socket.if_nametoindex("lo")
    assert parse_address("fe80::1%lo") == (ipaddress.IPv6Address("fe80::1"), index)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_address_words_round_trip(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    back = words_address(*address_words(address))
    expected = address.ipv4_mapped or address if address.version == 6 else address
    assert back == expected


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_swaps(word: int) -> None:
    raw = word.to_bytes(8, "little", signed=True)
    assert swap64(word) == int.from_bytes(raw, "big", signed=True)
    assert swap32(word) == int.from_bytes(raw[:4], "big")
