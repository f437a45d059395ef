"""What a burst's datagrams must pass before the transport sees them."""

from support.entrance import IPV4, Broken, Entrance
from support.peer import FIRST_PSN, peer_of
from unpinned.hca import layout as L
from unpinned.wire import opcodes as O

PEER, STRANGER = IPV4 | 0x7F000002, IPV4 | 0x7F000003


def test_a_stranger_s_packet_says_nothing_about_the_peer_s_identifications() -> None:
    """IPv4: a peer whose stack counts identifications on is believed for the next few of them. A packet that somebody else sends to
    the same queue pair, right in itself, must not move that window."""
    end = Entrance(IPV4 | 0x7F000001)
    peer = peer_of(end)
    end.h[peer.q + L.QP_PEER_LO] = PEER
    memory = end.buffer(4096)
    for i in range(3):
        packet = peer.packet(O.RC_WRITE_ONLY, FIRST_PSN + i, bytes([i + 1]) * 64, reth=(memory.va, memory.key, 64))
        end.ident = 1000 + i
        heard = peer.give(packet, address=PEER)
        assert [answer["psn"] for answer in heard] == [FIRST_PSN + i] and memory.array[0] == i + 1
        end.ident = 30_000 + 5000 * i
        assert peer.give(packet, address=STRANGER) == []
    assert end.counter("bad_address") == 3 and end.counter("bad_icrc") == 0


def test_a_broken_icrc_is_counted_and_gone() -> None:
    end = Entrance(1)
    peer = peer_of(end)
    memory = end.buffer(4096)
    packet = peer.packet(O.RC_WRITE_ONLY, FIRST_PSN, b"x" * 64, reth=(memory.va, memory.key, 64))
    for bit in range(0, 8 * len(packet), 61):
        assert peer.give(Broken(packet, bit), address=1) == []
    assert not memory.array.any() and end.counter("rx_packets") == 0
    assert end.counter("bad_icrc") == len(range(0, 8 * len(packet), 61))
