"""The other side of one queue pair, by hand: packets made field by field, answers read field by field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from support.ends import ALL_ACCESS, MS, End
from support.wire import PACKET, arena, emit, parse
from unpinned.hca import setup
from unpinned.hca.ready import make_ready
from unpinned.wire import opcodes as O

QPN = 0x77
ADDRESS = 1
FIRST_PSN = 100


def read_packet(data: bytes) -> dict[str, Any]:
    """Every field of a packet without ICRC; the payload without its pad."""
    b = arena()
    b[PACKET : PACKET + len(data)] = memoryview(data)
    fields = parse(b, PACKET, len(data))
    fields["payload"] = fields["payload"][: len(fields["payload"]) - fields["pad"]]
    return fields


def make_packet(
    opcode: int, psn: int, payload: bytes = b"", *, dqpn: int, ackreq: int = 1, se: int = 0, **headers: Any
) -> bytes:
    """A packet without ICRC; ``headers`` as in `support.wire.emit`."""
    b = arena()
    pad = -len(payload) & 3
    fields = {"opcode": opcode, "se": se, "pad": pad, "dqpn": dqpn, "ackreq": ackreq, "psn": psn & 0xFFFFFF}
    length = emit(b, PACKET, fields | headers | {"payload": payload + bytes(pad)})
    return b[PACKET : PACKET + length].tobytes()


@dataclass
class Peer:
    """Talks to one queue pair of an end."""

    end: End
    q: int
    now: int = MS
    silent: bool = False
    heard: list[dict[str, Any]] = field(default_factory=list)

    @property
    def qpn(self) -> int:
        return int(self.end.h[self.q + 1])

    def packet(self, opcode: int, psn: int, payload: bytes = b"", **headers: Any) -> bytes:
        return make_packet(opcode, psn, payload, dqpn=self.qpn, **headers)

    def give(self, *packets: bytes, address: int = ADDRESS) -> list[dict[str, Any]]:
        """Deliver datagrams in one burst and run the device until it is idle; what it sent, parsed."""
        queue = [(data, address) for data in packets]
        while True:
            self.end.deliver(queue, self.now)
            if not queue and not self.end.busy():
                break
        sent = [read_packet(data) for data in self.end.out]
        self.end.out.clear()
        self.heard += sent
        return sent

    def wait(self, ns: int) -> list[dict[str, Any]]:
        """Let time pass; what the device sends then."""
        self.now += ns
        return self.give()

    def ack(self, psn: int, syndrome: int = 0x1F, msn: int = 0) -> bytes:
        return self.packet(O.RC_ACK, psn, aeth=(syndrome, msn), ackreq=0)

    def post(self, **kw: Any) -> list[dict[str, Any]]:
        """Post a send work request; what goes out."""
        assert setup.post_send(self.end.h, self.q, **{"wr_id": 1, "flags": 0, "sges": [], **kw})
        make_ready(self.end.h, self.q)
        return self.give()


def peer_of(
    end: End,
    *,
    mtu: int = 1024,
    psn: int = FIRST_PSN,
    sq_psn: int = 500,
    access: int = ALL_ACCESS,
    depth: int = 64,
    sges: int = 4,
    rts: bool = True,
    sig_all: bool = True,
    cq_depth: int = 0,
    **kw: int,
) -> Peer:
    """A peer connected to a new queue pair of ``end``, whose requests begin at ``psn``."""
    sending = {k: kw.pop(k) for k in ("timeout", "retry_cnt", "rnr_retry", "max_rd_atomic") if k in kw}
    q = end.qp(depth=depth, sges=sges, sig_all=sig_all, cq_depth=cq_depth)
    setup.to_rtr(end.t, q, setup.Path(QPN, 0, ADDRESS, psn, mtu, access=access, **kw))
    if rts:
        setup.to_rts(end.t, q, setup.Sending(sq_psn, **sending))
    return Peer(end, q)
