"""Estimates that know their interval at any level, differences of two of them, and tests of such. Pure.

The interval of a difference of two independent estimates is made from their own ("square and add"): Zou and Donner
(2008), "Construction of confidence limits about effect measures: a general approach", Statistics in Medicine 27. Of
two Wilson intervals it is method 10 of Newcombe (1998), "Interval estimation for the difference between independent
proportions", Statistics in Medicine 17. A difference is an estimate again. The test is the interval turned round: its
p-value is one minus the level at which the interval reaches nought.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from scipy import optimize, special

from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.analysis.paired_difference import score_interval

#: Levels are told from 1 up to this normal quantile: p-values below 1e-13 are told as that.
_FARTHEST = 7.4
#: And from this on: intervals of hardly any level are lost in rounding, and p-values above 0.99 are told as 1.
_NEAREST = 0.01


class Estimate(Protocol):
    """A number with an interval."""

    @property
    def value(self) -> float:
        """The number itself."""

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Its two-sided interval."""


@dataclass(frozen=True)
class Share:
    """A share of right answers, with Wilson's interval."""

    right: int
    n: int

    @property
    def value(self) -> float:
        """The share."""
        return self.right / self.n

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Wilson (1927), "Probable inference", JASA 22."""
        z, n, share = _quantile(level), self.n, self.value
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        # Of none and of all the bounds are 0 and 1; rounding would leave 1.7e-18.
        return middle - half if self.right else 0.0, middle + half if self.right < n else 1.0


@dataclass(frozen=True)
class Mean:
    """A mean of scores with Student's t interval; of scores that are all equal, what so many may have missed.

    `least` and `most` bound what a single score can be.
    """

    value: float
    deviation: float
    n: int
    least: float = 0.0
    most: float = 1.0

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Student's t; without any deviation Clopper's and Pearson's bound of the share of documents unseen."""
        if self.n > 1 and self.deviation > 0:
            half = _student(level, self.n - 1) * self.deviation / math.sqrt(self.n)
            return self.value - half, self.value + half
        unseen = 1 - ((1 - level) / 2) ** (1 / self.n)
        return self.value - unseen * (self.value - self.least), self.value + unseen * (self.most - self.value)


@dataclass(frozen=True)
class PairedShares:
    """A difference of two models' shares of right answers on the same documents, with Tango's interval."""

    wins: int
    losses: int
    n: int

    @property
    def value(self) -> float:
        """The second model's share minus the first's."""
        return (self.wins - self.losses) / self.n

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Tango's score interval."""
        return score_interval(self.wins, self.losses, self.n, level)


@dataclass(frozen=True)
class WithError:
    """A number with a standard error on some degrees of freedom; symmetric."""

    value: float
    error: float
    freedom: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Student's t."""
        half = _student(level, self.freedom) * self.error
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Told:
    """A number whose interval at `LEVEL` alone is known, from a bootstrap; at other levels as a normal one scales."""

    value: float
    low: float
    high: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Each side scaled by itself."""
        scale = _quantile(level) / _quantile(LEVEL)
        return self.value - scale * (self.value - self.low), self.value + scale * (self.high - self.value)


@dataclass(frozen=True)
class Difference:
    """One estimate minus another that is independent of it."""

    one: Estimate
    other: Estimate

    @property
    def value(self) -> float:
        """The difference."""
        return self.one.value - self.other.value

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Zou's and Donner's."""
        (low, high), (other_low, other_high) = self.one.interval(level), self.other.interval(level)
        one, other = self.one.value, self.other.value
        below = math.hypot(one - low, other_high - other)
        above = math.hypot(high - one, other - other_low)
        return self.value - below, self.value + above


def p_value(estimate: Estimate) -> float:
    """Two-sided p-value of the estimate being 0: one minus the level at which its interval reaches 0."""
    if estimate.value == 0:
        return 1.0
    bound = 0 if estimate.value > 0 else 1

    def reach(quantile: float) -> float:
        return estimate.interval(1 - 2 * float(special.ndtr(-quantile)))[bound]

    if reach(_FARTHEST) * estimate.value > 0:
        return 2 * float(special.ndtr(-_FARTHEST))
    if reach(_NEAREST) * estimate.value <= 0:
        return 1.0
    return 2 * float(special.ndtr(-optimize.brentq(reach, _NEAREST, _FARTHEST, xtol=1e-6)))


def _quantile(level: float) -> float:
    return float(special.ndtri((1 + level) / 2))


def _student(level: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, (1 + level) / 2))
