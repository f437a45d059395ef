"""How a server, an array on it and a part of that array are written: ``HOST[:PORT]``, ``HOST[:PORT]/NAME[INDEX]``.

>>> parse_place("[::1]:5000/weights[10:20, ::2]")
Place(address=Address(host='::1', port=5000), name='weights', index=(slice(10, 20, None), slice(None, None, 2)))
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Any

DEFAULT_PORT = 4791
"""TCP, for setting up connections; the same number as RoCE's UDP port."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Place:
    """An array on a server, or a part of it."""

    address: Address
    name: str
    index: Any = ()


def parse_address(text: str | Address) -> Address:
    """HOST, HOST:PORT, IPv6 or [IPv6]:PORT. ValueError when it is none.

    >>> str(parse_address("node7")), str(parse_address("::1"))
    ('node7:4791', '[::1]:4791')
    """
    if isinstance(text, Address):
        return text
    if not isinstance(text, str):
        raise TypeError(f"address: a text is needed, not {type(text).__name__}")
    bracket = re.fullmatch(r"\[([^\[\]]+)\](?::(\d{1,5}))?", text)
    if bracket:
        host, port = bracket[1], bracket[2]
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, _, digits = text.partition(":")
        port = digits if ":" in text else None
    if not host or set(host) & set("/[] ") or (port is not None and not (port.isdigit() and 0 < int(port) < 65536)):
        raise ValueError(f"{text!r} is no address: HOST, HOST:PORT or [IPV6]:PORT is needed")
    return Address(host, DEFAULT_PORT if port is None else int(port))


def has_port(text: str) -> bool:
    """Whether a port follows the host.

    >>> has_port("127.0.0.1:0"), has_port("[::1]:5000"), has_port("node7"), has_port("::1")
    (True, True, False, False)
    """
    return re.fullmatch(r"([^:]+|\[.*\]):\d*", text) is not None


def parse_place(text: str) -> Place:
    """ADDRESS/NAME or ADDRESS/NAME[INDEX]. ValueError when it is neither."""
    where, slash, rest = text.partition("/")
    found = re.fullmatch(r"([^\[\]]+)(?:\[(.*)\])?", rest, re.DOTALL)
    if not slash or not found:
        raise ValueError(f"{text!r} names no array: ADDRESS/NAME or ADDRESS/NAME[INDEX] is needed")
    return Place(parse_address(where), found[1], parse_index(found[2]) if found[2] is not None else ())


def parse_index(text: str) -> Any:
    """What stands between the brackets: integers, slices, ``...`` and lists of integers, separated by commas.

    >>> parse_index("3, ..., [1, 2]")
    (3, Ellipsis, [1, 2])
    """
    parts = re.split(r",(?![^\[]*\])", text)
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()  # a comma may end it, as in Python
    try:
        return tuple(_entry(part.strip()) for part in parts)
    except ValueError:
        raise ValueError(f"[{text}] is no index: integers, slices, ... and lists of integers are understood") from None


def _entry(text: str) -> Any:
    if text == "...":
        return Ellipsis
    if text.startswith("[") and text.endswith("]"):
        return [int(item) for item in text[1:-1].split(",") if item.strip()]
    if ":" in text:
        ends = [int(end) if end.strip() else None for end in text.split(":")]
        if len(ends) > 3:
            raise ValueError(text)
        return slice(*ends)
    return int(text)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach *host* (every address that it resolves to)."""
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"{host!r} is no address: {error.strerror}") from None
    return all(ipaddress.ip_address(address).is_loopback for address in found)
