"""Writes results into the MLflow run, under the names of `mlflow_lmms.names`. Used by the worker, over MLflow's REST.

Recording is repeatable: a second time it writes the same names at the same step, so a worker that died half-way
through leaves nothing to mend. Several workers may record tasks of one run at the same time.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Run, RunTag

from mlflow_lmms.earlier_results import EarlierResults
from mlflow_lmms.errors import UnreadableOutputError
from mlflow_lmms.merged_results import finite
from mlflow_lmms.names import TAGS_AT_ONCE, Artifact, MetricName, Tag, cut, was_cut
from mlflow_lmms.reading.group_scores import GroupDefinition
from mlflow_lmms.reading.result_warnings import WarningName
from mlflow_lmms.result_metrics import metric_values, worst_group
from mlflow_lmms.run_summary import RunSummary
from mlflow_lmms.task_result import TaskResult, TaskWarning, read_task_result

_BATCH = 1000
_SLICE_METRICS = 200


class RunRecorder:
    """Records finished tasks and the files of a run."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._summary = RunSummary(client)
        self._earlier = EarlierResults(client)

    def record_task(self, run_id: str, result_file: Path, attempt: int) -> TaskResult:
        """Write one finished task into the run: metrics at step `attempt`, tags, samples, and its groups' scores.

        Args:
            result_file: ``tasks/<task>.json`` in the runner's output folder, whose other files lie beside it.

        Raises:
            UnreadableOutputError: the file is not what the runner writes, or a table beside it is missing.
            MlflowException: the server did not take it.
        """
        result = read_task_result(result_file)
        folder = result_file.parent.parent
        for table in (folder / result.samples_file, folder / result.scores_file):
            if not table.is_file():
                raise UnreadableOutputError(f"{result_file} names {table}, which is not there")
        run = self._client.get_run(run_id)
        at = result_file.stat().st_mtime  # and not now: recorded again, a metric is the same in MLflow, time included
        result = self._with_moved_score(run, result, folder / result.samples_file)
        self._upload(run_id, folder / result.samples_file, Artifact.samples(result.task))
        self._upload(run_id, folder / result.scores_file, Artifact.scores(result.task))
        self._upload_result(run_id, result, result_file)
        dataset = _dataset(result)
        model_id = run.data.tags.get(Tag.LOGGED_MODEL)
        self._client.log_inputs(
            run_id,
            datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "eval")])],
            models=[LoggedModelInput(model_id)] if model_id else [],
        )
        named = list(metric_values(result, _slice_budget(run)))
        self._log_metrics(run_id, _metrics(named, attempt, dataset, run_id, model_id, at))
        self._log_tags(run_id, [*_tags(result, at), *_whole_names(named)])
        groups = self._summary.update(run_id, result)
        self._log_groups(run_id, groups, attempt, at)
        return result

    def record_groups(self, run_id: str, definitions: Sequence[GroupDefinition], attempt: int = 1) -> None:
        """Write the scores of these groups, made from the tasks that the run has; a group without a number is told
        in `results.json` alone.

        Raises:
            MlflowException: the server did not take it.
        """
        groups = self._summary.update_groups(run_id, definitions)
        self._log_groups(run_id, groups, attempt, self._client.get_run(run_id).info.start_time / 1000)

    def record_run_files(self, run_id: str, folder: Path) -> None:
        """Upload the log, the environment and the command that lie in `folder`, where they are there."""
        for target in (Artifact.LOG, Artifact.ENVIRONMENT, Artifact.COMMAND):
            file = folder / Path(target).name
            if file.is_file():
                self._client.log_artifact(run_id, str(file), Artifact.ROOT)

    def _with_moved_score(self, run: Run, result: TaskResult, samples: Path) -> TaskResult:
        if any(warning.name == WarningName.SCORE_MOVED for warning in result.warnings):
            return result
        found = self._earlier.moved_score(run, result, samples)
        if found is None:
            return result
        warning = TaskWarning.model_validate(found.document())
        return result.model_copy(update={"warnings": (*result.warnings, warning)})

    def _upload_result(self, run_id: str, result: TaskResult, result_file: Path) -> None:
        """Store the result as the runner wrote it, but as valid JSON and with what was found out here."""
        document = finite(json.loads(result_file.read_text(encoding="utf-8")))
        document["warnings"] = [warning.model_dump(mode="json") for warning in result.warnings]
        with tempfile.TemporaryDirectory() as folder:
            stored = Path(folder) / Path(Artifact.task_result(result.task)).name
            stored.write_text(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False), encoding="utf-8")
            self._upload(run_id, stored, Artifact.task_result(result.task))

    def _upload(self, run_id: str, source: Path, target: str) -> None:
        # MLflow keeps a file's own name, and the runner's escape is stricter than ours.
        if source.name == Path(target).name:
            self._client.log_artifact(run_id, str(source), str(Path(target).parent))
            return
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / Path(target).name
            named.symlink_to(source.absolute())
            self._client.log_artifact(run_id, str(named), str(Path(target).parent))

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _log_tags(self, run_id: str, tags: Sequence[RunTag]) -> None:
        for start in range(0, len(tags), TAGS_AT_ONCE):
            self._client.log_batch(run_id, tags=tags[start : start + TAGS_AT_ONCE])

    def _log_groups(self, run_id: str, named: Sequence[tuple[MetricName, float]], attempt: int, at: float) -> None:
        metrics = [Metric(cut(str(name)), value, int(at * 1000), attempt) for name, value in named]
        self._log_metrics(run_id, metrics)
        self._log_tags(run_id, list(_whole_names(named)))


