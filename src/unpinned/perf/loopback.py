"""Both ends on this machine: the server is a child process, and goes with us.

``python -m unpinned.perf.loopback PARENT FD`` is that child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1


@contextmanager
def server() -> Iterator[socket.socket]:
    """A connection to a server of our own, which has ended on leaving."""
    ours, theirs = socket.socketpair()
    path = os.pathsep.join(filter(None, (str(Path(__file__).absolute().parents[2]), os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-m", "unpinned.perf.loopback", str(os.getpid()), str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        process_group=0,  # Ctrl-C is ours alone, and it goes with us
        env={**os.environ, "PYTHONPATH": path},
    )
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        try:
            child.wait(5.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def main(words: list[str]) -> int:
    """Serve the one client at the other end of the socket."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(words[0]):
        return 1
    from unpinned.perf.session import Watcher, serve

    try:
        serve(socket.socket(fileno=int(words[1])), None, None, Watcher())
    except OSError:
        return 1  # the client was told, or is gone
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
