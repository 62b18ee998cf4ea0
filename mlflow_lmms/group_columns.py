"""The dimensions of single documents as they stand beside the stored scores: which group each document belongs to.

Runs of earlier releases have them only in the samples table, among the document's columns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_lmms.analysis.groups import Groups
from mlflow_lmms.errors import UnreadableOutputError

_DIMENSION = "dim:"
_DOCUMENT = "doc:"
_KEYS = ("doc_hash", "row_key", "doc_id")


def read_groups(scores: Path, samples: Callable[[], Path], wanted: Collection[str]) -> dict[str, Groups]:
    """The groups of these dimensions by name, aligned with the rows of the scores table; absent where not stored.

    Args:
        samples: fetches the samples table, which is much larger, where the scores table tells no dimension.

    Raises:
        UnreadableOutputError: a file is not there, or is no Parquet.
    """
    try:
        names = pq.read_schema(scores).names
        if any(name.startswith(_DIMENSION) for name in names):
            columns = [f"{_DIMENSION}{name}" for name in wanted if f"{_DIMENSION}{name}" in names]
            table = pq.read_table(scores, columns=columns, memory_map=True)
            return {name.removeprefix(_DIMENSION): _groups(table[name]) for name in columns}
        return _of_samples(scores, samples(), wanted)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UnreadableOutputError(f"{scores} does not tell the groups of its documents: {error}") from None


def _of_samples(scores: Path, samples: Path, wanted: Collection[str]) -> dict[str, Groups]:
    """Put the samples into the order of the scores; nothing where their documents are not the same."""
    names = pq.read_schema(samples).names
    columns = [f"{_DOCUMENT}{name}" for name in wanted if f"{_DOCUMENT}{name}" in names]
    keys = [name for name in _KEYS if name in names]
    if not columns:
        return {}
    table = pq.read_table(samples, columns=[*keys, *columns]).sort_by([(key, "ascending") for key in keys])
    if not table["doc_id"].equals(pq.read_table(scores, columns=["doc_id"])["doc_id"]):
        return {}
    return {name.removeprefix(_DOCUMENT): _groups(table[name]) for name in columns}


def _groups(column: pa.ChunkedArray) -> Groups:
    # Through Python's own texts: numbers and truth values are to be named as the runner names them.
    if not pa.types.is_string(column.type):
        return Groups.of([None if value is None or value == "" else str(value) for value in column.to_pylist()])
    encoded = column.combine_chunks().dictionary_encode()
    found = [str(name) for name in encoded.dictionary.to_pylist()]
    order = sorted(range(len(found)), key=found.__getitem__)
    places = np.empty(len(found) + 1, dtype=np.int64)
    places[order], places[-1] = np.arange(len(found)), -1
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    return Groups(tuple(found[at] for at in order), places[codes])
