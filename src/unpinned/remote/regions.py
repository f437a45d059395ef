"""The device's side of a server: a region for each array, queue pairs for each visitor, and why a region went away."""

from __future__ import annotations

import errno
import threading
from typing import Any

from unpinned.remote import messages as M
from unpinned.remote.addresses import is_loopback
from unpinned.remote.errors import ProtocolError, RemoteError
from unpinned.remote.lanes import QUEUE_PAIRS
from unpinned.remote.link import peer_info
from unpinned.remote.sources import Source
from unpinned.remote.visitor import Visitor
from unpinned.verbs import CQ, GID, MR, PD, QP, SGE, Context, PeerInfo, QPCap, QPInitAttr
from unpinned.verbs.enums import (
    IBV_ACCESS_REMOTE_ATOMIC,
    IBV_ACCESS_REMOTE_READ,
    IBV_ACCESS_REMOTE_WRITE,
    IBV_ADVISE_MR_ADVICE_PREFETCH,
)

RIGHTS = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC
"""Of a queue pair; what an array allows is its region's."""
PREFETCH_BYTES_MAX = 1 << 30
"""Of one request."""
GUARDS_A_TIME = 64


class Regions:
    """Implements `visitor.House`. Registers everything at once; OSError names the array that could not be.

    Used by the server's thread, except `stats` and `close`.
    """

    def __init__(self, context: Context, sources: list[Source]) -> None:
        self.context = context
        self._pd = PD(context)
        self._guard = threading.RLock()
        self._sources = {source.name: source for source in sources}
        self._mrs: dict[str, MR] = {}
        self._gone: dict[str, str] = {}
        self._next_guard = 0
        try:
            for source in sources:
                mr = source.register(self._pd)
                if mr is not None:
                    self._mrs[source.name] = mr
            self._cq = CQ(context, 16)  # nothing is ever sent or received, so nothing completes
        except BaseException:
            self._pd.close()
            raise

    # ---- the house -------------------------------------------------------------------------------------------------

    def welcome(self) -> M.Message:
        return {"arrays": [self._describe(source) for source in self._sources.values()]}

    def _describe(self, source: Source) -> M.Message:
        mr = self._mrs.get(source.name)
        message = source.description.to_message()
        return message if mr is None else {**message, "address": mr.buf, "rkey": mr.rkey}

    def open(self, visitor: Visitor, request: M.Message) -> M.Message:
        """Connect a visitor's queue pairs: to its own address only, so that nobody can be made to flood a third."""
        theirs = [peer_info(item) for item in M.items(request, "qps", QUEUE_PAIRS)]
        if len(visitor.queue_pairs) + len(theirs) > visitor.admission.limits.queue_pairs:
            raise RemoteError(f"more than {visitor.admission.limits.queue_pairs} queue pairs for one client", errno.EMFILE)
        for peer in theirs:
            _check_origin(peer, visitor.host)
        opened: list[QP] = []
        try:
            for peer in theirs:
                cap = QPCap(max_send_wr=1, max_recv_wr=1)
                qp = QP(self._pd, QPInitAttr(scq=self._cq, rcq=self._cq, cap=cap, sq_sig_all=0))
                opened.append(qp)
                qp.connect(peer, RIGHTS, timeout=peer.timeout)
        except BaseException:
            for qp in opened:
                qp.close()
            raise
        visitor.queue_pairs.update((qp.qp_num, qp) for qp in opened)
        return {"qps": [qp.info(peer.timeout).as_dict() for qp, peer in zip(opened, theirs)]}

    def close(self, visitor: Visitor, numbers: list[int]) -> None:
        for number in numbers:
            qp = visitor.queue_pairs.pop(number, None)
            if isinstance(qp, QP):
                qp.close()

    def explain(self, name: str) -> str:
        """What happened to the array; looks at its file now."""
        source = self._sources.get(name)
        if source is None:
            return f"nothing is served under the name {name!r}"
        self._check(source)
        return self._gone.get(name, "")

    def prefetch(self, name: str, ranges: list[tuple[int, int]]) -> None:
        mr, left = self._mrs.get(name), PREFETCH_BYTES_MAX
        if mr is None:
            return
        pieces = []
        for offset, length in ranges:
            length = min(length, mr.length - offset, left)
            if length <= 0:
                continue
            left -= length
            pieces.append(SGE(mr.buf + offset, length, mr.lkey))
        self._pd.advise_mr(IBV_ADVISE_MR_ADVICE_PREFETCH, 0, pieces)

    # ---- files that change -------------------------------------------------------------------------------------------

    def look_after_files(self) -> None:
        """Look at some of the files, in turn; revoke what is no longer what it was."""
        guarded = [source for source in self._sources.values() if source.guard is not None and source.name not in self._gone]
        if not guarded:
            return
        start = self._next_guard % len(guarded)
        self._next_guard = start + GUARDS_A_TIME
        for source in guarded[start : start + GUARDS_A_TIME]:
            self._check(source)

    def _check(self, source: Source) -> None:
        problem = source.guard.problem() if source.guard is not None and source.name not in self._gone else ""
        if problem:
            with self._guard:
                self._gone[source.name] = problem
                mr = self._mrs.pop(source.name, None)
            if mr is not None:
                mr.close()

    # ---- for the owner -----------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, dict[str, Any]]:
        """What is known of each array."""
        found = {}
        with self._guard:
            for name, source in self._sources.items():
                array, mr = source.description, self._mrs.get(name)
                about: dict[str, Any] = {"shape": array.shape, "dtype": str(array.dtype), "bytes": array.nbytes,
                                         "writable": array.writable, "gone": self._gone.get(name, "")}  # fmt: skip
                if mr is not None and not mr.closed:
                    about |= {"kind": mr.kind, "unnotified": mr.unnotified, "resident_bytes": mr.resident_bytes(), **mr.counters}
                found[name] = about
        return found

    def shut(self) -> None:
        """Revoke everything. Idempotent."""
        with self._guard:
            self._pd.close()
            self._cq.close()


def _check_origin(peer: PeerInfo, host: str) -> None:
    """A queue pair must be where the TCP connection comes from; on loopback, on loopback."""
    try:
        claimed = GID(peer.gid).address
    except OSError:
        raise ProtocolError("gid: not an address") from None
    if str(claimed) != host and not (claimed.is_loopback and is_loopback(host)):
        raise ProtocolError(f"gid: a queue pair on {claimed}, but the connection comes from {host}")
