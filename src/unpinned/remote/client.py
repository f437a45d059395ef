"""A client: the arrays of a server by name, and lanes to reach them for any number of threads.

It connects again by itself: after an error, after a fork (the child gets connections of its own), after the server came back.
An operation that failed is never repeated behind the caller's back: a write or an atomic may have happened.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from unpinned.remote.addresses import Address, parse_address
from unpinned.remote.array import RemoteArray
from unpinned.remote.descriptions import Description
from unpinned.remote.errors import Disconnected, RemoteAccessError, RemoteError, as_text
from unpinned.remote.lanes import Lane, TransferError
from unpinned.remote.link import Link, description_of
from unpinned.verbs.enums import (
    IBV_WC_LOC_ACCESS_ERR,
    IBV_WC_LOC_PROT_ERR,
    IBV_WC_REM_ACCESS_ERR,
    IBV_WC_RETRY_EXC_ERR,
    IBV_WC_RNR_RETRY_EXC_ERR,
)

LANES_MAX = 8
"""Operations of one client that may be under way at once; more threads than that wait for their turn."""
_UNEXPLAINED = (
    "the owner's device refuses the access (its memory was unmapped or protected, the file behind it shrank, or its disk is full)"
)


class Client(Mapping[str, RemoteArray]):
    """What `connect` returns: a read-only mapping of names to arrays. Thread-safe; close it, or use it in a ``with``."""

    def __init__(self, address: str | Address, token: str | None = None) -> None:
        if not isinstance(token, str | None):
            raise TypeError(f"token: a text is needed, not {type(token).__name__}")
        self.address = parse_address(address)
        self._token = token
        self._changed = threading.Condition()
        self._link: Link | None = None
        self._idle: list[Lane] = []
        self._lanes = 0
        self._closed = False
        _clients.add(self)
        with self._changed:
            self._connected()

    # ---- the mapping -----------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> RemoteArray:
        with self._changed:
            arrays = self._connected().arrays
        if name not in arrays:
            raise KeyError(f"{self.address} serves no {name!r}; it has: {', '.join(sorted(arrays)[:20]) or 'nothing'}")
        return RemoteArray(self, arrays[name])

    def __iter__(self) -> Iterator[str]:
        with self._changed:
            return iter(list(self._connected().arrays))

    def __len__(self) -> int:
        with self._changed:
            return len(self._connected().arrays)

    def __repr__(self) -> str:
        return f"<unpinned client of {self.address}{', closed' if self._closed else ''}>"

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    # ---- life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection; operations under way in other threads fail. Idempotent."""
        with self._changed:
            self._closed = True
            self._drop_link()
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return shared, (str(self.address), self._token)

    def _connected(self) -> Link:
        """A link that was alive a moment ago. Called with the lock."""
        if self._closed:
            raise Disconnected(f"the connection to {self.address} was closed")
        if self._link is not None:
            try:
                self._link.alive()
            except Disconnected:
                self._drop_link()
        if self._link is None:
            self._link = Link(self.address, self._token)
        return self._link

    def _drop_link(self) -> None:
        idle, self._idle = self._idle, []
        link, self._link = self._link, None
        for lane in idle:
            lane.close()
            self._lanes -= 1
        if link is not None:
            link.close()

    def _after_fork_in_child(self) -> None:
        """What was connected is the parent's; this process connects for itself when it needs to."""
        self._changed = threading.Condition()
        self._idle, self._lanes = [], 0
        link, self._link = self._link, None
        if link is not None:
            link.forget()

    # ---- operations ------------------------------------------------------------------------------------------------

    @contextmanager
    def operation(self, array: Description, index: object) -> Iterator[tuple[Lane, Description]]:
        """A lane for one operation on *array*, and the array as the server knows it now.

        Raises:
            RemoteAccessError: the owner's device refused it; Disconnected: the server is gone; RemoteError: it has another
            array under that name now.
        """
        link, lane = self._lane(array)
        try:
            yield lane, description_of(link, array)
        except TransferError as error:
            self._discard(link, lane)
            raise self._explain(link, array, index, error) from None
        except BaseException:
            self._discard(link, lane)
            raise
        self._give_back(link, lane)

    def prefetch(self, array: Description, ranges: list[int]) -> None:
        """Tell the server which (offset, length, offset, length, ...) will be wanted soon."""
        with self._changed:
            link = self._connected()
        description_of(link, array)
        link.tell("prefetch", name=array.name, ranges=ranges)

    def _lane(self, array: Description) -> tuple[Link, Lane]:
        with self._changed:
            while True:
                link = self._connected()
                if self._idle:
                    return link, self._idle.pop()
                if self._lanes < LANES_MAX:
                    break
                self._changed.wait(1.0)
            description_of(link, array)
            self._lanes += 1
        try:
            return link, Lane(link.pd, link.introduce, link.alive)
        except BaseException:
            with self._changed:
                self._lanes -= 1
                self._changed.notify()
            raise

    def _give_back(self, link: Link, lane: Lane) -> None:
        with self._changed:
            if link is self._link:
                self._idle.append(lane)
                self._changed.notify()
                return
        self._discard(link, lane)

    def _discard(self, link: Link, lane: Lane) -> None:
        """Close a lane at both ends."""
        if link.pid != os.getpid():
            return
        try:
            lane.close()
        finally:
            with self._changed:
                self._lanes -= 1
                self._changed.notify()
        try:
            link.tell("close", qps=lane.numbers)
        except (Disconnected, OSError):
            pass  # then the server has closed it already

    def _explain(self, link: Link, array: Description, index: object, error: TransferError) -> OSError:
        """What a failed request means."""
        if error.status == IBV_WC_REM_ACCESS_ERR:
            try:
                reason = str(link.request("explain", name=array.name).get("reason") or _UNEXPLAINED)[:300]
            except OSError:
                reason = _UNEXPLAINED
            return RemoteAccessError(array.name, as_text(index), reason)
        if error.status in (IBV_WC_RETRY_EXC_ERR, IBV_WC_RNR_RETRY_EXC_ERR):
            with self._changed:
                if self._link is link:
                    self._drop_link()
            return Disconnected(f"{self.address} does not answer any more ({error})")
        if error.status in (IBV_WC_LOC_PROT_ERR, IBV_WC_LOC_ACCESS_ERR):
            return OSError(14, f"{array.name}[{as_text(index)}]: the memory on this side went away meanwhile")
        return self._lost_or(link, RemoteError(f"{array.name}[{as_text(index)}]: {error}"))

    def _lost_or(self, link: Link, error: OSError) -> OSError:
        """A server that ends closes its queue pairs first: then that is the reason."""
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            try:
                link.alive()
            except Disconnected as lost:
                return lost
            time.sleep(0.01)
        return error


def connect(address: str | Address, token: str | None = None) -> Client:
    """Connect to what `serve` serves at *address* (HOST, HOST:PORT or [IPV6]:PORT).

    >>> import numpy as np, unpinned  # doctest: +SKIP
    >>> unpinned.connect("127.0.0.1")["x"][1:3]  # doctest: +SKIP
    array([1., 2.])

    Raises:
        OSError: Disconnected (nothing there), Refused (wrong token), ProtocolError (not an unpinned of this version).
    """
    return Client(address, token)


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_shared: weakref.WeakValueDictionary[tuple[str, str | None], Client] = weakref.WeakValueDictionary()
_shared_guard = threading.RLock()


def shared(address: str, token: str | None) -> Client:
    """One client a process for each server: what unpickled arrays use."""
    with _shared_guard:
        client = _shared.get((address, token))
        if client is None or client._closed:
            client = _shared[address, token] = Client(address, token)
        return client


def _after_fork_in_child() -> None:
    global _shared_guard
    _shared_guard = threading.RLock()
    for client in list(_clients):
        client._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
