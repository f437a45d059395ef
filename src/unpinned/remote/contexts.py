"""One device for all clients of this process that leave it by the same address.

A client of a server on loopback gets an address of its own in 127.128.0.0/9 (the first ones are for servers, who like to
come back to the one they had); of any other, the address that the way there begins with. Where somebody else has RoCE's UDP
port on that address (the server, when it is on this machine), any port will do: both ends are unpinned and tell each other.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import threading
import weakref

from unpinned.verbs import Context

ATTEMPTS = 8

_guard = threading.RLock()  # a collection inside it may drop another context
_open: weakref.WeakValueDictionary[str, Context] = weakref.WeakValueDictionary()


def acquire(local: str) -> Context:
    """The context for connections that begin at the address *local*. It closes when nobody holds it any more."""
    key = _key(local)
    with _guard:
        context = _open.get(key)
        if context is None or context.closed:
            context = _open[key] = _new(key)
        return context


def _key(local: str) -> str:
    address = ipaddress.ip_address(local.partition("%")[0])
    return "" if address.version == 4 and address.is_loopback else local


def _new(key: str) -> Context:
    if not key:
        return _on_loopback()
    try:
        return Context(address=key)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return Context(address=key, port=0)


def _on_loopback() -> Context:
    for _ in range(ATTEMPTS):
        try:
            return Context(address=str(ipaddress.IPv4Address(0x7F800000 | secrets.randbelow(0x7FFFFE) + 1)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return Context()


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.RLock()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
