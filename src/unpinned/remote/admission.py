"""Whom a server lets in, and how fast: every limit on strangers, with the time passed in.

* at most `connections` in all, at most `strangers` of them before they have proved themselves, each of whom has `handshake_s`
  for it; a new stranger displaces the oldest;
* new connections at `rate_hz`, in bursts of `burst`: beyond, they wait in the kernel's queue;
* a host whose proofs were wrong `wrong_max` times in a row waits, twice as long each time, `wait_s_max` at most;
* a client that is in may ask `requests_hz` times a second, in bursts of `requests_burst`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

HOSTS_MAX = 1024
"""Hosts whose failures are remembered; the oldest is forgotten for a new one."""


@dataclass(frozen=True)
class Limits:
    """See the module; times in seconds, rates per second."""

    connections: int = 1024
    strangers: int = 64
    handshake_s: float = 5.0
    rate_hz: float = 500.0
    burst: int = 500
    wrong_max: int = 5
    wait_s_max: float = 60.0
    requests_hz: float = 200.0
    requests_burst: int = 1000
    queue_pairs: int = 64
    """Queue pairs of one client."""
    reply_bytes: int = 1 << 22
    """What may wait for a client that does not read."""


@dataclass
class Bucket:
    """Tokens that come back at a rate."""

    rate_hz: float
    capacity: float
    level: float = field(default=-1.0)
    filled_at: float = 0.0

    def take(self, now: float) -> bool:
        """One token, if there is one."""
        self._fill(now)
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 when there is."""
        self._fill(now)
        return max(0.0, (1 - self.level) / self.rate_hz)

    def _fill(self, now: float) -> None:
        if self.level < 0:
            self.level = self.capacity
        else:
            self.level = min(self.capacity, self.level + (now - self.filled_at) * self.rate_hz)
        self.filled_at = now


class Admission:
    """The limits' memory."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.arrivals = Bucket(limits.rate_hz, limits.burst)
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def locked_out_s(self, host: str, now: float) -> float:
        """Seconds that *host* must wait before it may try again."""
        return max(0.0, self._wrong.get(host, (0, 0.0))[1] - now)

    def failed(self, host: str, now: float) -> None:
        """*host* gave a wrong proof."""
        count = self._wrong.pop(host, (0, 0.0))[0] + 1
        wait = 0.0
        if count >= self.limits.wrong_max:
            wait = min(self.limits.wait_s_max, 2.0 ** min(count - self.limits.wrong_max, 30))
        self._wrong[host] = (count, now + wait)
        while len(self._wrong) > HOSTS_MAX:
            self._wrong.popitem(last=False)

    def passed(self, host: str) -> None:
        """*host* gave a right one."""
        self._wrong.pop(host, None)
