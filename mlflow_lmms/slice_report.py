"""Slices of one result, how those of two results differ, and whether a candidate is worse in one: read, put together.

The numbers are made in `mlflow_lmms.analysis`; here it is decided what they are made from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow_lmms.analysis.group_estimates import (
    GroupEstimate,
    Moments,
    from_bootstraps,
    from_moments,
    from_pairs,
    from_scores,
    from_two_runs,
)
from mlflow_lmms.analysis.groups import FEWEST_JUDGED, Groups
from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.analysis.slice_guard import SliceJudgement, judge_slices
from mlflow_lmms.analysis.slices import Dimension, compare_groups
from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.run_reader import RunReader
from mlflow_lmms.score import Score, incomparable
from mlflow_lmms.score_vectors import align, shared_clusters
from mlflow_lmms.task_result import MetricResult, SliceResult, TaskResult

#: What a fingerprint says of the documents alone: results that differ in nothing else are compared unpaired.
_OF_DOCUMENTS = ("dataset", "rows", "limit", "offset")


@dataclass(frozen=True)
class SliceReport:
    """The groups of one result. `outcomes` names dimensions that depend on the model's own answers."""

    score: Score
    dimensions: tuple[Dimension, ...]
    outcomes: tuple[str, ...]
    clustered: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        told = ("run_id", "model", "task", "metric", "filter", "higher_is_better", "value", "low", "high", "n")
        return {
            **{name: getattr(self.score, name) for name in told},
            "level": LEVEL,
            "fewest_judged": FEWEST_JUDGED,
            "clustered": self.clustered,
            "dimensions": [{**asdict(own), "outcome": own.name in self.outcomes} for own in self.dimensions],
        }


@dataclass(frozen=True)
class SliceChange:
    """How a candidate's groups differ from a baseline's: each group's `score` is the gain, the candidate's minus the
    baseline's, and its gap to the rest is how much its own gap has changed.

    `reason` says why nothing, or nothing paired, can be told.
    """

    baseline: Score
    candidate: Score
    dimensions: tuple[Dimension, ...]
    paired: bool
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {
            "task": self.baseline.task,
            "metric": self.baseline.metric,
            "filter": self.baseline.filter,
            "higher_is_better": self.baseline.higher_is_better,
            "baseline": {"run_id": self.baseline.run_id, "model": self.baseline.model},
            "candidate": {"run_id": self.candidate.run_id, "model": self.candidate.model},
            "level": LEVEL,
            "fewest_judged": FEWEST_JUDGED,
            "paired": self.paired,
            "reason": self.reason,
            "dimensions": [asdict(own) for own in self.dimensions],
        }


def slice_report(reader: RunReader, score: Score, dimensions: Sequence[str] = ()) -> SliceReport:
    """The slices of one result.

    Args:
        dimensions: only these; none: the declared ones, or where nothing is declared all that cut the documents.

    Raises:
        NotFoundError: the result has no such dimension, or its file is not there.
    """
    result = reader.task_result(score.run_id, score.task)
    outcomes = _outcomes(result)
    names = _chosen(result, dimensions)
    estimates, clustered = _estimates(reader, score, result, names)
    factor = _factor(result, score) if _means(result, score) else 1.0
    found = compare_groups(estimates, higher_is_better=score.higher_is_better, factor=factor)
    return SliceReport(score, found, tuple(name for name in names if name in outcomes), clustered)


def slice_change(reader: RunReader, baseline: Score, candidate: Score, dimensions: Sequence[str] = ()) -> SliceChange:
    """What a candidate gains in each group, and how much the groups' gaps change.

    Paired over the documents that both have; of results that differ in their documents alone, as independent scores.

    Raises:
        NotFoundError: a result has no such dimension, or its file is not there.
    """
    reason = incomparable(baseline, candidate)
    if reason and incomparable(baseline, _on_documents_of(baseline, candidate)):
        return SliceChange(baseline, candidate, (), paired=False, reason=reason)
    results = [reader.task_result(score.run_id, score.task) for score in (baseline, candidate)]
    names = [name for name in _chosen(results[0], dimensions) if name not in _outcomes(results[0])]
    factor = _factor(results[0], baseline)
    paired = _paired(reader, baseline, candidate, names)
    if paired is not None:
        found = compare_groups(paired, higher_is_better=None, factor=factor)
        return SliceChange(baseline, candidate, found, paired=True)
    both = [
        _estimates(reader, score, own, names)[0] for score, own in zip((baseline, candidate), results, strict=True)
    ]
    unpaired = {
        name: from_two_runs(both[0][name], both[1][name]) for name in names if name in both[0] and name in both[1]
    }
    found = compare_groups(unpaired, higher_is_better=None, factor=factor if _means(results[0], baseline) else 1.0)
    return SliceChange(baseline, candidate, found, paired=False, reason=reason or "no shared documents to pair")


