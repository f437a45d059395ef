"""A lane: what one operation at a time uses to reach a server. A few queue pairs on one completion queue, and a staging buffer.

Several queue pairs, because each may have 16 READs under way only; requests are dealt out to them in equal shares. Only every
so many requests, and the last of a share, are signaled. A lane that saw an error, or whose operation was interrupted, is not
used again: closing it takes back every request that might still touch memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.host.owned import empty
from unpinned.verbs import CQ, MR, PD, QP, WC_DTYPE, PeerInfo, QPCap, QPInitAttr, wc_status_to_str
from unpinned.verbs.enums import IBV_SEND_SIGNALED, IBV_WC_SUCCESS, IBV_WC_WR_FLUSH_ERR

QUEUE_PAIRS = 4
DEPTH = 1024
"""Requests that one queue pair holds."""
SIGNAL_EVERY = 128
SHARE_MIN = 8
"""Fewer requests than this are not split among queue pairs."""
SLOTS = 2
SLOT_BYTES = 2 << 20
TIMEOUT = 16
"""268 ms (4.096 us * 2^16): after so long without an answer a request is sent again. Known to both ends, so a request may
wait for its page a quarter of that."""
SLICE_S = 0.05

Words = NDArray[np.int64]


class TransferError(Exception):
    """A request failed: the first bad status of a lane."""

    def __init__(self, status: int) -> None:
        super().__init__(wc_status_to_str(status))
        self.status = status


@dataclass
class Batch:
    """Work requests of one kind: ``length[i]`` bytes between ``local[i]`` here and ``remote[i]`` there."""

    opcode: int
    remote: Words
    rkey: int
    local: Words
    lkey: int
    length: Words
    operand: Words | None = None
    """The addend, or what to compare with."""
    swap: Words | None = None
    left: int = 0
    """Shares that are not finished."""


@dataclass
class _Share:
    """A queue pair's part of a batch: [next, stop) is not posted yet."""

    batch: Batch
    next: int
    stop: int
    mark: int = 0
    """What `_Pair.done` will be when it is finished; 0 while not all of it is posted."""


@dataclass
class _Pair:
    qp: QP
    records: NDArray[Any]
    posting: deque[_Share] = field(default_factory=deque)
    waiting: deque[_Share] = field(default_factory=deque)
    posted: int = 0
    done: int = 0
    """Requests posted, and of these known to be complete, ever."""


class Lane:
    """Use `submit` and `wait`; from one thread at a time.

    *introduce* tells the server what our queue pairs are called and returns what its are; *alive* raises when the server is
    known to be gone.
    """

    def __init__(self, pd: PD, introduce: Callable[[list[PeerInfo]], list[PeerInfo]], alive: Callable[[], None]) -> None:
        self._alive = alive
        self.pd = pd
        self.numbers: list[int] = []
        """The server's queue pairs."""
        self._pairs: list[_Pair] = []
        self.staging: NDArray[np.uint8] = empty(SLOTS * SLOT_BYTES, np.uint8)
        self._completions = np.zeros(64, WC_DTYPE)
        self._cq = CQ(pd.context, QUEUE_PAIRS * (DEPTH + 1))
        try:
            self.region = MR(pd, self.staging)
            for _ in range(QUEUE_PAIRS):
                cap = QPCap(max_send_wr=DEPTH, max_recv_wr=1)
                qp = QP(pd, QPInitAttr(scq=self._cq, rcq=self._cq, cap=cap, sq_sig_all=0))
                self._pairs.append(_Pair(qp, np.zeros(DEPTH, qp.send_dtype)))
            peers = introduce([pair.qp.info(TIMEOUT) for pair in self._pairs])
            for pair, peer in zip(self._pairs, peers):
                pair.qp.connect(peer, timeout=TIMEOUT)
                self.numbers.append(peer.qpn)
        except BaseException:
            self.close()
            raise
        self._by_number = {pair.qp.qp_num: pair for pair in self._pairs}

    def slot(self, number: int) -> NDArray[np.uint8]:
        """A part of the staging buffer."""
        start = number % SLOTS * SLOT_BYTES
        return self.staging[start : start + SLOT_BYTES]

    def submit(self, batch: Batch) -> Batch:
        """Begin a batch; `wait` for it."""
        count = batch.remote.size
        shares = max(1, min(len(self._pairs), count // SHARE_MIN))
        size = -(-count // shares)
        # The emptiest first: batches of one request take turns.
        pairs = sorted(self._pairs, key=lambda pair: len(pair.waiting))
        for i in range(0, count, size):
            share = _Share(batch, i, min(i + size, count))
            pair = pairs[i // size]
            pair.posting.append(share)
            pair.waiting.append(share)
            batch.left += 1
        for pair in self._pairs:
            self._post(pair)
        return batch

    def wait(self, batch: Batch) -> None:
        """Until it is finished. TransferError when a request of the lane failed; what `alive` raises when the server is gone."""
        while batch.left:
            got = self._cq.poll_into(self._completions, SLICE_S)
            if not got:
                self._alive()
            self._settle(self._completions[:got])
            for pair in self._pairs:
                self._post(pair)

    def _settle(self, completions: NDArray[Any]) -> None:
        """Account for these completions; each tells how many requests its queue pair has completed."""
        failed = completions["status"] != IBV_WC_SUCCESS
        if failed.any():
            statuses = completions["status"][failed]
            telling = statuses[statuses != IBV_WC_WR_FLUSH_ERR]
            raise TransferError(int((telling if telling.size else statuses)[0]))
        for number, done in zip(completions["qp_num"].tolist(), completions["wr_id"].tolist()):
            self._by_number[number].done = done
        for pair in self._pairs:
            while pair.waiting and 0 < pair.waiting[0].mark <= pair.done:
                pair.waiting.popleft().batch.left -= 1

    def _post(self, pair: _Pair) -> None:
        """As much as the queue surely takes."""
        while pair.posting:
            share = pair.posting[0]
            left, room = share.stop - share.next, DEPTH - (pair.posted - pair.done)
            if room < min(left, SIGNAL_EVERY):
                return
            count = min(left, room)
            records = self._records(pair, share, count)
            posted = pair.qp.post_send_many(records)
            pair.posted += posted
            share.next += posted
            if share.next < share.stop:
                return
            share.mark = pair.posted
            pair.posting.popleft()

    def _records(self, pair: _Pair, share: _Share, count: int) -> NDArray[Any]:
        """The next *count* requests of a share, as `QP.post_send_many` wants them."""
        batch, part = share.batch, slice(share.next, share.next + count)
        records = pair.records[:count]
        records["opcode"], records["rkey"], records["num_sge"] = batch.opcode, batch.rkey, 1
        records["remote_addr"] = batch.remote[part]
        pieces = records["sge"][:, 0]
        pieces["addr"], pieces["length"], pieces["lkey"] = batch.local[part], batch.length[part], batch.lkey
        if batch.operand is not None:
            records["compare_add"] = batch.operand[part]
        if batch.swap is not None:
            records["swap"] = batch.swap[part]
        records["wr_id"] = np.arange(pair.posted + 1, pair.posted + count + 1)
        records["flags"] = np.where(records["wr_id"] % SIGNAL_EVERY == 0, IBV_SEND_SIGNALED, 0)
        if share.next + count == share.stop:
            records["flags"][-1] = IBV_SEND_SIGNALED
        return records

    def close(self) -> None:
        """Take back every request; nothing touches memory any more on return. Idempotent."""
        for pair in self._pairs:
            pair.qp.close()
        if hasattr(self, "region"):
            self.region.close()
        self._cq.close()
