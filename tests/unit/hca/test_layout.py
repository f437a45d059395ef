"""The words of the device block: each has one name, and every record its length."""

import pytest

from unpinned.hca import layout as L


def constants(prefix: str) -> dict[str, int]:
    return {name: value for name, value in vars(L).items() if name.startswith(prefix) and isinstance(value, int)}


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("QP_", L.QP_WORDS),
        ("MR_", L.MR_WORDS),
        ("CQ_", L.CQ_WORDS),
        ("K_", L.PACKET_WORDS),
        ("T_", L.TX_WORDS),
        ("A_", L.ACT_WORDS),
        ("H_", L.HEADER_WORDS),
        ("C_", L.HEADER_WORDS),
        ("POOL_", L.POOL_WORDS),
        ("E_", L.CQE_WORDS),
    ],
)
def test_no_two_fields_share_a_word(prefix: str, words: int) -> None:
    fields = {
        name: value
        for name, value in constants(prefix).items()
        if name not in ("QP_WORDS", "MR_WORDS", "CQ_WORDS", "POOL_WORDS")
    }
    assert len(set(fields.values())) == len(fields)
    assert min(fields.values()) == (64 if prefix == "C_" else 0) and max(fields.values()) < words


def test_the_rings_of_a_queue_pair_do_not_overlap() -> None:
    starts = [L.QP_RD_START, L.QP_RD_END, L.QP_AT_PSN, L.QP_AT_VALUE, L.QP_KEPT_FIRST]
    assert [b - a for a, b in zip(starts, starts[1:])] == [L.READ_RING] * 4
    assert L.READ_RING & (L.READ_RING - 1) == 0


def test_a_view_names_the_words() -> None:
    assert L.QP.fields["epsn"][1] == 8 * L.QP_EPSN
    assert L.MR.fields["delta"][1] == 8 * L.MR_DELTA
    assert L.CQ.fields["tail"][1] == 8 * L.CQ_TAIL
    assert L.CQE.fields["status"][1] == 8 * L.E_STATUS


def test_counters_have_names() -> None:
    assert L.COUNTERS["bad_icrc"] == L.C_BAD_ICRC
    assert L.HEADER_WORDS > max(L.COUNTERS.values()) >= L.H_COUNTERS
