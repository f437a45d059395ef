"""One end of a measurement: context, region, queue pairs, and the requests that will be posted, prepared as columns."""

from __future__ import annotations

import errno
import ipaddress
from types import TracebackType
from typing import Any, Self

import numpy as np

from unpinned import verbs as v
from unpinned.host.owned import empty
from unpinned.perf.options import Options
from unpinned.remote.messages import Message, items, number

OPCODES = {
    "read": v.IBV_WR_RDMA_READ, "write": v.IBV_WR_RDMA_WRITE, "send": v.IBV_WR_SEND, "atomic": v.IBV_WR_ATOMIC_FETCH_AND_ADD,
}  # fmt: skip
REMOTE = v.IBV_ACCESS_REMOTE_READ | v.IBV_ACCESS_REMOTE_WRITE | v.IBV_ACCESS_REMOTE_ATOMIC
ACCESS = REMOTE | v.IBV_ACCESS_LOCAL_WRITE
TIMEOUT = 17
"""Of the transport: 4.096 us x 2^17, half a second."""


class Endpoint:
    """What one process needs to be an end. Use as a context manager.

    Raises:
        OSError: the address is taken or not ours, RLIMIT_MEMLOCK forbids to pin, an implicit region would be open to others.
    """

    def __init__(self, options: Options, address: str | None) -> None:
        self.options = options
        self.context = _open_device(address)
        try:
            self._open()
        except BaseException:
            self.context.close()
            raise

    def _open(self) -> None:
        options = self.options
        self.pd = v.PD(self.context)
        self.memory = empty(options.qps * options.slots * options.stride, np.uint8)
        self.memory[:] = 1
        self.mr = self._register()
        receives = options.depth if options.verb == "send" else 1
        self.cq = v.CQ(self.context, min(options.qps * (options.depth + receives) + 16, 1 << 20))
        cap = {"max_send_wr": options.depth, "max_recv_wr": receives}
        self.qps = [
            v.QP(self.pd, v.QPInitAttr(scq=self.cq, rcq=self.cq, cap=v.QPCap(**cap), sq_sig_all=0)) for _ in range(options.qps)
        ]
        self.remote_address = self.remote_key = 0

    def _register(self) -> v.MR:
        if self.options.memory == "pinned":
            return v.MR(self.pd, self.memory, ACCESS)
        if self.options.memory == "odp":
            return v.MR(self.pd, self.memory, ACCESS | v.IBV_ACCESS_ON_DEMAND)
        if not ipaddress.ip_address(self.context.address).is_loopback:
            raise PermissionError(1, "--implicit opens all memory of this process to the peer: it is for loopback addresses only")
        return v.MR(self.pd, access=ACCESS | v.IBV_ACCESS_ON_DEMAND, implicit=True, unsafe=True)

    @property
    def base(self) -> int:
        """The buffer's address."""
        return self.memory.ctypes.data

    def describe(self) -> Message:
        """What the other end must know."""
        links = [qp.info(TIMEOUT).as_dict() for qp in self.qps]
        return {"links": links, "address": self.base, "rkey": self.mr.rkey, "device": self.context.address}

    def connect(self, message: Message) -> None:
        """Connect every queue pair as the other end's `describe` says. ProtocolError, TypeError or OSError when it lies."""
        links = items(message, "links", len(self.qps))
        if len(links) != len(self.qps):
            raise OSError(f"the other end has {len(links)} queue pairs, not {len(self.qps)}")
        self.remote_address = number(message, "address", 0, 1 << 57)
        self.remote_key = number(message, "rkey", 0, 0xFFFFFFFF)
        mtu = {0: 5, 256: 1, 512: 2, 1024: 3, 2048: 4, 4096: 5}[self.options.mtu]
        for qp, link in zip(self.qps, links):
            qp.connect(v.PeerInfo(**link), REMOTE, mtu=mtu, timeout=TIMEOUT)

    def requests(self, index: int, size: int, every: int) -> np.ndarray:
        """A ring of *depth* send requests of queue pair *index*; each *every*-th completes, numbered with how many it stands
        for, above 32 bits, and with *index*."""
        options = self.options
        rows: Any = np.zeros(options.depth, self.qps[index].send_dtype)
        offsets = (index * options.slots + np.arange(options.depth) % options.slots) * options.stride
        rows["opcode"], rows["num_sge"] = OPCODES[options.verb], 1
        rows["remote_addr"], rows["rkey"], rows["compare_add"] = self.remote_address + offsets, self.remote_key, 1
        rows["wr_id"] = every << 32 | index
        rows["flags"][every - 1 :: every] = v.IBV_SEND_SIGNALED
        piece = rows["sge"][:, 0]
        piece["addr"], piece["length"], piece["lkey"] = self.base + offsets, size, self.mr.lkey
        return rows  # type: ignore[no-any-return]

    def receives(self, index: int) -> np.ndarray:
        """As many receive requests as a queue pair takes, into its part of the buffer."""
        options = self.options
        rows: Any = np.zeros(options.depth, self.qps[index].recv_dtype)
        rows["num_sge"], rows["wr_id"] = 1, index
        piece = rows["sge"][:, 0]
        piece["addr"] = self.base + (index * options.slots + np.arange(options.depth) % options.slots) * options.stride
        piece["length"], piece["lkey"] = options.stride, self.mr.lkey
        return rows  # type: ignore[no-any-return]

    def close(self) -> None:
        self.context.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _open_device(address: str | None) -> v.Context:
    """A device there; where somebody else (the server, on the same machine) has RoCE's port, on any: the ends tell each other."""
    try:
        return v.Context(address=address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return v.Context(address=address, port=0)
