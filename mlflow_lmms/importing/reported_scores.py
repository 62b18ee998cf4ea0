"""Published scores as *reported* runs: shown beside ours, never tested or ranked with them.

Owns their form: one run for each model and source, with metrics alone; no samples, no intervals.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.importing.import_key import ImportedRuns
from mlflow_lmms.importing.import_lock import import_lock
from mlflow_lmms.importing.report import FileOutcome, ImportReport, ImportStatus
from mlflow_lmms.importing.reported_table import ReportedScore, read_reported
from mlflow_lmms.names import TAGS_AT_ONCE, Artifact, MetricName, Tag, cut, was_cut
from mlflow_lmms.reading.scale import direction
from mlflow_lmms.states import State

_FILE = "reported.json"
_AT_ONCE = 1000
_TAG_LIMIT = 5000


class ReportedScores:
    """Writes tables of published scores into one experiment."""

    def __init__(
        self, client: MlflowClient, experiment_id: str, on_recorded: Callable[[str], object] = lambda run_id: None
    ) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._on_recorded = on_recorded
        self._runs = ImportedRuns(client)

    def import_file(self, path: Path) -> ImportReport:
        """Import one table; rows that are wrong are refused with their lines, the others are imported.

        Raises:
            RefusedFileError: the file is no such table.
            UnavailableError: MLflow does not take it.
        """
        table = read_reported(path)
        runs: dict[tuple[str, str], list[ReportedScore]] = {}
        for score in table.scores:
            runs.setdefault((score.model, score.source), []).append(score)
        try:
            outcomes = [self._import_run(path, scores) for scores in runs.values()]
        except MlflowException as error:
            raise UnavailableError(f"MLflow did not take the scores of {path}: {error.message}") from None
        problems = [FileOutcome(path, ImportStatus.REFUSED, f"line {line}: {told}") for line, told in table.problems]
        return ImportReport.of([*outcomes, *problems])

    def _import_run(self, path: Path, scores: list[ReportedScore]) -> FileOutcome:
        first = scores[0]
        key = hashlib.sha256(json.dumps(["reported", first.model, first.source]).encode()).hexdigest()
        with import_lock(str(self._client.tracking_uri), key):
            run = self._runs.finished(key)
            fresh = [score for score in scores if run is None or run.data.metrics.get(_name(score)) != score.score]
            run_id = self._create(key, scores) if run is None else str(run.info.run_id)
            if fresh:
                self._write(run_id, run, fresh)
        if fresh:
            self._on_recorded(run_id)
        return FileOutcome(
            path,
            ImportStatus.IMPORTED if fresh else ImportStatus.ALREADY,
            run_id=run_id,
            run_name=_run_name(first),
            model=first.model,
            tasks=tuple(dict.fromkeys(score.task for score in scores)),
        )

    def _create(self, key: str, scores: list[ReportedScore]) -> str:
        first = scores[0]
        published = _published(scores)
        tags = {
            Tag.MODEL: first.model,
            Tag.UNREGISTERED: "true",
            Tag.SOURCE: "reported",
            Tag.REPORTED_SOURCE: first.source,
            Tag.IMPORT_KEY: key,
            Tag.ATTEMPT: "1",
        }
        made = self._client.create_run(
            self._experiment_id, start_time=int(published * 1000), tags=tags, run_name=_run_name(first)
        )
        return str(made.info.run_id)

    def _write(self, run_id: str, run: Run | None, scores: list[ReportedScore]) -> None:
        """Write scores and what stands beside them; a score that was corrected gets the next step."""
        metrics = [
            Metric(_name(score), score.score, int(_published([score]) * 1000), self._step(run, score))
            for score in scores
        ]
        for start in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(run_id, metrics=metrics[start : start + _AT_ONCE])
        self._merge_file(run_id, run, scores)
        there = run.data.tags if run else {}
        tags = [*_primary_tags(scores, there), *_whole_names(scores), RunTag(Tag.TASKS, _tasks(scores, there))]
        tags.append(RunTag(Tag.STATE, str(State.FINISHED)))
        for start in range(0, len(tags), TAGS_AT_ONCE):
            self._client.log_batch(run_id, tags=tags[start : start + TAGS_AT_ONCE])
        if run is None:
            self._client.set_terminated(run_id, "FINISHED", end_time=int(_published(scores) * 1000))

    def _step(self, run: Run | None, score: ReportedScore) -> int:
        name = _name(score)
        if run is None or name not in run.data.metrics:
            return 1
        return 1 + max(int(metric.step) for metric in self._client.get_metric_history(run.info.run_id, name))

    def _merge_file(self, run_id: str, run: Run | None, scores: list[ReportedScore]) -> None:
        """Keep address and date of every score in the run's artifacts."""
        with tempfile.TemporaryDirectory() as scratch:
            path = f"{Artifact.ROOT}/{_FILE}"
            rows: list[dict[str, object]] = []
            if run is not None and path in {f.path for f in self._client.list_artifacts(run_id, Artifact.ROOT)}:
                old = Path(self._client.download_artifacts(run_id, path, scratch))
                rows = json.loads(old.read_text(encoding="utf-8"))
            own = {(score.task, score.metric) for score in scores}
            rows = [row for row in rows if (row["task"], row["metric"]) not in own]
            rows += [
                {
                    "task": score.task,
                    "metric": score.metric,
                    "score": score.score,
                    "source": score.source,
                    "date": score.date.isoformat() if score.date else None,
                    "url": score.url,
                }
                for score in scores
            ]
            file = Path(scratch) / "new" / _FILE
            file.parent.mkdir()
            file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
            self._client.log_artifact(run_id, str(file), Artifact.ROOT)


def _name(score: ReportedScore) -> str:
    return cut(str(MetricName(score.task, score.metric)))


def _run_name(score: ReportedScore) -> str:
    return f"{score.model} · {score.source}"[:250]


def _published(scores: Iterable[ReportedScore]) -> float:
    dates = [score.published_at for score in scores if score.published_at is not None]
    return max(dates) if dates else time.time()


def _primary_tags(scores: list[ReportedScore], there: dict[str, str]) -> Iterable[RunTag]:
    """The first score of each task stands for it, unless one that was imported before does."""
    seen = set()
    for score in scores:
        key = Tag.primary(score.task)
        told = json.loads(there[key]) if key in there else None
        if score.task in seen or (told is not None and told.get("metric") != score.metric):
            continue
        seen.add(score.task)
        better, reason = direction(score.metric, None)
        primary = {
            "metric": score.metric,
            "filter": "none",
            "higher_is_better": better,
            "direction_reason": reason,
            "reason": "reported",
            "per_sample": False,
            "partial": False,
            "url": score.url,
            "recorded_at": _published([score]),
        }
        yield RunTag(key, json.dumps(primary))


def _whole_names(scores: list[ReportedScore]) -> Iterable[RunTag]:
    for score in scores:
        if was_cut(_name(score)):
            yield RunTag(Tag.whole_name(_name(score)), str(MetricName(score.task, score.metric)))


def _tasks(scores: list[ReportedScore], there: dict[str, str]) -> str:
    known = [task for task in there.get(Tag.TASKS, "").split(",") if task]
    return ",".join(dict.fromkeys([*known, *(score.task for score in scores)]))[:_TAG_LIMIT]
