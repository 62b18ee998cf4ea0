"""Looks for an earlier result of the same model and task whose answers tell why the score is another now.

Owns which earlier run counts; the comparison's rule is `mlflow_lmms.reading.score_moved`'s. Both tables are read side
by side, a few hundred rows at a time. Looking is a courtesy: what cannot be read is as if it were not there.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mlflow_lmms.names import Artifact, MetricName, Tag, cut
from mlflow_lmms.reading.result_warnings import ResultWarning
from mlflow_lmms.reading.score_moved import compare_outputs, score_moved
from mlflow_lmms.score_vectors import score_column
from mlflow_lmms.task_result import MetricResult, TaskResult

_MOST_RUNS = 20
_MOST_COMPARED = 2
_MOST_BYTES = 64 << 20  # of an earlier samples file; pictures included
_ROWS = 512
#: Results that differ in one of these are not of the same thing; what one of them does not tell is no difference.
_SAME = ("dataset", "task_config", "generation", "num_fewshot", "filter", "judge")
_EQUAL = ("limit", "offset")

Row = tuple[int, str, float | None]

logger = logging.getLogger(__name__)


class EarlierResults:
    """Compares new results with earlier ones; the earlier runs are looked up once for all tasks of a run."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._run_id = ""
        self._runs: list[Run] = []

    def moved_score(self, run: Run, result: TaskResult, samples: Path) -> ResultWarning | None:
        """Say when the primary score moved since an earlier run of the same model, and the answers did not."""
        metric = result.primary_metric
        if metric is None or metric.value is None or result.samples == 0:
            return None
        try:
            if run.info.run_id != self._run_id:
                self._runs, self._run_id = self._earlier_runs(run), run.info.run_id
            return self._moved(result, metric, metric.value, samples)
        except (MlflowException, OSError, pa.ArrowException) as error:
            logger.warning("earlier results of %s could not be looked at: %s", result.task, error)
            return None

    def _moved(self, result: TaskResult, metric: MetricResult, value: float, samples: Path) -> ResultWarning | None:
        name = cut(str(MetricName(result.task, metric.metric, metric.filter)))
        earlier = [
            (run, run.data.metrics[name])
            for run in self._runs
            if run.data.metrics.get(name, value) != value
            and _same_thing(_object(run.data.tags.get(Tag.fingerprint(result.task))), result.fingerprint)
        ]
        for run, before in earlier[:_MOST_COMPARED]:
            with tempfile.TemporaryDirectory() as folder:
                old = self._download(run, result.task, folder)
                outputs = None if old is None else compare_outputs(_pairs(samples, old, metric))
            told = f"run {run.info.run_name} ({run.info.run_id})"
            if outputs and (found := score_moved(value, before, outputs, high=metric.scale.high, earlier=told)):
                return found
        return None

    def _earlier_runs(self, run: Run) -> list[Run]:
        """Runs of the same model in the same experiment that started before, the newest first."""
        model = run.data.tags.get(Tag.MODEL, "")
        if not model or "'" in model:  # MLflow's filter language has no escape for a quote
            return []
        found = self._client.search_runs(
            [run.info.experiment_id],
            f"tags.`{Tag.MODEL}` = '{model}' AND attributes.start_time < {run.info.start_time}",
            order_by=["attributes.start_time DESC"],
            max_results=_MOST_RUNS,
        )
        version = run.data.tags.get(Tag.MODEL_VERSION)
        return [other for other in found if other.data.tags.get(Tag.MODEL_VERSION) == version]

    def _download(self, run: Run, task: str, folder: str) -> Path | None:
        path = Artifact.samples(task)
        files = self._client.list_artifacts(run.info.run_id, Artifact.SAMPLES)
        sizes = {file.path: file.file_size or 0 for file in files}
        if sizes.get(path, _MOST_BYTES + 1) > _MOST_BYTES:
            return None
        return Path(self._client.download_artifacts(run.info.run_id, path, folder))


def _same_thing(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    if not one or any(one.get(part) != two.get(part) for part in _EQUAL):
        return False
    if not (one.get("dataset") and two.get("dataset")) and one.get("rows") != two.get("rows"):
        return False
    told = (part for part in _SAME if one.get(part) is not None and two.get(part) is not None)
    return all(one[part] == two[part] for part in told)


def _pairs(new: Path, old: Path, metric: MetricResult) -> Iterator[tuple[str, str, str, float | None, float | None]]:
    """(document, answer, earlier answer, score, earlier score) of the documents in both tables."""
    column = score_column(metric.metric, metric.filter)
    ours, theirs = _rows(new, column), _rows(old, column)
    one, two = next(ours, None), next(theirs, None)
    while one is not None and two is not None:
        if one[0] == two[0]:
            yield f"document {one[0]}", one[1], two[1], one[2], two[2]
        first, second = one[0], two[0]
        if first <= second:
            one = next(ours, None)
        if second <= first:
            two = next(theirs, None)


def _rows(file: Path, column: str) -> Iterator[Row]:
    """Document, answers and score, in the order of the documents."""
    with pq.ParquetFile(file) as table:
        names = ["doc_id", "responses", *([column] if column in table.schema_arrow.names else [])]
        for batch in table.iter_batches(_ROWS, columns=names):
            for row in batch.to_pylist():
                yield row["doc_id"], "\n".join(row["responses"] or ()), row.get(column)


def _object(text: str | None) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
