"""Damaged, misplaced and forged datagrams over real UDP to a live device: each counted by its reason, none of them moves a byte, and
a good connection beside it goes on.
"""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from support.mmu_actions import wait_for
from support.peer import make_packet, read_packet
from support.verbs import ALL, REMOTE, End, nonzero, pair
from unpinned import verbs as v
from unpinned.host.udp import find_loopback
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.icrc import put_icrc, template4

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
PSN, MTU = 700, 1024
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2  # Don't Fragment, and with it identification 0


class Wire:
    """A UDP socket on an address of its own that speaks RoCEv2 by hand."""

    def __init__(self, device: v.Context) -> None:
        taken = find_loopback(buffer_bytes=1 << 16)
        self.socket, self.address = taken.socket, str(taken.address)
        self.socket.setblocking(True)
        self.socket.settimeout(20)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        self.target = (str(device.query_gid().address), 4791)
        self.b = np.zeros(1 << 16, np.uint8)

    def send(self, packet: bytes, flip: int = -1, cut: int = 0) -> None:
        """Seal and send; then with byte *flip* of it turned over, or without its last *cut* bytes."""
        size = len(packet)
        self.b[128 : 128 + size] = np.frombuffer(packet, np.uint8)
        ends = [int.from_bytes(socket.inet_aton(address), "big") for address in (self.address, self.target[0])]
        length = template4(self.b, 0, *ends, 4791, 4791)
        whole = put_icrc(self.b, 0, length, 128, size, 0) if size >= O.BTH_BYTES else size
        if flip >= 0:
            self.b[128 + flip] ^= 0xFF
        self.socket.sendto(self.b[128 : 128 + whole - cut].tobytes(), self.target)

    def answer(self) -> dict[str, object]:
        return read_packet(self.socket.recv(8192)[:-4])


@dataclass
class Target:
    """A live device with a queue pair for the `Wire`, one that works, and memory that only some of it may reach."""

    end: End
    wire: Wire
    other: Wire
    working: tuple[End, End]
    closed: v.MR
    memory: bytes

    def packet(self, opcode: int = O.RC_WRITE_ONLY, payload: bytes = b"\xee" * 64, psn: int = PSN, key: int = 0, at: int = 0,
               dqpn: int = 0, length: int = 64, **more: tuple[int, int]) -> bytes:  # fmt: skip
        """A WRITE that would be good, but for what is said."""
        headers = {"reth": (self.end.mr.buf + at, key or self.end.mr.rkey, length)} if O.OPCODE[opcode] & O.RETH else {}
        return make_packet(opcode, psn, payload, dqpn=dqpn or self.end.qp.qp_num, **headers, **more)


@pytest.fixture
def target() -> Iterator[Target]:
    with pair() as working:
        end = working[1]
        wire, other = Wire(end.context), Wire(end.context)
        cq = v.CQ(end.context, 16)
        qp = v.QP(end.pd, v.QPInitAttr(scq=cq, rcq=cq))
        mine = End(end.context, end.pd, cq, qp, v.MR(end.pd, 1 << 16, ALL))
        content = np.random.default_rng(3).bytes(1 << 16)
        mine.mr.write(content)
        qp.connect(v.PeerInfo(v.GID(wire.address).gid, 4791, 0x123, PSN, v.IBV_MTU_1024, unpinned=False), REMOTE)
        yield Target(mine, wire, other, working, v.MR(end.pd, 4096, v.IBV_ACCESS_LOCAL_WRITE), content)
        wire.socket.close()
        other.socket.close()


