"""The figures: peak over a window, and the response to a client that lies."""

import numpy as np
import pytest

from unpinned.perf.bandwidth import _peak
from unpinned.perf.latency import _figures
from unpinned.perf.session import _result
from unpinned.remote.errors import ProtocolError


def test_the_peak_is_the_best_stretch_of_a_window():
    stamps = [(0.0, 0), (1.0, 10), (1.5, 20), (3.0, 30)]
    assert _peak(stamps, 10) == pytest.approx(20.0)
    assert _peak(stamps, 20) == pytest.approx(20 / 1.5)
    assert _peak(stamps, 31) == 0.0


def test_percentiles_are_values_that_occurred():
    figures = _figures(np.arange(1.0, 1001.0))
    assert figures["t_min"] == 1.0 and figures["t_max"] == 1000.0
    assert (figures["t_typical"], figures["percentile_99"], figures["percentile_99.9"]) == (500.0, 990.0, 999.0)


@pytest.mark.parametrize("message", [{}, {"result": 1}, {"result": {"MsgSize": "x"}}, {"result": {str(i): i for i in range(30)}}])
def test_a_result_that_is_none_is_refused(message):
    with pytest.raises(ProtocolError):
        _result(message)
