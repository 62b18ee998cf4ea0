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
#: Which documents belong together (questions on one picture), by number; null: one that stands alone.
CLUSTER_COLUMN = "cluster"


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
    correspond, and the keys, which are most of the file, are not read at all. `clusters` numbers the documents that
    belong together; None where each stands alone.
    """

    values: NDArray[np.float64]
    read_keys: Callable[[], DocumentKeys]
    dataset: str | None = None
    clusters: NDArray[np.int64] | None = None

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
        beside = [CLUSTER_COLUMN] if CLUSTER_COLUMN in names else []
        read = pq.read_table(file, columns=[column, *beside], memory_map=True)
        values = read[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
        clusters = _clusters(read[CLUSTER_COLUMN]) if beside else None
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UnreadableOutputError(f"{file} holds no scores of {metric}, filter {filter_name}: {error}") from None
    values = np.where(np.isfinite(values), values, np.nan)
    return ScoreVector(values, lambda: _read_keys(file), dataset, clusters)


def _clusters(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Numbers of clusters, where a document without one gets a number of its own."""
    known = column.cast(pa.int64())
    alone = np.asarray(known.is_null())
    numbers = np.asarray(known.fill_null(0).to_numpy(), dtype=np.int64)
    return np.where(alone, -1 - np.arange(len(numbers)), numbers)


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
    """The scores of the documents that have one in both, aligned."""
    at_first, at_second = align(first, second)
    return first.values[at_first], second.values[at_second]


def align(first: ScoreVector, second: ScoreVector) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places in both vectors of the documents that have a score in both; those that stand several times pair in
    order.

    By dataset where it is the same, else by content where both know it, else by row keys.
    """
    if first.dataset is not None and first.dataset == second.dataset and len(first.values) == len(second.values):
        both = np.flatnonzero(np.isfinite(first.values) & np.isfinite(second.values))
        return both, both
    known = [(vector.keys.content, vector.keys.rows) for vector in (first, second)]
    column = 0 if all(content is not None for content, _ in known) else 1
    one, two = (_sorted(keys[column], vector.values) for keys, vector in zip(known, (first, second), strict=True))
    if one.occurrence.any() or two.occurrence.any():
        one, two = one.numbered(), two.numbered()
    _, at_one, at_two = np.intersect1d(one.keys, two.keys, assume_unique=True, return_indices=True)
    return one.places[at_one], two.places[at_two]


def shared_clusters(
    first: ScoreVector, second: ScoreVector, aligned: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.int64] | None:
    """The clusters of aligned documents, as the first vector that knows them tells; None where neither does."""
    for vector, places in zip((first, second), aligned, strict=True):
        if vector.clusters is not None:
            return vector.clusters[places]
    return None


@dataclass(frozen=True)
class _Sorted:
    """Places sorted by key; `occurrence` counts a key that stands several times: 0, 1, 2."""

    keys: NDArray[np.bytes_]
    places: NDArray[np.int64]
    occurrence: NDArray[np.int64]

    def numbered(self) -> _Sorted:
        """With keys made unique by their occurrence: a, a, b → a#0, a#1, b#0."""
        marked = np.char.add(np.char.add(self.keys, b"#"), self.occurrence.astype("S20"))
        return replace(self, keys=marked)


def _sorted(keys: NDArray[np.bytes_] | None, values: NDArray[np.float64]) -> _Sorted:
    """Those that have a score; without keys there is nothing to pair by."""
    if keys is None:
        return _Sorted(np.empty(0, dtype="S1"), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    places = np.flatnonzero(np.isfinite(values))
    places = places[np.argsort(keys[places], kind="stable")]
    keys, counted = keys[places], np.arange(len(places))
    starts = np.r_[True, keys[1:] != keys[:-1]][: len(keys)]
    return _Sorted(keys, places, counted - np.maximum.accumulate(np.where(starts, counted, 0)))