def guard_slices(
    reader: RunReader, baseline: Score, candidate: Score, margin: float, dimensions: Collection[str] = ()
) -> tuple[SliceJudgement, ...]:
    """Judge every group of documents against a margin in the metric's own units; () without paired scores or groups.

    Args:
        dimensions: only these; none: the declared ones, or where nothing is declared all that cut the documents.
    """
    one, two = reader.vector(baseline), reader.vector(candidate)
    if one is None or two is None:
        return ()
    places = align(one, two)
    groups = _shared_groups(reader, baseline, candidate, dimensions)
    return judge_slices(
        one.values[places[0]],
        two.values[places[1]],
        {name: own.at(places[side]) for name, (own, side) in groups.items()},
        margin,
        higher_is_better=baseline.higher_is_better is not False,
        factor=baseline.factor or candidate.factor or 1.0,
        clusters=shared_clusters(one, two, places),
    )


def _outcomes(result: TaskResult) -> frozenset[str]:
    return frozenset(name for name, own in result.dimension_sources.items() if own.outcome)


def _chosen(result: TaskResult, asked: Collection[str]) -> list[str]:
    """The dimensions asked for; none: the declared ones, else all but outcomes."""
    there = list(dict.fromkeys([*result.dimensions, *(piece.dimension for piece in result.slices)]))
    if asked:
        if unknown := [name for name in asked if name not in there]:
            has = ", ".join(there) or "none"
            raise NotFoundError(f"{result.task} has no dimension {', '.join(unknown)}; it has {has}")
        return list(asked)
    declared = [name for name, own in result.dimension_sources.items() if own.source == "declared"]
    outcomes = _outcomes(result)
    return [name for name in declared or there if name not in outcomes]


def _metric(result: TaskResult, score: Score) -> MetricResult | None:
    return result.metric(score.metric, score.filter)


def _means(result: TaskResult, score: Score) -> bool:
    """Whether the score is a mean of the samples' scores; else its slices come from the task's own aggregation."""
    metric = _metric(result, score)
    return metric is not None and metric.factor is not None


def _factor(result: TaskResult, score: Score) -> float:
    metric = _metric(result, score)
    return (metric.factor if metric is not None else score.factor) or 1.0


def _estimates(
    reader: RunReader, score: Score, result: TaskResult, names: Sequence[str]
) -> tuple[dict[str, list[GroupEstimate]], bool]:
    """What is known of each group by dimension, and whether clusters were taken into account."""
    metric = _metric(result, score)
    pieces = {
        name: [
            piece
            for piece in result.slices
            if (piece.dimension, piece.metric, piece.filter) == (name, score.metric, score.filter)
        ]
        for name in names
    }
    if metric is None or metric.factor is None:
        return {
            name: from_bootstraps({piece.value: (piece.n, piece.score, piece.low, piece.high) for piece in own})
            for name, own in pieces.items()
        }, False
    vector = reader.vector(score) if metric.clusters is not None else None
    if vector is not None and vector.clusters is not None:
        groups = reader.groups(score, names)
        scored = (vector.values == vector.values).nonzero()[0]
        values, clusters = vector.values[scored], vector.clusters[scored]
        return {name: from_scores(values, own.at(scored), clusters) for name, own in groups.items()}, True
    return {name: _from_pieces(own, metric) for name, own in pieces.items()}, False


def _from_pieces(pieces: Sequence[SliceResult], metric: MetricResult) -> list[GroupEstimate]:
    factor = metric.factor or 1.0
    moments = [Moments(piece.value, piece.n, piece.score / factor, piece.sd or 0.0) for piece in pieces]
    highest = metric.scale.high / factor if metric.scale.high is not None else 1.0
    means = [group.mean for group in moments]
    return from_moments(moments, binary=metric.binary, least=min([0.0, *means]), most=max([highest, *means]))


def _paired(
    reader: RunReader, baseline: Score, candidate: Score, names: Sequence[str]
) -> Mapping[str, list[GroupEstimate]] | None:
    """Gains by group over the documents of both; None where they share too few to be judged."""
    one, two = reader.vector(baseline), reader.vector(candidate)
    if one is None or two is None:
        return None
    places = align(one, two)
    if len(places[0]) < FEWEST_JUDGED:
        return None
    clusters = shared_clusters(one, two, places)
    first, second = one.values[places[0]], two.values[places[1]]
    groups = _shared_groups(reader, baseline, candidate, names)
    if not groups:
        return None
    return {name: from_pairs(first, second, own.at(places[side]), clusters) for name, (own, side) in groups.items()}


def _shared_groups(
    reader: RunReader, baseline: Score, candidate: Score, asked: Collection[str]
) -> dict[str, tuple[Groups, int]]:
    """The groups as the first of the two results that stores them tells, and which of the two that is."""
    found: dict[str, tuple[Groups, int]] = {}
    for side, score in enumerate((baseline, candidate)):
        result = reader.task_result(score.run_id, score.task)
        known = {*result.dimensions, *(piece.dimension for piece in result.slices)} - _outcomes(result)
        wanted = [name for name in (asked or _chosen(result, ())) if name in known and name not in found]
        if wanted:
            found |= {name: (own, side) for name, own in reader.groups(score, wanted).items()}
    return found


def _on_documents_of(first: Score, second: Score) -> Score:
    """The second score as if it were over the documents of the first."""
    told = {name: first.fingerprint[name] for name in _OF_DOCUMENTS if name in first.fingerprint}
    kept = {name: value for name, value in second.fingerprint.items() if name not in _OF_DOCUMENTS}
    return replace(second, fingerprint={**kept, **told})
