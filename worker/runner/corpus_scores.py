"""Scores of a metric that only all samples together have (WER, F1, CIDEr): its slices and the interval of its value.

Owns when the task's own aggregation may be called again, how often and for how long. The value itself is lmms-eval's;
where the aggregation does not give it again on the same samples, nothing of this is told.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.sample_scores import direct_number
from worker.runner.forked_child import Tell, in_child
from worker.runner.task_code import aggregation_may_call_judge, may_write_files
from worker.runner.task_guard import TaskGuard

METHOD = "bootstrap"
_LEVEL = 0.95
_DRAWS, _SLICE_DRAWS, _FEWEST_DRAWS = 1000, 200, 100
_MOST_UNDEFINED = 0.05  # of the draws; above it the interval would leave out too much
_SEED = 20_240_601
_TOLERANCE = 1e-9
_LEAST_S, _MOST_S, _SHARE = 10.0, 60.0, 0.05

Slice = tuple[str, str]
_WHOLE: Slice = ("", "")
_EVERY = -1  # stands for all samples, where parts go by number


@dataclass(frozen=True)
class CorpusMetric:
    """A metric to look into.

    `values` are its samples' (None where a document has none) and `value` is theirs together; `dropped` tells which
    documents the run's policy leaves out, `columns` into which groups the others fall.
    """

    key: MetricKey
    values: Sequence[Any]
    value: float
    dropped: Sequence[bool]
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    clusters: Sequence[Any] | None = None


@dataclass(frozen=True)
class CorpusScore:
    """The aggregation's value on some samples, with its interval where there is one."""

    n: int
    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def method(self) -> str | None:
        """How the interval was made."""
        return None if self.low is None else METHOD


@dataclass(frozen=True)
class CorpusScores:
    """What could be found out about one metric; `note` says what could not, and why.

    `refused`: the aggregation could or should not be called again, and `whole` is lmms-eval's own.
    """

    whole: CorpusScore
    slices: Mapping[Slice, CorpusScore]
    note: str | None
    refused: bool = False


def time_for_corpus_scores(task_seconds: float) -> float:
    """How long a task may spend on this."""
    return min(_MOST_S, max(_LEAST_S, _SHARE * task_seconds))


def corpus_scores(task: Any, cli_args: Any, metric: CorpusMetric, seconds: float) -> CorpusScores:
    """Call the task's aggregation on each slice and on random draws of its samples, within so many seconds."""
    aggregation = _Aggregation(task, cli_args, metric.key.metric)
    every = [index for index, value in enumerate(metric.values) if value is not None]
    parts = _parts(metric, [index for index in every if not metric.dropped[index]])
    if (refusal := aggregation.refusal()) is not None:
        return CorpusScores(_untouched(metric, len(every)), {}, refusal, refused=True)
    report = in_child(_Calls(aggregation, metric, every, list(parts.values()), seconds).make, seconds)
    values: dict[int, float | None] = {}
    draws: dict[int, list[float | None]] = {}
    for kind, part, value in report.told:
        if kind == "value":
            values[part] = value
        else:
            draws.setdefault(part, []).append(value)
    note = _note(report.failure, metric.value, values.get(_EVERY), draws.get(0, []))
    if not _same(values.get(_EVERY), metric.value):
        return CorpusScores(_untouched(metric, len(every)), {}, note, refused=True)
    scores = {
        name: CorpusScore(len(indices), values.get(number), *_interval(draws.get(number, [])))
        for number, (name, indices) in enumerate(parts.items())
    }
    return CorpusScores(scores.pop(_WHOLE), scores, note)


def _untouched(metric: CorpusMetric, n: int) -> CorpusScore:
    return CorpusScore(n, metric.value)


class _Aggregation:
    """The task's aggregation of one metric, called as lmms-eval calls it."""

    def __init__(self, task: Any, cli_args: Any, metric: str) -> None:
        self._function = task.aggregation().get(metric)
        self._arguments: dict[str, Any] = {}
        if callable(self._function) and "args" in inspect.signature(self._function).parameters:
            self._arguments = {"args": cli_args}

    def refusal(self) -> str | None:
        """Say why it must not be called a second time, if so."""
        if not callable(self._function):
            return "the task names no aggregation for it"
        name = getattr(self._function, "__name__", "its aggregation")
        if may_write_files(self._function):
            return f"{name} may write files, so it is called once only: no interval and no slices"
        if aggregation_may_call_judge(self._function):
            return f"{name} may call a judge, so it is called once only: no interval and no slices"
        return None

    def __call__(self, values: list[Any]) -> float | None:
        return direct_number(self._function(values, **self._arguments))


