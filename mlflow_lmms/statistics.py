"""Intervals and paired tests for scores. Pure; scipy and statsmodels do the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95
_DRAWS = 10_000
_SEED = 20_240_601
_FEW_VALUES = 100
_NUMBERS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval at `LEVEL`, in the score's own units."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first model on the same documents.

    `difference` and its interval are in score units; `wins` and `losses` count documents on which the second
    model scored higher and lower; `p_value` is two-sided.
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    n: int
    method: str


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


def is_binary(values: NDArray[np.float64]) -> bool:
    """Whether every value is 0 or 1."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def paired_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> PairedDifference:
    """Compare two models on the same documents: exact McNemar for 0/1 scores, sign-flip permutation otherwise.

    Args:
        first, second: shape (n,), aligned by document, finite.

    McNemar (1947), "Note on the sampling error of the difference between correlated proportions", Psychometrika 12,
    in its exact binomial form. The interval is the percentile bootstrap over documents; for 0/1 scores the
    resampled win and loss counts are drawn from their exact multinomial distribution.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected two aligned vectors of one length, got shapes {first.shape} and {second.shape}")
    delta = second - first
    n = len(delta)
    wins, losses = int((delta > 0).sum()), int((delta < 0).sum())
    if n == 0:
        return PairedDifference(float("nan"), float("nan"), float("nan"), 1.0, 0, 0, 0, "no shared documents")
    random = np.random.default_rng(_SEED)
    if is_binary(first) and is_binary(second):
        p_value = mcnemar(wins, losses)
        counts = random.multinomial(n, [wins / n, losses / n, (n - wins - losses) / n], size=_DRAWS)
        means, method = (counts[:, 0] - counts[:, 1]) / n, "exact McNemar"
    else:
        p_value, means, method = _sign_flip(delta, random), _bootstrap_means(delta, random), "sign-flip permutation"
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return PairedDifference(float(delta.mean()), float(low), float(high), p_value, wins, losses, n, method)


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact McNemar test, from the documents on which two models differ."""
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _sign_flip(delta: NDArray[np.float64], random: np.random.Generator) -> float:
    """All signs for few documents, else random ones; `scipy.stats.permutation_test` does the same 30 times slower."""
    if not delta.any():
        return 1.0
    n = len(delta)
    least = abs(delta.sum()) * (1 - 1e-9)
    if 2**n <= _DRAWS:
        signs = 1 - 2 * (np.arange(2**n)[:, np.newaxis] >> np.arange(n) & 1)
        return float((np.abs(signs @ delta) >= least).mean())

    def sums(draws: int) -> NDArray[np.float64]:
        coins = random.integers(0, 256, (draws, (n + 7) // 8), dtype=np.uint8)
        return np.asarray(2 * (np.unpackbits(coins, axis=1, count=n) @ delta) - delta.sum())

    extreme = np.abs(_in_batches(sums, n)) >= least
    return float((extreme.sum() + 1) / (_DRAWS + 1))


def _bootstrap_means(delta: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    values, counts = np.unique(delta, return_counts=True)
    n = len(delta)
    if len(values) <= _FEW_VALUES:
        return np.asarray(random.multinomial(n, counts / n, size=_DRAWS) @ values / n, dtype=np.float64)
    return _in_batches(lambda draws: delta[random.integers(0, n, (draws, n))].mean(axis=1), n)


def _in_batches(draw: Callable[[int], NDArray[np.float64]], width: int) -> NDArray[np.float64]:
    """`_DRAWS` draws of so many numbers each, a few million numbers at a time."""
    rows = max(1, _NUMBERS_AT_ONCE // width)
    sizes = [min(rows, _DRAWS - start) for start in range(0, _DRAWS, rows)]
    return np.concatenate([draw(size) for size in sizes])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values. Holm (1979), "A simple sequentially rejective multiple test procedure"."""
    # statsmodels' multipletests would do it, but collects all garbage of the process at each call: 0.3 s in a server.
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given)
    adjusted = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    return [float(p) for p in np.minimum(adjusted, 1.0)[np.argsort(order)]]


def tie_groups(ordered: Sequence[str], differ: Callable[[str, str], bool]) -> dict[str, int]:
    """Rank of each name (1 is best), where a name that does not differ from its group's best shares that rank.

    Args:
        ordered: names, best first.
        differ: whether the difference of two names is significant.
    """
    ranks: dict[str, int] = {}
    leader: str | None = None
    for position, name in enumerate(ordered, start=1):
        if leader is None or differ(leader, name):
            leader = name
            ranks[name] = position
        else:
            ranks[name] = ranks[leader]
    return ranks
