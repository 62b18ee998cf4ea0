"""The metrics of one finished task: lmms-eval's numbers, and what the samples' scores say of them.

Owns what is known of a metric, and what the run's policy for errored samples makes of its value. Nothing is rounded
and nothing guessed: what is unknown stays None, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_lmms.reading.errored import ErroredPolicy, apply_policy
from mlflow_lmms.reading.metric_key import MetricKey, ReportedMetric, reported_metrics
from mlflow_lmms.reading.sample_scores import DIRECT, ScoreReading, Scores, read_scores
from mlflow_lmms.reading.scale import MetricScale, direction, metric_scale
from mlflow_lmms.reading.score_sums import ScoreSums
from worker.runner.corpus_scores import CorpusScore
from worker.runner.sample_rows import SampleRows
from worker.runner.task_code import multiplies_by_100


@dataclass(frozen=True)
class Outcome:
    """What lmms-eval returned for one task, read into rows."""

    name: str
    task: Any
    results: Mapping[str, Any]
    rows: SampleRows
    seconds: float


@dataclass(frozen=True)
class Metric:
    """One metric under one filter.

    `scores` are in the samples' own units, one per document; `counted` are those that the policy lets count.
    """

    reported: ReportedMetric
    reading: ScoreReading
    scores: Scores
    counted: Scores
    higher_is_better: bool | None
    direction_reason: str
    scale: MetricScale
    aggregation: str
    value: float | None
    n: int
    errored: int = 0
    note: str | None = None
    clusters: int | None = None
    clustered_stderr: float | None = None
    bounds: CorpusScore | None = None

    @property
    def key(self) -> MetricKey:
        """Its name and filter."""
        return self.reported.key

    @property
    def factor(self) -> float | None:
        """What the mean of the samples' scores is multiplied by to give lmms-eval's value; None: it does not."""
        return self.reading.factor

    @property
    def level(self) -> str:
        """Whether its samples have scores of their own, only all together, or not even that."""
        if self.factor is not None:
            return "sample"
        return "none" if self.reported.value is None else "corpus"

    @property
    def kept_scores(self) -> Scores | None:
        """The scores worth a column: those that explain the value, or the task's own plain numbers."""
        return self.scores if any(score is not None for score in self.scores) else None

    def document(self) -> dict[str, Any]:
        """Return the metric as the result file says it."""
        sums = ScoreSums.of(self.counted) if self.factor is not None else ScoreSums()
        whole = self.bounds or CorpusScore(self.n, None)
        return {
            **self.key._asdict(),
            "value": self.value,
            "native": self.reported.value,
            "stderr": self.reported.stderr,
            "factor": self.factor,
            "per_sample": self.factor is not None,
            "level": self.level,
            "scale": self.scale._asdict(),
            "higher_is_better": self.higher_is_better,
            "direction_reason": self.direction_reason,
            "aggregation": self.aggregation,
            "n": self.n,
            "missing": self.reading.missing,
            "errored": self.errored,
            "mean": sums.mean if sums.n else None,
            "sd": sums.sd,
            "binary": sums.n > 0 and sums.binary,
            "clusters": self.clusters,
            "clustered_stderr": self.clustered_stderr,
            "low": whole.low,
            "high": whole.high,
            "method": whole.method,
            "note": self.note or self.reported.note,
        }


def read_metrics(outcome: Outcome) -> dict[MetricKey, Metric]:
    """Gather the metrics of an outcome, in lmms-eval's order, before any policy."""
    reported = reported_metrics(outcome.results)
    return {key: _metric(outcome, reported[key], values) for key, values in outcome.rows.values.items()}


def _metric(outcome: Outcome, reported: ReportedMetric, values: Sequence[Any]) -> Metric:
    name = reported.key.metric
    function = outcome.task.aggregation().get(name)
    declared = outcome.task.higher_is_better().get(name)
    reading = read_scores(values, reported.value)
    better, why = direction(name, declared if isinstance(declared, bool) else None)
    # Where the samples explain the value they tell its scale; the source may multiply only to round.
    times_100 = None if function is None or reading.factor is not None else multiplies_by_100(function)
    aggregation = getattr(function, "__name__", "none")
    scores = [(reading.derivation or DIRECT).read(value) for value in values]
    return Metric(
        reported=reported,
        reading=reading,
        scores=scores,
        counted=scores,
        higher_is_better=better,
        direction_reason=why,
        scale=metric_scale(
            outcome.name,
            name,
            reported.value,
            reading.factor,
            times_100,
            sums=reading.sums,
            aggregation=aggregation,
        ),
        aggregation=aggregation,
        value=reported.value,
        n=sum(value is not None for value in values) if reading.factor is None else reading.sums.n,
    )


def under_policy(metric: Metric, policy: ErroredPolicy, errored: Sequence[str | None]) -> Metric:
    """Apply the policy for errored samples to a metric; `errored` has each sample's reason."""
    broken = [reason is not None for reason in errored]
    pairs = list(zip(metric.scores, broken, strict=True))
    outcome = apply_policy(
        policy,
        metric.reported.value,
        metric.factor,
        ScoreSums.of(score for score, own in pairs if not own),
        ScoreSums.of(score for score, own in pairs if own),
        sum(broken),
        len(broken),
        metric.higher_is_better,
    )
    applied = policy.policy != "as_scored" and any(broken) and outcome.note is None
    counted = _counted(metric.scores, broken, policy) if applied else metric.scores
    if metric.factor is None:
        return replace(metric, errored=sum(broken), note=outcome.note)
    return replace(metric, value=outcome.value, n=outcome.n, counted=counted, errored=sum(broken), note=outcome.note)


def _counted(scores: Scores, broken: Sequence[bool], policy: ErroredPolicy) -> Scores:
    """The scores that make up the value: errored samples have none, or 0 as far as the metric is about them."""
    pairs = list(zip(scores, broken, strict=True))
    if policy.policy == "drop":
        return [None if own else score for score, own in pairs]
    about_all = all(score is not None for score, own in pairs if not own)
    return [0.0 if own and (about_all or score is not None) else score for score, own in pairs]


def clustered(metric: Metric, clusters: Sequence[Any]) -> Metric:
    """Add the standard error of a mean over documents that come in clusters (None: a cluster of its own).

    Liang & Zeger (1986), "Longitudinal data analysis using generalized linear models", Biometrika 73, with the
    correction G/(G − 1) for G clusters.
    """
    scored = [(cluster, score) for cluster, score in zip(clusters, metric.counted, strict=True) if score is not None]
    if metric.factor is None or not scored:
        return metric
    centre = ScoreSums.of(score for _, score in scored).mean
    sums: dict[Any, float] = {}
    for index, (cluster, score) in enumerate(scored):
        name = (index,) if cluster is None else str(cluster)
        sums[name] = sums.get(name, 0.0) + score - centre
    count = len(sums)
    if count < 2:
        return replace(metric, clusters=count)
    variance = sum(total * total for total in sums.values()) * count / (count - 1) / len(scored) ** 2
    return replace(metric, clusters=count, clustered_stderr=math.sqrt(variance))
