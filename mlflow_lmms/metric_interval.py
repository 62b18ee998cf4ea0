"""The interval of a metric or of one of its slices, from what the task's result tells of its samples.

Pure. Owns which method fits; nothing is stored as a guess: without what a method needs there is no interval.
"""

from __future__ import annotations

import math

from mlflow_lmms.analysis.estimates import Mean
from mlflow_lmms.analysis.mean_interval import Interval, clustered_interval, interval_from_moments
from mlflow_lmms.task_result import MetricResult, SliceResult


def metric_interval(metric: MetricResult) -> Interval | None:
    """The interval of a metric's value, in its units.

    The runner's bootstrap for a metric of all samples together; for a mean the clustered interval where its documents
    come in clusters, else Wilson's for 0/1 scores and Student's t for others, unless they are all equal.
    """
    if metric.low is not None and metric.high is not None:
        return Interval(metric.low, metric.high, metric.method or "bootstrap")
    if metric.factor is None or metric.value is None:
        return None
    mean = metric.value / metric.factor
    if metric.clusters is not None:
        if metric.clustered_stderr is None:
            return None
        if metric.clustered_stderr == 0 and metric.binary:  # all alike: other clusters may not be
            return _scaled(interval_from_moments(metric.clusters, mean, None, binary=True), metric.factor)
        return _scaled(clustered_interval(mean, metric.clustered_stderr, metric.clusters), metric.factor)
    return _of_mean(metric, metric.n, mean, _deviation(metric))


def slice_interval(piece: SliceResult, metric: MetricResult) -> Interval | None:
    """The interval of one slice's score, in its units; documents count as independent inside a slice."""
    if piece.low is not None and piece.high is not None:
        return Interval(piece.low, piece.high, piece.method or "bootstrap")
    if metric.factor is None:
        return None
    mean = piece.score / metric.factor
    return _of_mean(metric, piece.n, mean, piece.sd)


def _of_mean(metric: MetricResult, n: int, mean: float, deviation: float | None) -> Interval | None:
    """Scores that are all equal leave room for what so many did not show; without a known scale nothing is told."""
    factor = metric.factor or 1.0
    if metric.binary or deviation is None or deviation > 1e-12 * max(1.0, abs(mean)):
        return _scaled(interval_from_moments(n, mean, deviation, metric.binary), factor)
    if n < 2 or metric.scale.high is None:
        return None
    low, high = Mean(mean, 0.0, n, min(0.0, mean), max(metric.scale.high / factor, mean)).interval()
    return _scaled(Interval(low, high, "clopper-pearson bound of equal scores"), factor)


def _deviation(metric: MetricResult) -> float | None:
    """The samples' standard deviation; earlier runs tell only lmms-eval's standard error of their mean."""
    if metric.sd is not None or metric.stderr is None or metric.factor is None or metric.errored:
        return metric.sd
    return metric.stderr / metric.factor * math.sqrt(metric.n)


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return interval and Interval(interval.low * factor, interval.high * factor, interval.method)
