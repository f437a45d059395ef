"""What a client and a server say to each other over TCP: JSON in length-prefixed messages, and nothing before a handshake.

::

    server -> {"unpinned": VERSION, "nonce": N1, "token": true|false}        on accept
    client -> {"unpinned": VERSION, "nonce": N2, "proof": HMAC(token, "client" N1 N2)}
    server -> {"proof": HMAC(token, "server" N1 N2), "arrays": [...], "device": {...}}     or {"error": "one sentence"}
    client -> {"op": "open" | "close" | "explain" | "prefetch", "id": n, ...}, server -> {"id": n, ...} or {"id": n, "error": ...}

The token never crosses the wire: each end proves that it knows it, over both ends' nonces. (What follows, RoCE, is neither
encrypted nor authenticated: a token keeps strangers out, not who owns the network between.) Everything a stranger can send is
bounded: a message's length before it is read, its depth and its numbers when it is parsed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import struct
from typing import Any

from unpinned.remote.errors import ProtocolError

VERSION = 1
REQUEST_BYTES_MAX = 1 << 16
"""The longest message that a server reads."""
HELLO_BYTES_MAX = 1 << 10
"""The longest that it reads from somebody unknown."""
REPLY_BYTES_MAX = 1 << 24
"""The longest that a client reads (a list of many arrays)."""
NONCE_BYTES = 32
LENGTH = struct.Struct("!I")

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """A message with its length in front."""
    body = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    return LENGTH.pack(len(body)) + body


class Reader:
    """Bytes in, messages out. ProtocolError at the first byte that cannot be right."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that *data* completes."""
        self._buffer += data
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def _next(self) -> Message | None:
        if len(self._buffer) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._buffer)
        if length > self.bytes_max:
            raise ProtocolError(f"a message of {length} bytes, {self.bytes_max} at most are allowed: not an unpinned peer?")
        if len(self._buffer) < LENGTH.size + length:
            return None
        body = bytes(self._buffer[LENGTH.size : LENGTH.size + length])
        del self._buffer[: LENGTH.size + length]
        return decode(body)


def decode(body: bytes) -> Message:
    """A message's body, judged: a JSON object of finite numbers. ProtocolError when it is none."""
    try:
        message = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not a message: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"a message must be an object, not {type(message).__name__}")
    return message


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def nonce() -> str:
    return secrets.token_hex(NONCE_BYTES)


def proof(token: str, role: str, first: str, second: str) -> str:
    """What shows that *role* ("client", "server") knows the token, good for these two nonces only."""
    return hmac.new(token.encode(), f"unpinned {VERSION} {role} {first} {second}".encode(), hashlib.sha256).hexdigest()


def proves(given: object, token: str, role: str, first: str, second: str) -> bool:
    """Whether *given* is that proof; takes the same time whatever it is."""
    expected = proof(token, role, first, second)
    return hmac.compare_digest(str(given).encode(errors="replace"), expected.encode())


def number(message: Message, key: str, low: int, high: int) -> int:
    """An integer of a message, within bounds. ProtocolError names it otherwise."""
    value = message.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{key}: an integer from {low} to {high} is needed")
    return value


def text(message: Message, key: str, length_max: int) -> str:
    """A printable string of a message, not longer than that. ProtocolError names it otherwise."""
    value = message.get(key)
    if not isinstance(value, str) or len(value) > length_max or not value.isprintable():
        raise ProtocolError(f"{key}: a text of at most {length_max} printable characters is needed")
    return value


def numbers(message: Message, key: str, low: int, high: int, count_max: int) -> list[int]:
    """A list of integers of a message, within bounds."""
    value = message.get(key)
    if not isinstance(value, list) or len(value) > count_max or any(type(n) is not int or not low <= n <= high for n in value):
        raise ProtocolError(f"{key}: a list of at most {count_max} integers from {low} to {high} is needed")
    return value


def items(message: Message, key: str, count_max: int) -> list[Message]:
    """A list of objects of a message."""
    value = message.get(key)
    if not isinstance(value, list) or len(value) > count_max or not all(isinstance(item, dict) for item in value):
        raise ProtocolError(f"{key}: a list of at most {count_max} objects is needed")
    return value


def check_version(message: Message) -> None:
    """ProtocolError unless the other end speaks this version."""
    theirs = message.get("unpinned")
    if theirs is None:
        raise ProtocolError("the other end is no unpinned")
    if theirs != VERSION:
        shown = theirs if isinstance(theirs, int) and math.isfinite(theirs) else "another"
        raise ProtocolError(f"the other end speaks version {shown} of the set-up protocol, we speak {VERSION}")
