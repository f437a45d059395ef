"""The scratch words do not overlap and fit what the kernel of the machine will write there."""

from unpinned.host import datagrams as D
from unpinned.host import layout as L


def test_copy_words() -> None:
    scalars = [value for name, value in vars(L).items() if name.startswith("COPY_") and value < L.COPY_REGION]
    assert len(set(scalars)) == len(scalars)
    assert L.COPY_REGION + 4 * L.IOVECS == L.COPY_ARENA
    assert L.COPY_ARENA + 2 * L.IOVECS == L.COPY_INDEX
    assert L.COPY_INDEX + L.IOVECS == L.COPY_UPTO
    assert L.COPY_UPTO + L.IOVECS == L.COPY_SUMS
    assert L.COPY_SUMS + L.SUMS == L.COPY_HOLES
    assert L.COPY_HOLES + L.HOLES * L.HOLE_WORDS == L.COPY_UNTOUCHED
    assert L.COPY_UNTOUCHED + 2 * L.UNTOUCHED == L.COPY_WORDS


def test_scan_words() -> None:
    assert L.SCAN_ARGUMENT + 12 <= L.SCAN_MAPS < L.SCAN_VECTOR
    assert L.SCAN_VECTOR + 3 * L.SCAN_REGIONS == L.SCAN_WORDS


def test_datagram_words() -> None:
    assert L.U_TX_HEADER + 7 <= L.U_TX_IOVEC
    assert L.U_TX_IOVEC + 2 <= L.U_TX_CONTROL
    assert L.U_TX_CONTROL + 3 <= L.U_TX_NAME
    assert L.U_TX_NAME + 4 <= L.U_RX
    widths = {0: L.RX_WORDS, D.HEADERS: 8, D.NAMES: 4, D.IOVECS: 2, D.CONTROLS: 8}
    at = 0
    for start, width in widths.items():
        assert start == at
        at += width
    assert at == L.U_SLOT_WORDS
