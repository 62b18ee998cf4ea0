"""Looks for an earlier result of the same model and task whose outputs tell why the score is another now.

Owns which earlier run counts; the comparison's rule is `mlflow_lmms.reading.score_moved`'s. Both tables are read side
by side, a few hundred rows at a time.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mlflow_lmms.names import Artifact, MetricName, Tag, cut
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.result_warnings import ResultWarning
from mlflow_lmms.reading.score_moved import compare_outputs, score_moved

_MOST_RUNS = 50
_ROWS = 512
#: An earlier result without one of these is no result of the same thing.
_SAME = ("rows", "limit", "offset", "generation")


class EarlierResults:
    """Compares a task's new result with the newest one before it in the same experiment."""

    def __init__(self, client: MlflowClient, experiment_id: str, model: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._model = model.replace("'", "")

    def moved(
        self,
        task: str,
        key: MetricKey,
        value: float,
        high: float | None,
        fingerprint: Mapping[str, Any],
        samples: Path,
        before: float,
    ) -> ResultWarning | None:
        """Say when the score moved and the outputs did not.

        Args:
            high: the upper end of the metric's scale, where it is known.
            before: only runs that started before this time count.
        """
        run = self._earlier(task, fingerprint, before) if fingerprint.get("rows") else None
        name = cut(str(MetricName(task, key.metric, key.filter)))
        if run is None or name not in run.data.metrics or run.data.metrics[name] == value:
            return None
        with tempfile.TemporaryDirectory() as folder:
            try:
                old = Path(self._client.download_artifacts(run.info.run_id, Artifact.samples(task), folder))
            except (MlflowException, OSError):  # a run whose files were removed
                return None
            outputs = compare_outputs(_pairs(samples, old, f"score:{key.metric}:{key.filter}"))
        earlier = f"run {run.info.run_name} ({run.info.run_id})"
        return score_moved(value, run.data.metrics[name], outputs, high=high, earlier=earlier)

    def _earlier(self, task: str, fingerprint: Mapping[str, Any], before: float) -> Run | None:
        found = self._client.search_runs(
            [self._experiment_id],
            f"tags.`{Tag.MODEL}` = '{self._model}' AND attributes.start_time < {int(before * 1000)}",
            order_by=["attributes.start_time DESC"],
            max_results=_MOST_RUNS,
        )
        for run in found:
            told = _object(run.data.tags.get(Tag.fingerprint(task)))
            if told and all(told.get(part) == fingerprint.get(part) for part in _SAME):
                return run
        return None


def _pairs(new: Path, old: Path, column: str) -> Iterator[tuple[str, str, str, float | None, float | None]]:
    """(document, answer, earlier answer, score, earlier score) of the documents in both tables."""
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


def _rows(file: Path, column: str) -> Iterator[tuple[int, str, float | None]]:
    table = pq.ParquetFile(file)
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
