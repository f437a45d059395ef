"""Two hosts in one machine: network namespaces ``left`` and ``right`` joined by a veth pair."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from . import RUN, Missing, need_root


@dataclass(frozen=True)
class Side:
    """One host of the pair. Its addresses come from the blocks kept for documentation."""

    name: str
    interface: str
    ipv4: str
    ipv6: str

    def command(self, argv: Sequence[str]) -> list[str]:
        """``argv`` as run in this host."""
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, argv: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run ``argv`` here to its end, output captured."""
        return subprocess.run(self.command(argv), capture_output=True, text=True, **options)

    def start(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """Start ``argv`` here; the caller ends it."""
        return subprocess.Popen(self.command(argv), text=True, **options)


@dataclass(frozen=True)
class Pair:
    """Both hosts."""

    left: Side
    right: Side
    sides: tuple[Side, Side] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", (self.left, self.right))

    def shape(self, *words: str) -> None:
        """Put a queueing discipline on both ends, e.g. ``shape("netem", "loss", "1%")``."""
        for side in self.sides:
            _ip_tool("tc", "-n", side.name, "qdisc", "replace", "dev", side.interface, "root", *words)


@contextmanager
def namespace_pair(mtu_bytes: int = 9000) -> Iterator[Pair]:
    """Make the two namespaces and their link; deleting a namespace deletes its end of the link."""
    need_root()
    if not shutil.which("ip"):
        raise Missing("no network namespaces: the command ip (iproute2) is not installed")
    stem = f"unp-{RUN}-{os.getpid():x}"
    pair = Pair(
        Side(f"{stem}-l", "veth0", "192.0.2.1", "2001:db8::1"),
        Side(f"{stem}-r", "veth0", "192.0.2.2", "2001:db8::2"),
    )
    made: list[Side] = []
    try:
        for side in pair.sides:
            _make(side)
            made.append(side)
        _join(pair, mtu_bytes)
        yield pair
    finally:
        for side in made:
            _ip("netns", "delete", side.name)


def _make(side: Side) -> None:
    try:
        _ip("netns", "add", side.name)
    except OSError as error:
        raise Missing(f"no network namespaces: {error}") from error


def _join(pair: Pair, mtu_bytes: int) -> None:
    left, right = pair.sides
    _ip("-n", left.name, "link", "add", left.interface, "mtu", str(mtu_bytes), "type", "veth",
        "peer", "name", right.interface, "mtu", str(mtu_bytes), "netns", right.name)  # fmt: skip
    for side in pair.sides:
        _ip("-n", side.name, "address", "add", f"{side.ipv4}/30", "dev", side.interface)
        # nodad: the address is usable at once, not after duplicate detection's two seconds
        _ip("-n", side.name, "address", "add", f"{side.ipv6}/64", "dev", side.interface, "nodad")
        _ip("-n", side.name, "link", "set", "lo", "up")
        _ip("-n", side.name, "link", "set", side.interface, "up")


def _ip(*words: str) -> None:
    _ip_tool("ip", *words)


def _ip_tool(*words: str) -> None:
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"{' '.join(words)}: {result.stderr.strip()}")
