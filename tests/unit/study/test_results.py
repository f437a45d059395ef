"""Histograms against NumPy, and what a row says."""

import numpy as np
import pytest

from unpinned.compiled import kernel
from unpinned.study import layout as S
from unpinned.study.hca import measure
from unpinned.study.results import percentile, spread


@kernel
def measure_all(s, values):
    for i in range(len(values)):
        measure(s, S.H_LATENCY, values[i])
    return 0


def histogram_of(values):
    s = S.create(pages=1, frames=1, devices=1, streams=0, scanners=1, workers=1, cpus=0, tlb=1)
    measure_all(s, np.asarray(values, np.int64))
    return S.histogram(s, S.H_LATENCY)


@pytest.mark.parametrize("share", [0.5, 0.99, 0.999])
def test_percentiles_are_within_one_step_of_the_truth(share):
    values = (np.random.default_rng(1).pareto(1.5, 3_000) * 5_000).astype(np.int64)
    words = histogram_of(values)
    truth = np.quantile(values, share, method="inverted_cdf")
    assert percentile(words, share) == pytest.approx(truth, rel=0.012, abs=1)
    assert words[S.HISTOGRAM_COUNT] == values.size
    assert words[S.HISTOGRAM_SUM] == values.sum()


def test_nothing_measured_is_zero():
    assert set(spread(histogram_of([]), "x").values()) == {0.0}


@pytest.mark.parametrize("value", [0, 1, 127, 128, 129, 1 << 38, (1 << 62) - 1])
def test_the_largest_value_is_kept_as_it_is(value):
    words = histogram_of([value])
    assert words[S.HISTOGRAM_MAX] == value
    assert words[: S.HISTOGRAM_MAX].sum() == 1
    assert percentile(words, 0.5) <= value
