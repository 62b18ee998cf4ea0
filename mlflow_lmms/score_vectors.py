"""Per-sample scores as stored in a task's small sorted scores table, and how two such vectors are paired."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlflow_lmms.errors import UnreadableOutputError


def score_column(metric: str, filter_name: str) -> str:
    """Name of the column that holds one metric's per-sample scores."""
    return f"score:{metric}:{filter_name}"


@dataclass(frozen=True)
class ScoreVector:
    """Scores of the documents that have one; `keys` are sorted and aligned with `values`.

    Keys are document content hashes, or, where the documents themselves were not at hand (`content` is False), the
    weaker row keys. With content hashes, `rows` has the row keys as well, where they are known. A document that
    stands twice in a dataset has its key twice.
    """

    keys: NDArray[np.str_]
    values: NDArray[np.float64]
    content: bool = True
    rows: NDArray[np.bytes_] | None = None  # ASCII, a quarter of the memory of text; boards keep many vectors


def read_score_vector(file: Path, metric: str, filter_name: str) -> ScoreVector:
    """Read one metric's scores.

    Raises:
        UnreadableOutputError: the file is not there, is no Parquet, or has no such column.
    """
    column = score_column(metric, filter_name)
    try:
        names = pq.read_schema(file).names
        keys = [name for name in ("doc_hash", "row_key") if name in names]
        table = pq.read_table(file, columns=[*keys, column])
        table = table.filter(pc.is_finite(table[column]))
        values = table[column].to_numpy().astype(np.float64)
        content = "doc_hash" in keys and table["doc_hash"].null_count == 0
        if not keys or (not content and "row_key" not in keys):
            raise KeyError("doc_hash, row_key")
        found = np.asarray(table["doc_hash" if content else "row_key"].to_pylist(), dtype=np.str_)
        both = content and "row_key" in keys
        rows = np.asarray(table["row_key"].to_pylist(), dtype=np.bytes_) if both else None
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UnreadableOutputError(f"{file} holds no scores of {metric}, filter {filter_name}: {error}") from None
    order = np.argsort(found, kind="stable")
    return ScoreVector(found[order], values[order], content, None if rows is None else rows[order])


def pair(first: ScoreVector, second: ScoreVector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores of the documents that both have, aligned; documents that stand several times are paired in order.

    By content where both know it, else by row keys.
    """
    if not (first.content and second.content):
        first, second = _by_row(first), _by_row(second)
    one, two = _numbered(first.keys), _numbered(second.keys)
    _, at_one, at_two = np.intersect1d(one, two, assume_unique=True, return_indices=True)
    return first.values[at_one], second.values[at_two]


def _by_row(vector: ScoreVector) -> ScoreVector:
    if not vector.content:
        return vector
    if vector.rows is None:
        return ScoreVector(vector.keys[:0], vector.values[:0], content=False)
    order = np.argsort(vector.rows, kind="stable")
    return ScoreVector(vector.rows[order].astype(np.str_), vector.values[order], content=False)


def _numbered(keys: NDArray[np.str_]) -> NDArray[np.str_]:
    """Make sorted keys unique by their occurrence: a, a, b → a#0, a#1, b#0."""
    if len(keys) == 0:
        return keys
    starts = np.r_[True, keys[1:] != keys[:-1]]
    occurrence = np.arange(len(keys)) - np.maximum.accumulate(np.where(starts, np.arange(len(keys)), 0))
    return np.char.add(np.char.add(keys, "#"), occurrence.astype(str))
