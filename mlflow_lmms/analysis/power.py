"""How many documents settle a question, and which difference so many can show. Pure.

By the normal limit of the paired test: n documents detect a difference d with the given power when
d = (z(1 - alpha/2) + z(power)) · deviation / sqrt(n). Miller (2024), "Adding error bars to evals", section 5; for
right-or-wrong scores the deviation of a difference follows from how many documents tell the models apart: Connor
(1987), "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43.
"""

from __future__ import annotations

import math

from scipy import stats

ALPHA = 0.05
POWER = 0.8


def smallest_detectable(deviation: float, n: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """The difference of two models that a two-sided paired test over n documents finds with the given power.

    Args:
        deviation: standard deviation of the differences of single documents, in score units.
    """
    return _quantiles(alpha, power) * deviation / math.sqrt(n)


def documents_needed(
    difference: float, deviation: float, alpha: float = ALPHA, power: float = POWER, *, sides: int = 2
) -> int | None:
    """Documents that it takes to tell a true difference from none; None when there is none to tell.

    Args:
        sides: 1 for non-inferiority, where `difference` is the margin plus the expected gain.
    """
    if difference == 0:
        return None
    if deviation == 0:
        return 1
    return max(2, math.ceil((_quantiles(alpha * 2 / sides, power) * deviation / abs(difference)) ** 2))


def binary_deviation(wins: float, losses: float) -> float:
    """Standard deviation of the difference of two right-or-wrong scores on a document.

    Args:
        wins, losses: shares of the documents that one model alone gets right, and the other alone.

    Raises:
        ValueError: these are no shares.
    """
    if not (wins >= 0 and losses >= 0 and wins + losses <= 1):
        raise ValueError(f"shares of documents are at least 0 and at most 1 together, got {wins} and {losses}")
    return math.sqrt(wins + losses - (wins - losses) ** 2)


def achieved_power(difference: float, deviation: float, n: int, alpha: float = ALPHA) -> float:
    """Probability that a two-sided paired test over n documents finds a true difference."""
    if deviation == 0:
        return 1.0 if difference else alpha
    shift = difference * n**0.5 / deviation
    limit = float(stats.norm.ppf(1 - alpha / 2))
    return float(stats.norm.sf(limit - shift) + stats.norm.cdf(-limit - shift))


def _quantiles(alpha: float, power: float) -> float:
    return float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))
