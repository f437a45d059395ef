"""Conversations of a real peer, replayed: one side is ours, the other is what Linux's Soft-RoCE really sent.

Each captured packet of the other side is delivered in its turn; each packet of our side must equal the captured one, field by
field, payload included.  Completions must equal those that the kernel reported.

Where we legitimately differ from that kernel: only the ``ackreq`` bit of a packet that does not end its message (we ask
every quarter of the window); completion fields that are undefined with an error; the flag for a global route header, and its
flag for an invalidated key (the kernel's own number, not that of verbs).
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support import captures
from support.ends import ALL_ACCESS, MS, Buffer, End
from support.peer import read_packet
from unpinned.hca import layout as L
from unpinned.hca import setup
from unpinned.hca.ready import make_ready
from unpinned.wire import opcodes as O

NOT_OURS = {"rc_atomic_write", "rc_flush", "pingpong_rc"}  # opcodes of another issue; no JSON (below)
SCENARIOS = [name for name in captures.scenarios() if "rc_" in name and name not in NOT_OURS]
WRS = {"WRITE_IMM": L.WR_RDMA_WRITE_WITH_IMM, "WRITE": L.WR_RDMA_WRITE, "READ": L.WR_RDMA_READ, "SEND_IMM": L.WR_SEND_WITH_IMM,
       "SEND_WITH_INV": L.WR_SEND_WITH_INV, "SEND": L.WR_SEND, "FETCH_ADD": L.WR_ATOMIC_FETCH_AND_ADD,
       "CMP_SWAP": L.WR_ATOMIC_CMP_AND_SWP}  # fmt: skip
SIZE = 262_144
ADDRESS = {"A": 1, "B": 2}


def pattern(side: str) -> np.ndarray:
    text = b"".join(hashlib.sha256(f"{side}:{i}".encode()).digest() for i in range(SIZE // 32))
    return np.frombuffer(text, np.uint8)


def conversation(scenario: str) -> list[tuple[str, dict[str, Any], bytes]]:
    """(side that sent it, fields, bytes without ICRC) of each packet; A is who spoke first."""
    packets = captures.packets(scenario)
    first = packets[0].source
    return [("A" if p.source == first else "B", read_packet(p.payload[:-4]), p.payload[:-4]) for p in packets]


class Side:
    """One side of a captured conversation, played by our device."""

    def __init__(self, me: str, facts: dict[str, Any], talk: list, **sending: int) -> None:
        self.me, self.talk, other = me, talk, facts["AB".replace(me, "")]
        mine = facts[me]
        self.end = end = End(ADDRESS[me])
        end.t.free_qps.remove(mine["qpn"])
        end.t.free_qps.append(mine["qpn"])  # the one that is taken next
        cq = setup.add_cq(end.t, 64)
        self.q = setup.add_qp(end.t, random=0, pd=1, send_cq=cq, recv_cq=cq, sends=64, recvs=64, send_sges=1, recv_sges=1, sig_all=True)
        assert end.h[self.q + L.QP_NUMBER] == mine["qpn"]
        path = setup.Path(other["qpn"], 0, ADDRESS["AB".replace(me, "")], other["sq_psn"], facts["path_mtu"], access=ALL_ACCESS,
                          min_rnr_timer=self.rnr_timer())  # fmt: skip
        setup.to_rtr(end.t, self.q, path)
        setup.to_rts(end.t, self.q, setup.Sending(mine["sq_psn"], **sending))
        self.buffer = self.register(int(mine["buf"], 0), int(mine["rkey"], 0), ALL_ACCESS)
        self.buffer.array[:] = pattern(me)
        self.now = MS

    def register(self, start: int, key: int, access: int) -> Buffer:
        return self.end.buffer(SIZE, access, key=key, start=start)

    def rnr_timer(self) -> int:
        syndromes = [f["aeth"][0] for who, f, _ in self.talk if who == self.me and "aeth" in f]
        return next((s & 31 for s in syndromes if s & 0xE0 == L.SYNDROME_RNR), 1)

    def deliver(self, *packets: bytes) -> None:
        queue = [(data, ADDRESS["AB".replace(self.me, "")]) for data in packets]
        while True:
            self.end.deliver(queue, self.now)
            if not queue and not self.end.busy():
                return

    def post(self, **request: Any) -> None:
        assert setup.post_send(self.end.h, self.q, wr_id=1, flags=0, **request)
        make_ready(self.end.h, self.q)
        self.deliver()

    def next_packet(self) -> dict[str, Any]:
        """What we send next; if nothing is on its way, time passes."""
        for _ in range(3):
            if self.end.out:
                return read_packet(self.end.out.pop(0))
            self.now = max(self.now, int(self.end.h[L.H_NEXT_TIMER]))
            self.deliver()
        raise AssertionError("our side has nothing to say")


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    if not O.OPCODE[theirs["opcode"]] & O.END:
        ours["ackreq"] = theirs["ackreq"]
    assert ours == theirs


def requests_of(facts: dict[str, Any], talk: list, buffer: Buffer, base: int) -> Iterator[dict[str, Any]]:
    """The work requests of side A's steps; where they go is in the first packet of each."""
    psn = facts["A"]["sq_psn"]
    first = {f["psn"]: f for who, f, _ in talk if who == "A"}
    for step in facts["steps"]:
        if step["side"] != "A":
            continue
        kind = next(name for name in WRS if step["op"].startswith(name))
        length, packet = step["length"], first[psn]
        rva, rkey, *operands = packet.get("reth", packet.get("atomiceth", (0, 0)))
        if "remote_off" in step:
            assert rva == int(facts["B"]["buf"], 0) + step["remote_off"]
        request = {"opcode": WRS[kind], "rva": rva, "rkey": rkey, "imm": step.get("imm") or packet.get("ieth", 0)}
        request["sges"] = [(base + step["local_off"], length, buffer.key)] if length else []
        if kind == "FETCH_ADD":
            request["compare"] = int(step["add"], 0)
        elif kind == "CMP_SWAP":
            request |= {"swap": operands[0], "compare": operands[1]}
        yield request
        psn += max(1, -(-length // facts["path_mtu"]))


def expected_completions(facts: dict[str, Any], side: str) -> list[tuple[int, ...]]:
    found = []
    for step in facts["steps"]:
        for wc in step.get("wc") or [] if step["side"] == side and not step["op"].startswith("BIND") else []:
            imm, flags = wc["imm"], wc["flags"] & 2
            if flags:
                imm = int.from_bytes(imm.to_bytes(4, "little"), "big") if side == "B" else 0
            inv = side == "B" and wc["flags"] & 4
            one = (wc["wr_id"], wc["status"], wc["opcode"], wc["byte_len"], imm, L.WC_WITH_INV if inv else flags * (side == "B"))
            found.append(one if wc["status"] == 0 else one[:2])
    return found


def completions(side: Side) -> list[tuple[int, ...]]:
    made = side.end.completions(side.q)
    return [c[:4] + c[5:] if c[1] == 0 else c[:2] for c in made if c[1] != L.WC_WR_FLUSH_ERR]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_our_requester_against_the_captured_responder(scenario: str) -> None:
    facts, talk = captures.facts(scenario), conversation(scenario)
    rnrs = sum("aeth" in f and f["aeth"][0] & 0xE0 == L.SYNDROME_RNR for _, f, _ in talk)
    side = Side("A", facts, talk, rnr_retry=max(0, rnrs - 1) if scenario == "rc_rnr_exceeded" else 7)
    requests = requests_of(facts, talk, side.buffer, int(facts["A"]["buf"], 0))
    done: list[tuple[int, ...]] = []
    for who, fields, data in talk:
        if who == "B":
            side.deliver(data)
            done += completions(side)
            continue
        if side.end.h[side.q + L.QP_SQ_HEAD] == side.end.h[side.q + L.QP_SQ_TAIL]:
            side.post(**next(requests))
        same(side.next_packet(), fields)
    assert not side.end.out and next(requests, None) is None
    assert done == expected_completions(facts, "A")
    for i, step in enumerate(s for s in facts["steps"] if s["side"] == "A" and s["op"].startswith(("READ", "FETCH", "CMP"))):
        at, n = step["local_off"], step["length"]
        if step["wc"][0]["status"] == 0 and "remote_off" in step and step["op"] == "READ":
            assert (side.buffer.array[at : at + n] == pattern("B")[step["remote_off"] : step["remote_off"] + n]).all(), i
        elif "fetched" in step:
            last = step
    if "atomics" in scenario:
        assert side.buffer.array[:8].tobytes().hex() == last["fetched"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_our_responder_against_the_captured_requester(scenario: str) -> None:
    facts, talk = captures.facts(scenario), conversation(scenario)
    side = Side("B", facts, talk)
    if "mw_rkey" in facts:
        side.register(int(facts["B"]["buf"], 0), int(facts["mw_rkey"], 0), ALL_ACCESS | L.ACCESS_REMOTE_INVALIDATE)
    step = facts["steps"][0]
    if "fetched" in step:
        side.buffer.array[step["remote_off"] : step["remote_off"] + 8] = np.frombuffer(bytes.fromhex(step["fetched"]), np.uint8)
    receives = any(s["op"] == "RECV" for s in facts["steps"])
    refused = sum("aeth" in f and f["aeth"][0] & 0xE0 == L.SYNDROME_RNR for _, f, _ in talk)
    for who, fields, data in talk:
        if who == "B":
            same(side.next_packet(), fields)
            refused -= fields.get("aeth", (0,))[0] & 0xE0 == L.SYNDROME_RNR
        else:
            if receives and refused == 0:
                base = int(facts["B"]["buf"], 0)
                assert setup.post_recv(side.end.h, side.q, wr_id=77, sges=[(base + 100_000, 4096, side.buffer.key)])
                receives = False
            side.deliver(data)
    assert not side.end.out
    assert completions(side) == expected_completions(facts, "B")
    for step in (s for s in facts["steps"] if s["side"] == "A" and s["wc"][0]["status"] == 0):
        n = step["length"]
        if step["op"].startswith("WRITE") and "remote_off" in step:
            at = step["remote_off"]
            assert (side.buffer.array[at : at + n] == pattern("A")[:n]).all()
        elif step["op"].startswith("SEND"):
            assert (side.buffer.array[100_000 : 100_000 + n] == pattern("A")[:n]).all()
        elif "after" in step:
            after = step["after"]
    if "atomics" in scenario:
        assert side.buffer.array[128:136].tobytes().hex() == after


@pytest.mark.parametrize("me", ["A", "B"])
def test_pingpong(me: str) -> None:
    """ibv_rc_pingpong: both sides are requester and responder at once. No JSON: what they agreed on is in the packets."""
    talk = conversation("pingpong_rc")
    facts: dict[str, Any] = {"path_mtu": 1024}
    for side in "AB":
        sends = [f for who, f, _ in talk if who == side and f["opcode"] != O.RC_ACK]
        other = [f for who, f, _ in talk if who != side]
        facts[side] = {"qpn": other[0]["dqpn"], "buf": "0x100000", "rkey": "0x77", "sq_psn": sends[0]["psn"]}
    ours = Side(me, facts, talk)
    base = int(facts[me]["buf"], 0)
    message = b"".join(f["payload"] for who, f, _ in talk if who == me and f["opcode"] != O.RC_ACK)[:2000]
    assert len(message) == 2000
    ours.buffer.array[:2000] = np.frombuffer(message, np.uint8)
    for i in range(64):
        assert setup.post_recv(ours.end.h, ours.q, wr_id=i, sges=[(base + 4096, 2000, 0x77)])
    done = []
    for who, fields, data in talk:
        if who != me:
            ours.deliver(data)
        else:
            if fields["opcode"] == O.RC_SEND_FIRST:
                ours.post(opcode=L.WR_SEND, sges=[(base, 2000, 0x77)])
            same(ours.next_packet(), fields)
        done += ours.end.completions(ours.q)
    assert all(c[1] == 0 and c[3] == 2000 for c in done) and not ours.end.out
    sends = sum(who == "A" and f["opcode"] == O.RC_SEND_LAST for who, f, _ in talk)
    assert len([c for c in done if c[2] == L.WC_RECV]) == sends
