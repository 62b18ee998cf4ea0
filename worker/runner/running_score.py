"""The score of a task so far, while it still generates.

Owns when such a score may be shown and what it costs. It uses the task's own filters and scoring on the documents
answered so far; the recorded score never comes from here. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import copy
import inspect
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmms_eval import evaluator
from lmms_eval.api.instance import unwrap_generation_output
from lmms_eval.api.reasoning import parse_reasoning_tags_config

from mlflow_lmms.reading.primary_metric import MetricKey, choose_primary
from mlflow_lmms.reading.sample_scores import direct_number, first_number, mean, scale_of
from worker.runner.events import EventWriter
from worker.runner.intervals import interval
from worker.runner.random_state import RandomState

_SLOW_S = 0.05  # per document; above it, scoring twice would be felt
_JUDGE = re.compile(r"judge|openai|anthropic|get_chat_response|requests\.post", re.IGNORECASE)
_WRITES = re.compile(r"\bopen\(|submission|json\.dump|to_csv|to_json|\bargs\b")


class NoRunningScore(Exception):
    """A running score is not possible for this task; the text says why."""


class RunningScore:
    """Scores each chunk of answers as it arrives, until something speaks against it."""

    def __init__(self, name: str, task: Any, cli_args: Any, events: EventWriter) -> None:
        self._name = name
        self._task = task
        self._cli_args = cli_args
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
        document = self._task.eval_docs_no_media[doc_id]
        for ensemble in self._task._filters:
            if ensemble.name == self._key.filter:
                ensemble.apply(instances, [document] * len(instances))
        tags = parse_reasoning_tags_config(
            cli_value=self._cli_args.reasoning_tags, task_value=getattr(self._task.config, "reasoning_tags", None)
        )
        scored = evaluator._process_document_results(
            (doc_id, document, instances),
            task=SimpleNamespace(process_results=_without_retries(self._task), config=None),
            filter_key=self._key.filter,
            reasoning_tags=tags,
            log_samples=False,
        )
        return scored.metrics.get(self._key.metric)

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
    if _JUDGE.search(_scoring_source(task)):
        raise NoRunningScore("the task's scoring may call a judge")
    filters = [ensemble.name for ensemble in task._filters]
    primary = choose_primary(name, [MetricKey(metric, own) for metric in task.aggregation() for own in filters])
    if primary is None:
        raise NoRunningScore("the task has no metric that could be its score")
    if _WRITES.search(_source(task.aggregation()[primary.key.metric])):
        raise NoRunningScore(f"the aggregation of {primary.key.metric} may write files")
    return primary.key


def _scoring_source(task: Any) -> str:
    function = getattr(task.config, "process_results", None)
    file = inspect.getsourcefile(inspect.unwrap(function)) if callable(function) else None
    return Path(file).read_text(encoding="utf-8") if file else ""


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def _without_retries(task: Any) -> Any:
    """Return the task's scoring without lmms-eval's retries, which wait two seconds four times over."""
    return inspect.unwrap(type(task).process_results).__get__(task)


def _answered_documents(requests: Sequence[Any], answers: Sequence[Any]) -> dict[int, list[Any]]:
    """Copies of the requests with their answers, by document; the originals belong to lmms-eval."""
    copies: dict[int, Any] = {}
    documents: dict[int, list[Any]] = defaultdict(list)
    for request, answer in zip(requests, answers, strict=True):
        own = copies.get(id(request))
        if own is None:
            own = copies[id(request)] = copy.copy(request)
            own.resps, own.filtered_resps, own.raw_filtered_resps = [], {}, {}
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
