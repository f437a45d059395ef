"""Numbers in the packet arena ``uint8[:]``, in the wire's byte order (``le32`` exists for the ICRC alone)."""

from __future__ import annotations

from unpinned.compiled.arena import be16, be24, be32, be64, get8, le32, put8, put16, put24, put32, put64, put_le32

__all__ = [
    "be16",
    "be24",
    "be32",
    "be64",
    "get8",
    "le32",
    "put8",
    "put16",
    "put24",
    "put32",
    "put64",
    "put_le32",
]
