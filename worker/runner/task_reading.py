"""How a finished task is read: its metrics under the run's policy, its primary metric, its evidence.

Owns the order of these steps, and the second look at metrics that only all samples together have.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_lmms.reading.errored import ErroredPolicy
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.primary_metric import Primary, choose_primary, find_metric
from mlflow_lmms.reading.sample_scores import DIRECT
from mlflow_lmms.reading.slices import Column
from mlflow_lmms.reading.stability import stability
from worker.runner.corpus_scores import CorpusMetric, CorpusScores, corpus_scores, time_for_corpus_scores
from worker.runner.repeat_scores import answers_per_document, repeated_scores
from worker.runner.request import RunRequest
from worker.runner.sample_evidence import SampleEvidence, gather, refuse_too_many
from worker.runner.task_metrics import Metric, Outcome, read_metrics, under_policy


@dataclass(frozen=True)
class TaskReading:
    """A finished task's metrics, the one that stands for it, and what its samples say.

    `wanted_found`: no primary metric was asked for in vain.
    """

    metrics: dict[MetricKey, Metric]
    primary: Primary | None
    evidence: SampleEvidence
    wanted_found: bool

    @property
    def best(self) -> Metric | None:
        """The primary metric."""
        return None if self.primary is None else self.metrics[self.primary.key]

    def with_metrics(self, changed: Mapping[MetricKey, Metric]) -> TaskReading:
        """Put other readings in the place of some metrics'."""
        return replace(self, metrics={**self.metrics, **changed})


def read_task(outcome: Outcome, request: RunRequest) -> TaskReading:
    """Read metrics, primary metric and errored samples; raise when the run does not allow so many of these."""
    metrics = read_metrics(outcome)
    candidates = [key for key, metric in metrics.items() if metric.value is not None]
    wanted = request.primary.get(outcome.name)
    primary = choose_primary(outcome.name, candidates, wanted)
    evidence = gather(outcome, None if primary is None else metrics[primary.key])
    refuse_too_many(evidence, request.errored)
    applied = {key: under_policy(metric, request.errored, evidence.errored) for key, metric in metrics.items()}
    return TaskReading(applied, primary, evidence, wanted is None or find_metric(candidates, wanted) is not None)


def look_into_corpus_metrics(
    outcome: Outcome,
    cli_args: Any,
    reading: TaskReading,
    columns: Mapping[str, Column],
    clusters: Sequence[Any] | None,
    policy: ErroredPolicy,
) -> tuple[TaskReading, CorpusScores | None]:
    """Give corpus-level metrics their intervals; return the primary one's slices too, where it is one of them."""
    end = time.monotonic() + time_for_corpus_scores(outcome.seconds)
    of_primary = None
    changed = {}
    corpus = [metric for metric in reading.metrics.values() if metric.level == "corpus"]
    # The primary one comes last: it has slices too, and takes all the time that the others have left.
    ordered = sorted(corpus, key=lambda metric: metric is reading.best)
    for left, metric in zip(range(len(ordered), 0, -1), ordered, strict=True):
        dropped = [policy.policy == "drop" and reason is not None for reason in reading.evidence.errored]
        asked = CorpusMetric(
            key=metric.key,
            values=outcome.rows.values[metric.key],
            value=metric.reported.value or 0.0,
            dropped=dropped,
            columns=columns if metric is reading.best else {},
            clusters=clusters,
        )
        found = corpus_scores(outcome.task, cli_args, asked, max(1.0, (end - time.monotonic()) / left))
        changed[metric.key] = _with_corpus_scores(metric, found, dropped=any(dropped))
        if metric is reading.best:
            of_primary = found
    return reading.with_metrics(changed), of_primary


def _with_corpus_scores(metric: Metric, found: CorpusScores, *, dropped: bool) -> Metric:
    """Take the aggregation's value without the dropped samples; where it could not be called, lmms-eval's stands."""
    if not dropped:
        note = "; ".join(filter(None, (metric.note, found.note))) or None
        return replace(metric, bounds=found.whole, note=note)
    if found.whole.value is None or found.refused:
        return replace(metric, note="; ".join(filter(None, (metric.note, found.note))) or None)
    return replace(metric, value=found.whole.value, n=found.whole.n, bounds=found.whole, note=found.note)


def read_stability(outcome: Outcome, cli_args: Any, best: Metric | None) -> dict[str, Any] | None:
    """Tell how steady repeated answers are; None where there is one answer to each document."""
    k = answers_per_document(outcome.task)
    if k < 2 or best is None:
        return None
    told = {"k": k, **best.key._asdict(), "EA": None, "CA": None, "IV": None, "CR": None}
    if best.factor is None:
        return {**told, "note": f"{best.key.metric} is a score of all samples together, not of single answers"}
    read = (best.reading.derivation or DIRECT).read
    repeated = repeated_scores(outcome.task, cli_args, best.key, read, outcome.seconds)
    found = stability(repeated.scores)
    if found is None:
        return {**told, "note": repeated.note or "no document has two scored answers"}
    return {**told, **found._asdict()}
