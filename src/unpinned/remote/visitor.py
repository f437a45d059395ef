"""One client of a server, as a state machine without I/O: bytes in, bytes out, the time passed in.

    STRANGER --right proof--> GUEST --anything that cannot be--> GONE

A stranger is told nothing but a nonce, and one sentence why it is turned away. What a guest may ask for is a row of
`Visitor._ANSWERS`; whatever it asks, the house it visits (the `House` protocol) does the work.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from unpinned.remote import messages as M
from unpinned.remote.admission import Admission, Bucket
from unpinned.remote.errors import ProtocolError, RemoteError

RANGES_MAX = 256
"""Ranges of one prefetch."""


class House(Protocol):
    """What visitors want of a server. OSErrors become one-sentence answers."""

    def welcome(self) -> M.Message:
        """What there is, for whoever has just come in."""

    def open(self, visitor: Visitor, request: M.Message) -> M.Message:
        """Connect the visitor's queue pairs."""

    def close(self, visitor: Visitor, numbers: list[int]) -> None:
        """Destroy queue pairs of the visitor, by our numbers; unknown ones are passed over."""

    def explain(self, name: str) -> str:
        """Why an access to the array failed; "" when nothing is known."""

    def prefetch(self, name: str, ranges: list[tuple[int, int]]) -> None:
        """Begin to bring in (offset, length) of an array."""


class State(enum.Enum):
    STRANGER = "stranger"
    GUEST = "guest"
    GONE = "gone"


class Visitor:
    """A connection's state. ``host`` is its peer's address, without the port."""

    def __init__(self, house: House, admission: Admission, token: str | None, host: str, now: float) -> None:
        self.house, self.admission, self.token, self.host = house, admission, token, host
        self.state = State.STRANGER
        self.deadline = now + admission.limits.handshake_s
        self.queue_pairs: dict[int, object] = {}
        """The house's, by number."""
        self._nonce = M.nonce()
        self._reader = M.Reader(M.HELLO_BYTES_MAX)
        self._requests = Bucket(admission.limits.requests_hz, admission.limits.requests_burst)

    def greeting(self) -> bytes:
        """What the server says first."""
        return M.encode({"unpinned": M.VERSION, "nonce": self._nonce, "token": self.token is not None})

    def receive(self, data: bytes, now: float) -> bytes:
        """Answers to what came; afterwards, the connection is to be closed if the state is GONE."""
        answers = bytearray()
        try:
            for message in self._reader.feed(data):
                answers += self._hello(message, now) if self.state is State.STRANGER else self._request(message, now)
        except ProtocolError as error:
            self.state = State.GONE
            answers += M.encode({"error": str(error)})
        return bytes(answers)

    def _hello(self, message: M.Message, now: float) -> bytes:
        M.check_version(message)
        wait = self.admission.locked_out_s(self.host, now)
        if wait:
            raise ProtocolError(f"too many wrong tokens from {self.host}: try again in {wait:.0f} s")
        theirs = M.text(message, "nonce", 128)
        token = self.token or ""
        if self.token is not None and not M.proves(message.get("proof"), token, "client", self._nonce, theirs):
            self.admission.failed(self.host, now)
            raise ProtocolError("the token is wrong" if message.get("proof") else "this server asks for a token")
        self.admission.passed(self.host)
        self.state = State.GUEST
        self._reader.bytes_max = M.REQUEST_BYTES_MAX
        return M.encode({"proof": M.proof(token, "server", self._nonce, theirs), **self.house.welcome()})

    def _request(self, message: M.Message, now: float) -> bytes:
        if not self._requests.take(now):
            raise ProtocolError("too many requests")
        answer = self._ANSWERS.get(M.text(message, "op", 16))
        if answer is None:
            raise ProtocolError(f"{message['op']!r} is no request")
        number = M.number(message, "id", 0, 1 << 53)
        try:
            reply = answer(self, message)
        except ProtocolError:
            raise
        except RemoteError as error:
            reply = {"error": str(error)}
        except OSError as error:
            reply = {"error": error.strerror or str(error)}
        return M.encode({"id": number, **reply}) if number else b""

    def _open(self, message: M.Message) -> M.Message:
        return self.house.open(self, message)

    def _close(self, message: M.Message) -> M.Message:
        self.house.close(self, M.numbers(message, "qps", 0, 0xFFFFFF, self.admission.limits.queue_pairs))
        return {}

    def _explain(self, message: M.Message) -> M.Message:
        return {"reason": self.house.explain(M.text(message, "name", 255))}

    def _prefetch(self, message: M.Message) -> M.Message:
        flat = M.numbers(message, "ranges", 0, 1 << 56, 2 * RANGES_MAX)
        self.house.prefetch(M.text(message, "name", 255), list(zip(flat[::2], flat[1::2])))
        return {}

    _ANSWERS: dict[str, Callable[[Visitor, M.Message], M.Message]] = {
        "open": _open, "close": _close, "explain": _explain, "prefetch": _prefetch,
    }  # fmt: skip
