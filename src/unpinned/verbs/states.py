"""The state machine of an RC queue pair: which transitions there are, and what each needs and takes.

Rules (IBTA vol. 1, 10.3.1; the masks are those that Linux checks for RC): a transition names all required attributes and
no others than the optional ones; IBV_QP_STATE is always allowed. One table, one lookup, one place that refuses.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from unpinned.verbs import enums as e
from unpinned.verbs.errors import refused, unsupported

STATES = {
    e.IBV_QPS_RESET: "RESET", e.IBV_QPS_INIT: "INIT", e.IBV_QPS_RTR: "RTR", e.IBV_QPS_RTS: "RTS", e.IBV_QPS_SQD: "SQD",
    e.IBV_QPS_SQE: "SQE", e.IBV_QPS_ERR: "ERR",
}  # fmt: skip

MASKS = {
    name.removeprefix("IBV_QP_"): value
    for name, value in vars(e).items()
    if name.startswith("IBV_QP_")
}


@dataclass(frozen=True)
class Transition:
    """What a transition needs, and may bring besides (IBV_QP_* bits)."""

    required: int = 0
    optional: int = 0


_INIT = e.IBV_QP_PKEY_INDEX | e.IBV_QP_PORT | e.IBV_QP_ACCESS_FLAGS
_RTR = (
    e.IBV_QP_AV | e.IBV_QP_PATH_MTU | e.IBV_QP_DEST_QPN | e.IBV_QP_RQ_PSN | e.IBV_QP_MAX_DEST_RD_ATOMIC | e.IBV_QP_MIN_RNR_TIMER
)
_RTS = e.IBV_QP_TIMEOUT | e.IBV_QP_RETRY_CNT | e.IBV_QP_RNR_RETRY | e.IBV_QP_SQ_PSN | e.IBV_QP_MAX_QP_RD_ATOMIC
_LIVE = e.IBV_QP_CUR_STATE | e.IBV_QP_ACCESS_FLAGS | e.IBV_QP_MIN_RNR_TIMER

_DRAINED = (
    e.IBV_QP_AV | e.IBV_QP_TIMEOUT | e.IBV_QP_RETRY_CNT | e.IBV_QP_RNR_RETRY | e.IBV_QP_MAX_QP_RD_ATOMIC
    | e.IBV_QP_MAX_DEST_RD_ATOMIC | e.IBV_QP_ACCESS_FLAGS | e.IBV_QP_MIN_RNR_TIMER | e.IBV_QP_PKEY_INDEX | e.IBV_QP_PORT
)  # fmt: skip

_ANY = (e.IBV_QPS_RESET, e.IBV_QPS_INIT, e.IBV_QPS_RTR, e.IBV_QPS_RTS, e.IBV_QPS_SQD, e.IBV_QPS_ERR)

TRANSITIONS: dict[tuple[int, int], Transition] = {
    (e.IBV_QPS_RESET, e.IBV_QPS_INIT): Transition(_INIT),
    (e.IBV_QPS_INIT, e.IBV_QPS_INIT): Transition(0, _INIT),
    (e.IBV_QPS_INIT, e.IBV_QPS_RTR): Transition(_RTR, e.IBV_QP_ACCESS_FLAGS | e.IBV_QP_PKEY_INDEX),
    (e.IBV_QPS_RTR, e.IBV_QPS_RTS): Transition(_RTS, _LIVE),
    (e.IBV_QPS_RTS, e.IBV_QPS_RTS): Transition(0, _LIVE),
    (e.IBV_QPS_RTS, e.IBV_QPS_SQD): Transition(0, e.IBV_QP_EN_SQD_ASYNC_NOTIFY),
    (e.IBV_QPS_SQD, e.IBV_QPS_SQD): Transition(0, _DRAINED),
    (e.IBV_QPS_SQD, e.IBV_QPS_RTS): Transition(0, _LIVE),
    **{(state, e.IBV_QPS_RESET): Transition() for state in _ANY},
    **{(state, e.IBV_QPS_ERR): Transition() for state in _ANY},
}

TO_INIT, TO_RTR, TO_RTS = _INIT | e.IBV_QP_STATE, _RTR | e.IBV_QP_STATE, _RTS | e.IBV_QP_STATE


def names(mask: int) -> str:
    """The attributes of *mask*, for a message.

    >>> names(512 | 1024)
    'TIMEOUT, RETRY_CNT'
    """
    return ", ".join(name for name, bit in MASKS.items() if mask & bit)


def check(number: int, state: int, new: int, mask: int) -> None:
    """Refuse a transition that the table has not, or that names too few or too many attributes: OSError EINVAL."""
    change = f"queue pair {number:#x}: modify {STATES.get(state, state)} -> {STATES.get(new, new)}"
    if new == e.IBV_QPS_SQE:
        raise unsupported(f"{change}: the state {STATES[new]}")
    found = TRANSITIONS.get((state, new))
    if found is None:
        raise refused(errno.EINVAL, f"{change}: there is no such transition")
    mask &= ~e.IBV_QP_STATE
    if missing := found.required & ~mask:
        raise refused(errno.EINVAL, f"{change}: missing {names(missing)}")
    if surplus := mask & ~(found.required | found.optional):
        raise refused(errno.EINVAL, f"{change}: not allowed here: {names(surplus) or hex(surplus)}")
