"""What is kept of many scores: enough for mean, deviation, range and kind, in constant memory.

Pure (Welford's and Chan's formulas).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class ScoreSums:
    """A running summary of scores."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared differences from the mean
    least: float = math.inf
    most: float = -math.inf
    binary: bool = True  # every score is 0 or 1
    hundreds: bool = True  # every score is 0 or 100

    @classmethod
    def of(cls, scores: Iterable[float | None]) -> ScoreSums:
        """Summarise the scores that are there."""
        sums = cls()
        for score in scores:
            if score is not None:
                sums.add(score)
        return sums

    @property
    def total(self) -> float:
        """The sum of the scores."""
        return self.mean * self.n

    @property
    def sd(self) -> float | None:
        """The sample standard deviation; None below two scores."""
        return math.sqrt(max(0.0, self.squares) / (self.n - 1)) if self.n > 1 else None

    @property
    def all_zero(self) -> bool:
        """Whether there are scores and every one is 0."""
        return self.n > 0 and self.least == self.most == 0.0

    def add(self, score: float) -> None:
        """Take one more score in."""
        self.n += 1
        step = score - self.mean
        self.mean += step / self.n
        self.squares += step * (score - self.mean)
        if score < self.least:
            self.least = score
        if score > self.most:
            self.most = score
        if self.binary and score not in (0.0, 1.0):
            self.binary = False
        if self.hundreds and score not in (0.0, 100.0):
            self.hundreds = False

    def merged(self, other: ScoreSums) -> ScoreSums:
        """Summarise the scores of both."""
        n = self.n + other.n
        if n == 0:
            return ScoreSums()
        step = other.mean - self.mean
        return ScoreSums(
            n,
            self.mean + step * other.n / n,
            self.squares + other.squares + step * step * self.n * other.n / n,
            min(self.least, other.least),
            max(self.most, other.most),
            self.binary and other.binary,
            self.hundreds and other.hundreds,
        )
