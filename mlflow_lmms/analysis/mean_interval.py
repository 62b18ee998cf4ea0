"""Interval of one score: Wilson for right or wrong, Student's t for others, clustered where asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval at `LEVEL`, in the score's own units."""

    low: float
    high: float
    method: str


def is_binary(values: NDArray[np.float64]) -> bool:
    """Whether every value is 0 or 1."""
    return bool(((values == 0.0) | (values == 1.0)).all())


def mean_interval(values: NDArray[np.float64]) -> Interval | None:
    """Interval of the mean of per-sample scores: Wilson for 0/1 values, Student's t otherwise.

    Args:
        values: shape (n,), finite.

    Returns:
        None for fewer than two values.

    Wilson (1927), "Probable inference", JASA 22; Student's t with n−1 degrees of freedom.
    """
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return (
        interval_from_moments(len(values), float(values.mean()), deviation, is_binary(values))
        if len(values)
        else None
    )


def interval_from_moments(n: int, mean: float, deviation: float | None, binary: bool) -> Interval | None:
    """Interval of the mean of n scores from their moments alone: Wilson where all are 0 or 1, else Student's t.

    Args:
        deviation: their sample standard deviation; not needed for 0/1 scores.

    Returns:
        None for fewer than two scores, and without the deviation where it is needed.
    """
    if n < 2:
        return None
    if binary:
        right = round(mean * n)
        low, high = proportion_confint(right, n, alpha=1 - LEVEL, method="wilson")
        # Wilson's bounds of none and of all are 0 and 1; rounding would leave 1.7e-18.
        return Interval(float(low) if right else 0.0, float(high) if right < n else 1.0, "wilson")
    if deviation is None:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / n**0.5
    return Interval(mean - half, mean + half, "student-t")


def clustered_interval(mean: float, stderr: float, clusters: int) -> Interval | None:
    """Interval of a mean over clustered documents: Student's t with one degree of freedom less than clusters.

    Returns:
        None for fewer than two clusters, which tell nothing of the differences between clusters.
    """
    if clusters < 2:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, clusters - 1)) * stderr
    return Interval(mean - half, mean + half, "clustered student-t")