class _Calls:
    """The calls, in the order of what is wanted most; it runs in the child."""

    def __init__(
        self,
        aggregation: _Aggregation,
        metric: CorpusMetric,
        every: Sequence[int],
        parts: Sequence[Sequence[int]],
        seconds: float,
    ) -> None:
        self._aggregation = aggregation
        self._metric = metric
        self._every = every
        self._parts = parts
        self._end = time.monotonic() + 0.9 * seconds

    def make(self, tell: Tell) -> None:
        """Make the calls and tell each value."""
        if not self._gives_its_value(tell):
            return
        for number, indices in enumerate(self._parts):
            tell(["value", number, self._value(indices)])
        if not self._gives_its_value(tell):  # no longer: it changes the samples that it is given
            return
        for number, indices in enumerate(self._parts):
            for value in self._draws(indices, _SLICE_DRAWS if number else _DRAWS):
                tell(["draw", number, value])

    def _gives_its_value(self, tell: Tell) -> bool:
        value = self._value(self._every)
        tell(["value", _EVERY, value])
        return _same(value, self._metric.value)

    def _value(self, indices: Sequence[int]) -> float | None:
        """The aggregation's value; None where it is undefined (a class is missing, a pair is incomplete)."""
        values = [self._metric.values[index] for index in indices]
        value = None
        with TaskGuard(lambda _error: None):
            value = self._aggregation(values) if values else None
        return value

    def _draws(self, indices: Sequence[int], count: int) -> Iterator[float | None]:
        units = self._units(indices)
        random = np.random.default_rng(_SEED)
        for _ in range(count if len(units) > 1 else 0):
            if time.monotonic() > self._end:
                return
            drawn = random.integers(0, len(units), len(units))
            yield self._value([index for unit in drawn for index in units[unit]])

    def _units(self, indices: Sequence[int]) -> list[list[int]]:
        """What is drawn together: a document, or all documents of one cluster."""
        clusters = self._metric.clusters
        if clusters is None:
            return [[index] for index in indices]
        units: dict[Any, list[int]] = {}
        for index in indices:
            units.setdefault(str(clusters[index]), []).append(index)
        return list(units.values())


def _parts(metric: CorpusMetric, whole: Sequence[int]) -> dict[Slice, Sequence[int]]:
    """The documents that count, all of them and those of each slice."""
    parts: dict[Slice, Sequence[int]] = {_WHOLE: whole}
    for name, column in metric.columns.items():
        groups: dict[str, list[int]] = {}
        for index in whole:
            if (value := column[index]) is not None:
                groups.setdefault(value, []).append(index)
        parts |= {(name, value): groups[value] for value in sorted(groups)}
    return parts


def _same(value: float | None, native: float) -> bool:
    return value is not None and math.isclose(value, native, rel_tol=_TOLERANCE, abs_tol=1e-12)


def _interval(draws: Sequence[float | None]) -> tuple[float | None, float | None]:
    """The percentile interval. Efron & Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13."""
    defined = [value for value in draws if value is not None]
    if len(defined) < _FEWEST_DRAWS or len(draws) - len(defined) > _MOST_UNDEFINED * len(draws):
        return None, None
    low, high = np.quantile(defined, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def _note(failure: str | None, native: float, again: float | None, draws: Sequence[float | None]) -> str | None:
    if failure is not None and again is None:
        return f"the task's aggregation could not be called again ({failure}): no interval and no slices"
    if not _same(again, native):
        return f"the task's aggregation gave {again} for the samples that it gave {native} for: not looked into"
    if _interval(draws) != (None, None):
        return None if failure is None else f"the task's aggregation was stopped ({failure}): some slices are missing"
    if failure is not None:
        return f"no interval: the task's aggregation was stopped ({failure})"
    if undefined := sum(value is None for value in draws):
        return f"no interval: the task's aggregation is undefined on {undefined} of {len(draws)} draws of its samples"
    if not draws:
        return "no interval of a single document"
    return f"no interval: the task's aggregation took too long for {_FEWEST_DRAWS} draws ({len(draws)} were made)"
