"""Header functions: bits where the specification has them, numbers as the specification lists them."""

import numpy as np
import pytest

from unpinned.wire import headers as H

MS = 1_000_000


@pytest.fixture
def b() -> np.ndarray:
    return np.full(64, 0xEE, np.uint8)


def test_bth(b: np.ndarray) -> None:
    H.put_bth(b, 4, 0x0A, 1, 3, 0x123456, 1, 0xABCDEF)
    assert bytes(b[:20]).hex() == "eeeeeeee" + "0ab0ffff" + "00123456" + "80abcdef" + "eeeeeeee"
    assert H.bth_pad(b, 4) == 3


def test_bth_keeps_its_numbers_to_24_bits(b: np.ndarray) -> None:
    H.put_bth(b, 0, 0x04, 0, 0, 0xFF000001, 0, 0x1000002)
    assert bytes(b[:12]).hex() == "0400ffff" + "00000001" + "00000002"


def test_reth_takes_signed_addresses(b: np.ndarray) -> None:
    H.put_reth(b, 0, -4096, 0x80000001, 2**31)
    assert bytes(b[:16]).hex() == "fffffffffffff000" + "80000001" + "80000000"


def test_aeth_atomiceth_deth_feth(b: np.ndarray) -> None:
    H.put_aeth(b, 0, H.NAK_REMOTE_ACCESS, 0x1000007)
    H.put_atomiceth(b, 4, 1, 2, 3, -1)
    H.put_deth(b, 32, 0x80010000, 0x000001)
    H.put_feth(b, 40, H.FLUSH_GLOBAL_VISIBILITY, H.FLUSH_SEL_MR)
    assert bytes(b[:4]).hex() == "62000007"
    assert bytes(b[4:32]).hex() == f"{1:016x}{2:08x}{3:016x}" + "ff" * 8
    assert bytes(b[32:40]).hex() == "80010000" + "00000001"
    assert bytes(b[40:44]).hex() == "00000011"


@pytest.mark.parametrize(("code", "ms"), [(0, 655.36), (1, 0.01), (12, 0.64), (14, 1.28), (31, 491.52)])
def test_rnr_timer_codes(code: int, ms: float) -> None:
    assert H.rnr_ns(H.SYNDROME_RNR | code) == round(ms * MS)


def test_the_rnr_timer_chosen_is_the_shortest_that_is_long_enough() -> None:
    times = [(int(ns), code) for code, ns in enumerate(H.RNR_NS)]
    for ns, code in times:
        assert H.rnr_code(ns) == code
        longer = [c for n, c in sorted(times) if n >= ns + 1]
        assert H.rnr_code(ns + 1) == (longer[0] if longer else 0)
    assert H.rnr_code(0) == 1
    assert H.rnr_code(10**12) == 0


def test_psn_distance_wraps() -> None:
    assert H.psn_distance(5, 0xFFFFFE) == 7
    assert H.psn_distance(0xFFFFFE, 5) == -7
    assert H.psn_distance(0x800000, 0) == -(1 << 23)
    assert H.psn_distance(9, 9) == 0
