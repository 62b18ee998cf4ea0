"""Per-sample scores as stored in a task's small sorted scores table, and how two such vectors are paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlflow_lmms.errors import UnreadableOutputError

_KEYS = ("doc_hash", "row_key")


def score_column(metric: str, filter_name: str) -> str:
    """Name of the column that holds one metric's per-sample scores."""
    return f"score:{metric}:{filter_name}"


@dataclass(frozen=True)
class DocumentKeys:
    """What tells the rows of a scores table apart; aligned with its rows.

    `content` are hashes of the documents themselves, None where these were not at hand; `rows` are the weaker row
    keys, None where they are not known. A document that stands twice in a dataset has its key twice.
    """

    content: NDArray[np.bytes_] | None
    rows: NDArray[np.bytes_] | None


@dataclass(frozen=True)
class ScoreVector:
    """One metric's score of each row of a scores table, NaN where the document has none.

    The tables are sorted by document. `dataset` identifies the documents: of two vectors with the same one the rows
    correspond, and the keys, which are most of the file, are not read at all.
    """

    values: NDArray[np.float64]
    read_keys: Callable[[], DocumentKeys]
    dataset: str | None = None

    @cached_property
    def keys(self) -> DocumentKeys:
        """Read when they are first asked for.

        Raises:
            UnreadableOutputError: the file is not there any more.
        """
        return self.read_keys()


def read_score_vector(file: Path, metric: str, filter_name: str, dataset: str | None = None) -> ScoreVector:
    """Read one metric's scores.

    Args:
        dataset: identifies the documents of the table, where that is known.

    Raises:
        UnreadableOutputError: the file is not there, is no Parquet, or has no such column.
    """
    column = score_column(metric, filter_name)
    try:
        names = pq.read_schema(file).names
        if not any(name in names for name in _KEYS):
            raise KeyError(" or ".join(_KEYS))
        read = pq.read_table(file, columns=[column], memory_map=True)[column]
        values = read.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UnreadableOutputError(f"{file} holds no scores of {metric}, filter {filter_name}: {error}") from None
    values = np.where(np.isfinite(values), values, np.nan)
    return ScoreVector(values, lambda: _read_keys(file), dataset)


def _read_keys(file: Path) -> DocumentKeys:
    try:
        names = [name for name in _KEYS if name in pq.read_schema(file).names]
        table = pq.read_table(file, columns=names, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise UnreadableOutputError(f"the documents of {file} cannot be read: {error}") from None
    content, rows = (_column(table, name) for name in _KEYS)
    return DocumentKeys(content, rows)


def _column(table: pa.Table, name: str) -> NDArray[np.bytes_] | None:
    """A column of text as bytes; None where it is not there or not known of every row."""
    if name not in table.column_names or table[name].null_count:
        return None
    column = table[name].cast(pa.large_string()).combine_chunks()
    width = len(column[0].as_py()) if len(column) else 1
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int64, count=len(column) + 1, offset=column.offset * 8)
    if len(column) and width and bool((np.diff(offsets) == width).all()):  # hashes: no copy, no object for each
        data = np.frombuffer(column.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
        return data.view(f"S{width}")
    return np.asarray([text.encode() for text in column.to_pylist()], dtype=np.bytes_)


def pair(first: ScoreVector, second: ScoreVector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores of the documents that have one in both, aligned; those that stand several times pair in order.

    By dataset where it is the same, else by content where both know it, else by row keys.
    """
    if first.dataset is not None and first.dataset == second.dataset and len(first.values) == len(second.values):
        both = np.isfinite(first.values) & np.isfinite(second.values)
        return first.values[both], second.values[both]
    known = [(vector.keys.content, vector.keys.rows) for vector in (first, second)]
    column = 0 if all(content is not None for content, _ in known) else 1
    one, two = (_sorted(keys[column], vector.values) for keys, vector in zip(known, (first, second), strict=True))
    if one.occurrence.any() or two.occurrence.any():
        one, two = one.numbered(), two.numbered()
    _, at_one, at_two = np.intersect1d(one.keys, two.keys, assume_unique=True, return_indices=True)
    return one.values[at_one], two.values[at_two]


@dataclass(frozen=True)
class _Sorted:
    """Scores sorted by key; `occurrence` counts a key that stands several times: 0, 1, 2."""

    keys: NDArray[np.bytes_]
    values: NDArray[np.float64]
    occurrence: NDArray[np.int64]

    def numbered(self) -> _Sorted:
        """With keys made unique by their occurrence: a, a, b → a#0, a#1, b#0."""
        marked = np.char.add(np.char.add(self.keys, b"#"), self.occurrence.astype("S20"))
        return replace(self, keys=marked)


def _sorted(keys: NDArray[np.bytes_] | None, values: NDArray[np.float64]) -> _Sorted:
    """Those that have a score; without keys there is nothing to pair by."""
    if keys is None:
        return _Sorted(np.empty(0, dtype="S1"), values[:0], np.empty(0, dtype=np.int64))
    keys, values = keys[np.isfinite(values)], values[np.isfinite(values)]
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    places = np.arange(len(keys))
    starts = np.r_[True, keys[1:] != keys[:-1]][: len(keys)]
    return _Sorted(keys, values, places - np.maximum.accumulate(np.where(starts, places, 0)))
