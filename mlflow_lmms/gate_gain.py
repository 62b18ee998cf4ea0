"""What a candidate gains on a task, with the interval that a gate may rest on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

import numpy as np

from mlflow_lmms.score import Score, Vectors, compare


@dataclass(frozen=True)
class MeasuredGain:
    """Candidate minus baseline in the metric's own units, turned where lower is better.

    `n` documents have a score in both results, `unpaired` in one of them alone: these count as lost in `low`.
    """

    gain: float
    low: float
    high: float
    n: int | None
    unpaired: int
    method: str


def measured_gain(baseline: Score, candidate: Score, vectors: Vectors) -> MeasuredGain | None:
    """Over the same documents where the metric is a mean over them, else from the intervals of both results.

    None where there are neither.
    """
    sign = -1.0 if candidate.higher_is_better is False else 1.0
    found = compare(baseline, candidate, vectors) if candidate.factor is not None else None
    if found is None or not found.n:
        return _unpaired(baseline, candidate, sign)
    low, high = sorted((sign * found.low, sign * found.high))
    alone, span = _one_sided(baseline, candidate, found.n, vectors)
    low = (found.n * low - alone * span) / (found.n + alone)
    return MeasuredGain(sign * found.difference, low, high, found.n, alone, found.method)


def _one_sided(baseline: Score, candidate: Score, shared: int, vectors: Vectors) -> tuple[int, float]:
    """How many documents one of the two alone has a score for, and what one of them may be worth.

    A candidate that gives no usable answer where it would be wrong must not pass by that.
    """
    known = [vector.values for score in (baseline, candidate) if (vector := vectors(score)) is not None]
    finite = [values[np.isfinite(values)] for values in known]
    alone = sum(len(values) - shared for values in finite)
    if candidate.scale_high is not None:
        return alone, candidate.scale_high
    ends = [edge for values in finite if len(values) for edge in (values.min(), values.max())]
    return alone, float(max(ends) - min(ends)) * (candidate.factor or 1.0)


def _unpaired(baseline: Score, candidate: Score, sign: float) -> MeasuredGain | None:
    """Both errors added as those of independent results: wider than a paired interval, where there is none."""
    if baseline.low is None or baseline.high is None or candidate.low is None or candidate.high is None:
        return None
    difference = candidate.value - baseline.value
    low = difference - hypot(candidate.value - candidate.low, baseline.high - baseline.value)
    high = difference + hypot(candidate.high - candidate.value, baseline.value - baseline.low)
    low, high = sorted((sign * low, sign * high))
    return MeasuredGain(sign * difference, low, high, candidate.n, 0, "unpaired: the intervals of both results")
