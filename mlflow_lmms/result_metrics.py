"""The numbers that one task's result puts into its MLflow run, by name. Pure.

Owns which numbers become metrics, and how many slices may; the names' form is `mlflow_lmms.names`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby

from mlflow_lmms.analysis.groups import FEWEST_JUDGED
from mlflow_lmms.metric_interval import metric_interval
from mlflow_lmms.names import MetricName
from mlflow_lmms.task_result import MetricResult, SliceResult, TaskResult

_STABILITY = ("EA", "CA", "IV", "CR")


def metric_values(result: TaskResult, slice_budget: int) -> Iterator[tuple[MetricName, float]]:
    """Every number of the task with its name; names are whole here, not yet cut to MLflow's length.

    Args:
        slice_budget: how many slices may become metrics; MLflow's page does not survive thousands.
    """
    for metric in result.metrics:
        if metric.value is not None and math.isfinite(metric.value):
            yield from _of_metric(MetricName(result.task, metric.metric, metric.filter), metric.value, metric)
    if result.stability is not None:
        name = MetricName(result.task, result.stability.metric, result.stability.filter)
        for statistic in _STABILITY:
            if (value := getattr(result.stability, statistic)) is not None:
                yield name.of(statistic), value
    yield from _of_slices(result, slice_budget)


def worst_group(result: TaskResult) -> SliceResult | None:
    """The judged group with the worst score, of the documents' own dimensions; None where no score is better."""
    better = result.primary_metric.higher_is_better if result.primary_metric else None
    if better is None:
        return None
    pick = min if better else max
    dimensions = [judged for _, pieces in _by_dimension(_of_documents(result)) if len(judged := _judged(pieces)) > 1]
    return pick((piece for judged in dimensions for piece in judged), key=lambda piece: piece.score, default=None)


def _of_metric(name: MetricName, value: float, metric: MetricResult) -> Iterator[tuple[MetricName, float]]:
    yield name, value
    yield name.of("n"), float(metric.n)
    if metric.stderr is not None and math.isfinite(metric.stderr):
        yield name.of("stderr"), metric.stderr
    if (interval := metric_interval(metric)) is not None:
        yield name.of("ci_low"), interval.low
        yield name.of("ci_high"), interval.high
    if metric.errored:
        yield name.of("errored"), float(metric.errored)
    if metric.native is not None and metric.native != metric.value:
        yield name.of("native"), metric.native


def _of_slices(result: TaskResult, budget: int) -> Iterator[tuple[MetricName, float]]:
    better = result.primary_metric.higher_is_better if result.primary_metric else None
    for dimension, pieces in _by_dimension(_of_documents(result)):
        name = MetricName(result.task, pieces[0].metric, pieces[0].filter)
        scores = [piece.score for piece in _judged(pieces)]
        if len(scores) > 1:
            if better is not None:
                yield name.of(f"worst {dimension}"), min(scores) if better else max(scores)
            yield name.of(f"gap {dimension}"), max(scores) - min(scores)
        if len(pieces) <= budget:
            budget -= len(pieces)
            for piece in pieces:
                sliced = MetricName(result.task, piece.metric, piece.filter, dimension, piece.value)
                yield sliced, piece.score
                yield sliced.of("n"), float(piece.n)


def _of_documents(result: TaskResult) -> list[SliceResult]:
    """The slices that cut every model's documents alike; groups by what a model answered do not."""
    outcomes = {name for name, own in result.dimension_sources.items() if own.outcome}
    return [piece for piece in result.slices if piece.dimension not in outcomes]


def _judged(pieces: Iterable[SliceResult]) -> list[SliceResult]:
    return [piece for piece in pieces if piece.n >= FEWEST_JUDGED]


def _by_dimension(slices: Iterable[SliceResult]) -> Iterator[tuple[str, list[SliceResult]]]:
    ordered = sorted(slices, key=lambda piece: piece.dimension)
    for dimension, pieces in groupby(ordered, key=lambda piece: piece.dimension):
        yield dimension, list(pieces)
