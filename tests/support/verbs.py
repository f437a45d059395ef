"""Connected queue pairs for tests: in one process over two loopback addresses, or with a peer process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpinned import verbs as v

REMOTE = v.IBV_ACCESS_REMOTE_READ | v.IBV_ACCESS_REMOTE_WRITE | v.IBV_ACCESS_REMOTE_ATOMIC
ALL = v.IBV_ACCESS_LOCAL_WRITE | REMOTE | v.IBV_ACCESS_ON_DEMAND
PATIENCE = 20.0
"""Seconds: long enough for a busy machine, so that a lost completion fails the test and not the timer."""


@dataclass
class End:
    """One end: a context with one of everything."""

    context: v.Context
    pd: v.PD
    cq: v.CQ
    qp: v.QP
    mr: v.MR

    @classmethod
    def open(
        cls,
        buffer: Any = 1 << 16,
        access: int | None = ALL,
        channel: bool = False,
        cap: v.QPCap | None = None,
        sig_all: int = 1,
        address: str | None = None,
    ) -> End:
        context = v.Context(address=address)
        pd = v.PD(context)
        cq = v.CQ(context, 256, channel=v.CompChannel(context) if channel else None)
        cap = cap or v.QPCap(max_send_wr=64, max_recv_wr=64, max_send_sge=4, max_recv_sge=4, max_inline_data=256)
        qp = v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq, cap=cap, sq_sig_all=sig_all))
        return cls(context, pd, cq, qp, v.MR(pd, buffer, access))

    def piece(self, offset: int = 0, length: int = 0) -> v.SGE:
        return v.SGE(self.mr.buf + offset, length, self.mr.lkey)

    def receive(self, offset: int, length: int, wr_id: int = 0) -> None:
        self.qp.post_recv(v.RecvWR(wr_id, sg=self.piece(offset, length)))

    def send(self, offset: int, length: int, opcode: int = v.IBV_WR_SEND, **more: Any) -> None:
        self.qp.post_send(v.SendWR(opcode=opcode, sg=self.piece(offset, length), **more))

    def remote(self, opcode: int, peer: v.MR | tuple[int, int], here: int, there: int, length: int, **more: Any) -> None:
        """Post a READ or WRITE between our region's offset *here* and the peer's region (or (address, key))."""
        address, key = peer if isinstance(peer, tuple) else (peer.buf, peer.rkey)
        wr = v.SendWR(opcode=opcode, sg=self.piece(here, length), **more)
        wr.set_wr_rdma(key, address + there)
        self.qp.post_send(wr)

    def atomic(self, peer: v.MR, there: int, add: int | None = None, compare: int = 0, swap: int = 0, here: int = 0) -> None:
        opcode = v.IBV_WR_ATOMIC_CMP_AND_SWP if add is None else v.IBV_WR_ATOMIC_FETCH_AND_ADD
        wr = v.SendWR(opcode=opcode, sg=self.piece(here, 8))
        wr.set_wr_atomic(peer.rkey, peer.buf + there, compare if add is None else add, swap)
        self.qp.post_send(wr)

    def wait(self, status: int = v.IBV_WC_SUCCESS) -> v.WC:
        """The next completion, which must have *status*."""
        got, wcs = self.cq.wait(1, PATIENCE)
        assert got == 1, f"no completion within {PATIENCE} s: {self.qp}, {nonzero(self.context.counters())}"
        assert wcs[0].status == status, str(wcs[0])
        return wcs[0]


def nonzero(counters: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in counters.items() if value}


@contextmanager
def pair(**options: Any) -> Iterator[tuple[End, End]]:
    """Two connected ends in this process, each on a loopback address of its own."""
    a = End.open(**options)
    try:
        b = End.open(**options)
        try:
            connect(a, b)
            yield a, b
        finally:
            b.context.close()
    finally:
        a.context.close()


def connect(a: End, b: End, **options: Any) -> None:
    a.qp.connect(b.qp.info(), REMOTE, **options)
    b.qp.connect(a.qp.info(), REMOTE, **options)


class Peer:
    """Another process with an `End`: it does what lines of JSON say, by the names of `End`'s methods.

    *start*: how to run it elsewhere (`support.network.Side.start`); *address*: its device's; *timeout*: of its queue pair.
    """

    def __init__(self, start: Callable[..., Any] | None = None, address: str | None = None, timeout: int = 14) -> None:
        command = [sys.executable, "-m", "support.verbs"]
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": _tests()}
        self._process = start(command, **options) if start else subprocess.Popen(command, text=True, **options)
        self.info = self.ask("open", address, timeout)
        self.region: tuple[int, int] = tuple(self.info["region"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, verb: str, *arguments: Any) -> Any:
        self.tell(verb, *arguments)
        return self.answer()

    def tell(self, verb: str, *arguments: Any) -> None:
        assert self._process.stdin
        print(json.dumps([verb, *arguments]), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the peer ended with status {self._process.wait()}"
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(answer["error"])
        return answer

    def connect(self, end: End) -> tuple[int, int]:
        """Connect with *end*; the address and key of the peer's region."""
        self.ask("connect", end.qp.info().as_dict())
        end.qp.connect(v.PeerInfo(**self.info["qp"]), REMOTE)
        return self.region

    def meet(self, other: Peer, timeout: int = 14) -> None:
        """Connect two of them."""
        self.ask("connect", other.info["qp"], timeout)
        other.ask("connect", self.info["qp"], timeout)

    def stop(self) -> None:
        """As Ctrl-Z does."""
        self._process.send_signal(signal.SIGSTOP)

    def stopped(self) -> bool:
        """Every thread of it: one may run on for a moment after the signal."""
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        return set(states) == {"T"}

    def go_on(self) -> None:
        """As fg does."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        if self._process.stdout:
            self._process.stdout.close()
        assert self._process.wait(60) == 0


def _tests() -> str:
    return str(Path(__file__).resolve().parents[1])


def _stand_still(end: End, peer: int) -> dict[str, int]:
    """Once a packet is out, stop until told to go on; when the device has seen how late it is, let the *peer* (its pid) go on.

    In one process, so that nothing but the stop takes time. What the device has counted when the request is done.
    """
    while end.context.counters()["tx_packets"] == 0:
        pass
    os.kill(os.getpid(), signal.SIGSTOP)
    while end.context.counters()["stood_still"] == 0:
        pass
    os.kill(peer, signal.SIGCONT)
    end.wait()
    return end.context.counters()


def _serve() -> None:
    end: End | None = None
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            if verb == "open":
                end = End.open(address=arguments[0])
                answer: Any = {"qp": end.qp.info(arguments[1]).as_dict(), "region": [end.mr.buf, end.mr.rkey]}
            elif end is None:
                raise ValueError("open first")
            elif verb == "connect":
                info, *timeout = arguments
                answer = end.qp.connect(v.PeerInfo(**info), REMOTE, timeout=timeout[0] if timeout else 14)
            elif verb == "stand_still":
                answer = _stand_still(end, *arguments)
            elif verb == "remote":
                opcode, peer, *place = arguments
                answer = end.remote(opcode, (peer[0], peer[1]), *place)
            elif verb == "mtu":
                answer = end.qp.query()[0].path_mtu
            elif verb == "read":
                answer = end.mr.read(*arguments).decode("latin-1")
            elif verb == "write":
                answer = end.mr.write(arguments[0].encode("latin-1"), offset=arguments[1])
            elif verb == "wait":
                wc = end.wait()
                answer = [wc.opcode, wc.byte_len, wc.imm_data, wc.wc_flags]
            else:
                answer = getattr(end, verb)(*arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
