"""A client's connection to a server: the TCP half, which sets up queue pairs and stays open as a sign of life."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from unpinned.host.system import readable
from unpinned.remote import contexts
from unpinned.remote import messages as M
from unpinned.remote.addresses import Address
from unpinned.remote.descriptions import ARRAYS_MAX, Description, from_message
from unpinned.remote.errors import Disconnected, ProtocolError, Refused, RemoteError
from unpinned.verbs import PD, PeerInfo

CONNECT_S = 10.0
ANSWER_S = 15.0
KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3), (socket.TCP_USER_TIMEOUT, 10_000))


def keep_alive(sock: socket.socket) -> None:
    """Notice a peer that vanished without a word within about ten seconds."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Link:
    """Connects at once. Disconnected, Refused or ProtocolError when that fails; thread-safe afterwards.

    Attributes:
        arrays: what is served there, by name; context, pd: the device and protection domain on our side.
    """

    def __init__(self, address: Address, token: str | None) -> None:
        self.address = address
        self.pid = os.getpid()
        self._guard = threading.Lock()
        self._reader = M.Reader(M.REPLY_BYTES_MAX)
        self._arrived: list[M.Message] = []
        self._requests = 0
        self._lost = ""
        self._socket = _dial(address)
        try:
            welcome = self._shake_hands(token)
            self.arrays = {found.name: found for found in map(from_message, M.items(welcome, "arrays", ARRAYS_MAX))}
            keep_alive(self._socket)
            self.context = contexts.acquire(str(self._socket.getsockname()[0]))
            self.pd = PD(self.context)
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, token: str | None) -> M.Message:
        greeting = self._receive(CONNECT_S)
        if "error" in greeting:
            raise Refused(f"{self.address}: {str(greeting['error'])[:200]}")
        M.check_version(greeting)
        theirs, ours = M.text(greeting, "nonce", 128), M.nonce()
        if greeting.get("token") is not True and token is not None:
            raise Refused(f"{self.address} asks for no token, but one is given: it may not be the server you mean")
        if greeting.get("token") is True and token is None:
            raise Refused(f"{self.address} asks for a token, and none is given")
        hello = {"unpinned": M.VERSION, "nonce": ours}
        if token is not None:
            hello["proof"] = M.proof(token, "client", theirs, ours)
        self._send(hello)
        welcome = self._receive(CONNECT_S)
        if "error" in welcome:
            raise Refused(f"{self.address}: {str(welcome['error'])[:200]}")
        if token is not None and not M.proves(welcome.get("proof"), token, "server", theirs, ours):
            raise Refused(f"{self.address} does not know the token: it is not the server you mean")
        return welcome

    # ---- requests --------------------------------------------------------------------------------------------------

    def request(self, op: str, **fields: Any) -> M.Message:
        """Ask, and wait for the answer. RemoteError with the server's sentence, Disconnected when it is gone."""
        with self._guard:
            self._requests += 1
            number = self._requests
            self._send({"op": op, "id": number, **fields})
            while (answer := self._receive(ANSWER_S)).get("id") != number:
                if "id" not in answer:
                    raise self._lose(f"{self.address} ended the connection: {str(answer.get('error'))[:200]}")
        if "error" in answer:
            raise RemoteError(f"{self.address}: {str(answer['error'])[:200]}")
        return answer

    def tell(self, op: str, **fields: Any) -> None:
        """Ask without waiting for an answer: there is none."""
        with self._guard:
            self._send({"op": op, "id": 0, **fields})

    def introduce(self, ours: list[PeerInfo]) -> list[PeerInfo]:
        """Have the server connect queue pairs to ours; what they are called."""
        answer = self.request("open", qps=[pair.as_dict() for pair in ours])
        found = [peer_info(item) for item in M.items(answer, "qps", len(ours))]
        if len(found) != len(ours):
            raise ProtocolError(f"{self.address} connected {len(found)} of {len(ours)} queue pairs")
        return found

    def alive(self) -> None:
        """Disconnected when the server has closed the connection, or the machine it is on has gone."""
        if self._lost:
            raise Disconnected(self._lost)
        try:
            if not readable(self._socket.fileno(), 0):
                return
            ended = self._socket.recv(1, socket.MSG_PEEK) == b""
        except OSError as error:
            raise self._lose(f"{self.address} is gone: {error.strerror or error}") from None
        if ended:
            raise self._lose(f"{self.address} closed the connection")

    def close(self) -> None:
        """Give back everything on this side; the server does the same when it sees the connection end. Idempotent."""
        self._lost = self._lost or "the connection was closed"
        self._socket.close()
        if self.pid == os.getpid():
            self.pd.close()

    def forget(self) -> None:
        """In a forked child: the connection is the parent's."""
        self._lost = "the connection belongs to the parent process"
        self._socket.close()

    # ---- messages --------------------------------------------------------------------------------------------------

    def _send(self, message: M.Message) -> None:
        if self._lost:
            raise Disconnected(self._lost)
        try:
            self._socket.settimeout(ANSWER_S)
            self._socket.sendall(M.encode(message))
        except OSError as error:
            raise self._lose(f"{self.address} is gone: {error.strerror or error}") from None

    def _receive(self, seconds: float) -> M.Message:
        while not self._arrived:
            try:
                self._socket.settimeout(seconds)
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise self._lose(f"{self.address} did not answer within {seconds:.0f} s") from None
            except OSError as error:
                raise self._lose(f"{self.address} is gone: {error.strerror or error}") from None
            if not data:
                raise self._lose(f"{self.address} closed the connection")
            self._arrived = self._reader.feed(data)
        return self._arrived.pop(0)

    def _lose(self, sentence: str) -> Disconnected:
        self._lost = sentence
        return Disconnected(sentence)


def peer_info(message: M.Message) -> PeerInfo:
    """A queue pair as the other end describes it, nothing believed."""
    return PeerInfo(
        gid=M.text(message, "gid", 64),
        port=M.number(message, "port", 1, 65535),
        qpn=M.number(message, "qpn", 2, 0xFFFFFF),
        psn=M.number(message, "psn", 0, 0xFFFFFF),
        mtu=M.number(message, "mtu", 1, 5),
        timeout=M.number(message, "timeout", 1, 20),
    )


def _dial(address: Address) -> socket.socket:
    try:
        return socket.create_connection((address.host, address.port), CONNECT_S)
    except ConnectionRefusedError:
        raise Disconnected(f"nothing listens on {address}: is `unpinned serve` running there?") from None
    except TimeoutError:
        raise Disconnected(f"{address} did not answer within {CONNECT_S:.0f} s") from None
    except socket.gaierror as error:
        raise Disconnected(f"{address.host!r} is no address: {error.strerror}") from None
    except OSError as error:
        raise Disconnected(f"cannot connect to {address}: {error.strerror or error}") from None


def description_of(link: Link, known: Description) -> Description:
    """The array as *link* knows it. RemoteError when it is not the one it was."""
    found = link.arrays.get(known.name)
    if found is None:
        raise RemoteError(f"{link.address} no longer serves {known.name!r}")
    if (found.shape, found.dtype, found.order) != (known.shape, known.dtype, known.order):
        raise RemoteError(
            f"{known.name!r} on {link.address} is another array now: {found.shape} {found.dtype}; open it again by its name"
        )
    return found
