"""Answers of an earlier attempt in place of a model: they are scored again, and nothing is loaded or generated.

Owns the reading of a samples file's answers back into what the model gave. A stored answer counts only for the prompt
that it was given to; answers that are missing are named, and the task is refused. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from lmms_eval import models
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from worker.runner.failures import TaskFailure
from worker.runner.output_files import escape
from worker.runner.sample_rows import TOKEN_KINDS, as_text
from worker.runner.samples import JSON_COLUMN, valid_text

_NAMED = 10
_REMEDY = "evaluate the task anew"


@dataclass(frozen=True)
class StoredDocument:
    """What one document was asked and how it was answered; tokens are those of all its answers together."""

    prompt: str
    answers: list[Any]
    tokens: dict[str, int]


class StoredAdapter:
    """Stands in for an adapter: tasks address it like the one whose answers it has, and it is not imported."""

    def __init__(self, name: str, folder: Path) -> None:
        resolved = models.MODEL_REGISTRY_V2.resolve(name)
        self.is_simple = resolved.model_type == "simple"
        self.__module__, _, self.__qualname__ = resolved.class_path.rpartition(".")
        self._folder = folder

    def create_from_arg_string(self, _arguments: str, _config: dict[str, Any] | None = None) -> StoredModel:
        """Return the model that answers from the files."""
        return StoredModel(self._folder, self.is_simple)


class StoredModel(lmms):  # type: ignore[misc]
    """Answers each request as it was answered before."""

    def __init__(self, folder: Path, is_simple: bool) -> None:
        super().__init__()
        self.is_simple = is_simple
        self.device = "cpu"
        self._folder = folder

    def generate_until(self, requests: list[Instance]) -> list[Any]:
        """Answer requests of one task."""
        return self._answer(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[Any]:
        """Give likelihoods again, as the text that lmms-eval hands to scoring."""
        return self._answer(requests)

    def generate_until_multi_round(self, requests: list[Instance]) -> list[Any]:
        """Give all rounds again."""
        return self._answer(requests)

    def _answer(self, requests: Sequence[Instance]) -> list[Any]:
        task = requests[0].task_name
        stored = read_answers(self._folder / f"{escape(task)}.parquet", task)
        by_document: dict[int, list[int]] = defaultdict(list)
        for at, request in enumerate(requests):
            by_document[request.doc_id].append(at)
        _check(task, stored, {doc_id: requests[own[0]] for doc_id, own in by_document.items()})
        answers: list[Any] = [None] * len(requests)
        for doc_id, own in by_document.items():
            document = stored[doc_id]
            if len(document.answers) != len(own):
                raise TaskFailure(
                    "bad_request",
                    f"expected {len(own)} stored answers for document {doc_id} of {task}, found "
                    f"{len(document.answers)}; {_REMEDY}",
                )
            # The file has a document's requests by number, each with all its answers.
            for number, at in enumerate(sorted(own, key=lambda at: requests[at].idx)):
                answers[at] = _with_tokens(document, number)
        return answers


def refuse_steps(task: str, output_type: str) -> None:
    """Refuse a task whose answers come in steps, each made of the one before: only the last is stored."""
    if output_type == "generate_until_agentic":
        raise TaskFailure(
            "bad_request", f"{task} asks in steps, and only the last answer is stored; to score it, {_REMEDY}"
        )


def read_answers(file: Path, task: str) -> dict[int, StoredDocument]:
    """Read the stored documents of a task by their numbers."""
    if not file.is_file():
        raise TaskFailure("bad_request", f"there are no stored answers of {task} ({file.name}); {_REMEDY}")
    names = pq.read_schema(file).names
    kinds = [kind for kind in TOKEN_KINDS if f"tokens:{kind}" in names]
    columns = ["doc_id", "input", "responses", *(f"tokens:{kind}" for kind in kinds)]
    table = pq.read_table(file, columns=[*columns, *({JSON_COLUMN} & set(names))])
    stored = {}
    for row in table.to_pylist():
        structured = row.get(JSON_COLUMN) or [False] * len(row["responses"])
        answers = [_from_text(*pair) for pair in zip(row["responses"], structured, strict=True)]
        tokens = {kind: row[f"tokens:{kind}"] for kind in kinds if row[f"tokens:{kind}"] is not None}
        stored[row["doc_id"]] = StoredDocument(row["input"], answers, tokens)
    return stored


def _check(task: str, stored: dict[int, StoredDocument], asked: dict[int, Instance]) -> None:
    missing = sorted(set(asked) - set(stored))
    if missing:
        raise TaskFailure(
            "bad_request",
            f"{len(missing)} of {len(asked)} documents of {task} have no stored answer ({_some(missing)}); {_REMEDY}",
        )
    others = [doc for doc, request in asked.items() if valid_text(as_text(request.args[0])) != stored[doc].prompt]
    if others:
        raise TaskFailure(
            "bad_request",
            f"{len(others)} of {len(asked)} documents of {task} would be asked otherwise than they were answered "
            f"({_some(others)}): the task or its data has changed; {_REMEDY}",
        )


def _some(documents: Sequence[int]) -> str:
    more = ", …" if len(documents) > _NAMED else ""
    return f"documents {', '.join(map(str, documents[:_NAMED]))}{more}"


def _from_text(text: str, structured: bool) -> Any:
    if not structured:
        return text
    return json.loads(text) if text else None


def _with_tokens(document: StoredDocument, number: int) -> Any:
    """An answer with its counts: the file has their sum, which goes to the first one."""
    answer = document.answers[number]
    if not document.tokens or not isinstance(answer, str):
        return answer
    counts = {f"{kind}_tokens": count if number == 0 else 0 for kind, count in document.tokens.items()}
    return GenerationResult(answer, TokenCounts(**counts))
