"""The score of each of a document's repeated answers by itself, with the task's own filters and scoring.

lmms-eval scores the answers to one document together, which for most tasks means the first one. Owns when and for how
long the others may be scored too; what follows from the scores is `mlflow_lmms.reading.stability`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.reading.metric_key import MetricKey
from worker.runner.document_scoring import DocumentScoring, unanswered
from worker.runner.forked_child import Tell, in_child
from worker.runner.task_code import scoring_may_call_judge

_LEAST_S, _MOST_S, _SHARE = 30.0, 600.0, 0.5


@dataclass(frozen=True)
class RepeatedScores:
    """Per document one score for each answer (None: the answer has none); `note` says why there are none at all."""

    k: int
    scores: list[list[float | None]]
    note: str | None = None


def answers_per_document(task: Any) -> int:
    """How many answers each request got; 1 where they are not the same number for all."""
    counts = {len(instance.resps) for instance in task.instances}
    return counts.pop() if len(counts) == 1 else 1


def repeated_scores(
    task: Any, cli_args: Any, key: MetricKey, read: Callable[[Any], float | None], task_seconds: float
) -> RepeatedScores:
    """Score every answer to every document alone, in the order of the documents.

    Args:
        read: how the metric's value for one document is read as a number.
    """
    k = answers_per_document(task)
    if scoring_may_call_judge(task):
        return RepeatedScores(k, [], "the task's scoring may call a judge, so each document is scored once only")
    documents = _requests_by_document(task)
    scoring = DocumentScoring(task, cli_args)

    def score(tell: Tell) -> None:
        for doc_id, requests in documents:
            values = (scoring.score(doc_id, _alone(requests, at), key.filter) for at in range(k))
            tell([read(value.get(key.metric)) for value in values])

    report = in_child(score, min(_MOST_S, max(_LEAST_S, _SHARE * task_seconds)))
    if report.failure is not None:
        done = f"{len(report.told)} of {len(documents)} documents"
        return RepeatedScores(k, [], f"scoring every answer alone ended after {done}: {report.failure}")
    return RepeatedScores(k, report.told)


def _requests_by_document(task: Any) -> list[tuple[int, list[Any]]]:
    documents = defaultdict(list)
    for instance in sorted(task.instances, key=lambda instance: instance.idx):
        documents[instance.doc_id].append(instance)
    return sorted(documents.items())


def _alone(requests: Sequence[Any], at: int) -> list[Any]:
    """The requests of a document as if each had got only this one answer."""
    copies = []
    for request in requests:
        own = unanswered(request)
        own.resps = [request.resps[at]]
        copies.append(own)
    return copies
