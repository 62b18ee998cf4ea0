"""Two models on the same documents: difference, interval, test. Pure.

Right-or-wrong scores: exact McNemar test and Tango's score interval, which keeps its coverage where hardly any
document tells the models apart; there the bootstrap's interval shrinks to nothing (`tests/test_paired_difference`).
Other scores: sign-flip permutation test and the bootstrap of the mean, Student's t for few documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from mlflow_lmms.analysis.mean_interval import LEVEL, is_binary
from mlflow_lmms.analysis.saddlepoint import bootstrap_mean_interval, sign_flip_p_value

Values = NDArray[np.float64]

#: Below so many documents the bootstrap's percentile interval is too short, and Student's t is taken.
_BOOTSTRAP_FROM = 50


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first model on the same documents.

    `difference` and its interval are in score units; `wins` and `losses` count documents on which the second
    model scored higher and lower; `p_value` is two-sided; `deviation` is the standard deviation of the differences,
    of clustered documents as large as their mean's standard error tells.
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    n: int
    method: str
    deviation: float = float("nan")

    def times(self, factor: float) -> PairedDifference:
        """The same in other units, as percentages."""
        scaled = {name: getattr(self, name) * factor for name in ("difference", "low", "high", "deviation")}
        return replace(self, **scaled)


NO_DOCUMENTS = PairedDifference(float("nan"), float("nan"), float("nan"), 1.0, 0, 0, 0, "no shared documents")


def paired_difference(
    first: Values, second: Values, clusters: NDArray[np.int64] | None = None, level: float = LEVEL
) -> PairedDifference:
    """Compare two models on the same documents.

    Args:
        first, second: shape (n,), aligned by document, finite.
        clusters: shape (n,), which documents belong together (questions on one picture); each cluster then counts
            as one draw.
        level: of the two-sided interval.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected two aligned vectors of one length, got shapes {first.shape} and {second.shape}")
    if len(first) == 0:
        return NO_DOCUMENTS
    delta = second - first
    wins, losses = int((delta > 0).sum()), int((delta < 0).sum())
    deviation = float(delta.std(ddof=1)) if len(delta) > 1 else float("nan")
    if clusters is not None:
        sums, error = _cluster_sums(delta, clusters)
        low, high = _clustered_interval(delta, len(sums), error, _span(first, second), level)
        p_value, deviation = sign_flip_p_value(sums) if len(sums) > 1 else 1.0, error * len(delta) ** 0.5
        method = "sign-flip permutation of clusters"
    elif is_binary(first) and is_binary(second):
        low, high = score_interval(wins, losses, len(delta), level)
        p_value, method = mcnemar(wins, losses), "exact McNemar"
    else:
        low, high = _mean_interval(delta, _span(first, second), level)
        p_value, method = sign_flip_p_value(delta), "sign-flip permutation"
    return PairedDifference(float(delta.mean()), low, high, p_value, wins, losses, len(delta), method, deviation)


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact McNemar test, from the documents on which two models differ.

    McNemar (1947), "Note on the sampling error of the difference between correlated proportions", Psychometrika 12,
    in its exact binomial form.
    """
    return float(min(1.0, 2 * stats.binom.cdf(min(wins, losses), wins + losses, 0.5))) if wins + losses else 1.0


def score_interval(wins: int, losses: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of the difference of two paired proportions, (wins - losses) / n.

    Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17.
    """
    limit = float(special.ndtri((1 + level) / 2))

    def score(difference: float) -> float:
        """The score statistic of a hypothetical difference; the probability of a loss is estimated under it."""
        b = -wins - losses + (2 * n - wins + losses) * difference
        c = -losses * difference * (1 - difference)
        loss = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * loss + difference * (1 - difference))
        return (wins - losses - n * difference) / variance**0.5 if variance > 0 else 0.0

    observed, end = (wins - losses) / n, 1 - 1e-12
    low = -1.0 if score(-end) <= limit else optimize.brentq(lambda d: score(d) - limit, -end, observed)
    high = 1.0 if score(end) >= -limit else optimize.brentq(lambda d: score(d) + limit, observed, end)
    return float(low), float(high)


def _span(first: Values, second: Values) -> float:
    return float(max(first.max(), second.max()) - min(first.min(), second.min()))


def _mean_interval(delta: Values, span: float, level: float) -> tuple[float, float]:
    if len(delta) == 1 or np.ptp(delta) == 0:
        return _same_everywhere(float(delta[0]), len(delta), span, level)
    if len(delta) >= _BOOTSTRAP_FROM:
        return bootstrap_mean_interval(delta, level)
    half = float(stats.t.ppf((1 + level) / 2, len(delta) - 1)) * float(delta.std(ddof=1)) / len(delta) ** 0.5
    return float(delta.mean()) - half, float(delta.mean()) + half


def _same_everywhere(delta: float, n: int, span: float, level: float) -> tuple[float, float]:
    """All documents differ by the same: others may not, in a share that n documents did not show (Clopper-Pearson).

    Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26: none of n bounds the share by 1 - tail**(1/n). Such documents may differ by the span of the scores.
    """
    unseen = 1 - ((1 - level) / 2) ** (1 / n)
    return delta - unseen * (span + delta), delta + unseen * (span - delta)


def _cluster_sums(delta: Values, clusters: NDArray[np.int64]) -> tuple[Values, float]:
    """The sum of each cluster, which is one draw, and the standard error of the mean; NaN for one cluster.

    Liang and Zeger (1986), "Longitudinal data analysis using generalized linear models", Biometrika 73, for a mean.
    """
    _, member = np.unique(clusters, return_inverse=True)
    sums = np.bincount(member, weights=delta).astype(np.float64)
    count, n = len(sums), len(delta)
    if count < 2:
        return sums, float("nan")
    residuals = sums - np.bincount(member) * delta.mean()
    return sums, float(residuals @ residuals * count / (count - 1)) ** 0.5 / n


def _clustered_interval(delta: Values, clusters: int, error: float, span: float, level: float) -> tuple[float, float]:
    """Student's t with one degree of freedom less than clusters; of one cluster nothing is known (NaN)."""
    mean = float(delta.mean())
    if clusters > 1 and np.ptp(delta) == 0:
        return _same_everywhere(mean, clusters, span, level)
    half = float(stats.t.ppf((1 + level) / 2, max(clusters - 1, 1))) * error
    return mean - half, mean + half
