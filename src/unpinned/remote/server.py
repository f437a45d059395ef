"""A server: one thread that introduces clients to the device, and to which the data never comes.

The thread sleeps in a selector. It accepts within the limits of `admission`, hands what arrives to a `Visitor`, and frees a
visitor's queue pairs when its connection ends for whatever reason. A forked child of the process has no part in it.
"""

from __future__ import annotations

import atexit
import errno
import os
import resource
import selectors
import socket
import threading
import time
import traceback
import weakref
from collections.abc import Collection
from collections.abc import Mapping as Map
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from unpinned.host.recorder import Recorder
from unpinned.host.udp import parse_address as resolve
from unpinned.host.undisturbed import undisturbed
from unpinned.remote import messages as M
from unpinned.remote.addresses import DEFAULT_PORT, Address, has_port, is_loopback
from unpinned.remote.admission import Admission, Limits
from unpinned.remote.link import keep_alive
from unpinned.remote.regions import Regions
from unpinned.remote.sources import Servable, open_sources
from unpinned.remote.visitor import State, Visitor
from unpinned.verbs import Context

TICK_S = 0.5
DESCRIPTORS_KEPT = 64
"""Of those that the process may open, so many (a quarter, if it may open few) are never a visitor's: the owner needs some, too."""
TOKEN_BYTES_MIN = 8


@dataclass
class _Connection:
    """A visitor and its socket."""

    socket: socket.socket
    visitor: Visitor
    outgoing: bytes = b""
    ending: bool = False
    """Closed as soon as what is outgoing has gone."""


