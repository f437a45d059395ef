"""RDMA verbs over the pageable device, with pyverbs' names, arguments and meanings.

* `context`  Context, the attributes of device and port     * `cq`     CQ, CompChannel, WC
* `pd`       PD                                              * `qp`     QP; its `attributes`, `states` and `batch`es
* `mr`       MR, FileMR                                      * `wr`     SGE, SendWR, RecvWR
* `addr`     GID, GlobalRoute, AHAttr                        * `events` AsyncEvent; the waits of channel and context
* `enums`    IBV_*: also here, as in pyverbs.enums

Beyond verbs: any buffer can be registered; completions and requests go in batches of NumPy records (`CQ.poll_into`,
`QP.post_send_many`); `CQ.wait` sleeps; `CompChannel` can be awaited; `QP.connect` does what set-up code always does.

Imports host and hca. Promises upward: errors are OSErrors whose errno is pyverbs' error_code (TypeError for a wrong type); close is
idempotent and cascades; the garbage collector, a fork, an exit or Ctrl-C at any moment leave no thread and no lock behind.
"""

from __future__ import annotations

from unpinned.verbs import enums
from unpinned.verbs.addr import GID, AHAttr, GIDEntry, GlobalRoute
from unpinned.verbs.attributes import PeerInfo, QPAttr, QPCap, QPInitAttr
from unpinned.verbs.context import Context, DeviceAttr, DeviceAttrEx, ODPCaps
from unpinned.verbs.cq import CQ, WC, WC_DTYPE, CompChannel
from unpinned.verbs.devices import Device, get_device_list
from unpinned.verbs.enums import *  # noqa: F403
from unpinned.verbs.errors import ArgumentError, CompletionError, wc_status_to_str
from unpinned.verbs.events import AsyncEvent
from unpinned.verbs.mr import MR, FileMR
from unpinned.verbs.pd import PD
from unpinned.verbs.port import PortAttr
from unpinned.verbs.qp import QP
from unpinned.verbs.wr import SGE, RecvWR, SendWR

__all__ = [
    "AHAttr", "ArgumentError", "AsyncEvent", "CQ", "CompChannel", "CompletionError", "Context", "Device", "DeviceAttr",
    "DeviceAttrEx", "FileMR", "GID", "GIDEntry", "GlobalRoute", "MR", "ODPCaps", "PD", "PeerInfo", "PortAttr", "QP", "QPAttr",
    "QPCap", "QPInitAttr", "RecvWR", "SGE", "SendWR", "WC", "WC_DTYPE", "get_device_list", "wc_status_to_str",
    *(name for name in vars(enums) if name.startswith(("IBV_", "ACCESS_"))),
]  # fmt: skip
