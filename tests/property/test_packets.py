"""Whatever a stranger or a broken peer puts on the wire: dropped with a reason or judged by the rules, never anything worse.

Hypothesis makes the packets: real ones, some of them with fields that are almost right, with bits turned over, cut short or made
longer, and plain rubbish. They come in where datagrams do, most with the ICRC that belongs to them and some with a broken one,
and from the peer's own address, so only the transport's rules stand between them and memory. A device that has other queue
pairs, other domains and requests of its own under way must keep every byte that is not the peer's to see or to write, count
each packet once, by what became of it, and serve the others as if nothing had been.
"""

from __future__ import annotations

import os
import random
from typing import Any

import hypothesis
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.ends import ALL_ACCESS, PAGE, Buffer
from support.entrance import Broken, Entrance
from support.peer import ADDRESS, FIRST_PSN, Peer, make_packet, peer_of
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.wire import opcodes as O

BURSTS = 10
BURST = 8
SIZE = 4 * PAGE
MTU = 256
SECRET = b"\x53\xec\x4e\x70\x91\x22\xd3\x64"
"""What memory holds that the peer may not read."""
INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT") == "1"
DROPS = [name for name in L.COUNTERS if name.startswith("bad_") and name != "bad_response"]
OPCODES = [opcode for opcode in range(256) if O.OPCODE[opcode]]
RC = [opcode for opcode in OPCODES if opcode & O.TRANSPORT_MASK == O.RC]
LOCAL = L.ACCESS_LOCAL_WRITE
HEADERS = ((O.RETH, "reth"), (O.ATOMICETH, "atomiceth"), (O.AETH, "aeth"), (O.ATOMICACKETH, "original"), (O.IMMDT, "immdt"),
           (O.IETH, "ieth"), (O.DETH, "deth"), (O.FETH, "feth"))  # fmt: skip


