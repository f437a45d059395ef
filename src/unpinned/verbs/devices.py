"""The devices that `Context` can open: one for each address of this machine whose interface is up."""

from __future__ import annotations

from dataclasses import dataclass

from unpinned.verbs import enums as e
from unpinned.verbs.addr import GID
from unpinned.verbs.context import NAME_PREFIX
from unpinned.verbs.port import local_addresses


@dataclass(frozen=True)
class Device:
    """A device that may be opened, as verbs lists them."""

    name: bytes
    guid: int
    index: int
    node_type: int = e.IBV_NODE_CA
    transport_type: int = e.IBV_TRANSPORT_IB

    def __str__(self) -> str:
        return self.name.decode()


def get_device_list() -> list[Device]:
    """One device for each address: loopback first, then in the order of the interfaces.

    >>> str(get_device_list()[0])
    'unpinned-127.0.0.1'
    """
    return [
        Device(f"{NAME_PREFIX}{address}".encode(), int.from_bytes(GID(address).raw[8:], "big"), index)
        for index, address in enumerate(local_addresses())
    ]
