"""The ends' conversation over a stream socket: length-prefixed JSON with bounds, as `unpinned.remote.messages` has it."""

from __future__ import annotations

import socket
import time

from unpinned.host.system import readable
from unpinned.remote.messages import Message, Reader, encode

MESSAGE_BYTES_MAX = 1 << 20
"""A thousand queue pairs introduce themselves in a quarter of it."""
ANSWER_S = 60.0


class Control:
    """One end of the conversation. Errors are OSErrors: ConnectionError when the other end has gone, TimeoutError, and
    what the other end said went wrong."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._reader = Reader(MESSAGE_BYTES_MAX)
        self._waiting: list[Message] = []

    def send(self, message: Message) -> None:
        self._socket.sendall(encode(message))

    def receive(self, timeout: float = ANSWER_S) -> Message:
        """The next message."""
        deadline = time.monotonic() + timeout
        while not self._waiting:
            if not self._feed(max(deadline - time.monotonic(), 0.0)):
                raise TimeoutError(f"the other end did not answer in {timeout:g} s")
        message = self._waiting.pop(0)
        if "error" in message:
            raise OSError(f"the other end: {str(message['error'])[:500]}")
        return message

    def pending(self) -> bool:
        """Is there a message (or the end)? Does not wait."""
        return bool(self._waiting) or readable(self._socket.fileno(), 0)

    def _feed(self, timeout: float) -> bool:
        if not readable(self._socket.fileno(), timeout):
            return False
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the other end has closed the connection")
        self._waiting += self._reader.feed(data)
        return True

    def close(self) -> None:
        self._socket.close()
