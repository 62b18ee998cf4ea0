"""A score and its interval as places on a bar, in percent of a scale that several bars share. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_MARGIN = 4.0


@dataclass(frozen=True)
class RangeBar:
    """Where the interval begins and ends and where the score stands, each from 0 to 100."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class Scale:
    """The smallest and the largest number that a bar has to show."""

    low: float
    high: float

    @staticmethod
    def over(numbers: Iterable[float | None]) -> Scale:
        """The scale over all numbers that are there."""
        known = [number for number in numbers if number is not None]
        return Scale(min(known, default=0.0), max(known, default=1.0))

    def bar(self, value: float, low: float | None, high: float | None) -> RangeBar:
        """The bar of a score; without an interval it is a point."""
        return RangeBar(
            self._place(value if low is None else low),
            self._place(value),
            self._place(value if high is None else high),
        )

    def _place(self, number: float) -> float:
        if self.high == self.low:
            return 50.0
        share = (number - self.low) / (self.high - self.low)
        return round(_MARGIN + share * (100 - 2 * _MARGIN), 2)
