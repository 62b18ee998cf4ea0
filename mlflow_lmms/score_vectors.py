"""Per-sample scores as stored in a task's small sorted scores table, and how two such vectors are paired."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlflow_lmms.errors import UnreadableOutputError


def score_column(metric: str, filter_name: str) -> str:
    """Name of the column that holds one metric's per-sample scores."""
    return f"score:{metric}:{filter_name}"


@dataclass(frozen=True)
class ScoreVector:
    """Scores of the documents that have one; `keys` are document content hashes, sorted, aligned with `values`.

    A document that stands twice in a dataset has its key twice.
    """

    keys: NDArray[np.str_]
    values: NDArray[np.float64]


def read_score_vector(file: Path, metric: str, filter_name: str) -> ScoreVector:
    """Read one metric's scores.

    Raises:
        UnreadableOutputError: the file is not there, is no Parquet, or has no such column.
    """
    column = score_column(metric, filter_name)
    try:
        table = pq.read_table(file, columns=["doc_hash", column])
        values = table[column].to_numpy().astype(np.float64)
        keys = np.asarray(table["doc_hash"].to_pylist(), dtype=np.str_)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UnreadableOutputError(f"{file} holds no scores of {metric}, filter {filter_name}: {error}") from None
    finite = np.isfinite(values)
    keys, values = keys[finite], values[finite]
    order = np.argsort(keys, kind="stable")
    return ScoreVector(keys[order], values[order])


def pair(first: ScoreVector, second: ScoreVector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores of the documents that both have, aligned; documents that stand several times are paired in order."""
    one, two = _numbered(first.keys), _numbered(second.keys)
    _, at_one, at_two = np.intersect1d(one, two, assume_unique=True, return_indices=True)
    return first.values[at_one], second.values[at_two]


def _numbered(keys: NDArray[np.str_]) -> NDArray[np.str_]:
    """Make sorted keys unique by their occurrence: a, a, b → a#0, a#1, b#0."""
    if len(keys) == 0:
        return keys
    starts = np.r_[True, keys[1:] != keys[:-1]]
    occurrence = np.arange(len(keys)) - np.maximum.accumulate(np.where(starts, np.arange(len(keys)), 0))
    return np.char.add(np.char.add(keys, "#"), occurrence.astype(str))
