"""Intervals and paired differences against scipy.stats."""

import numpy as np
import pytest
from scipy import stats

from lifted_lightning.report.table import estimate, paired_difference


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_interval_is_students(n: int) -> None:
    values = np.random.default_rng(n).normal(0.8, 0.02, n).tolist()
    found = estimate(values)
    assert found is not None
    assert found.half is not None
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(expected), rel=1e-12)
    assert found.n == n


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    one = estimate([0.5])
    assert one is not None
    assert (one.mean, one.half, one.n, one.excludes_zero) == (0.5, None, 1, False)
    assert estimate([]) is None


def test_paired_difference_is_that_of_common_seeds() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.8, 0.1, 6), rng.normal(0.75, 0.1, 6)
    found = paired_difference({**dict(enumerate(first.tolist())), 17: 9.0}, dict(enumerate(second.tolist())))
    assert found is not None
    assert found.half is not None
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(expected), rel=1e-12)
    assert found.n == 6
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_excludes_zero_as_the_test_says() -> None:
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.01, 0.02, 0.05, 0.2):
        values = rng.normal(shift, 0.05, 5)
        found = estimate(values.tolist())
        assert found is not None
        assert found.excludes_zero == (stats.ttest_1samp(values, 0.0).pvalue < 0.05)
