"""Writes results into the MLflow run, under the names of `mlflow_lmms.names`. Used by the worker, over MLflow's REST.

Recording is repeatable: a second time it writes the same names at the same step, so a worker that died half-way
through leaves nothing to mend.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Run, RunTag

from mlflow_lmms.errors import UnreadableOutputError
from mlflow_lmms.names import TAGS_AT_ONCE, Artifact, MetricName, Tag, cut, was_cut
from mlflow_lmms.score_vectors import read_score_vector
from mlflow_lmms.statistics import mean_interval
from mlflow_lmms.task_result import SliceResult, TaskResult, read_task_result

_BATCH = 1000
_SLICE_METRICS = 200
_SLICE_COLUMNS = ("task", "dimension", "value", "metric", "filter", "n", "score")


class RunRecorder:
    """Records finished tasks and the files of a run."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def record_task(self, run_id: str, result_file: Path, attempt: int) -> TaskResult:
        """Write one finished task into the run: metrics at step `attempt`, tags, samples.

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
        for source, target in _artifacts(result, result_file, folder):
            self._upload(run_id, source, target)
        self._merge_results(run_id, result)
        dataset = _dataset(result)
        model_id = run.data.tags.get(Tag.LOGGED_MODEL)
        self._client.log_inputs(
            run_id,
            datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "eval")])],
            models=[LoggedModelInput(model_id)] if model_id else [],
        )
        named = list(_values(result, folder / result.scores_file, _slice_budget(run)))
        at = result_file.stat().st_mtime  # and not now: recorded again, a metric is the same in MLflow, time included
        metrics = _metrics(named, attempt, dataset, run_id, model_id, at)
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        tags = list(_tags(result, named, at))
        for start in range(0, len(tags), TAGS_AT_ONCE):
            self._client.log_batch(run_id, tags=tags[start : start + TAGS_AT_ONCE])
        return result

    def record_run_files(self, run_id: str, folder: Path) -> None:
        """Upload the log, the environment and the command that lie in `folder`, where they are there."""
        for target in (Artifact.LOG, Artifact.ENVIRONMENT, Artifact.COMMAND):
            file = folder / Path(target).name
            if file.is_file():
                self._client.log_artifact(run_id, str(file), Artifact.ROOT)

    def _upload(self, run_id: str, source: Path, target: str) -> None:
        # MLflow keeps a file's own name, and the runner's escape is stricter than ours.
        if source.name == Path(target).name:
            self._client.log_artifact(run_id, str(source), str(Path(target).parent))
            return
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / Path(target).name
            named.symlink_to(source.absolute())
            self._client.log_artifact(run_id, str(named), str(Path(target).parent))

    def _merge_results(self, run_id: str, result: TaskResult) -> None:
        """Put the task into `results.json` and `slices.parquet`, which hold all tasks of the run."""
        with tempfile.TemporaryDirectory() as scratch:
            there = {file.path for file in self._client.list_artifacts(run_id, Artifact.ROOT)}
            old = {
                path: Path(self._client.download_artifacts(run_id, path, scratch))
                for path in (Artifact.RESULTS, Artifact.SLICES)
                if path in there
            }
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            _write_results(fresh / "results.json", old.get(Artifact.RESULTS), result)
            _write_slices(fresh / "slices.parquet", old.get(Artifact.SLICES), result)
            self._client.log_artifacts(run_id, str(fresh), Artifact.ROOT)


def _artifacts(result: TaskResult, result_file: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    yield result_file, Artifact.task_result(result.task)
    yield folder / result.samples_file, Artifact.samples(result.task)
    yield folder / result.scores_file, Artifact.scores(result.task)


def _write_results(file: Path, old: Path | None, result: TaskResult) -> None:
    results: dict[str, Any] = json.loads(old.read_text(encoding="utf-8")) if old else {"results": {}}
    results["results"][result.task] = result.raw
    file.write_text(json.dumps(results, indent=1), encoding="utf-8")


def _write_slices(file: Path, old: Path | None, result: TaskResult) -> None:
    rows: list[dict[str, Any]] = []
    if old is not None:
        rows = [row for row in pq.read_table(old).to_pylist() if row["task"] != result.task]
    rows += [{"task": result.task, **piece.model_dump()} for piece in result.slices]
    types = [pa.string()] * 5 + [pa.int64(), pa.float64()]
    schema = pa.schema(list(zip(_SLICE_COLUMNS, types, strict=True)))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")


def _slice_budget(run: Run) -> int:
    tasks = run.data.tags.get(Tag.TASKS, "").split(",")
    return _SLICE_METRICS // max(1, len(tasks)) // 2


def _values(result: TaskResult, scores_file: Path, slice_budget: int) -> Iterator[tuple[MetricName, float]]:
    """Every metric of the task with its value; names are whole here, not yet cut to MLflow's length."""
    for metric in result.metrics:
        if metric.value is None or not math.isfinite(metric.value):
            continue
        name = MetricName(result.task, metric.metric, metric.filter)
        yield name, metric.value
        yield name.of("n"), float(metric.n)
        if metric.stderr is not None and math.isfinite(metric.stderr):
            yield name.of("stderr"), metric.stderr
        if metric.per_sample:
            interval = mean_interval(read_score_vector(scores_file, metric.metric, metric.filter).values)
            if interval is not None:
                yield name.of("ci_low"), interval.low
                yield name.of("ci_high"), interval.high
    yield from _slice_values(result, slice_budget)


