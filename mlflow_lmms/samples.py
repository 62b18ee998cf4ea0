"""Reads a task's samples table: pages of samples, and the pictures that were kept with them.

Owns how little of the file is read: the row groups and columns that the question needs, one group at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlflow_lmms.errors import NotFoundError, UnreadableOutputError
from mlflow_lmms.score_vectors import score_column

_FILTERED = "filtered:"
_SCORE = "score:"
_COLUMN = "doc:"
_TOKENS = "tokens:"
_TEXT = ("input", "target")
_NEEDED = ("doc_id", "doc_hash", *_TEXT, "responses")
_ERRORED = "errored"
_MEDIA = "media"
#: Where `contains` looks.
TEXT_COLUMNS = (*_TEXT, "responses")


@dataclass(frozen=True)
class MediaReference:
    """A picture, sound or video of a document; `stored` where the run keeps a picture of it."""

    kind: str
    mime: str | None
    sha256: str | None
    width: int | None
    height: int | None
    seconds: float | None
    bytes: int | None
    stored: bool


@dataclass(frozen=True)
class Sample:
    """One document with what the model said. `index` is its row in the table; `media` counts its stored pictures.

    `doc_hash` is empty where the document itself was not at hand; `errored` says why the sample tells nothing of the
    model.
    """

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
    row_key: str | None = None
    errored: str | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    latency: float | None = None
    references: tuple[MediaReference, ...] = ()


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
    errored_only: bool = False,
    search: str = "",
    offset: int = 0,
    limit: int = 50,
) -> SamplesPage:
    """One page of samples in the order of the documents.

    Args:
        metric: the metric that `wrong_only` looks at; a sample is wrong when its score is not the best one possible
            (1 or more; 0 or less where lower is better), or is missing.
        errored_only: only samples that tell nothing of the model (a blank answer, a judge that failed).
        search: words that must all stand in the input, the target or a response.

    Raises:
        UnreadableOutputError: the file is no samples table.
    """
    with SamplesTable(file) as table:
        column = score_column(metric, filter_name) if metric is not None and wrong_only else None
        if column not in table.names:
            column = None
        wanted = _Wanted(column, higher_is_better, errored_only, search.split())
        indices = wanted.among(table)
        page = [int(index) for index in indices[offset : offset + limit]]
        found = zip(page, table.rows(page, table.names), strict=True)
        return SamplesPage(tuple(sample_of(index, row) for index, row in found), len(indices))


def read_media(file: Path, index: int, number: int) -> tuple[str, bytes]:
    """MIME type and bytes of one stored picture of the sample in row `index`.

    Raises:
        NotFoundError: no such sample, or no such picture of it.
    """
    with SamplesTable(file) as table:
        known = 0 <= index < table.count and _MEDIA in table.names
        pictures = _stored(next(table.rows([index], [_MEDIA]))) if known else []
    if not 0 <= number < len(pictures):
        raise NotFoundError(f"sample {index} has no picture {number} stored with the run")
    return str(pictures[number]["mime"]), bytes(pictures[number]["data"])


class SamplesTable:
    """An open samples table that is read by row groups."""

    def __init__(self, file: Path) -> None:
        self._name = file.name
        try:
            self._file = pq.ParquetFile(file)
        except (OSError, pa.ArrowException) as error:
            raise UnreadableOutputError(f"{self._name} is no samples table: {error}") from None
        self.names = list(self._file.schema_arrow.names)
        metadata = self._file.metadata
        self._sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self.count = sum(self._sizes)
        if missing := [name for name in _NEEDED if name not in self.names]:
            self._file.close()
            raise UnreadableOutputError(f"{self._name} is no samples table: it has no column {', '.join(missing)}")

    def __enter__(self) -> SamplesTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def groups(self, columns: Sequence[str]) -> Iterator[Any]:
        """These columns of all rows, one row group at a time."""
        for number in range(len(self._sizes)):
            yield self.group(number, columns)

    def bounds(self) -> Iterator[tuple[int, int]]:
        """First row of each row group, and the row after its last."""
        start = 0
        for size in self._sizes:
            yield start, start + size
            start += size

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """These columns of the rows with ascending indices; only the row groups that hold one are read."""
        ends = np.cumsum(self._sizes)
        numbers = np.searchsorted(ends, indices, side="right")
        for number in np.unique(numbers):
            start = int(ends[number]) - self._sizes[number]
            inside = [index - start for index, own in zip(indices, numbers, strict=True) if own == number]
            yield from self.group(int(number), columns).take(pa.array(inside, pa.int64())).to_pylist()

    def group(self, number: int, columns: Sequence[str]) -> Any:
        """These columns of one row group."""
        try:
            # For pyarrow "a.b" also names the field b of a column a: select takes such company out again.
            return self._file.read_row_group(number, columns=list(columns)).select(list(columns))
        except (OSError, pa.ArrowException) as error:
            raise UnreadableOutputError(f"{self._name} is no samples table: {error}") from None


@dataclass(frozen=True)
class _Wanted:
    """What a page asks of its samples; `wrong` names the column of scores that must not be the best."""

    wrong: str | None
    higher_is_better: bool
    errored: bool
    words: Sequence[str]

    def among(self, table: SamplesTable) -> NDArray[np.int64] | range:
        """The indices of the rows that are wanted."""
        columns = ([self.wrong] if self.wrong else []) + (list(TEXT_COLUMNS) if self.words else [])
        if self.errored:
            if _ERRORED not in table.names:
                return range(0)
            columns.append(_ERRORED)
        if not columns:
            return range(table.count)
        wanted = [np.asarray(self._mask(group), dtype=bool) for group in table.groups(columns)]
        return np.flatnonzero(np.concatenate([*wanted, np.zeros(0, dtype=bool)]))

    def _mask(self, rows: Any) -> Any:
        wanted = pa.array([True] * rows.num_rows, pa.bool_())
        if self.wrong:
            scores = rows[self.wrong]
            right = pc.greater_equal(scores, 1.0) if self.higher_is_better else pc.less_equal(scores, 0.0)
            wanted = pc.and_(wanted, pc.invert(pc.fill_null(right, False)))
        if self.errored:
            wanted = pc.and_(wanted, pc.is_valid(rows[_ERRORED]))
        for word in self.words:
            wanted = pc.and_(wanted, contains(rows, word))
        return wanted


def contains(rows: Any, word: str) -> Any:
    """Which of the rows have the word in their input, target or a response."""
    found = pa.array([False] * rows.num_rows, pa.bool_())
    texts = [rows[name] for name in _TEXT] + [pc.binary_join(rows["responses"], "\n")]
    for text in texts:
        hit = pc.match_substring(pc.cast(text, pa.string()), word, ignore_case=True)
        found = pc.or_(found, pc.fill_null(hit, False))
    return found


def _stored(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in row.get(_MEDIA) or [] if item.get("data") is not None]


def sample_of(index: int, row: dict[str, Any]) -> Sample:
    """The sample in row `index`, whose columns are given."""
    return Sample(
        index=index,
        doc_id=row["doc_id"],
        doc_hash=row["doc_hash"] or "",
        input=row["input"] or "",
        target=row["target"] or "",
        responses=tuple(row["responses"] or ()),
        filtered={k.removeprefix(_FILTERED): v or "" for k, v in row.items() if k.startswith(_FILTERED)},
        scores={k.removeprefix(_SCORE): v for k, v in row.items() if k.startswith(_SCORE)},
        columns={k.removeprefix(_COLUMN): v for k, v in row.items() if k.startswith(_COLUMN)},
        media=len(_stored(row)),
        row_key=row.get("row_key"),
        errored=row.get(_ERRORED),
        tokens={k.removeprefix(_TOKENS): v for k, v in row.items() if k.startswith(_TOKENS) and v is not None},
        latency=row.get("latency"),
        references=tuple(_reference(item) for item in row.get(_MEDIA) or ()),
    )


def _reference(item: dict[str, Any]) -> MediaReference:
    """Of earlier runs' media only the type and the picture itself are known."""
    facts = {name: item.get(name) for name in ("mime", "sha256", "width", "height", "seconds", "bytes")}
    return MediaReference(kind=item.get("kind") or "image", **facts, stored=item.get("data") is not None)
