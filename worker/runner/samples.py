"""The two Parquet files of a task: all samples, and the scores alone in the order of the document hash.

Owns their columns and types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_lmms.reading.primary_metric import MetricKey
from mlflow_lmms.reading.sample_scores import Scores
from worker.runner.document_records import DocumentRecord
from worker.runner.output_files import write_atomically
from worker.runner.sample_rows import SampleRows

_MEDIA = pa.list_(pa.struct([("mime", pa.string()), ("data", pa.binary())]))


def samples_table(
    rows: SampleRows, scores: Mapping[MetricKey, Scores], records: Mapping[int, DocumentRecord]
) -> pa.Table:
    """Build the table of samples, one row per document."""
    ordered = [records[doc_id] for doc_id in rows.doc_ids]
    columns: dict[str, pa.Array] = {
        "doc_id": pa.array(rows.doc_ids, pa.int64()),
        "doc_hash": pa.array([record.content_hash for record in ordered], pa.string()),
        "input": _texts(rows.inputs),
        "target": _texts(rows.targets),
        "responses": pa.array([[_valid(text) for text in own] for own in rows.responses], pa.list_(pa.string())),
    }
    columns |= {f"filtered:{name}": _texts(texts) for name, texts in rows.filtered.items()}
    columns |= {score_column(key): pa.array(own, pa.float64()) for key, own in scores.items()}
    names = dict.fromkeys(name for record in ordered for name in record.scalars)
    columns |= {f"doc:{name}": _scalar_array([record.scalars.get(name) for record in ordered]) for name in names}
    columns["media"] = pa.array([[picture._asdict() for picture in record.thumbnails] for record in ordered], _MEDIA)
    return pa.table(columns)


def scores_table(samples: pa.Table) -> pa.Table:
    """Build the small table that paired statistics read."""
    names = [name for name in samples.column_names if name.startswith("score:")]
    scores = samples.select(["doc_hash", "doc_id", *names])
    return scores.sort_by([("doc_hash", "ascending"), ("doc_id", "ascending")])


def score_column(key: MetricKey) -> str:
    """Name the column of a metric's per-sample scores."""
    return f"score:{key.metric}:{key.filter}"


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file."""
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _texts(values: Sequence[str]) -> pa.Array:
    return pa.array([_valid(value) for value in values], pa.string())


def _valid(text: str) -> str:
    # A model may emit half a surrogate pair, which UTF-8 cannot hold.
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _scalar_array(values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else _valid(str(value)) for value in values], pa.string())
