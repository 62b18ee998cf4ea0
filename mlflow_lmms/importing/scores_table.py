"""The small scores table of a task: sorted by document hash and row key, written from the spool of keys.

Owns its columns, and the hashes over all documents that fingerprints hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_lmms.importing.sample_spool import KeySpool
from mlflow_lmms.reading.metric_key import MetricKey

_ROWS = 4_096
_KEYS = [("doc_hash", pa.string()), ("row_key", pa.string()), ("doc_id", pa.int64())]


def score_column(key: MetricKey) -> str:
    """Name of a metric's column."""
    return f"score:{key.metric}:{key.filter}"


def value_columns(accepted: Sequence[MetricKey], *, clustered: bool, groups: Sequence[str]) -> pa.Schema:
    """The columns beside the keys: scores, the number of the document's cluster, the values of the dimensions.

    Without scores there is nothing to group.
    """
    scores = [(score_column(key), pa.float64()) for key in accepted]
    clusters = [("cluster", pa.int64())] if clustered and accepted else []
    return pa.schema([*scores, *clusters, *((f"dim:{name}", pa.string()) for name in groups if accepted)])


def write_scores(keys: KeySpool, columns: pa.Schema, path: Path, *, hashed: bool) -> tuple[str, str | None]:
    """Write the table; return the hash of all row keys, and of all document hashes where there are some."""
    schema = pa.schema([*_KEYS, *columns])
    rows, dataset = _Lines(), _Lines()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _some(keys.sorted()):
            hashes, row_keys, doc_ids, values = zip(*batch, strict=True)
            arrays = [pa.array(hashes, pa.string()), pa.array(row_keys, pa.string()), pa.array(doc_ids, pa.int64())]
            if len(columns):
                by_column = zip(*values, strict=True)
                arrays += [pa.array(own, field.type) for own, field in zip(by_column, columns, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows.add(row_keys)
            if hashed:
                dataset.add(hashes)
    if not hashed:
        return rows.digest(), None
    ordered = _Lines()  # the table has the order of the documents' hashes, the fingerprint that of the row keys
    for batch_of_keys in _some(keys.row_keys()):
        ordered.add(batch_of_keys)
    return ordered.digest(), dataset.digest()


class _Lines:
    """The SHA-256 of lines that come some at a time."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._separator = ""

    def add(self, lines: Sequence[str]) -> None:
        self._hash.update((self._separator + "\n".join(lines)).encode())
        self._separator = "\n"

    def digest(self) -> str:
        return self._hash.hexdigest()


def _some(items: Iterator[Any]) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == _ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
