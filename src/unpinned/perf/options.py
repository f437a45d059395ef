"""What is measured: perftest's options, checked once, whether they come from a command line or from a client."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

TESTS = tuple(f"{verb}_{metric}" for verb in ("read", "write", "send", "atomic") for metric in ("bw", "lat"))
MEMORY = ("odp", "pinned", "implicit")
MTUS = (0, 256, 512, 1024, 2048, 4096)
"""Bytes; 0: as large as the interface allows."""
SIZE_MAX = 1 << 30
ALL_SIZES = tuple(1 << power for power in range(1, 24))
"""What -a measures: 2 bytes to 8 MiB, as perftest does."""
PORT = 18515
BUFFER_BYTES = 64 << 20
"""Each queue pair's messages go round in so much memory, or in one message if that is more."""

_LIMITS = {"size": (1, SIZE_MAX), "iterations": (1, 1 << 40), "depth": (1, 1 << 14), "qps": (1, 1024)}


@dataclass(frozen=True)
class Options:
    """One measurement. Sizes in bytes, times in seconds."""

    test: str
    size: int
    iterations: int = 1000
    duration: float = 0.0
    """Measure for so long instead; 0: count iterations."""
    depth: int = 128
    """Messages under way on each queue pair."""
    qps: int = 1
    mtu: int = 0
    all_sizes: bool = False
    memory: str = "odp"

    def __post_init__(self) -> None:
        """ValueError, naming the option, when one is out of its range."""
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name}: must be an integer between {low} and {high}, not {value!r}")
        for name, allowed in (("test", TESTS), ("memory", MEMORY), ("mtu", MTUS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)!r} is none of {', '.join(map(str, allowed))}")
        if not isinstance(self.duration, (int, float)) or not 0 <= self.duration <= 86_400:
            raise ValueError("duration: must be between 0 and 86400 seconds")
        if self.verb == "atomic" and (self.size != 8 or self.all_sizes):
            raise ValueError("size: an atomic has 8 bytes")
        if self.is_latency and self.qps != 1:
            raise ValueError("qps: latency is measured on one queue pair")
        if self.qps * self.stride * self.slots > 1 << 31:
            raise ValueError("size: qps x size is more than 2 GiB")

    @property
    def verb(self) -> str:
        return self.test.partition("_")[0]

    @property
    def is_latency(self) -> bool:
        return self.test.endswith("_lat")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The message sizes to measure."""
        return ALL_SIZES if self.all_sizes else (self.size,)

    @property
    def stride(self) -> int:
        """Bytes from one message's memory to the next: whole cache lines."""
        return -(-max(self.sizes) // 64) * 64

    @property
    def slots(self) -> int:
        """Messages that have memory of their own, of each queue pair (of latency tests: one out, one in)."""
        return 2 if self.is_latency else max(1, min(self.depth, BUFFER_BYTES // self.stride))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: Any) -> Options:
        """What a client asked for. ValueError when that cannot be."""
        if not isinstance(message, dict):
            raise ValueError("options: an object is needed")
        known = {name: message[name] for name in cls.__dataclass_fields__ if name in message}
        if not {"test", "size"} <= set(known):
            raise ValueError("options: test and size are needed")
        return cls(**known)


def default_size(test: str) -> int:
    """perftest's: 64 KiB for bandwidth, 2 bytes for latency, 8 for atomics.

    >>> default_size("read_bw"), default_size("send_lat"), default_size("atomic_bw")
    (65536, 2, 8)
    """
    if test.startswith("atomic"):
        return 8
    return 2 if test.endswith("_lat") else 65536


def parse_size(text: str) -> int:
    """Bytes of "65536", "64K", "1M" or "1G". ValueError when it is none.

    >>> parse_size("64K"), parse_size("7")
    (65536, 7)
    """
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    digits = text if factor == 1 else text[:-1]
    if not digits.isascii() or not digits.isdigit():
        raise ValueError(f"size: {text!r} is no number of bytes")
    return int(digits) * factor
