"""The device's words for what verbs names: the same numbers, so that nothing is translated."""

import pytest

from unpinned.hca import layout as L
from unpinned.verbs import enums as e

OURS = {"ACCESS_REMOTE_INVALIDATE", "QPS_FREE"}
"""No verbs name."""


@pytest.mark.parametrize("prefix", ["WC_", "WR_", "QPS_", "SEND_", "ACCESS_"])
def test_the_device_s_numbers_are_those_of_verbs(prefix):
    ours = {name: value for name, value in vars(L).items() if name.startswith(prefix) and name not in OURS}
    assert len(ours) > 2
    assert ours == {name: getattr(e, f"IBV_{name}") for name in ours}
