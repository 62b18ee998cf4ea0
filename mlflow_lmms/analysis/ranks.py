"""Ranks that say what the data can tell: an interval of ranks for each model, and win rates. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mlflow_lmms.analysis.holm import holm_array
from mlflow_lmms.analysis.mean_interval import LEVEL, Interval

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """Arrays of shape (models,); rank 1 is best.

    Attributes:
        first, last: the ranks that a model may have; `first`, one more than the models that are proven better, is the
            rank that it shows, so that models which cannot be told apart share one. Together the intervals hold for
            all models at once with a probability of at least 1 - alpha: a model is placed before another only where
            Holm's procedure over all pairs of the column tells them apart. Holm (1979); simultaneous rank intervals
            from pairwise tests: Mohamad, Goeman and van Zwet (2021), "Simultaneous confidence intervals for ranks
            with application to ranking institutions", Biometrics 78.
        adjusted: p-values of the pairs, shape (models, models), after Holm.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    adjusted: Matrix


def ranks(values: NDArray[np.float64], p_value: Matrix, alpha: float = 1 - LEVEL) -> Ranks:
    """Rank models by their scores as far as the tests of pairs tell them apart.

    Args:
        values: shape (models,), larger is better (negate a column where smaller is).
        p_value: shape (models, models), symmetric, of the pairs' tests.
    """
    count = len(values)
    upper = np.triu_indices(count, 1)
    adjusted = np.ones((count, count))
    adjusted[upper] = adjusted.T[upper] = holm_array(p_value[upper])
    beats = (adjusted < alpha) & (values[:, np.newaxis] > values[np.newaxis, :])
    return Ranks(
        first=1 + beats.sum(axis=0),
        last=count - beats.sum(axis=1),
        adjusted=adjusted,
    )


def win_rates(beats_share: Matrix) -> Matrix:
    """Mean over benchmarks of the share of other models that a model beats; shape (models,), NaN without any.

    Args:
        beats_share: shape (models, benchmarks), NaN where a model has no rank: it is left out, never the worst.
    """
    counted = np.isfinite(beats_share)
    number = counted.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(number > 0, np.where(counted, beats_share, 0.0).sum(axis=1) / number, np.nan))


def shares_beaten(shown: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the other models of a column that each beats, ties counted half; shape (models,).

    Args:
        shown: ranks with ties, NaN where a model is not ranked; NaN comes back for it, and for a model alone.
    """
    ranked = np.isfinite(shown)
    if ranked.sum() < 2:
        return np.full(len(shown), np.nan)
    there = shown[ranked]
    order = np.sort(there)
    worse = len(there) - np.searchsorted(order, there, side="right")
    tied = len(there) - 1 - worse - np.searchsorted(order, there, side="left")
    found = np.full(len(shown), np.nan)
    found[ranked] = (worse + tied / 2) / (len(there) - 1)
    return found


def win_rate_interval(shares: NDArray[np.float64]) -> Interval | None:
    """Interval of a mean win rate over benchmarks, which are taken as a sample of those there could be.

    Args:
        shares: shape (benchmarks,), finite.

    Returns:
        None for fewer than two benchmarks. Student's t, cut at 0 and 1.
    """
    if len(shares) < 2:
        return None
    half = float(special.stdtrit(len(shares) - 1, (1 + LEVEL) / 2)) * float(shares.std(ddof=1)) / len(shares) ** 0.5
    mean = float(shares.mean())
    return Interval(max(0.0, mean - half), min(1.0, mean + half), "student-t over benchmarks")
