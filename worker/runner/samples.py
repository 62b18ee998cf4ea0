"""The two Parquet files of a task: all samples, and the scores alone in the order of the document hash.

Owns their columns, types and row groups: a reader of one page or one picture reads one group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlflow_lmms.reading.cluster_id import cluster_id
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.row_key import row_key
from worker.runner.document_records import DocumentRecord
from worker.runner.output_files import write_atomically
from worker.runner.sample_rows import SampleRows

_MEDIA = pa.list_(
    pa.struct(
        [
            ("kind", pa.string()),
            ("mime", pa.string()),
            ("sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("seconds", pa.float64()),
            ("bytes", pa.int64()),
            ("data", pa.binary()),
        ]
    )
)
#: Says of each response that is no text whether it is JSON; not there where all are texts.
JSON_COLUMN = "responses:json"
_GROUP_ROWS, _GROUP_MEDIA = 512, 1 << 18


def samples_table(
    rows: SampleRows,
    scores: Mapping[MetricKey, Sequence[float | None]],
    errored: Sequence[str | None],
    records: Mapping[int, DocumentRecord],
) -> pa.Table:
    """Build the table of samples, one row per document."""
    ordered = [records[doc_id] for doc_id in rows.doc_ids]
    inputs, targets = [valid_text(text) for text in rows.inputs], [valid_text(text) for text in rows.targets]
    columns: dict[str, pa.Array] = {
        "doc_id": pa.array(rows.doc_ids, pa.int64()),
        "doc_hash": pa.array([record.content_hash for record in ordered], pa.string()),
        "row_key": pa.array(map(row_key, rows.doc_ids, inputs, targets), pa.string()),
        "input": pa.array(inputs, pa.string()),
        "target": pa.array(targets, pa.string()),
        "responses": pa.array([[valid_text(text) for text in own] for own in rows.responses], pa.list_(pa.string())),
        "errored": pa.array(errored, pa.string()),
    }
    if any(map(any, rows.structured)):
        columns[JSON_COLUMN] = pa.array(rows.structured, pa.list_(pa.bool_()))
    columns |= {f"filtered:{name}": _texts(texts) for name, texts in rows.filtered.items()}
    columns |= {score_column(key): pa.array(own, pa.float64()) for key, own in scores.items()}
    columns |= {
        f"tokens:{name}": pa.array(counts, pa.int64())
        for name, counts in rows.tokens.items()
        if any(count is not None for count in counts)
    }
    names = dict.fromkeys(name for record in ordered for name in record.scalars)
    columns |= {f"doc:{name}": _scalar_array([record.scalars.get(name) for record in ordered]) for name in names}
    columns["media"] = pa.array([[item.row() for item in record.media] for record in ordered], _MEDIA)
    return pa.table(columns)


def scores_table(
    samples: pa.Table,
    accepted: Collection[MetricKey],
    groups: Mapping[str, Sequence[str | None]] | None = None,
    clusters: Sequence[Any] | None = None,
) -> pa.Table:
    """Build the small table that paired statistics read: scores that explain the task's own value, and no others.

    Beside them stand the values of the dimensions, and a number for the documents that belong together.
    """
    keys = ["doc_hash", "row_key", "doc_id"]
    scores = samples.select([*keys, *map(score_column, accepted)])
    if accepted and clusters is not None:
        scores = scores.append_column("cluster", pa.array(map(cluster_id, clusters), pa.int64()))
    for name, values in (groups or {}).items() if accepted else ():
        texts = pa.array([None if value is None else valid_text(value) for value in values], pa.string())
        scores = scores.append_column(f"dim:{valid_text(name)}", texts)
    return scores.sort_by([(key, "ascending") for key in keys])


def score_column(key: MetricKey) -> str:
    """Name the column of a metric's per-sample scores."""
    return f"score:{key.metric}:{key.filter}"


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file."""

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, table.schema, compression="zstd") as file:
            for start, size in _row_groups(table):
                file.write_table(table.slice(start, size), row_group_size=size)

    write_atomically(path, write)


def _row_groups(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Start and size of each row group: few rows, and fewer where their pictures are large."""
    weights = _media_bytes(table)
    start = weight = 0
    for end in range(1, table.num_rows + 1):
        weight += weights[end - 1]
        if end == table.num_rows or end - start == _GROUP_ROWS or weight >= _GROUP_MEDIA:
            yield start, end - start
            start, weight = end, 0


def _media_bytes(table: pa.Table) -> list[int]:
    if "media" not in table.column_names:
        return [0] * table.num_rows
    media = table["media"].combine_chunks()
    sizes = pc.fill_null(pc.binary_length(pc.struct_field(pc.list_flatten(media), "data")), 0).to_numpy()
    ends = np.cumsum(pc.fill_null(pc.list_value_length(media), 0).to_numpy())
    totals = np.concatenate([[0], np.cumsum(sizes)])[np.concatenate([[0], ends])]
    return [int(size) for size in np.diff(totals)]


def _texts(values: Sequence[str]) -> pa.Array:
    return pa.array([valid_text(value) for value in values], pa.string())


def valid_text(text: str) -> str:
    """Return a text as the file has it."""
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
    return pa.array([None if value is None else valid_text(str(value)) for value in values], pa.string())
