"""The state machine is a table, and refuses by name."""

import errno

import pytest

from unpinned.verbs import enums as e
from unpinned.verbs import states

PATH = [
    (e.IBV_QPS_RESET, e.IBV_QPS_INIT, states.TO_INIT),
    (e.IBV_QPS_INIT, e.IBV_QPS_RTR, states.TO_RTR),
    (e.IBV_QPS_RTR, e.IBV_QPS_RTS, states.TO_RTS),
]
ALL = list(states.STATES)


@pytest.mark.parametrize(("state", "new", "mask"), PATH)
def test_the_way_to_rts_needs_exactly_its_attributes(state, new, mask):
    states.check(5, state, new, mask)
    for bit in states.MASKS.values():
        if mask & bit and bit != e.IBV_QP_STATE:
            with pytest.raises(OSError, match=f"missing {states.names(bit)}$"):
                states.check(5, state, new, mask & ~bit)
    with pytest.raises(OSError, match="not allowed here: QKEY"):
        states.check(5, state, new, mask | e.IBV_QP_QKEY)


def test_each_pair_of_states_is_allowed_or_refused_with_both_names():
    allowed = set(states.TRANSITIONS)
    for state in ALL:
        for new in ALL:
            if (state, new) in allowed:
                continue
            with pytest.raises(OSError, match="queue pair 0x5: modify") as caught:
                states.check(5, state, new, e.IBV_QP_STATE)
            assert caught.value.errno == (errno.EOPNOTSUPP if new == e.IBV_QPS_SQE else errno.EINVAL)
            assert f"{states.STATES[state]} -> {states.STATES[new]}" in str(caught.value)


def test_reset_and_error_can_be_reached_from_everywhere():
    for state in (e.IBV_QPS_RESET, e.IBV_QPS_INIT, e.IBV_QPS_RTR, e.IBV_QPS_RTS, e.IBV_QPS_SQD, e.IBV_QPS_ERR):
        states.check(1, state, e.IBV_QPS_RESET, e.IBV_QP_STATE)
        states.check(1, state, e.IBV_QPS_ERR, e.IBV_QP_STATE)


def test_a_live_queue_pair_may_change_rights_and_rnr_timer():
    states.check(1, e.IBV_QPS_RTS, e.IBV_QPS_RTS, e.IBV_QP_ACCESS_FLAGS | e.IBV_QP_MIN_RNR_TIMER)
    with pytest.raises(OSError, match="PATH_MTU"):
        states.check(1, e.IBV_QPS_RTS, e.IBV_QPS_RTS, e.IBV_QP_PATH_MTU)


def test_a_drained_queue_pair_may_change_its_path_and_timers():
    states.check(1, e.IBV_QPS_RTS, e.IBV_QPS_SQD, e.IBV_QP_STATE | e.IBV_QP_EN_SQD_ASYNC_NOTIFY)
    states.check(1, e.IBV_QPS_SQD, e.IBV_QPS_SQD, e.IBV_QP_AV | e.IBV_QP_TIMEOUT | e.IBV_QP_RETRY_CNT | e.IBV_QP_MAX_QP_RD_ATOMIC)
    states.check(1, e.IBV_QPS_SQD, e.IBV_QPS_RTS, e.IBV_QP_STATE | e.IBV_QP_CUR_STATE)
    with pytest.raises(OSError, match="not allowed here: TIMEOUT"):
        states.check(1, e.IBV_QPS_SQD, e.IBV_QPS_RTS, e.IBV_QP_STATE | e.IBV_QP_TIMEOUT)
    with pytest.raises(OSError, match="there is no such transition"):
        states.check(1, e.IBV_QPS_RTR, e.IBV_QPS_SQD, e.IBV_QP_STATE)