def _slice_values(result: TaskResult, budget: int) -> Iterator[tuple[MetricName, float]]:
    primary = result.primary_metric
    for dimension, pieces in _by_dimension(result.slices):
        name = MetricName(result.task, pieces[0].metric, pieces[0].filter)
        scores = [piece.score for piece in pieces]
        worst = min(scores) if primary is None or primary.higher_is_better is not False else max(scores)
        yield name.of(f"worst {dimension}"), worst
        yield name.of(f"gap {dimension}"), max(scores) - min(scores)
        if len(pieces) <= budget:
            budget -= len(pieces)
            for piece in pieces:
                sliced = MetricName(result.task, piece.metric, piece.filter, dimension, piece.value)
                yield sliced, piece.score
                yield sliced.of("n"), float(piece.n)


def _by_dimension(slices: Iterable[SliceResult]) -> Iterator[tuple[str, list[SliceResult]]]:
    ordered = sorted(slices, key=lambda piece: piece.dimension)
    for dimension, pieces in groupby(ordered, key=lambda piece: piece.dimension):
        yield dimension, list(pieces)


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


def _tags(result: TaskResult, named: Iterable[tuple[MetricName, float]], at: float) -> Iterator[RunTag]:
    yield RunTag(Tag.fingerprint(result.task), json.dumps(result.fingerprint, sort_keys=True))
    primary = result.primary_metric
    if primary is not None and result.primary is not None:
        told = {
            **primary.model_dump(include={"metric", "filter", "higher_is_better"}),
            "reason": result.primary.reason,
            "recorded_at": at,
        }
        yield RunTag(Tag.primary(result.task), json.dumps(told))
        worst = _worst_group(result, higher_is_better=primary.higher_is_better is not False)
        if worst is not None:
            yield RunTag(Tag.worst(result.task), f"{worst.dimension}={worst.value}")
    yield RunTag(Tag.LMMS_EVAL_VERSION, str(result.fingerprint.get("lmms_eval", "")))
    for name, _ in named:
        shown = cut(str(name))
        if was_cut(shown):
            yield RunTag(Tag.whole_name(shown), str(name))


def _worst_group(result: TaskResult, *, higher_is_better: bool) -> SliceResult | None:
    pick = min if higher_is_better else max
    return pick(result.slices, key=lambda piece: piece.score, default=None)


def _dataset(result: TaskResult) -> Dataset:
    """The task's documents as an MLflow dataset; MLflow takes a digest of at most 36 characters."""
    digest = str(result.fingerprint.get("dataset", ""))[:32] or "unknown"
    return Dataset(
        name=result.task,
        digest=digest,
        source_type="lmms-eval",
        source=json.dumps({"task": result.task, "lmms_eval": result.fingerprint.get("lmms_eval")}),
        profile=json.dumps({"num_rows": result.samples, "documents": result.documents}),
    )
