"""How the two ends find each other: a TCP connection. Imports nothing heavy: a mistyped host is told at once."""

from __future__ import annotations

import os
import socket


def listen(address: str, port: int) -> socket.socket:
    """The socket on which a server waits. OSError, naming address and port, when it is taken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=1)
    except OSError as error:
        why = os.strerror(error.errno or 0)  # create_server adds to it
        raise OSError(error.errno, f"cannot listen on {address} port {port}: {why}") from None


def call(host: str, port: int) -> socket.socket:
    """A connection to a server. OSError, naming it, when there is none."""
    try:
        return socket.create_connection((host, port), timeout=10.0)
    except OSError as error:
        raise OSError(error.errno, f"cannot reach a server on {host} port {port}: {error.strerror or error}") from None
