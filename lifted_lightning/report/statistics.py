"""Means with intervals, and whether a difference holds: tests, their correction for being many, and seeds needed."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]

LEVEL, POWER = 0.95, 0.8  # of intervals and tests; of the seeds that are needed
FLIPS_FROM = 6  # units from which an exact sign-flip test can come below 0.05
_FLIPS_TO = 40
MOST_NEEDED = 10_000  # seeds, up to which needed ones are looked for
_AGREE = 1e-12  # a spread below it is of rounding


class Estimates(NamedTuple):
    """A row a group: means, half-widths of their 95 % intervals (NaN for fewer than two values), numbers of values."""

    mean: pd.DataFrame
    half: pd.DataFrame
    n: pd.DataFrame


def estimate(values: pd.DataFrame, by: Any) -> Estimates:
    """Mean and 95 % t-interval (n - 1 degrees of freedom) of independent values in groups, column by column.

    Args:
        values: numbers, NaN for one that is missing.
        by: the group of each row, as ``DataFrame.groupby`` takes it.
    """
    from scipy.special import stdtrit  # scipy.stats takes far longer to import

    groups = values.groupby(by)
    n, spread = groups.count(), groups.std()
    return Estimates(groups.mean(), stdtrit(n - 1, 0.5 + LEVEL / 2) * spread.mask(spread < _AGREE, 0.0) / n**0.5, n)


def spread_of(found: Estimates) -> pd.DataFrame:
    """The standard deviation of the values that were estimated from, with n - 1 in the denominator."""
    from scipy.special import stdtrit

    return found.half * found.n**0.5 / stdtrit(found.n - 1, 0.5 + LEVEL / 2)


def t_test(found: Estimates) -> pd.DataFrame:
    """Two-sided p of Student's t-test that a mean is 0: below 0.05 exactly where the interval excludes 0.

    NaN where values agree to the digit, or there are fewer than two: they show no spread to test by.
    """
    from scipy.special import stdtr

    t = found.mean.abs() / (spread_of(found) / found.n**0.5)
    return (2 * stdtr(found.n - 1, -t)).where(found.half > 0)


def holm(p: FloatArray, others: int = 0) -> FloatArray:
    """Holm's step-down correction: as many p as were tested, each as it counts among all of them.

    Calling different what is below 0.05 then errs in at most 5 % of the families of tests in which nothing differs
    (Holm, *A Simple Sequentially Rejective Multiple Test Procedure*, Scand. J. Statist. 6, 1979).

    Args:
        p: (n,), NaN where nothing was tested.
        others: tests of the family that are not among these, whose p may be smaller.
    """
    order = np.argsort(p)  # NaN last
    left = others + np.isfinite(p).sum() - np.arange(len(p))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * left))
    return adjusted


def sign_flips(differences: FloatArray) -> float:
    """Two-sided p of the exact sign-flip test (Fisher's) that differences are as often the one way as the other.

    It is the share of all 2^n ways to give the differences a sign whose sum is as far from 0 as the one seen.

    Args:
        differences: (n,) independent ones; NaN for one that is missing.

    Returns:
        p; NaN for fewer than 6 differences, of which the smallest p is 0.0625 or more, and for more than 40.
    """
    found = differences[~np.isnan(differences)]
    if not FLIPS_FROM <= len(found) <= _FLIPS_TO:
        return float("nan")
    half = len(found) // 2
    one, other = (_signed_sums(part) for part in (found[:half], found[half:]))
    seen = abs(found.sum()) - 1e-9 * np.abs(found).sum()  # sums that are equal but for rounding count
    beyond = len(other) - np.searchsorted(other, seen - one)  # of each sum of the one, those that reach it together
    return min(1.0, 2 * float(beyond.sum()) / 2 ** len(found))


def needed(spread: FloatArray, difference: float) -> FloatArray:
    """How many seeds, or folds, would show a difference: with 80 % power by the two-sided paired t-test at 5 %.

    Args:
        spread: standard deviations of the differences from seed to seed; any shape.
        difference: the true one, in the same unit.

    Returns:
        The numbers: NaN without a spread, infinite above ten thousand.
    """
    from scipy.special import nctdtr, stdtrit

    def power(n: FloatArray) -> FloatArray:
        critical = stdtrit(n - 1, 0.5 + LEVEL / 2)
        shift = np.minimum(difference * n**0.5 / spread, 30.0)  # of more the power is 1 all the same
        wrong_way = np.nan_to_num(nctdtr(n - 1, shift, -critical))  # NaN where it is far below rounding
        found: FloatArray = 1 - nctdtr(n - 1, shift, critical) + wrong_way
        return found

    spread = np.where(spread > 0, spread, np.nan)
    low, high = np.ones_like(spread), np.full_like(spread, MOST_NEEDED)
    few = power(high) < POWER
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2).clip(2)
        enough = power(middle) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(np.isnan(spread), np.nan, np.where(few, np.inf, high))


def _signed_sums(values: FloatArray) -> FloatArray:
    """All 2^n sums of the values with either sign each, in ascending order."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return np.sort(sums)
