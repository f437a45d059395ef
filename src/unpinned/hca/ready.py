"""Whose turn it is: the ready ring and the device's next deadline.

The ready ring holds each QP at most once (QP_QUEUED), so it cannot overflow: its depth is the number of QPs.
H_NEXT_TIMER is a lower bound of all deadlines; the timer step looks at every QP only when it has passed.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L


@kernel
def make_ready(h, q):
    """Give the QP its turn in a transmit step to come."""
    if h[q + L.QP_QUEUED] == 0:
        h[q + L.QP_QUEUED] = 1
        tail = h[L.H_READY_TAIL]
        h[h[L.H_READY_BASE] + (tail & h[L.H_READY_MASK])] = q
        h[L.H_READY_TAIL] = tail + 1
    return 0


@kernel
def set_deadline(h, q, field, when):
    """Arm one of the QP's timers, and the device's lower bound with it."""
    h[q + field] = when
    if when and when < h[L.H_NEXT_TIMER]:
        h[L.H_NEXT_TIMER] = when
    return 0
