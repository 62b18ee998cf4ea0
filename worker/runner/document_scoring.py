"""Scores single documents with the task's own filters and scoring, apart from lmms-eval's one pass over all of them.

Owns the imitation of that pass for one document. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from lmms_eval import evaluator
from lmms_eval.api.reasoning import parse_reasoning_tags_config


class DocumentScoring:
    """A task's scoring of one document at a time."""

    def __init__(self, task: Any, cli_args: Any) -> None:
        self._task = task
        self._cli_args = cli_args
        self._scoring = SimpleNamespace(process_results=_without_retries(task), config=None)

    def score(self, doc_id: int, instances: Sequence[Any], filter_name: str) -> dict[str, Any]:
        """Score one document's requests, which have their responses; they are changed, so hand over copies."""
        document = self._document(doc_id)
        for ensemble in self._task._filters:
            if ensemble.name == filter_name:
                ensemble.apply(instances, [document] * len(instances))
        tags = parse_reasoning_tags_config(
            cli_value=self._cli_args.reasoning_tags, task_value=getattr(self._task.config, "reasoning_tags", None)
        )
        scored = evaluator._process_document_results(
            (doc_id, document, instances),
            task=self._scoring,
            filter_key=filter_name,
            reasoning_tags=tags,
            log_samples=False,
        )
        metrics: dict[str, Any] = scored.metrics
        return metrics

    def _document(self, doc_id: int) -> Any:
        if getattr(self._cli_args, "process_with_media", False):
            return self._task.eval_docs[doc_id]
        return self._task.eval_docs_no_media[doc_id]


def unanswered(request: Any) -> Any:
    """Return a copy of a request without its answers; the original belongs to lmms-eval."""
    own = copy.copy(request)
    own.resps, own.filtered_resps, own.raw_filtered_resps = [], {}, {}
    return own


def _without_retries(task: Any) -> Any:
    """Return the task's scoring without lmms-eval's retries, which wait two seconds four times over."""
    return inspect.unwrap(type(task).process_results).__get__(task)
