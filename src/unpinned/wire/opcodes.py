"""Every opcode is a row: what it means as bits, and how long its headers are (IBTA vol. 1, ch. 9; annexes A17, A19).

``OPCODE[opcode]`` is 0 for an opcode that does not exist. The top three bits of an opcode are its transport
(RC 0, UC 1, UD 3), the low five its operation.
"""

from __future__ import annotations

import numpy as np

# Bits of a row.
START = 1 << 0
END = 1 << 1
REQUEST = 1 << 2
RESPONSE = 1 << 3
SEND = 1 << 4
WRITE = 1 << 5
READ = 1 << 6
ATOMIC = 1 << 7
"""CmpSwap and FetchAdd, and their acknowledgement; ATOMIC WRITE has a bit of its own."""
ACK = 1 << 8
RETH = 1 << 9
AETH = 1 << 10
IMMDT = 1 << 11
ATOMICETH = 1 << 12
ATOMICACKETH = 1 << 13
IETH = 1 << 14
PAYLOAD = 1 << 15
"""May carry payload (a FIRST or MIDDLE always carries a full MTU)."""
DETH = 1 << 16
FETH = 1 << 17
FLUSH = 1 << 18
ATOMIC_WRITE = 1 << 19

# Header lengths in bytes, in the order in which the headers follow the BTH.
BTH_BYTES = 12
DETH_BYTES = 8
FETH_BYTES = 4
RETH_BYTES = 16
ATOMICETH_BYTES = 28
AETH_BYTES = 4
ATOMICACKETH_BYTES = 8
IMMDT_BYTES = 4
IETH_BYTES = 4
ICRC_BYTES = 4
_ORDER = (
    (DETH, DETH_BYTES),
    (FETH, FETH_BYTES),
    (RETH, RETH_BYTES),
    (ATOMICETH, ATOMICETH_BYTES),
    (AETH, AETH_BYTES),
    (ATOMICACKETH, ATOMICACKETH_BYTES),
    (IMMDT, IMMDT_BYTES),
    (IETH, IETH_BYTES),
)

TRANSPORT_MASK = 0xE0
RC = 0x00
UC = 0x20
UD = 0x60

RC_SEND_FIRST = 0x00
RC_SEND_MIDDLE = 0x01
RC_SEND_LAST = 0x02
RC_SEND_LAST_IMM = 0x03
RC_SEND_ONLY = 0x04
RC_SEND_ONLY_IMM = 0x05
RC_WRITE_FIRST = 0x06
RC_WRITE_MIDDLE = 0x07
RC_WRITE_LAST = 0x08
RC_WRITE_LAST_IMM = 0x09
RC_WRITE_ONLY = 0x0A
RC_WRITE_ONLY_IMM = 0x0B
RC_READ_REQUEST = 0x0C
RC_READ_RESPONSE_FIRST = 0x0D
RC_READ_RESPONSE_MIDDLE = 0x0E
RC_READ_RESPONSE_LAST = 0x0F
RC_READ_RESPONSE_ONLY = 0x10
RC_ACK = 0x11
RC_ATOMIC_ACK = 0x12
RC_CMP_SWAP = 0x13
RC_FETCH_ADD = 0x14
RC_SEND_LAST_INV = 0x16
RC_SEND_ONLY_INV = 0x17
RC_FLUSH = 0x1C
RC_ATOMIC_WRITE = 0x1D
UC_SEND_FIRST = 0x20
UC_SEND_MIDDLE = 0x21
UC_SEND_LAST = 0x22
UC_SEND_LAST_IMM = 0x23
UC_SEND_ONLY = 0x24
UC_SEND_ONLY_IMM = 0x25
UC_WRITE_FIRST = 0x26
UC_WRITE_MIDDLE = 0x27
UC_WRITE_LAST = 0x28
UC_WRITE_LAST_IMM = 0x29
UC_WRITE_ONLY = 0x2A
UC_WRITE_ONLY_IMM = 0x2B
UD_SEND_ONLY = 0x64
UD_SEND_ONLY_IMM = 0x65

_ONLY = START | END
_SEND = REQUEST | SEND | PAYLOAD
_WRITE = REQUEST | WRITE | PAYLOAD
_READ_RESPONSE = RESPONSE | READ | PAYLOAD

_SENDS_AND_WRITES = {
    0x00: _SEND | START,
    0x01: _SEND,
    0x02: _SEND | END,
    0x03: _SEND | END | IMMDT,
    0x04: _SEND | _ONLY,
    0x05: _SEND | _ONLY | IMMDT,
    0x06: _WRITE | START | RETH,
    0x07: _WRITE,
    0x08: _WRITE | END,
    0x09: _WRITE | END | IMMDT,
    0x0A: _WRITE | _ONLY | RETH,
    0x0B: _WRITE | _ONLY | RETH | IMMDT,
}
_ROWS = {
    **{RC | low: row for low, row in _SENDS_AND_WRITES.items()},
    **{UC | low: row for low, row in _SENDS_AND_WRITES.items()},
    RC_READ_REQUEST: REQUEST | READ | _ONLY | RETH,
    RC_READ_RESPONSE_FIRST: _READ_RESPONSE | START | AETH,
    RC_READ_RESPONSE_MIDDLE: _READ_RESPONSE,
    RC_READ_RESPONSE_LAST: _READ_RESPONSE | END | AETH,
    RC_READ_RESPONSE_ONLY: _READ_RESPONSE | _ONLY | AETH,
    RC_ACK: RESPONSE | ACK | _ONLY | AETH,
    RC_ATOMIC_ACK: RESPONSE | ATOMIC | _ONLY | AETH | ATOMICACKETH,
    RC_CMP_SWAP: REQUEST | ATOMIC | _ONLY | ATOMICETH,
    RC_FETCH_ADD: REQUEST | ATOMIC | _ONLY | ATOMICETH,
    RC_SEND_LAST_INV: _SEND | END | IETH,
    RC_SEND_ONLY_INV: _SEND | _ONLY | IETH,
    RC_FLUSH: REQUEST | FLUSH | _ONLY | FETH | RETH,
    RC_ATOMIC_WRITE: REQUEST | ATOMIC_WRITE | _ONLY | RETH | PAYLOAD,
    UD_SEND_ONLY: _SEND | _ONLY | DETH,
    UD_SEND_ONLY_IMM: _SEND | _ONLY | DETH | IMMDT,
}


def _before(row: int, header: int) -> int:
    """Bytes from the start of the BTH to *header* (0: to the payload) in a packet with this *row*."""
    length = BTH_BYTES
    for bit, size in _ORDER:
        if bit == header:
            break
        length += size if row & bit else 0
    return length


def _table(header: int) -> np.ndarray:
    """For each opcode, the offset of *header* from the BTH; 0 where it has none (for 0, where it does not exist)."""
    table = np.zeros(256, np.int64)
    for opcode, row in _ROWS.items():
        if header == 0 or row & header:
            table[opcode] = _before(row, header)
    return table


OPCODE = np.zeros(256, np.int64)
for _opcode, _row in _ROWS.items():
    OPCODE[_opcode] = _row
HEADER_LENGTH = _table(0)
"""BTH and extended headers: the payload's offset from the BTH."""
RETH_OFFSET = _table(RETH)
"""The RETH's offset from the BTH (behind the FETH in a FLUSH)."""
AETH_OFFSET = _table(AETH)
IMMDT_OFFSET = _table(IMMDT)
"""The immediate's offset from the BTH."""

NAMES = {value: name for name, value in globals().items() if name[:3] in ("RC_", "UC_", "UD_")}
"""Opcode -> the name of its constant, for people."""
