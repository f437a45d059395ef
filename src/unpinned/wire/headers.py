"""Where the fields of each header are, and functions that write whole headers (IBTA vol. 1, ch. 9; annex A17).

An offset named ``XXX_FIELD`` counts from the start of header XXX, so a reader says ``be24(b, o + BTH_DQPN)``.
Bit fields have getters. A header is written whole, reserved bits zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unpinned.compiled import kernel
from unpinned.wire.bytes import get8, put8, put16, put24, put32, put64

UDP_PORT = 4791
DEFAULT_PKEY = 0xFFFF
PSN_MASK = 0xFFFFFF
QPN_MASK = 0xFFFFFF
MULTICAST_QPN = 0xFFFFFF  # no queue pair's own

# BTH
BTH_OPCODE = 0
BTH_FLAGS = 1  # solicited event, migration request, pad count (2 bits), header version (4 bits)
BTH_PKEY = 2
BTH_ECN = 4  # FECN, BECN and reserved bits: all ones while the ICRC is computed
BTH_DQPN = 5
BTH_ACKREQ = 8
BTH_PSN = 9
BTH_SE_BIT = 0x80
BTH_MIG_BIT = 0x40
BTH_PAD_SHIFT = 4
BTH_VERSION_MASK = 0x0F
BTH_ACKREQ_BIT = 0x80

# RETH
RETH_VA = 0
RETH_RKEY = 8
RETH_LENGTH = 12

# AETH
AETH_SYNDROME = 0
AETH_MSN = 1
SYNDROME_KIND_MASK = 0xE0
SYNDROME_VALUE_MASK = 0x1F
SYNDROME_ACK = 0x00
SYNDROME_RNR = 0x20
SYNDROME_NAK = 0x60
CREDITS_INVALID = 0x1F
"""The credit count of one that does not do end-to-end flow control."""
ACK_UNLIMITED = SYNDROME_ACK | CREDITS_INVALID
NAK_PSN_SEQUENCE = SYNDROME_NAK | 0
NAK_INVALID_REQUEST = SYNDROME_NAK | 1
NAK_REMOTE_ACCESS = SYNDROME_NAK | 2
NAK_REMOTE_OPERATIONAL = SYNDROME_NAK | 3
NAK_INVALID_RD_REQUEST = SYNDROME_NAK | 4

# AtomicETH, AtomicAckETH
ATOMICETH_VA = 0
ATOMICETH_RKEY = 8
ATOMICETH_SWAP = 12
"""The value to swap in, or to add."""
ATOMICETH_COMPARE = 20
ATOMICACKETH_ORIGINAL = 0

# DETH
DETH_QKEY = 0
DETH_SQPN = 5

# FETH: placement type in bits 0-3, selectivity level in bits 4-5 of the big-endian word
FETH_PLT_MASK = 0x0F
FETH_SEL_SHIFT = 4
FETH_SEL_MASK = 0x30
FLUSH_GLOBAL_VISIBILITY = 1
FLUSH_PERSISTENCE = 2
FLUSH_SEL_RANGE = 0
FLUSH_SEL_MR = 1

_RNR_STEPS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
_RNR_STEPS += [1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152]
RNR_NS = np.array([65536, *_RNR_STEPS], np.int64) * 10_000
"""RNR NAK timer code (5 bits) -> nanoseconds. Code 0 is the longest, 655.36 ms."""


@kernel
def rnr_code(ns: int) -> int:
    """The code of the shortest RNR timer that is not shorter than *ns* (0, the longest, if none is)."""
    code = 1
    while code < 32 and RNR_NS[code] < ns:
        code += 1
    return code & 31


@kernel
def rnr_ns(syndrome: int) -> int:
    """The time that an RNR NAK asks for."""
    return RNR_NS[syndrome & SYNDROME_VALUE_MASK]


@kernel
def psn_distance(psn: int, base: int) -> int:
    """How far *psn* is ahead of *base*, -2**23 .. 2**23-1."""
    return (((psn - base) & PSN_MASK) ^ 0x800000) - 0x800000


@kernel
def bth_pad(b: Any, o: int) -> int:
    """Pad bytes behind the payload, 0..3."""
    return get8(b, o + BTH_FLAGS) >> BTH_PAD_SHIFT & 3


@kernel
def put_bth(b: Any, o: int, opcode: int, se: int, pad: int, dqpn: int, ackreq: int, psn: int) -> int:
    """A BTH with the default P_Key, migration bit 0, version 0. *se* and *ackreq* are 0 or 1."""
    put8(b, o + BTH_OPCODE, opcode)
    put8(b, o + BTH_FLAGS, se << 7 | pad << BTH_PAD_SHIFT)
    put16(b, o + BTH_PKEY, DEFAULT_PKEY)
    put32(b, o + BTH_ECN, dqpn & QPN_MASK)
    return put32(b, o + BTH_ACKREQ, ackreq << 31 | psn & PSN_MASK)


@kernel
def put_reth(b: Any, o: int, va: int, rkey: int, length: int) -> int:
    """A RETH: *length* bytes at *va* under *rkey*."""
    put64(b, o + RETH_VA, va)
    put32(b, o + RETH_RKEY, rkey)
    return put32(b, o + RETH_LENGTH, length)


@kernel
def put_aeth(b: Any, o: int, syndrome: int, msn: int) -> int:
    """An AETH."""
    return put32(b, o + AETH_SYNDROME, syndrome << 24 | msn & 0xFFFFFF)


@kernel
def put_atomiceth(b: Any, o: int, va: int, rkey: int, swap: int, compare: int) -> int:
    """An AtomicETH; for FetchAdd *swap* is the addend and *compare* 0."""
    put64(b, o + ATOMICETH_VA, va)
    put32(b, o + ATOMICETH_RKEY, rkey)
    put64(b, o + ATOMICETH_SWAP, swap)
    return put64(b, o + ATOMICETH_COMPARE, compare)


@kernel
def put_deth(b: Any, o: int, qkey: int, sqpn: int) -> int:
    """A DETH."""
    put32(b, o + DETH_QKEY, qkey)
    put8(b, o + DETH_SQPN - 1, 0)
    return put24(b, o + DETH_SQPN, sqpn)


@kernel
def put_feth(b: Any, o: int, placement: int, selectivity: int) -> int:
    """A FETH."""
    return put32(b, o, selectivity << FETH_SEL_SHIFT | placement)
