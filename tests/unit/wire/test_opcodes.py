"""The opcode table against another implementation's list, and against itself."""

import pytest

from unpinned.wire import opcodes as O

KNOWN = sorted(O.NAMES)


def test_names_agree_with_scapy() -> None:
    roce = pytest.importorskip("scapy.contrib.roce")
    words = {
        "RDMA_": "", "_WITH_IMMEDIATE": "_IMM", "ATOMIC_ACKNOWLEDGE": "ATOMIC_ACK", "ACKNOWLEDGE": "ACK",
        "COMPARE_SWAP": "CMP_SWAP",
    }  # fmt: skip
    theirs = {}
    for opcode, name in roce._bth_opcodes.items():
        for long, short in words.items():
            name = name.replace(long, short)
        theirs[opcode] = name
    for opcode in KNOWN:
        if opcode in (O.RC_SEND_LAST_INV, O.RC_SEND_ONLY_INV, O.RC_FLUSH, O.RC_ATOMIC_WRITE):
            continue  # scapy does not have them
        assert O.NAMES[opcode] == theirs[opcode]


def test_unknown_opcodes_have_empty_rows() -> None:
    for opcode in range(256):
        if opcode not in O.NAMES:
            assert O.OPCODE[opcode] == O.HEADER_LENGTH[opcode] == O.RETH_OFFSET[opcode] == O.IMMDT_OFFSET[opcode] == 0


@pytest.mark.parametrize("opcode", KNOWN, ids=lambda opcode: O.NAMES[opcode])
def test_a_row_says_what_the_name_says(opcode: int) -> None:
    name, row = O.NAMES[opcode], int(O.OPCODE[opcode])

    def has(bit: int) -> bool:
        return bool(row & bit)

    assert has(O.REQUEST) != has(O.RESPONSE)
    assert has(O.IMMDT) == name.endswith("_IMM")
    assert has(O.IETH) == name.endswith("_INV")
    assert has(O.DETH) == name.startswith("UD_")
    assert has(O.SEND) == ("SEND" in name)
    assert has(O.WRITE) == ("WRITE" in name and "ATOMIC" not in name)
    assert has(O.READ) == ("READ" in name)
    middle = "MIDDLE" in name
    assert has(O.START) == (not middle and "LAST" not in name)
    assert has(O.END) == (not middle and "FIRST" not in name)
    assert has(O.AETH) == (has(O.RESPONSE) and not middle)
    writes_start = has(O.WRITE) and has(O.START)
    assert has(O.RETH) == (writes_start or name in ("RC_READ_REQUEST", "RC_FLUSH", "RC_ATOMIC_WRITE"))


def test_header_lengths() -> None:
    assert O.HEADER_LENGTH[O.RC_SEND_ONLY] == 12
    assert O.HEADER_LENGTH[O.RC_WRITE_ONLY_IMM] == 12 + 16 + 4 and O.IMMDT_OFFSET[O.RC_WRITE_ONLY_IMM] == 28
    assert O.HEADER_LENGTH[O.RC_CMP_SWAP] == 12 + 28
    assert O.HEADER_LENGTH[O.RC_ATOMIC_ACK] == 12 + 4 + 8
    assert O.HEADER_LENGTH[O.RC_FLUSH] == 12 + 4 + 16 and O.RETH_OFFSET[O.RC_FLUSH] == 16
    assert O.HEADER_LENGTH[O.UD_SEND_ONLY_IMM] == 12 + 8 + 4


def test_bits_do_not_overlap() -> None:
    bits = [O.START, O.END, O.REQUEST, O.RESPONSE, O.SEND, O.WRITE, O.READ, O.ATOMIC, O.ACK, O.RETH, O.AETH]
    bits += [O.IMMDT, O.ATOMICETH, O.ATOMICACKETH, O.IETH, O.PAYLOAD, O.DETH, O.FETH, O.FLUSH, O.ATOMIC_WRITE]
    assert sum(bits) == (1 << len(bits)) - 1
