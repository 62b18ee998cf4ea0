"""The score of a task so far, while it still generates.

Owns when such a score may be shown and what it costs. It uses the task's own filters and scoring on the documents
answered so far; the recorded score never comes from here. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.instance import unwrap_generation_output

from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.primary_metric import choose_primary
from mlflow_lmms.reading.sample_scores import direct_number, first_number, mean, scale_of
from worker.runner.document_scoring import DocumentScoring, unanswered
from worker.runner.events import EventWriter
from worker.runner.intervals import interval
from worker.runner.random_state import RandomState
from worker.runner.task_code import aggregation_may_call_judge, may_write_files, scoring_may_call_judge

_SLOW_S = 0.05  # per document; above it, scoring twice would be felt


class NoRunningScore(Exception):
    """A running score is not possible for this task; the text says why."""


class RunningScore:
    """Scores each chunk of answers as it arrives, until something speaks against it."""

    def __init__(self, name: str, task: Any, cli_args: Any, events: EventWriter) -> None:
        self._name = name
        self._task = task
        self._scoring = DocumentScoring(task, cli_args)
        self._events = events
        self._values: list[Any] = []
        self._scale: float | None = None
        self._stopped = False
        self._key: MetricKey | None = None
        with _StopOnError(self):
            self._key = _scored_metric(name, task)

    def add(self, requests: Sequence[Any], answers: Sequence[Any]) -> None:
        """Score one chunk and tell the worker."""
        if self._stopped:
            return
        state = RandomState.take()
        with _StopOnError(self):
            self._add(requests, answers)
        state.restore()

    def stop(self, reason: str) -> None:
        """Show no more running scores for this task."""
        self._stopped = True
        self._events.log("INFO", f"{self._name}: no running score, {reason}")

    def _add(self, requests: Sequence[Any], answers: Sequence[Any]) -> None:
        assert self._key is not None
        documents = _answered_documents(requests, answers)
        started = time.perf_counter()
        for doc_id, instances in documents.items():
            self._values.append(self._score(doc_id, instances))
        if (took := (time.perf_counter() - started) / max(1, len(documents))) > _SLOW_S:
            raise NoRunningScore(f"the task's scoring takes {took:.2f} s a document")
        self._tell(self._key)

    def _score(self, doc_id: int, instances: list[Any]) -> Any:
        assert self._key is not None
        return self._scoring.score(doc_id, instances, self._key.filter).get(self._key.metric)

    def _tell(self, key: MetricKey) -> None:
        numbers = [number for value in self._values if (number := first_number(value)) is not None]
        if not numbers:
            raise NoRunningScore(f"{key.metric} has no number per document")
        if self._scale is None:
            self._scale = _scale(self._task.aggregation()[key.metric], self._values, numbers)
        if self._scale is None:
            return
        scaled = [number * self._scale for number in numbers]
        low, high = interval(scaled, self._scale) or (None, None)
        self._events.score(
            self._name,
            {
                **key._asdict(),
                "value": mean(scaled),
                "low": low,
                "high": high,
                "n": len(numbers),
            },
            final=False,
        )


class _StopOnError:
    """Ends the running score, not the task, when the task's own code raises in it."""

    def __init__(self, score: RunningScore) -> None:
        self._score = score

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        expected = isinstance(error, NoRunningScore)
        self._score.stop(str(error) if expected else f"scoring raised {type(error).__name__}: {error}")
        return True


def _scored_metric(name: str, task: Any) -> MetricKey:
    """Return the metric that will probably be the task's primary one."""
    if scoring_may_call_judge(task):
        raise NoRunningScore("the task's scoring may call a judge")
    filters = [ensemble.name for ensemble in task._filters]
    primary = choose_primary(name, [MetricKey(metric, own) for metric in task.aggregation() for own in filters])
    if primary is None:
        raise NoRunningScore("the task has no metric that could be its score")
    aggregation = task.aggregation()[primary.key.metric]
    if aggregation_may_call_judge(aggregation):
        raise NoRunningScore(f"the aggregation of {primary.key.metric} may call a judge")
    if may_write_files(aggregation):
        raise NoRunningScore(f"the aggregation of {primary.key.metric} may write files")
    return primary.key


def _answered_documents(requests: Sequence[Any], answers: Sequence[Any]) -> dict[int, list[Any]]:
    """Copies of the requests with their answers, by document; the originals belong to lmms-eval."""
    copies: dict[int, Any] = {}
    documents: dict[int, list[Any]] = defaultdict(list)
    for request, answer in zip(requests, answers, strict=True):
        own = copies.get(id(request))
        if own is None:
            own = copies[id(request)] = unanswered(request)
            documents[request.doc_id].append(own)
        own.resps.append(unwrap_generation_output(answer)[0])
    return {doc_id: sorted(own, key=lambda instance: instance.idx) for doc_id, own in documents.items()}


def _scale(aggregate: Any, values: list[Any], numbers: list[float]) -> float | None:
    """Return what the aggregation multiplies the mean by; None while that cannot be told (mean 0)."""
    whole = direct_number(aggregate(values))
    if whole is None:
        raise NoRunningScore("the task's aggregate is not a number")
    if not any(numbers) and not whole:
        return None
    scale = scale_of(numbers, whole)
    if scale is None:
        raise NoRunningScore("the task's aggregate is not the mean of its samples")
    return scale
