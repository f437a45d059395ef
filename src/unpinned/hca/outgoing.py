"""Packets to send: a burst of records, laid end to end in the transmit part of the arena.

Equal packets of one QP that follow each other leave in one segmented send, so they are contiguous.  The payload
is not there yet when the header is written: the packet names the DMA descriptors that will fill it, and it is
sealed (ICRC) and sent by the world after they were executed.  A packet one of whose copies failed is not sent.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.regions import room
from unpinned.paging import layout as P
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O

ICRC_BYTES = 4
ASK = 1  # for an acknowledgement
SOLICITED = 2


@kernel
def can_send(h, p):
    """Whether the burst has room for one more packet with a full gather list."""
    return (
        h[L.H_TX_COUNT] < h[L.H_TX_DEPTH]
        and h[L.H_TX_BYTES] + L.PACKET_BYTES <= h[L.H_TX_DEPTH] * L.PACKET_BYTES
        and h[L.H_ACT_COUNT] < h[L.H_ACT_DEPTH]
        and room(p, L.SGE_MAX + 1)
    )


@kernel
def next_offset(h):
    """Arena offset of the next packet's BTH."""
    return h[L.H_TX_ARENA] + h[L.H_TX_BYTES]


@kernel
def add_packet(h, p, b, q, opcode, psn, size, first, side, flags):
    """Close a packet of ``size`` payload bytes whose BTH lies at ``next_offset``; its record.

    ``first`` is the first descriptor of its payload; ``side`` 0 for the requester, 1 for the responder; ``flags`` ASK, SOLICITED.
    """
    o = next_offset(h)
    pad = -size & 3
    W.put_bth(b, o, opcode, (flags >> 1) & 1, pad, h[q + L.QP_DEST], flags & 1, psn & L.PSN_MASK)
    end = o + O.HEADER_LENGTH[opcode] + size
    for i in range(pad):
        b[end + i] = 0
    t = h[L.H_TX_BASE] + h[L.H_TX_COUNT] * L.TX_WORDS
    h[L.H_TX_COUNT] += 1
    h[t + L.T_OFFSET] = o
    h[t + L.T_LENGTH] = end + pad + ICRC_BYTES - o
    h[t + L.T_QP] = q
    h[t + L.T_FIRST] = first
    h[t + L.T_END] = p[P.DMA_COUNT]
    h[t + L.T_SIDE] = side
    h[t + L.T_PSN] = psn
    h[t + L.T_AGAIN] = 0
    h[L.H_TX_BYTES] += h[t + L.T_LENGTH]
    return t
