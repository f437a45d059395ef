"""Lines of JSON between two of the demo's processes, over a socket pair that the conductor made."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from unpinned.host.system import readable

Message = dict[str, Any]


class Gone(OSError):
    """The other process has ended."""


class Channel:
    """One end. Messages are dictionaries; nothing is ever larger than a few kilobytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._pending = b""

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """The end that was inherited as descriptor *fd*."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """The descriptor, for `select`."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Gone(error.errno, "the other process has ended") from None

    def receive(self, timeout: float) -> Message | None:
        """The next message, or None when none came in *timeout* seconds. `Gone` when none will come any more."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._pending:
            left = max(deadline - time.monotonic(), 0.0)
            if not readable(self._socket.fileno(), left):
                return None
            try:
                piece = self._socket.recv(1 << 16)
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Gone(0, "the other process has ended")
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def expect(self, timeout: float, what: str) -> Message:
        """The next message; TimeoutError, naming *what* was awaited, when none comes."""
        message = self.receive(timeout)
        if message is None:
            raise TimeoutError(f"{what}: no answer in {timeout:g} s")
        return message

    def close(self) -> None:
        self._socket.close()