def _slice_budget(run: Run) -> int:
    tasks = run.data.tags.get(Tag.TASKS, "").split(",")
    return _SLICE_METRICS // max(1, len(tasks)) // 2


def _metrics(
    named: Iterable[tuple[MetricName, float]],
    attempt: int,
    dataset: Dataset,
    run_id: str,
    model_id: str | None,
    at: float,
) -> list[Metric]:
    return [
        Metric(
            key=cut(str(name)),
            value=value,
            timestamp=int(at * 1000),
            step=attempt,
            dataset_name=dataset.name,
            dataset_digest=dataset.digest,
            run_id=run_id,
            model_id=model_id,
        )
        for name, value in named
    ]


def _tags(result: TaskResult, at: float) -> Iterator[RunTag]:
    yield RunTag(Tag.fingerprint(result.task), json.dumps(result.fingerprint, sort_keys=True))
    primary = result.primary_metric
    if primary is not None and result.primary is not None:
        told = {
            **primary.model_dump(
                include={"metric", "filter", "higher_is_better", "direction_reason", "scale", "factor", "per_sample"}
            ),
            "reason": result.primary.reason,
            "warnings": [warning.name for warning in result.warnings],
            "partial": result.partial,
            "recorded_at": at,
        }
        yield RunTag(Tag.primary(result.task), json.dumps(told))
        worst = worst_group(result)
        if worst is not None:
            yield RunTag(Tag.worst(result.task), f"{worst.dimension}={worst.value}")
    yield RunTag(Tag.LMMS_EVAL_VERSION, str(result.fingerprint.get("lmms_eval") or ""))


def _whole_names(named: Iterable[tuple[MetricName, float]]) -> Iterator[RunTag]:
    for name, _ in named:
        shown = cut(str(name))
        if was_cut(shown):
            yield RunTag(Tag.whole_name(shown), str(name))


def _dataset(result: TaskResult) -> Dataset:
    """The task's documents as an MLflow dataset; MLflow takes a digest of at most 36 characters."""
    known = result.fingerprint.get("dataset") or result.fingerprint.get("rows") or "unknown"
    return Dataset(
        name=result.task,
        digest=str(known)[:32],
        source_type="lmms-eval",
        source=json.dumps({"task": result.task, "lmms_eval": result.fingerprint.get("lmms_eval")}),
        profile=json.dumps({"num_rows": result.samples, "documents": result.documents}),
    )
