import ipaddress

import pytest

from unpinned.verbs import enums as e
from unpinned.verbs import port


@pytest.mark.parametrize(
    ("frame", "version", "expected"),
    [
        (65536, 4, e.IBV_MTU_4096),
        (9000, 4, e.IBV_MTU_4096),
        (4160, 4, e.IBV_MTU_4096),
        (4159, 4, e.IBV_MTU_2048),
        (4180, 6, e.IBV_MTU_4096),
        (4179, 6, e.IBV_MTU_2048),
        (1500, 4, e.IBV_MTU_1024),
        (1280, 6, e.IBV_MTU_1024),
        (576, 4, e.IBV_MTU_512),
        (68, 4, e.IBV_MTU_256),
    ],
)
def test_the_path_mtu_is_what_fits_with_all_headers(frame, version, expected):
    assert port.largest_mtu(frame, version) == expected


def test_loopback_and_an_address_that_nobody_has():
    assert port.path_mtu(ipaddress.ip_address("127.3.2.1")) == port.path_mtu(ipaddress.ip_address("::1")) == e.IBV_MTU_4096
    assert port.interface_mtu(ipaddress.ip_address("192.0.2.1")) == 1500
    assert port.interface_mtu(ipaddress.ip_address("2001:db8::1")) == 1500
