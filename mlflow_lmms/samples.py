"""Reads a task's samples table: pages of samples, and the pictures that were kept with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlflow_lmms.errors import NotFoundError, UnreadableOutputError
from mlflow_lmms.score_vectors import score_column

_FILTERED = "filtered:"
_SCORE = "score:"
_COLUMN = "doc:"
_TEXT = ("input", "target")
_NEEDED = ("doc_id", "doc_hash", *_TEXT, "responses")
_MEDIA = "media"


@dataclass(frozen=True)
class Sample:
    """One document with what the model said. `index` is its row in the table; `media` counts its pictures."""

    index: int
    doc_id: int
    doc_hash: str
    input: str
    target: str
    responses: tuple[str, ...]
    filtered: dict[str, str]
    scores: dict[str, float | None]
    columns: dict[str, Any]
    media: int


@dataclass(frozen=True)
class SamplesPage:
    """Some samples, and how many there are under the same filter."""

    samples: tuple[Sample, ...]
    total: int


def read_samples(
    file: Path,
    *,
    metric: str | None = None,
    filter_name: str = "none",
    higher_is_better: bool = True,
    wrong_only: bool = False,
    search: str = "",
    offset: int = 0,
    limit: int = 50,
) -> SamplesPage:
    """One page of samples in the order of the documents.

    Args:
        metric: the metric that `wrong_only` looks at; a sample is wrong when its score is not the best one possible
            (1 or more; 0 or less where lower is better), or is missing.
        search: words that must all stand in the input, the target or a response.

    Raises:
        UnreadableOutputError: the file is no samples table.
    """
    table = _read(file, [name for name in _names(file) if name != _MEDIA])
    if table.num_rows == 0:  # pyarrow 25 ends the whole process when indices_nonzero meets a column without chunks
        return SamplesPage((), 0)
    wanted = pa.array([True] * table.num_rows)
    column = score_column(metric, filter_name) if metric is not None else None
    if wrong_only and column in table.column_names:
        right = pc.greater_equal(table[column], 1.0) if higher_is_better else pc.less_equal(table[column], 0.0)
        wanted = pc.and_(wanted, pc.invert(pc.fill_null(right, False)))
    for word in search.split():
        wanted = pc.and_(wanted, _contains(table, word))
    rows = pc.indices_nonzero(wanted)
    page = rows.slice(offset, limit)
    pictures = _pictures(file, page.to_pylist())
    found = zip(page.to_pylist(), table.take(page).to_pylist(), pictures, strict=True)
    return SamplesPage(tuple(_sample(index, row, len(kept)) for index, row, kept in found), len(rows))


def read_media(file: Path, index: int, number: int) -> tuple[str, bytes]:
    """MIME type and bytes of one picture of the sample in row `index`.

    Raises:
        NotFoundError: no such sample, or no such picture of it.
    """
    (pictures,) = _pictures(file, [index])
    if not 0 <= number < len(pictures):
        raise NotFoundError(f"sample {index} has no picture {number} stored with the run")
    return str(pictures[number]["mime"]), bytes(pictures[number]["data"])


def _pictures(file: Path, indices: list[int]) -> list[list[dict[str, Any]]]:
    """The pictures of the samples in these rows; none for a row that is not there."""
    if not indices or _MEDIA not in _names(file):
        return [[] for _ in indices]
    column = _read(file, [_MEDIA]).column(_MEDIA)
    return [column[index].as_py() or [] if 0 <= index < len(column) else [] for index in indices]


def _names(file: Path) -> list[str]:
    try:
        names = list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException) as error:
        raise UnreadableOutputError(f"{file.name} is no samples table: {error}") from None
    if missing := [name for name in _NEEDED if name not in names]:
        raise UnreadableOutputError(f"{file.name} is no samples table: it has no column {', '.join(missing)}")
    return names


def _read(file: Path, columns: list[str]) -> Any:
    try:
        return pq.read_table(file, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise UnreadableOutputError(f"{file.name} is no samples table: {error}") from None


def _contains(table: Any, word: str) -> Any:
    found = pa.array([False] * table.num_rows)
    texts = [table[name] for name in _TEXT] + [pc.binary_join(table["responses"], "\n")]
    for text in texts:
        hit = pc.match_substring(pc.cast(text, pa.string()), word, ignore_case=True)
        found = pc.or_(found, pc.fill_null(hit, False))
    return found


def _sample(index: int, row: dict[str, Any], media: int) -> Sample:
    return Sample(
        index=index,
        doc_id=row["doc_id"],
        doc_hash=row["doc_hash"],
        input=row["input"] or "",
        target=row["target"] or "",
        responses=tuple(row["responses"] or ()),
        filtered={k.removeprefix(_FILTERED): v or "" for k, v in row.items() if k.startswith(_FILTERED)},
        scores={k.removeprefix(_SCORE): v for k, v in row.items() if k.startswith(_SCORE)},
        columns={k.removeprefix(_COLUMN): v for k, v in row.items() if k.startswith(_COLUMN)},
        media=media,
    )
