"""`icrc`: which identifications are believed, and what is left alone."""

import zlib

import numpy as np
import pytest

from support.wire import PACKET, TEMPLATE, arena, put_template, solver
from unpinned.compiled.crc32 import combine_constant
from unpinned.wire import icrc as I
from unpinned.wire import opcodes as O

SOURCE, TARGET = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])


@pytest.fixture
def b() -> np.ndarray:
    made = arena()
    made[PACKET : PACKET + 1100] = np.arange(1100) % 251
    return made


def sent(b: np.ndarray, ident: int, n: int = 60) -> tuple[int, int, int, int]:
    """A packet of *n* bytes with its ICRC, sent with *ident*: the arguments that say where it is."""
    tlen = put_template(b, 4, SOURCE, TARGET, 0xC001)
    I.put_icrc(b, TEMPLATE, tlen, PACKET, n, ident)
    return TEMPLATE, tlen, PACKET, n


@pytest.mark.parametrize("ident", [0, 1, 14, I.IDENT_LIMIT - 1])
def test_a_position_in_a_segmented_send_is_always_believed(b: np.ndarray, ident: int) -> None:
    assert I.verify(b, *sent(b, ident), 0, -1, solver()) == ident
    assert I.verify(b, *sent(b, ident), ident, 30000, solver()) == ident
    assert I.verify(b, *sent(b, ident), 5, 30000, solver()) == ident


@pytest.mark.parametrize(
    ("ident", "last", "believed"),
    [
        (40000, -1, True),
        (40000, 39999, True),
        (40000, 40000 - I.IDENT_WINDOW, True),
        (40000, 40000 - I.IDENT_WINDOW - 1, False),
        (40000, 40000, False),
        (40000, 40001, False),
        (130, 65530, True),
        (1000, 65530, False),
    ],
)
def test_after_the_first_only_the_next_256_are_believed(b: np.ndarray, ident: int, last: int, believed: bool) -> None:
    expected = ident if believed else -2 - ident
    assert I.verify(b, *sent(b, ident), 0, last, solver()) == expected


def test_the_packet_is_not_touched(b: np.ndarray) -> None:
    t, tlen, o, n = sent(b, 7)
    before = b[PACKET:].copy()
    I.icrc(b, t, tlen, o, n, 9)
    I.verify(b, t, tlen, o, n, 2, -1, solver())
    assert (b[PACKET:] == before).all()


def test_a_template_stays_in_its_slot(b: np.ndarray) -> None:
    b[:PACKET] = 0xA5
    for version, address in ((4, 4), (6, 16)):
        tlen = put_template(b, version, bytes(address), bytes(address), 1)
        I.icrc(b, TEMPLATE, tlen, PACKET, 60, 0)
        assert tlen == (I.TEMPLATE4_BYTES if version == 4 else I.TEMPLATE6_BYTES)
        assert (b[I.TEMPLATE_BYTES : PACKET] == 0xA5).all()


def test_a_template_serves_packets_of_any_length_in_any_order(b: np.ndarray) -> None:
    s = solver()
    stored = {}
    for n in (1052, 12, 60, 1052, 124):  # 60 and 124 share a slot of the solver
        b[PACKET : PACKET + 1100] = np.arange(1100) % 251
        t, tlen, o, n = sent(b, 33333, n)
        stored.setdefault(n, bytes(b[o + n : o + n + 4]))
        assert bytes(b[o + n : o + n + 4]) == stored[n]
        assert I.verify(b, t, tlen, o, n, 0, -1, s) == 33333


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("n", "summed"), [(28, 16), (1052, 1024), (1040, 1028), (1090, 1037)])
def test_a_payload_that_is_summed_already_gives_the_same(b: np.ndarray, version: int, n: int, summed: int) -> None:
    address = bytes(range(4 if version == 4 else 16))
    tlen = put_template(b, version, address, address[::-1], 0xC001)
    I.put_icrc(b, TEMPLATE, tlen, PACKET, n, 14)
    wanted = b.copy()
    b[PACKET + n : PACKET + n + 4] = 0
    crc = zlib.crc32(b[PACKET + n - summed : PACKET + n])
    assert I.put_icrc_of(b, TEMPLATE, tlen, PACKET, n, 14, summed, crc, combine_constant(summed)) == n + 4
    assert (b == wanted).all()


@pytest.mark.parametrize("n", [12, 16, 60, 124, 1052, 4124])
def test_every_identification_has_its_own_difference(n: int) -> None:
    """The 16 single-bit identifications solve to themselves; linearity does the rest."""
    b, s = arena(), solver()
    tlen = put_template(b, 4, SOURCE, TARGET, 1)
    zero = I.icrc(b, TEMPLATE, tlen, PACKET, n, 0)
    for ident in [1 << bit for bit in range(16)] + [0xFFFF, 0x1234]:
        assert I.solve(I.icrc(b, TEMPLATE, tlen, PACKET, n, ident) ^ zero, n, s) == ident


def test_most_differences_have_no_solution() -> None:
    s = solver()
    generator = np.random.default_rng(1)
    solved = sum(I.solve(int(d), 60, s) >= 0 for d in generator.integers(0, 1 << 32, 4000))
    assert solved <= 2  # 2**-16 of them


def test_ipv6_is_checked_in_full() -> None:
    b, s = arena(), solver()
    tlen = put_template(b, 6, bytes(range(16)), bytes(range(16, 32)), 0xC123)
    n = 100
    I.put_icrc(b, TEMPLATE, tlen, PACKET, n, 0)
    assert I.verify(b, TEMPLATE, tlen, PACKET, n, 5, -1, s) == 0
    b[PACKET + 50] ^= 1
    assert I.verify(b, TEMPLATE, tlen, PACKET, n, 5, -1, s) == I.DAMAGED
    assert n + O.ICRC_BYTES == I.put_icrc(b, TEMPLATE, tlen, PACKET, n, 0)
