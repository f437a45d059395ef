"""A connected queue pair whose requests are posted as columns: what both ends of the demo are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from unpinned import verbs as v

TIMEOUT = 18
"""The transport's, 4.096 us x 2^18: a second. A disk may take that long; nothing is lost on loopback."""
READ, WRITE, ADD = v.IBV_WR_RDMA_READ, v.IBV_WR_RDMA_WRITE, v.IBV_WR_ATOMIC_FETCH_AND_ADD
REMOTE = v.IBV_ACCESS_REMOTE_READ | v.IBV_ACCESS_REMOTE_WRITE | v.IBV_ACCESS_REMOTE_ATOMIC
ACCESS = REMOTE | v.IBV_ACCESS_LOCAL_WRITE | v.IBV_ACCESS_ON_DEMAND
READ_ONLY = v.IBV_ACCESS_REMOTE_READ | v.IBV_ACCESS_ON_DEMAND
SLOT_BITS = 20
"""A request's number is its link's, shifted by so much, and its slot's."""


class Link:
    """One queue pair and the block in which its requests are staged."""

    def __init__(self, pd: v.PD, cq: v.CQ, depth: int, number: int = 0) -> None:
        self.number, self.depth = number, depth
        attributes = v.QPInitAttr(scq=cq, rcq=cq, cap=v.QPCap(max_send_wr=depth, max_recv_wr=1), sq_sig_all=0)
        self.qp = v.QP(pd, attributes)
        self._rows = np.zeros(depth, self.qp.send_dtype)
        self._rows["num_sge"] = 1
        self._pieces = self._rows["sge"][:, 0]

    def info(self) -> dict[str, Any]:
        """What the other end needs to connect, for JSON."""
        return self.qp.info(TIMEOUT).as_dict()

    def connect(self, info: dict[str, Any], access: int = 0) -> None:
        """Connect to the end that *info* came from, which may do what *access* says."""
        self.qp.connect(v.PeerInfo(**info), access, timeout=TIMEOUT)

    def post(
        self,
        opcode: int,
        slot: int,
        local: ArrayLike,
        lkey: int,
        remote: ArrayLike,
        rkey: int,
        length: int,
        *,
        addend: int = 0,
        count: int = 1,
        each: bool = True,
    ) -> None:
        """Post *count* requests that complete as *slot*, *slot* + 1, ...; with *each* false only the last one completes, as
        *slot*.

        The addresses are numbers or columns. OSError when the queue does not take them all.
        """
        rows, pieces = self._rows[:count], self._pieces[:count]
        rows["wr_id"] = (self.number << SLOT_BITS | slot) + (np.arange(count) if each and count > 1 else 0)
        rows["opcode"], rows["remote_addr"], rows["rkey"], rows["compare_add"] = opcode, remote, rkey, addend
        rows["flags"] = v.IBV_SEND_SIGNALED if each else 0
        rows["flags"][-1] = v.IBV_SEND_SIGNALED
        pieces["addr"], pieces["length"], pieces["lkey"] = local, length, lkey
        if self.qp.post_send_many(rows) != count:
            raise OSError(f"the send queue of {self.depth} is full")

    def close(self) -> None:
        self.qp.close()


def completions(depth: int) -> np.ndarray:
    """Room for *depth* completions."""
    return np.zeros(depth, v.WC_DTYPE)