class Server:
    """What `serve` returns: it serves until it is closed. Use it in a ``with``, or close it."""

    def __init__(self, regions: Regions, listener: socket.socket, token: str | None, limits: Limits) -> None:
        self._regions, self._listener, self._token = regions, listener, token
        self._admission = Admission(limits)
        self._limits = limits
        self._connections: dict[int, _Connection] = {}
        self._counts = {"accepted": 0, "turned_away": 0}
        self._selector = selectors.DefaultSelector()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._looked = time.monotonic()
        self._over = threading.Event()
        self._pid = os.getpid()
        host, port = listener.getsockname()[:2]
        self._address = Address(str(host), int(port))
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"unpinned-serve-{self._address}", daemon=True)
        _servers.add(self)
        self._thread.start()

    @property
    def address(self) -> str:
        """What clients connect to: HOST:PORT."""
        return str(self._address)

    def record(self, path: str | os.PathLike[str]) -> Recorder:
        """Record what the device does, for ``unpinned replay``, until the server closes.

        OSError: the file cannot be written, or should not be (it is something else than a recording, or somebody writes to it).
        When that comes later, the recording ends, its ``error`` says why, and the server goes on.
        """
        return self._regions.context.device.record(os.fspath(path))

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is closed (by another thread, or Ctrl-C), at most *timeout* seconds; whether it is."""
        return self._over.wait(timeout)

    def close(self) -> None:
        """End every connection, revoke every region. Idempotent; in a forked child it does nothing."""
        if self._pid == os.getpid():
            undisturbed(self._close)

    def _close(self) -> None:
        self._stopping = True
        if not self._over.is_set():
            os.eventfd_write(self._bell, 1)
            self._thread.join()
            os.close(self._bell)
            self._regions.shut()
            self._regions.context.close()
            self._over.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<unpinned server on {self.address}{', closed' if self._over.is_set() else ''}>"

    def stats(self) -> dict[str, Any]:
        """Connections, each array with its page-fault counters, and the device's counters."""
        guests = sum(c.visitor.state is State.GUEST for c in list(self._connections.values()))
        return {
            "address": self.address, "clients": guests, **self._counts, "arrays": self._regions.stats(),
            "device": self._regions.context.counters(),
        }  # fmt: skip

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._turn()
                except Exception:  # as in `_serve`; and not in a hurry, or it would be said without end
                    traceback.print_exc()
                    self._over.wait(TICK_S)
        finally:
            for connection in list(self._connections.values()):
                self._end(connection)
            self._selector.close()
            self._listener.close()

    def _turn(self) -> None:
        """Serve who has something to say, and look after the files now and then."""
        now = time.monotonic()
        self._expire(now)
        self._listen(now)
        for key, events in self._selector.select(self._sleep(now)):
            self._serve(key.fd, events)
        if now - self._looked > TICK_S:
            self._looked = now
            self._regions.look_after_files()

    def _sleep(self, now: float) -> float:
        wait = self._admission.arrivals.wait(now)
        return min(TICK_S, wait) if wait else TICK_S

    def _serve(self, fd: int, events: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
            return
        connection = self._connections.get(fd)
        if connection is None:
            return
        try:
            if events & selectors.EVENT_READ:
                self._receive(connection)
            if events & selectors.EVENT_WRITE and fd in self._connections:
                self._send(connection)
        except Exception:  # a mistake of ours must not end the service of everybody else
            traceback.print_exc()
            self._turn_away(connection)

    def _listen(self, now: float) -> None:
        """Look at newcomers only while more may come."""
        wanted = not self._admission.arrivals.wait(now) and len(self._connections) < self._limits.connections
        listening = self._listener in self._selector.get_map()
        if wanted and not listening:
            self._selector.register(self._listener, selectors.EVENT_READ)
        elif listening and not wanted:
            self._selector.unregister(self._listener)

    def _accept(self) -> None:
        now = time.monotonic()
        while len(self._connections) < self._limits.connections and self._admission.arrivals.take(now):
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return  # nobody there any more, or no descriptor left: the next tick tries again
            self._counts["accepted"] += 1
            sock.setblocking(False)
            if sock.fileno() >= _descriptors_max():
                self._counts["turned_away"] += 1
                with sock, suppress(OSError):
                    sock.send(M.encode({"error": "the owner has no descriptors left for connections"}))
                continue
            keep_alive(sock)
            host = str(peer[0]).partition("%")[0]
            connection = _Connection(sock, Visitor(self._regions, self._admission, self._token, host, now))
            strangers = [c for c in self._connections.values() if c.visitor.state is State.STRANGER]
            if len(strangers) >= self._limits.strangers:
                self._turn_away(strangers[0])
            self._connections[sock.fileno()] = connection
            self._selector.register(sock, selectors.EVENT_READ)
            connection.outgoing = connection.visitor.greeting()
            self._send(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(connection)
            return
        connection.outgoing += connection.visitor.receive(data, time.monotonic())
        if connection.visitor.state is State.GONE:
            connection.ending = True
            self._counts["turned_away"] += 1
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.outgoing) if connection.outgoing else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end(connection)
            return
        connection.outgoing = connection.outgoing[sent:]
        if len(connection.outgoing) > self._limits.reply_bytes or (connection.ending and not connection.outgoing):
            self._end(connection)
            return
        reading = 0 if connection.ending else selectors.EVENT_READ
        self._selector.modify(connection.socket, reading | (selectors.EVENT_WRITE if connection.outgoing else 0))

    def _expire(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if (connection.visitor.state is State.STRANGER or connection.ending) and now > connection.visitor.deadline:
                self._turn_away(connection)

    def _turn_away(self, connection: _Connection) -> None:
        self._counts["turned_away"] += 1
        self._end(connection)

    def _end(self, connection: _Connection) -> None:
        """Close a connection and free what it had."""
        fd = connection.socket.fileno()
        if self._connections.pop(fd, None) is None:
            return
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._regions.close(connection.visitor, list(connection.visitor.queue_pairs))

    def _after_fork_in_child(self) -> None:
        """Let go of the descriptors, or the parent's clients would not see it end."""
        for connection in list(self._connections.values()):
            connection.socket.close()
        self._connections.clear()
        self._listener.close()
        self._selector.close()  # the descriptor, not what the parent has registered with it
        os.close(self._bell)
        self._over = threading.Event()
        self._over.set()


def serve(
    arrays: Map[str, Servable],
    address: str | None = None,
    token: str | None = None,
    *,
    writable: bool | str | Collection[str] = False,
    port: int = DEFAULT_PORT,
    limits: Limits | None = None,
) -> Server:
    """Serve arrays and files to `connect`: nothing is read, copied or pinned, whatever their size.

    Args:
        arrays: by name, NumPy arrays (memory maps among them), paths of ``.npy`` files, or `RawFile`s.
        address: of this machine, to be reached at; None: a loopback address that is free, for this machine only.
        token: what clients must know. Needed unless the address is a loopback one; any user of this machine can connect to
            those without a token.
        writable: True, or the names that clients may write to and use atomics on; the others are read-only.
        port: TCP port for setting up connections (0: any). The data goes over RoCEv2's UDP port, 4791.

    >>> import numpy as np, unpinned  # doctest: +SKIP
    >>> with unpinned.serve({"x": np.arange(5.0)}) as server:  # doctest: +SKIP
    ...     server.wait()

    Raises:
        TypeError, ValueError: an array cannot be shared (it says which and why), or a token is missing.
        OSError: a file, an address or a port is not to be had.
    """
    _check_arguments(arrays, address, token, port)
    return undisturbed(lambda: _serve(arrays, address, token, writable, port, limits or Limits()), Server.close)


def _serve(
    arrays: Map[str, Servable],
    address: str | None,
    token: str | None,
    writable: bool | str | Collection[str],
    port: int,
    limits: Limits,
) -> Server:
    sources = open_sources(arrays, writable)
    context = Context(address=address)
    try:
        listener = _listen(context.address, port)
        try:
            regions = Regions(context, sources)
        except BaseException:
            listener.close()
            raise
    except BaseException:
        context.close()
        raise
    return Server(regions, listener, token, limits)


def _check_arguments(arrays: object, address: object, token: object, port: object) -> None:
    """TypeError or ValueError, naming the argument."""
    if not isinstance(arrays, Map):
        raise TypeError(f"arrays: a mapping of names to arrays is needed, not {type(arrays).__name__}")
    for name, value in (("address", address), ("token", token)):
        if not isinstance(value, str | None):
            raise TypeError(f"{name}: a text is needed, not {type(value).__name__}")
    if not isinstance(port, int):
        raise TypeError(f"port: an integer is needed, not {type(port).__name__}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port: {port} is not between 0 and 65535")
    if isinstance(address, str) and has_port(address):
        raise ValueError(f"address: {address!r} has a port in it, which is an argument of its own: port")
    if isinstance(address, str) and not is_loopback(address) and token is None:
        raise ValueError(f"{address} can be reached from other machines: a token is needed to serve there")
    if isinstance(token, str) and len(token.encode()) < TOKEN_BYTES_MIN:
        raise ValueError(f"the token is shorter than {TOKEN_BYTES_MIN} bytes")
    if isinstance(address, str) and resolve(address)[0].is_unspecified:
        raise ValueError(f"{address} is every address of this machine; RoCE needs one of them")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"TCP port {port} on {host} is in use: choose another port") from None
        raise OSError(error.errno, f"cannot listen on TCP port {port} of {host}: {error.strerror}") from None
    return listener


def _descriptors_max() -> int:
    """The first descriptor that no visitor gets: the kernel gives the lowest that is free, so those below are taken."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return allowed - min(DESCRIPTORS_KEPT, allowed // 4) if allowed > 0 else 1 << 31  # RLIM_INFINITY is -1


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _close_all() -> None:
    for server in list(_servers):
        server.close()


def _after_fork_in_child() -> None:
    for server in list(_servers):
        server._after_fork_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
