"""Means over seeds with intervals, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
ENOUGH = 5  # seeds; a row with fewer is marked


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds and the half-width of its 95 % interval, None for fewer than two."""

    mean: float
    half: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95 % t-interval (n - 1 degrees of freedom) of independent values; None without any."""
    n = len(values)
    if n == 0:
        return None
    mean = sum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, _quantile(n - 1) * (variance / n) ** 0.5, n)


def paired_difference(first: Mapping[int | str, float], second: Mapping[int | str, float]) -> Estimate | None:
    """First minus second, seed by seed over the seeds that both have, with its 95 % t-interval.

    Args:
        first: the value of each seed.
        second: the same of the other group.

    Returns:
        None if they have no seed in common.
    """
    common = sorted(first.keys() & second.keys(), key=str)
    return estimate([first[seed] - second[seed] for seed in common])


def _quantile(freedom: int) -> float:
    from scipy.special import stdtrit  # scipy.stats takes far longer to import

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))
