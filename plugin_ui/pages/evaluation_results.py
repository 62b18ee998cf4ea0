"""What a finished task has to show: its metrics with intervals, and its slices with the worst group. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from mlflow_lmms.metric_interval import metric_interval, slice_interval
from mlflow_lmms.names import DEFAULT_FILTER, MetricName, cut
from mlflow_lmms.task_result import MetricResult, SliceResult, TaskResult
from plugin_ui.pages.range_bar import RangeBar, Scale

#: Groups of fewer documents are shown but not judged.
_FEWEST = 10
_MOST_GROUPS = 24
_SOURCES = {
    "declared": "declared for the task",
    "scoring": "a field of the scoring",
    "document": "a column of the documents",
    "feature": "a property of the prompt or answer",
}


@dataclass(frozen=True)
class Result:
    """One metric of one task.

    Attributes:
        reason: why this is the metric that stands for the task; empty for the others.
        scale: what the value's scale is, in words; `scale_reason` how that is known.
        method: how the interval was made; empty where there is none.
        level: ``sample`` where the value is the mean of the samples' scores, ``corpus`` where it is made of all
            samples together, ``none`` without a value.
        note: why there is no value, or what else is to be known of it.
    """

    task: str
    label: str
    value: float | None
    low: float | None
    high: float | None
    method: str
    n: int
    higher_is_better: bool | None
    direction_reason: str
    primary: bool
    reason: str
    scale: str
    scale_reason: str
    level: str
    note: str


@dataclass(frozen=True)
class Group:
    """One value of a dimension."""

    value: str
    score: float
    low: float | None
    high: float | None
    n: int
    worst: bool
    bar: RangeBar

    @property
    def few(self) -> bool:
        """Whether there are too few samples to call it the worst."""
        return self.n < _FEWEST


@dataclass(frozen=True)
class SliceChart:
    """The groups of one dimension of one task.

    Attributes:
        source: where the dimension comes from, in words.
        hidden: groups that are not listed.
        gap: between the best and the worst score of the groups that are judged.
        apart: whether the intervals of those two do not meet, so that the gap is more than noise.
    """

    task: str
    dimension: str
    label: str
    source: str
    groups: list[Group]
    hidden: int
    gap: float
    apart: bool


def metric_label(metric: str, filter_name: str) -> str:
    """A metric's name for people, with its filter where it has one."""
    return metric if filter_name == DEFAULT_FILTER else f"{metric}, {filter_name}"


def task_metrics(result: TaskResult, recorded: Mapping[str, float]) -> list[Result]:
    """The task's metrics, the primary one first; intervals as they stand in the run's metrics (`recorded`)."""
    rows = [_metric(result, metric, recorded) for metric in result.metrics]
    return sorted(rows, key=lambda row: not row.primary)


def _metric(result: TaskResult, metric: MetricResult, recorded: Mapping[str, float]) -> Result:
    name = MetricName(result.task, metric.metric, metric.filter)
    found = metric_interval(metric)
    primary = metric == result.primary_metric
    return Result(
        task=result.task,
        label=metric_label(metric.metric, metric.filter),
        value=metric.value,
        low=recorded.get(cut(str(name.of("ci_low"))), found.low if found else None),
        high=recorded.get(cut(str(name.of("ci_high"))), found.high if found else None),
        method=found.method if found else "",
        n=metric.n,
        higher_is_better=metric.higher_is_better,
        direction_reason=metric.direction_reason,
        primary=primary,
        reason=result.primary.reason if primary and result.primary else "",
        scale=scale_words(metric.scale.high),
        scale_reason=metric.scale.reason,
        level=metric.level,
        note=_note(metric),
    )


def scale_words(high: float | None) -> str:
    """A metric's scale for people."""
    if high is None:
        return "unknown scale"
    return {1.0: "fraction", 100.0: "percent"}.get(high, f"0 to {high:g}")


def _note(metric: MetricResult) -> str:
    notes = [f"no number: {metric.note}" if metric.value is None else metric.note] if metric.note else []
    if metric.native is not None and metric.native != metric.value:
        notes.append(f"lmms-eval's own number is {metric.native:.6g}")
    if metric.missing:
        notes.append(f"{metric.missing} samples have no such score")
    return "; ".join(notes)


def slice_charts(results: Iterable[TaskResult]) -> list[SliceChart]:
    """One chart for each task and dimension with at least two groups; gaps beyond noise first, the widest before."""
    charts = [chart for result in results for chart in _charts(result) if len(chart.groups) > 1]
    return sorted(charts, key=lambda chart: (not chart.apart, -chart.gap))


def _charts(result: TaskResult) -> list[SliceChart]:
    ordered = sorted(result.slices, key=lambda piece: piece.dimension)
    return [
        _chart(result, dimension, list(pieces))
        for dimension, pieces in groupby(ordered, key=lambda piece: piece.dimension)
    ]


def _chart(result: TaskResult, dimension: str, pieces: list[SliceResult]) -> SliceChart:
    primary = result.primary_metric
    intervals = [_interval(result, piece) for piece in pieces]
    scale = Scale.over([piece.score for piece in pieces] + [bound for pair in intervals for bound in pair])
    worst = _worst_score(pieces, higher_is_better=primary is None or primary.higher_is_better is not False)
    groups = [
        Group(
            piece.value, piece.score, low, high, piece.n, _is_worst(piece, worst), scale.bar(piece.score, low, high)
        )
        for piece, (low, high) in zip(pieces, intervals, strict=True)
    ]
    judged = sorted((group for group in groups if group.n >= _FEWEST), key=lambda group: group.score)
    return SliceChart(
        task=result.task,
        dimension=dimension,
        label=metric_label(pieces[0].metric, pieces[0].filter),
        source=_source(result, dimension),
        groups=groups[:_MOST_GROUPS],
        hidden=max(0, len(groups) - _MOST_GROUPS),
        gap=judged[-1].score - judged[0].score if judged else 0.0,
        apart=bool(judged) and _apart(judged[0], judged[-1]),
    )


def _apart(lowest: Group, highest: Group) -> bool:
    return lowest.high is not None and highest.low is not None and lowest.high < highest.low


def _interval(result: TaskResult, piece: SliceResult) -> tuple[float | None, float | None]:
    metric = result.metric(piece.metric, piece.filter)
    found = slice_interval(piece, metric) if metric is not None else None
    return (None, None) if found is None else (found.low, found.high)


def _source(result: TaskResult, dimension: str) -> str:
    told = result.dimension_sources.get(dimension)
    if told is None:
        return ""
    words = _SOURCES.get(told.source, told.source)
    return f"{words}; depends on the model's answers" if told.outcome else words


def _is_worst(piece: SliceResult, worst: float | None) -> bool:
    return piece.n >= _FEWEST and piece.score == worst


def _worst_score(pieces: Iterable[SliceResult], *, higher_is_better: bool) -> float | None:
    scores = {piece.score for piece in pieces if piece.n >= _FEWEST}
    if len(scores) < 2:
        return None
    return min(scores) if higher_is_better else max(scores)
