"""Where an interval stands between two ends, in percent, as a report draws it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class RangeMark:
    """Positions from 0 to 100; `zero` is None where it does not lie between the ends."""

    start: float
    end: float
    dot: float
    zero: float | None = None


@dataclass(frozen=True)
class Axis:
    """Two ends that hold all values of a column."""

    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float | None], *, with_zero: bool = False) -> Axis:
        """The ends of these values; with a width even where all are equal."""
        known = [value for value in values if value is not None] + ([0.0] if with_zero else [])
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        pad = (high - low) * 0.04 or abs(low) * 0.5 or 0.5
        return Axis(low - pad, high + pad)

    def mark(self, value: float, low: float | None, high: float | None) -> RangeMark:
        """Where the value and its interval stand; without an interval it is a dot."""
        zero = self._at(0.0) if self.low < 0.0 < self.high else None
        start, end = self._at(value if low is None else low), self._at(value if high is None else high)
        return RangeMark(start, end, self._at(value), zero)

    def _at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)
