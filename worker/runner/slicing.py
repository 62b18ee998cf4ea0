"""The groups of documents that a task's scores are told for, and those scores.

Owns where the columns come from: what somebody declared, the task's scoring, its documents, features of prompt and
answer. Which column is useful is for `mlflow_lmms.reading.slices` to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.reading.slices import (
    Column,
    Dimension,
    Source,
    dimension,
    dimensions,
    length_groups,
    scoring_columns,
    slice_scores,
)
from worker.runner.corpus_scores import CorpusScore, Slice
from worker.runner.document_records import DocumentRecord
from worker.runner.task_metrics import Metric, Outcome

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Slicing:
    """The useful columns, what is known of each, and the declared ones that are no use."""

    columns: Mapping[str, Column]
    dimensions: Mapping[str, Dimension]
    unmet: tuple[str, ...]

    @property
    def of_documents(self) -> dict[str, Column]:
        """The columns that cut every model's documents alike."""
        return {name: column for name, column in self.columns.items() if not self.dimensions[name].outcome}


def slicing(
    outcome: Outcome, records: Mapping[int, DocumentRecord], primary: Metric | None, declared: Sequence[str]
) -> Slicing:
    """Find the columns that cut the documents; of several with one name the first source wins."""
    raw: list[tuple[Source, Columns]] = [
        ("scoring", _scoring(outcome, primary)),
        ("document", _by_name([records[doc_id].scalars for doc_id in outcome.rows.doc_ids])),
        ("feature", _features(outcome, records)),
    ]
    named = {name: own[name] for name in declared for _, own in reversed(raw) if name in own}
    columns: dict[str, Column] = {}
    found: dict[str, Dimension] = {}
    for source, candidates in [("declared", named), *raw]:
        fresh = {name: values for name, values in candidates.items() if name not in found and name not in named}
        for name, values in dimensions(named if source == "declared" else fresh, source).items():
            columns[name], found[name] = values, dimension(name, source)
    return Slicing(columns, found, tuple(name for name in declared if name not in found))


def declared_dimensions(task: Any) -> Iterator[str]:
    """Return the dimensions that the task's own file declares under `metadata: dimensions`."""
    metadata = getattr(task.config, "metadata", None)
    for part in metadata if isinstance(metadata, list) else [metadata]:
        names = part.get("dimensions") if isinstance(part, Mapping) else None
        if isinstance(names, list):
            yield from (name for name in names if isinstance(name, str))


def sample_slices(columns: Mapping[str, Column], metric: Metric) -> list[dict[str, Any]]:
    """Return each group's mean score, in the units of the metric's value."""
    factor = metric.factor or 1.0
    return [
        {"dimension": name, **metric.key._asdict(), **piece, "score": piece["score"] * factor}
        for name, column in columns.items()
        for piece in slice_scores(column, metric.counted)
    ]


def corpus_slices(metric: Metric, scores: Mapping[Slice, CorpusScore]) -> list[dict[str, Any]]:
    """Return each group's value by the task's own aggregation, where it has one."""
    return [
        {
            "dimension": name,
            "value": value,
            **metric.key._asdict(),
            "n": score.n,
            "score": score.value,
            "sd": None,
            "low": score.low,
            "high": score.high,
            "method": score.method,
        }
        for (name, value), score in scores.items()
        if score.value is not None
    ]


def cluster_ids(outcome: Outcome, records: Mapping[int, DocumentRecord], primary: Metric | None) -> list[Any] | None:
    """Return each document's cluster by the task's own `cluster_key`: of its scoring, else of its document."""
    key = getattr(outcome.task.config, "cluster_key", None)
    if not key or primary is None:
        return None
    scored = [value.get(key) if isinstance(value, dict) else None for value in outcome.rows.values[primary.key]]
    stored = [records[doc_id].scalars.get(key) for doc_id in outcome.rows.doc_ids]
    clusters = [own if own is not None else other for own, other in zip(scored, stored, strict=True)]
    return clusters if any(cluster is not None for cluster in clusters) else None


def _scoring(outcome: Outcome, primary: Metric | None) -> Columns:
    values = outcome.rows.values
    keys = sorted(values, key=lambda key: primary is None or key != primary.key)
    return _by_name([scoring_columns(own) for own in zip(*(values[key] for key in keys), strict=True)])


def _features(outcome: Outcome, records: Mapping[int, DocumentRecord]) -> Columns:
    rows = outcome.rows
    features: Columns = {
        "n_images": [records[doc_id].images for doc_id in rows.doc_ids],
        "prompt_length": list(length_groups([len(text) for text in rows.inputs])),
    }
    if str(outcome.task.config.output_type).startswith("generate"):
        lengths = [sum(map(len, answers)) for answers in rows.responses]
        features["response_length"] = list(length_groups(lengths))
        features["empty_response"] = [not any(map(str.strip, answers)) for answers in rows.responses]
    return features


def _by_name(rows: Sequence[Mapping[str, Any]]) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