class Target:
    """A device with memory that is the peer's to read and write, to read only, and not at all."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.end = end = Entrance(2, fault_slots=rng.choice([1, 4, 32]))
        pinned = rng.random() < 0.5
        self.open = end.buffer(SIZE, ALL_ACCESS, pinned=pinned)
        self.readable = end.buffer(SIZE, L.ACCESS_REMOTE_READ, pinned=pinned)
        self.closed = [end.buffer(SIZE, LOCAL), end.buffer(SIZE, ALL_ACCESS, pd=2), end.buffer(SIZE, 0)]
        self.readable.array[:] = 0x11
        for buffer in self.closed:
            buffer.array[:] = np.frombuffer(SECRET * (SIZE // 8), np.uint8)
        self.sources = end.buffer(SIZE, LOCAL)
        self.sources.array[:] = 0x33
        self.landing = end.buffer(SIZE, LOCAL)
        self.landing.array[:] = 0x44
        end.fault_after = rng.choice([0, 50_000])
        self.given = 0

    def peer(self, **options: int) -> Peer:
        return peer_of(self.end, mtu=MTU, depth=16, timeout=10, rnr_retry=1, retry_cnt=1, **options)

    def work(self, peer: Peer) -> None:
        """Requests of its own, for the peer to answer as it likes, and receives for what it sends."""
        for i in range(self.rng.choice([0, 1, 8])):
            setup.post_recv(self.end.h, peer.q, wr_id=100 + i, sges=[self.landing.sge(256 * i, 200), self.landing.sge(PAGE + 256 * i, 56)])
        place = {"rva": 0x7000, "rkey": 0x99}
        kinds: tuple[dict[str, Any], ...] = (
            {"opcode": L.WR_RDMA_READ, "sges": [self.landing.sge(2 * PAGE, 1000)], **place},
            {"opcode": L.WR_RDMA_WRITE, "sges": [self.sources.sge(0, 700)], **place},
            {"opcode": L.WR_SEND, "sges": [self.sources.sge(0, 300)]},
            {"opcode": L.WR_ATOMIC_FETCH_AND_ADD, "sges": [self.landing.sge(3 * PAGE, 8)], "compare": 1, **place},
        )
        for i, kind in enumerate(self.rng.sample(kinds, self.rng.randrange(1, 5))):
            assert setup.post_send(self.end.h, peer.q, wr_id=i, flags=0, **kind)

    def keys(self) -> list[Buffer]:
        return [self.open, self.open, self.open, self.readable, *self.closed, self.sources, self.landing]


class Writer:
    """Makes packets for one queue pair."""

    def __init__(self, target: Target, peer: Peer) -> None:
        self.rng, self.target, self.peer = target.rng, target, peer
        self.length = 0

    def packet(self) -> bytes:
        chance = self.rng.random()
        if chance < 0.05:
            return filler(self.rng, self.rng.choice([*range(80), 5000]))
        made = self._made()
        if chance < 0.25:
            made = self._damaged(made)
        return Broken(made, self.rng.randrange(1 << 16)) if self.rng.random() < 0.1 else made

    def _made(self) -> bytes:
        rng = self.rng
        opcode = self._opcode()
        row = int(O.OPCODE[opcode])
        size = 0
        if row & O.PAYLOAD:
            size = MTU if not row & O.END and rng.random() < 0.9 else rng.choice([0, 1, 8, MTU - 1, MTU, rng.randrange(MTU + 40)])
        self.length = size if row & O.END else size + rng.randrange(1, 3 * MTU)
        headers = {name: getattr(self, f"_{name}")() for bit, name in HEADERS if row & bit}
        dqpn = self.peer.qpn if rng.random() < 0.97 else rng.choice([0, 1, self.peer.qpn ^ 0x4000, rng.randrange(1 << 24)])
        return make_packet(opcode, self._psn(row), filler(rng, size), dqpn=dqpn, ackreq=rng.randrange(2), se=rng.randrange(2), **headers)

    def _opcode(self) -> int:
        """Mostly one that may come now."""
        chance = self.rng.random()
        if chance < 0.03:
            return self.rng.choice(OPCODES)
        if chance < 0.2:
            return self.rng.choice(RC)
        under_way = int(self.target.end.h[self.peer.q + L.QP_RESP_OP])  # 0 none, 1 SEND, 2 WRITE
        kind = (O.REQUEST, O.SEND, O.WRITE)[under_way]
        fitting = [opcode for opcode in RC if O.OPCODE[opcode] & kind and (O.OPCODE[opcode] & O.START == 0) == (under_way > 0)]
        return self.rng.choice(fitting)

    def _psn(self, row: int) -> int:
        rng, h, q = self.rng, self.target.end.h, self.peer.q
        if row & O.REQUEST:
            expected = int(h[q + L.QP_EPSN])
        else:
            expected = int(rng.choice([h[q + L.QP_UNA], h[q + L.QP_UNA], h[q + L.QP_SEND_PSN], h[q + L.QP_MAX_PSN]]))
        away = 0 if rng.random() < 0.7 else rng.choice([-1, 1, -2, 2, 5, -40, 1 << 23, (1 << 23) - 1, rng.randrange(1 << 24)])
        return expected + away & 0xFFFFFF

    def _place(self) -> tuple[int, int, int]:
        """(address, key, length), mostly of one of the buffers."""
        rng = self.rng
        buffer = rng.choice(self.target.keys())
        if rng.random() < 0.5:
            return self.target.open.va + 8 * rng.randrange(SIZE // 16), self.target.open.key, self.length
        length = rng.choice([0, 1, 8, MTU, MTU + 1, 3 * MTU, rng.randrange(SIZE), SIZE, SIZE + 1, 1 << 31, (1 << 32) - 1])
        at = rng.choice([0, 0, 8, 3, PAGE - 1, SIZE - 1, SIZE, -1, -8, rng.randrange(SIZE), (1 << 63) - buffer.va, -buffer.va])
        key = buffer.key if rng.random() < 0.95 else rng.choice([0, buffer.key ^ 1, buffer.key ^ (1 << 31), rng.randrange(1 << 32)])
        va = (buffer.va + at + (1 << 63)) % (1 << 64) - (1 << 63)
        return va, key, length

    _reth = _place

    def _atomiceth(self) -> tuple[int, int, int, int]:
        va, key, _ = self._place()
        return va & -8 if self.rng.random() < 0.9 else va, key, self.rng.randrange(1 << 62), self.rng.randrange(1 << 62)

    def _aeth(self) -> tuple[int, int]:
        rng = self.rng
        return rng.choice([0x1F, 0x1F, 0x1F, 0, 0x20, 0x21, 0x60, 0x61, 0x62, 0x63, 0x64, 0x7F, 0x40, 0xFF]), rng.randrange(1 << 24)

    def _original(self) -> int:
        return self.rng.randrange(1 << 62)

    def _immdt(self) -> int:
        return self.rng.randrange(1 << 32)

    def _ieth(self) -> int:
        return self.rng.choice([self.rng.choice(self.target.keys()).key, self.rng.randrange(1 << 32)])

    def _deth(self) -> tuple[int, int]:
        return self.rng.randrange(1 << 32), self.rng.randrange(1 << 24)

    def _feth(self) -> tuple[int, int]:
        return self.rng.randrange(4), self.rng.randrange(4)

    def _damaged(self, packet: bytes) -> bytes:
        rng = self.rng
        how = rng.randrange(4)
        if how == 0:
            return packet[: rng.randrange(len(packet) + 1)]
        if how == 1:
            return packet + filler(rng, rng.randrange(1, 20))
        data = bytearray(packet)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(min(len(data), 44 if how == 2 else len(data)))
            data[at] ^= 1 << rng.randrange(8)
        return bytes(data)


def filler(rng: random.Random, size: int) -> bytes:
    """Bytes of no meaning, from one choice of *rng*."""
    return random.Random(rng.randrange(256)).randbytes(size)


def run_case(rng: random.Random) -> dict[str, int]:
    """One device under packets as *rng* chooses them; its counters at the end."""
    target = Target(rng)
    end = target.end
    witness = target.peer(psn=5000)
    peers = [target.peer(psn=FIRST_PSN) for _ in range(3)]
    for peer in peers:
        target.work(peer)
        peer.give()
    for burst in range(BURSTS):
        peer = rng.choice(peers)
        writer = Writer(target, peer)
        packets = [writer.packet() for _ in range(rng.randrange(1, BURST))]
        before, broken = sum(end.counter(name) for name in (*DROPS, "rx_packets")), end.counter("bad_icrc")
        peer.now = max(p.now for p in [*peers, witness]) + rng.choice([0, 1000, 100_000, 5_000_000])
        sent = peer.give(*packets)
        assert sum(end.counter(name) for name in (*DROPS, "rx_packets")) - before == len(packets), "each packet is counted once"
        assert end.counter("bad_icrc") - broken == sum(isinstance(packet, Broken) and packet.judged for packet in packets)
        for answer in sent:
            assert SECRET not in answer["payload"] * 2, "memory that is not the peer's was sent"
        if rng.random() < 0.1:
            end.discard(rng.choice([target.open, target.readable]).pages(), peer.now)
        if burst % 4 == 0:
            serve(target, witness, burst // 4, peer.now)
        if end.h[peer.q + L.QP_ERROR]:
            peers[peers.index(peer)] = revive(target, peer)
    secret = np.frombuffer(SECRET * (SIZE // 8), np.uint8)
    assert all((buffer.array == secret).all() for buffer in target.closed), "memory that is not the peer's was written"
    assert (target.readable.array == 0x11).all() and (target.sources.array == 0x33).all()
    for lane, start in enumerate(range(0, 2 * PAGE, PAGE)):  # the receives' pieces and nothing beside them
        rows = target.landing.array[start : start + PAGE].reshape(-1, 256)
        assert (rows[:, 200 if lane == 0 else 56 :] == 0x44).all()
    for peer in [*peers, witness]:
        setup.remove_qp(end.t, peer.q)
    witness.wait(10**9)
    end.quiet()
    return end.counters()


def serve(target: Target, witness: Peer, number: int, now: int) -> None:
    """The queue pair that nobody attacks has its WRITE done and acknowledged."""
    data = bytes([number + 1]) * 64
    witness.now = now
    packet = witness.packet(O.RC_WRITE_ONLY, 5000 + number, data, reth=(target.open.va + SIZE - 64, target.open.key, 64))
    heard = witness.give(packet)
    for _ in range(20):  # its page may have to come first
        heard += witness.wait(100_000)
    answers = [answer for answer in heard if answer["opcode"] == O.RC_ACK and answer["psn"] == 5000 + number]
    assert answers and answers[-1]["aeth"][0] == 0x1F
    assert target.open.array[SIZE - 64 :].tobytes() == data


def revive(target: Target, peer: Peer) -> Peer:
    """Another queue pair in the place of one that has ended."""
    setup.remove_qp(target.end.t, peer.q)
    made = target.peer(psn=FIRST_PSN)
    made.now = peer.now
    target.work(made)
    return made


def test_packets_at_random(seed: int) -> None:
    """The fuzz target: a bounded number of cases, the fixed seed's and fresh ones; Hypothesis shrinks one that fails."""

    @hypothesis.seed(seed)
    @settings(max_examples=8 if INTERPRETED else 50)
    @given(st.randoms(use_true_random=False))
    def case(rng: random.Random) -> None:
        run_case(rng)

    case()


def test_the_cases_reach_what_they_are_for() -> None:
    """Vacuous if nothing came through: over a few cases every way out and every way in was taken."""
    reached: dict[str, int] = {}
    for number in range(60):
        for name, count in run_case(random.Random(number)).items():
            reached[name] = reached.get(name, 0) + count
    wanted = [*DROPS, "rx_packets", "duplicate", "out_of_sequence", "nak_access", "nak_invalid", "rnr_nak", "bad_response", "parked",
              "acks_sent"]  # fmt: skip
    missing = [name for name in wanted if not reached.get(name) and name != "bad_address"]
    assert not missing, f"never: {missing} of {reached}"


def test_another_sender_s_packets_are_dropped() -> None:
    """The same packets from an address that is not the peer's change nothing at all."""
    rng = random.Random(1)
    target = Target(rng)
    peer = target.peer(psn=FIRST_PSN)
    writer = Writer(target, peer)
    before = peer.end.h[peer.q : peer.q + L.QP_WORDS].copy()
    for _ in range(200):
        assert peer.give(writer.packet(), address=ADDRESS + 7) == []
    assert (peer.end.h[peer.q : peer.q + L.QP_WORDS] == before).all() and peer.end.counter("bad_address") > 100