DROPPED: dict[str, tuple[str, Callable[[Target], None]]] = {
    "empty": ("truncated", lambda t: t.wire.send(b"")),
    "shorter than a header": ("bad_length", lambda t: t.wire.send(t.packet()[:9])),
    "a header without its ICRC": ("bad_length", lambda t: t.wire.send(t.packet()[:12], cut=4)),
    "cut short": ("bad_icrc", lambda t: t.wire.send(t.packet(), cut=7)),
    "a bit of the payload": ("bad_icrc", lambda t: t.wire.send(t.packet(), flip=40)),
    "a bit of the header": ("bad_icrc", lambda t: t.wire.send(t.packet(), flip=9)),
    "a bit of the ICRC": ("bad_icrc", lambda t: t.wire.send(t.packet(), flip=12 + 16 + 64 + 1)),
    "longer than any packet": ("bad_length", lambda t: t.wire.send(t.packet(payload=bytes(7000)))),
    "longer than the path MTU": ("bad_length", lambda t: t.wire.send(t.packet(payload=bytes(MTU + 4)))),
    "payload where none belongs": ("bad_length", lambda t: t.wire.send(t.packet(O.RC_READ_REQUEST))),
    "another queue pair": ("bad_qpn", lambda t: t.wire.send(t.packet(dqpn=t.end.qp.qp_num ^ 0x10))),
    "the working queue pair": ("bad_address", lambda t: t.wire.send(t.packet(dqpn=t.working[1].qp.qp_num))),
    "another sender": ("bad_address", lambda t: t.other.send(t.packet())),
    "an opcode of UD": ("bad_opcode", lambda t: t.wire.send(t.packet(O.UD_SEND_ONLY, deth=(1, 2)))),
    "a reserved opcode": ("bad_opcode", lambda t: t.wire.send(b"\x1f" + t.packet()[1:])),
    "another version": ("bad_header", lambda t: t.wire.send(t.packet()[:1] + b"\x41" + t.packet()[2:])),
    "another partition": ("bad_header", lambda t: t.wire.send(t.packet()[:2] + b"\x12\x34" + t.packet()[4:])),
    "an old PSN": ("duplicate", lambda t: t.wire.send(t.packet(psn=PSN - 5))),
    "an answer to nothing": ("duplicate", lambda t: t.wire.send(t.packet(O.RC_ACK, b"", t.end.qp.psn + 3, aeth=(0, 1)))),
}  # fmt: skip
REFUSED: dict[str, tuple[str, int, Callable[[Target], None]]] = {
    "a PSN ahead": ("out_of_sequence", W.NAK_PSN_SEQUENCE, lambda t: t.wire.send(t.packet(psn=PSN + 5))),
    "a wrong key": ("nak_access", W.NAK_REMOTE_ACCESS, lambda t: t.wire.send(t.packet(key=t.end.mr.rkey ^ 1))),
    "memory that may not be written":
        ("nak_access", W.NAK_REMOTE_ACCESS, lambda t: t.wire.send(t.packet(key=t.closed.rkey, at=t.closed.buf - t.end.mr.buf))),
    "past the end": ("nak_access", W.NAK_REMOTE_ACCESS, lambda t: t.wire.send(t.packet(at=(1 << 16) - 63))),
    "a length that is not the payload's": ("nak_invalid", W.NAK_INVALID_REQUEST, lambda t: t.wire.send(t.packet(length=128))),
    "the middle of nothing": ("nak_invalid", W.NAK_INVALID_REQUEST, lambda t: t.wire.send(t.packet(O.RC_WRITE_MIDDLE, bytes(MTU)))),
}  # fmt: skip


def counted(target: Target, name: str, send: Callable[[Target], None]) -> None:
    """Send it, and see it counted once, under this name."""
    before = target.end.context.counters()
    send(target)
    wait_for(lambda: target.end.context.counters()[name] > before[name], lambda: f"{name}: {nonzero(target.end.context.counters())}")
    assert target.end.context.counters()[name] == before[name] + 1


def judge(target: Target) -> None:
    """No byte has changed, and the other connection works."""
    assert target.end.mr.read(1 << 16) == target.memory and not any(target.closed.read(4096))
    one, two = target.working
    one.remote(v.IBV_WR_RDMA_WRITE, two.mr, 0, 0, 5000)
    one.wait()
    one.remote(v.IBV_WR_RDMA_READ, two.mr, 0, 0, 5000)
    one.wait()


def test_what_is_wrong_is_dropped_and_what_is_right_still_works(target: Target) -> None:
    for case, (name, send) in DROPPED.items():
        try:
            counted(target, name, send)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error
    judge(target)
    # The queue pair itself took no harm.
    target.wire.send(target.packet(at=1000))
    while (answer := target.wire.answer())["psn"] != PSN:
        assert answer["opcode"] == O.RC_ACK  # of what was a duplicate
    assert answer["aeth"][0] == 0x1F and target.end.mr.read(64, 1000) == b"\xee" * 64


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_transport_refuses_gets_its_nak(target: Target, case: str) -> None:
    name, syndrome, send = REFUSED[case]
    counted(target, name, send)
    answer = target.wire.answer()
    assert (answer["opcode"], answer["psn"], answer["aeth"][0]) == (O.RC_ACK, PSN, syndrome)
    judge(target)
