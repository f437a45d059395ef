"""Packets to send: laid end to end, padded with zeros, never more than fit."""

import pytest

from support.ends import End
from support.peer import QPN, peer_of, read_packet
from unpinned.hca import layout as L
from unpinned.hca.outgoing import ASK, ICRC_BYTES, SOLICITED, add_packet, can_send, next_offset
from unpinned.paging import layout as P
from unpinned.wire import opcodes as O


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 255, 4096])
@pytest.mark.parametrize("flags", [0, ASK, SOLICITED, ASK | SOLICITED])
def test_header_pad_and_length(size: int, flags: int) -> None:
    end = End(1)
    q = peer_of(end).q
    end.b[:] = 0xA5
    o = int(next_offset(end.h))
    t = add_packet(end.h, end.p, end.b, q, O.RC_SEND_ONLY, 0x1234567, size, 0, 0, flags)
    n = int(end.h[t + L.T_LENGTH])
    packet = read_packet(end.b[o : o + n - ICRC_BYTES].tobytes())
    assert packet["psn"] == 0x234567 and packet["dqpn"] == QPN and packet["pad"] == -size % 4
    assert (packet["ackreq"], packet["se"]) == (flags & ASK, flags >> 1)
    assert packet["payload"] == b"\xa5" * size and n == 12 + size + packet["pad"] + 4
    assert not end.b[o + 12 + size : o + n - ICRC_BYTES].any()
    assert next_offset(end.h) == o + n, "equal packets lie end to end, for one segmented send"
    assert (end.h[t + L.T_PSN], end.h[t + L.T_QP], end.h[t + L.T_SIDE]) == (0x1234567, q, 0)


def test_a_burst_has_room_for_packets_bytes_actions_and_descriptors() -> None:
    end = End(1, {"burst": 4})
    q = peer_of(end).q
    for _ in range(4):
        assert can_send(end.h, end.p)
        add_packet(end.h, end.p, end.b, q, O.RC_SEND_ONLY, 0, 4096, 0, 0, 0)
    assert not can_send(end.h, end.p)
    assert next_offset(end.h) <= end.h[L.H_POOL_ARENA]
    end.h[L.H_TX_COUNT] = end.h[L.H_TX_BYTES] = 0
    end.h[L.H_ACT_COUNT] = end.h[L.H_ACT_DEPTH]
    assert not can_send(end.h, end.p)
    end.h[L.H_ACT_COUNT] = 0
    end.p[P.DMA_COUNT] = end.p[P.DMA_CAPACITY] - L.SGE_MAX
    assert not can_send(end.h, end.p)
    end.p[P.DMA_COUNT] -= 1
    assert can_send(end.h, end.p)
