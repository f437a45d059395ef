"""What today's adapters do when a page is missing, imitated at the edges of our transport, for the comparison.

Sources: `paging.causes` for the kernel's side; "Pitfalls of InfiniBand with On-Demand Paging" (ISPASS 2021) for what follows
on the wire; mlx5's odp.c for who answers what. The transport's own code stays as it is; what differs is done to its packets
and timers from outside:

* A responder whose page is missing answers RNR NAK at once (no parking: C_PARK_NS is 0), with the queue pair's
  min_rnr_timer instead of a time that was measured.
* A requester whose landing page is missing drops the response, and all that follow it. There is no NAK for that, so it asks
  again every C_REREAD_NS, or else when the transport's timer expires.
* After an RNR NAK the requester sends again the request that was refused, and nothing behind it ("damming"): what was posted
  in between is found missing only by a later packet, or by the timer.
* Faults are served by firmware: C_MINOR_NS each, one after the other where C_SERIAL is set.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L
from unpinned.hca.parking import forget
from unpinned.hca.responses import go_back
from unpinned.swarm import layout as S
from unpinned.swarm.events import wake
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import be24, get8, put8


@kernel
def adapt_receive(w, h, host):
    """What came, as such an adapter would have taken it: responses that cannot land are gone, an RNR NAK dams what follows."""
    for d in range(w[S.W_DIRECTIONS]):
        at = w[S.W_DIRECTION] + d * S.DIRECTION_WORDS
        q = w[at + S.DR_QP]
        if w[at + S.DR_FROM] != host:
            continue
        if h[q + L.QP_LAND_COUNT] or h[q + L.QP_LAND_GAP]:
            forget(h, q + L.QP_LAND_HEAD)
            h[q + L.QP_LAND_GAP] = 0
            if w[S.C_REREAD_NS] and w[at + S.DR_REREAD] == 0:
                w[at + S.DR_REREAD] = w[S.W_NOW] + w[S.C_REREAD_NS]
                wake(w, host, w[at + S.DR_REREAD])
        if w[at + S.DR_REREAD] and w[S.W_NOW] >= w[at + S.DR_REREAD]:
            w[at + S.DR_REREAD] = 0
            if h[q + L.QP_UNA] < h[q + L.QP_SEND_PSN]:
                go_back(h, q, h[q + L.QP_UNA])
        if w[at + S.DR_REREAD]:
            wake(w, host, w[at + S.DR_REREAD])
        if h[q + L.QP_RNR_UNTIL] > w[S.W_NOW]:
            w[at + S.DR_DAMMED] = h[q + L.QP_MAX_PSN]
    return 0


@kernel
def adapt_packet(w, h, a, offset, host, q):
    """Whether the packet leaves, and how it reads."""
    opcode = get8(a, offset)
    if opcode == O.RC_ACK:
        syndrome = get8(a, offset + O.BTH_BYTES)
        if syndrome & W.SYNDROME_KIND_MASK == W.SYNDROME_RNR:
            put8(a, offset + O.BTH_BYTES, W.SYNDROME_RNR | w[S.C_RNR_TIMER])
        return 1
    if O.OPCODE[opcode] & O.REQUEST:
        psn = h[q + L.QP_UNA] + W.psn_distance(be24(a, offset + W.BTH_PSN), h[q + L.QP_UNA])
        for d in range(w[S.W_DIRECTIONS]):
            at = w[S.W_DIRECTION] + d * S.DIRECTION_WORDS
            if w[at + S.DR_FROM] == host and w[at + S.DR_QP] == q:
                # Up to DR_DAMMED was on its way when the RNR NAK came.
                return 0 if h[q + L.QP_UNA] < psn < w[at + S.DR_DAMMED] else 1
    return 1
