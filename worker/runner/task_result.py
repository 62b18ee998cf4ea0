"""The result of one task: its metrics, slices and fingerprint, and the files they are kept in.

Owns the TaskResult document of protocol version 1. Every number is lmms-eval's own; nothing is computed anew but
slices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.reading.primary_metric import MetricKey, Primary, choose_primary
from mlflow_lmms.reading.sample_scores import Scores, direct_number, is_binary, sample_scores, scale_of
from mlflow_lmms.reading.slices import dimensions, length_groups, slice_scores
from worker.runner.document_records import DocumentRecord, PictureBudget, read_documents
from worker.runner.events import PROTOCOL
from worker.runner.fingerprint import fingerprint
from worker.runner.output_files import escape, write_json
from worker.runner.progress import Progress
from worker.runner.request import RunRequest
from worker.runner.sample_rows import SampleRows
from worker.runner.samples import samples_table, scores_table, write_table

# Pictures are a courtesy: a task whose pictures are costly to make gets some, not a second run's worth of work.
_PICTURE_S, _PICTURE_SHARE = 5.0, 0.05


@dataclass(frozen=True)
class Outcome:
    """What lmms-eval returned for one task, read into rows."""

    name: str
    task: Any
    results: Mapping[str, Any]
    rows: SampleRows
    seconds: float


@dataclass(frozen=True)
class Metric:
    """One metric under one filter."""

    key: MetricKey
    value: float | None
    stderr: float | None
    higher_is_better: bool | None
    aggregation: str
    scores: Scores

    @property
    def scale(self) -> float | None:
        """What the mean of the samples' scores is multiplied by, where it explains the value."""
        return scale_of(self.scores, self.value)

    @property
    def per_sample(self) -> bool:
        """Whether the mean of the samples' scores is the value."""
        return self.scale == 1.0

    def document(self) -> dict[str, Any]:
        """Return the metric as the result file says it."""
        return {
            "metric": self.key.metric,
            "filter": self.key.filter,
            "value": self.value,
            "stderr": self.stderr,
            "higher_is_better": self.higher_is_better,
            "aggregation": self.aggregation,
            "per_sample": self.per_sample,
            "binary": is_binary(self.scores),
            "n": sum(score is not None for score in self.scores),
        }


def read_metrics(outcome: Outcome) -> dict[MetricKey, Metric]:
    """Gather the metrics of an outcome, in lmms-eval's order."""
    aggregations, better = outcome.task.aggregation(), outcome.task.higher_is_better()
    metrics = {}
    for key, values in outcome.rows.values.items():
        value = direct_number(outcome.results.get(f"{key.metric},{key.filter}"))
        direction = better.get(key.metric)
        metrics[key] = Metric(
            key=key,
            value=value,
            stderr=direct_number(outcome.results.get(f"{key.metric}_stderr,{key.filter}")),
            higher_is_better=direction if isinstance(direction, bool) else None,
            aggregation=getattr(aggregations.get(key.metric), "__name__", "none"),
            scores=sample_scores(values, value),
        )
    return metrics


def primary_of(outcome: Outcome, metrics: Mapping[MetricKey, Metric]) -> Primary | None:
    """Choose the metric that stands for the task."""
    return choose_primary(outcome.name, [key for key, metric in metrics.items() if metric.value is not None])


