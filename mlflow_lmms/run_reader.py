"""Reads what a run holds of results: task results, samples, scores, log. Works on server and client alike.

It is given a function that brings an artifact of a run to a local file; on the server that is a read of the
artifact store, on a client a download.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from mlflow_lmms.analysis.groups import Groups
from mlflow_lmms.errors import LmmsError, NotFoundError
from mlflow_lmms.group_columns import read_groups
from mlflow_lmms.names import Artifact
from mlflow_lmms.samples import SamplesPage, read_media, read_samples
from mlflow_lmms.score import Score, is_rescored
from mlflow_lmms.score_vectors import ScoreVector, read_score_vector
from mlflow_lmms.task_result import TaskResult, TaskWarning, read_task_result

#: (run id, path inside the run's artifacts) → local file; NotFoundError when the run has no such artifact.
FetchArtifact = Callable[[str, str], Path]

_VECTORS_KEPT = 2_000
_WARNINGS_KEPT = 2_000
_ENVIRONMENT_LIMIT = 1_000_000
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class RunReader:
    """Reads runs through `fetch`; score vectors are kept in memory, because boards ask for them again and again."""

    def __init__(self, fetch: FetchArtifact) -> None:
        self._fetch = fetch
        self._vectors: OrderedDict[tuple[str, str, str, str, float], ScoreVector | None] = OrderedDict()
        self._warnings: OrderedDict[tuple[str, str, float], tuple[TaskWarning, ...]] = OrderedDict()
        self._lock = Lock()

    def task_result(self, run_id: str, task: str) -> TaskResult:
        """The task's result as the runner wrote it.

        Raises:
            NotFoundError: the task has no result in this run.
        """
        return read_task_result(self._fetch(run_id, Artifact.task_result(task)))

    def samples(
        self,
        run_id: str,
        task: str,
        *,
        wrong_only: bool = False,
        errored_only: bool = False,
        search: str = "",
        offset: int = 0,
        limit: int = 50,
    ) -> SamplesPage:
        """One page of the task's samples; `wrong_only` goes by the primary metric."""
        primary = self.task_result(run_id, task).primary_metric
        return read_samples(
            self._fetch(run_id, Artifact.samples(task)),
            metric=primary.metric if primary else None,
            filter_name=primary.filter if primary else "none",
            higher_is_better=primary is None or primary.higher_is_better is not False,
            wrong_only=wrong_only,
            errored_only=errored_only,
            search=search,
            offset=offset,
            limit=limit,
        )

    def media(self, run_id: str, task: str, index: int, number: int) -> tuple[str, bytes]:
        """MIME type and bytes of one picture of one sample."""
        return read_media(self._fetch(run_id, Artifact.samples(task)), index, number)

    def warnings(self, score: Score) -> tuple[TaskWarning, ...]:
        """What may be wrong with a result, in words; by name alone where its file cannot be read."""
        if not score.warnings:
            return ()
        key = (score.run_id, score.task, score.recorded_at)
        with self._lock:
            if key in self._warnings:
                self._warnings.move_to_end(key)
                return self._warnings[key]
        try:
            found = self.task_result(score.run_id, score.task).warnings
        except LmmsError:
            return tuple(TaskWarning(name=name, message=f"{name.replace('_', ' ')}.") for name in score.warnings)
        with self._lock:
            self._warnings[key] = found
            while len(self._warnings) > _WARNINGS_KEPT:
                self._warnings.popitem(last=False)
        return found

    def group_scores(self, run_id: str) -> dict[str, list[dict[str, Any]]]:
        """The scores of lmms-eval's groups by group, as the recorder made them; empty where there are none."""
        try:
            content = json.loads(self._fetch(run_id, Artifact.RESULTS).read_text(encoding="utf-8"))
        except (LmmsError, OSError, ValueError, RecursionError):
            return {}
        groups = content.get("groups") if isinstance(content, dict) else None
        if not isinstance(groups, dict):
            return {}
        return {
            str(name): [s for s in told if isinstance(s, dict)]
            for name, told in groups.items()
            if isinstance(told, list)
        }

    def environment(self, run_id: str) -> dict[str, Any]:
        """The versions under which the run was made, as its worker told them; empty where there are none."""
        try:
            file = self._fetch(run_id, Artifact.ENVIRONMENT)
            content = json.loads(file.read_bytes()[:_ENVIRONMENT_LIMIT])
        except (LmmsError, OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def log(self, run_id: str, *, level: str = "DEBUG", search: str = "") -> Iterator[dict[str, Any]]:
        """Lines of the run's stored log at or above a level that contain `search`, oldest first.

        Raises:
            NotFoundError: the run has stored no log (yet).
        """
        lowest = _LEVELS.index(level) if level in _LEVELS else 0
        with self._fetch(run_id, Artifact.LOG).open(encoding="utf-8", errors="replace") as lines:
            for text in lines:
                line = _log_line(text)
                known = line.get("level") in _LEVELS
                if known and _LEVELS.index(line["level"]) < lowest:
                    continue
                if search.lower() in str(line.get("message", "")).lower():
                    yield line

    def vector(self, score: Score) -> ScoreVector | None:
        """Per-sample scores behind a score; None where there are none, or where somebody gave it another value."""
        if is_rescored(score):
            return None
        key = (score.run_id, score.task, score.metric, score.filter, score.recorded_at)
        with self._lock:
            if key in self._vectors:
                self._vectors.move_to_end(key)
                return self._vectors[key]
        try:
            file = self._fetch(score.run_id, Artifact.scores(score.task))
            found = read_score_vector(file, score.metric, score.filter, _dataset(score))
        except LmmsError:
            return None
        with self._lock:
            self._vectors[key] = found
            while len(self._vectors) > _VECTORS_KEPT:
                self._vectors.popitem(last=False)
        return found

    def groups(self, score: Score, dimensions: Collection[str]) -> dict[str, Groups]:
        """Which group each document of a score's vector belongs to, by dimension; absent where that is not stored."""
        try:
            scores = self._fetch(score.run_id, Artifact.scores(score.task))
            samples = Artifact.samples(score.task)
            return read_groups(scores, lambda: self._fetch(score.run_id, samples), dimensions)
        except LmmsError:
            return {}


def _dataset(score: Score) -> str | None:
    """What tells the documents of a result, in the order of its scores table."""
    told = score.fingerprint.get("dataset")
    return told if isinstance(told, str) and told else None


def _log_line(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {"level": "INFO", "message": text.rstrip("\n")}
    return line if isinstance(line, dict) else {"level": "INFO", "message": str(line)}


def no_such_artifact(run_id: str, path: str) -> NotFoundError:
    """The error for an artifact that a run does not have."""
    return NotFoundError(f"run {run_id} has no artifact {path}: the task has not finished, or its files were removed")
