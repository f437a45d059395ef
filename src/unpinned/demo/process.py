"""What the conductor starts: ``python -m unpinned.demo.process owner|peer CONDUCTOR OTHER LEDGER`` (descriptors).

The process ends when the conductor says so, closes its end, or dies; Ctrl-C is the conductor's business.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback

from unpinned.demo.channel import Channel, Gone
from unpinned.demo.ledger import Ledger

_PR_SET_PDEATHSIG = 1


def main(words: list[str]) -> int:
    """Be the owner or the peer until the end."""
    role, parent = words[0], int(words[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        return 1
    conductor, other = Channel.from_fd(int(words[2])), Channel.from_fd(int(words[3]))
    ledger = Ledger(int(words[4]))
    try:
        _role(role, conductor, other, ledger)
        return 0
    except Gone:
        return 1
    except BaseException as error:
        if os.environ.get("UNPINNED_DEBUG") or not isinstance(error, OSError):
            traceback.print_exc()
        try:
            conductor.send(error=f"{error}")
        except OSError:
            pass
        return 1


def _role(role: str, conductor: Channel, other: Channel, ledger: Ledger) -> None:
    if role == "owner":
        from unpinned.demo.owner import Owner

        Owner(conductor, other, ledger).run()
    else:
        from unpinned.demo.peer import Peer

        Peer(conductor, other, ledger).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