class ResultWriter:
    """Writes the files of finished tasks into the output folder, the result itself last."""

    def __init__(self, request: RunRequest, progress: Progress) -> None:
        self._request = request
        self._progress = progress

    def write(self, outcome: Outcome, metrics: Mapping[MetricKey, Metric], primary: Primary | None) -> str:
        """Write samples, scores and result; return the result's path relative to the output folder."""
        best = metrics[primary.key] if primary else None
        order = _most_telling_first(outcome.rows.doc_ids, best)
        self._progress.expect(len(order))
        budget = PictureBudget(self._request.thumbnail_bytes, max(_PICTURE_S, _PICTURE_SHARE * outcome.seconds))
        records = read_documents(outcome.task, order, budget, self._progress.advance)
        name = escape(outcome.name)
        files = {
            "samples_file": f"samples/{name}.parquet",
            "scores_file": f"samples/{name}.scores.parquet",
        }
        table = samples_table(outcome.rows, {key: metric.scores for key, metric in metrics.items()}, records)
        folder = self._request.output_folder
        write_table(folder / files["samples_file"], table)
        write_table(folder / files["scores_file"], scores_table(table))
        columns = dimensions(_candidate_columns(outcome, records, best))
        document = {
            **self._facts(outcome, records),
            "metrics": [metric.document() for metric in metrics.values()],
            "primary": None if primary is None else {**primary.key._asdict(), "reason": primary.reason},
            "dimensions": list(columns),
            "slices": _slices(columns, best),
            **files,
        }
        result = f"tasks/{name}.json"
        write_json(folder / result, document)
        return result

    def _facts(self, outcome: Outcome, records: Mapping[int, DocumentRecord]) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "task": outcome.name,
            "attempt": self._request.attempt,
            "output_type": outcome.task.config.output_type,
            "samples": len(outcome.rows.doc_ids),
            "documents": len(outcome.task.eval_docs),
            "fingerprint": fingerprint(
                outcome.task, (record.content_hash for record in records.values()), self._request
            ),
            "empty_responses": outcome.rows.empty_responses,
            "seconds": round(outcome.seconds, 3),
            "raw": _numbers_and_texts(outcome.results),
        }


def _most_telling_first(doc_ids: Sequence[int], best: Metric | None) -> list[int]:
    """Order documents for the thumbnail budget: wrong answers first."""
    if best is None:
        return list(doc_ids)
    sign = -1.0 if best.higher_is_better is False else 1.0
    ranks = {
        doc_id: math.inf if score is None else sign * score
        for doc_id, score in zip(doc_ids, best.scores, strict=True)
    }
    return sorted(doc_ids, key=lambda doc_id: ranks[doc_id])


def _candidate_columns(
    outcome: Outcome, records: Mapping[int, DocumentRecord], best: Metric | None
) -> dict[str, list[Any]]:
    """Columns that may cut the documents; of two with one name the task's scoring wins, then its data."""
    rows = outcome.rows
    ordered = [records[doc_id] for doc_id in rows.doc_ids]
    values = [value if isinstance(value, dict) else {} for value in rows.values[best.key]] if best else []
    scoring = {str(name): [value.get(name) for value in values] for name in _names(values)}
    scalars = [record.scalars for record in ordered]
    data = {name: [own.get(name) for own in scalars] for name in _names(scalars)}
    features: dict[str, list[Any]] = {
        "n_images": [record.images for record in ordered],
        "prompt_length": list(length_groups([len(text) for text in rows.inputs])),
    }
    if str(outcome.task.config.output_type).startswith("generate"):
        lengths = [sum(map(len, answers)) for answers in rows.responses]
        features["response_length"] = list(length_groups(lengths))
        features["empty_response"] = [not any(map(str.strip, answers)) for answers in rows.responses]
    return scoring | {name: own for name, own in (data | features).items() if name not in scoring}


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _slices(columns: Mapping[str, Sequence[str | None]], best: Metric | None) -> list[dict[str, Any]]:
    if best is None or not best.per_sample:
        return []
    return [
        {"dimension": name, **best.key._asdict(), **part}
        for name, column in columns.items()
        for part in slice_scores(column, best.scores)
    ]


def _numbers_and_texts(results: Mapping[str, Any]) -> dict[str, float | str]:
    kept: dict[str, float | str] = {}
    for name, value in results.items():
        number = direct_number(value)
        if isinstance(value, str):
            kept[str(name)] = value
        elif number is not None:
            kept[str(name)] = value if isinstance(value, int) and not isinstance(value, bool) else number
    return kept
