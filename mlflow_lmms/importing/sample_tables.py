"""Writes a task's two Parquet files from the spool, a few rows at a time, in the runner's shape.

Owns columns, types and row groups, and that every text is scrubbed. Which numbers are scores was decided before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlflow_lmms.importing.cluster_sums import ClusterSums
from mlflow_lmms.importing.sample_spool import DocumentSpool, KeySpool
from mlflow_lmms.importing.scores_table import score_column, value_columns, write_scores
from mlflow_lmms.importing.scrubbed import valid
from mlflow_lmms.reading.cluster_id import cluster_id
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.row_key import row_key
from mlflow_lmms.reading.score_sums import ScoreSums
from mlflow_lmms.reading.slice_sums import PROMPT_LENGTH
from mlflow_lmms.reading.slices import dimension_value, length_bin
from mlflow_lmms.scrubbing import Scrubber

#: Row groups are small, so that one page of samples reads one; but the writer remembers each, so they are not many.
FEWEST_ROWS, MOST_ROWS, MOST_GROUPS, TEXT_AT_ONCE = 512, 4096, 256, 8_000_000
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


@dataclass(frozen=True)
class TableLayout:
    """What goes into the tables.

    `places` says for each filter which metrics its rows hold, in order; `derivations` names for each metric with a
    score column the derivation of its numbers; `accepted` are those that explain the task's own value. `groups` are
    the dimensions that stand beside the scores, `prompt_lengths` names groups of lengths by `length_bin`.
    """

    filters: tuple[str, ...]
    places: Mapping[str, Sequence[MetricKey]]
    derivations: Mapping[MetricKey, str]
    accepted: tuple[MetricKey, ...]
    columns: Mapping[str, pa.DataType]
    dimensions: tuple[str, ...] = ()
    tokens: tuple[bool, bool] = (False, False)
    hashed: bool = False
    documents: int = 0
    clustered: bool = False
    groups: tuple[str, ...] = ()
    prompt_lengths: Mapping[int, str] = field(default_factory=dict)
    wrong_if_errored: bool = False
    without_errored: bool = False


@dataclass
class TableSums:
    """What was found while writing: sums of sound and errored documents by metric, and the hashes of the rows."""

    sound: dict[MetricKey, ScoreSums] = field(default_factory=dict)
    errored: dict[MetricKey, ScoreSums] = field(default_factory=dict)
    clusters: dict[MetricKey, ClusterSums] = field(default_factory=dict)
    rows: str = ""
    dataset: str | None = None


@dataclass(slots=True)
class _Document:
    """One document, its filters' rows put together."""

    doc_id: int
    input: str = ""
    target: str = ""
    responses: list[str] = field(default_factory=list)
    tokens: tuple[int | None, int | None, int | None] = (None, None, None)
    columns: Mapping[str, Any] = field(default_factory=dict)
    filtered: dict[str, str] = field(default_factory=dict)
    numbers: dict[MetricKey, Any] = field(default_factory=dict)
    errored: str | None = None
    cluster: str | None = None
    key: str = ""
    content: str | None = None


def write_tables(
    spool: DocumentSpool, layout: TableLayout, scrubber: Scrubber, samples: Path, scores: Path, scratch: Path
) -> TableSums:
    """Write both files; return what they hold, summed up."""
    sums = TableSums()
    keys = KeySpool(scratch)
    try:
        schema = _schema(layout)
        with pq.ParquetWriter(samples, schema, compression="zstd", write_statistics=["doc_id"]) as writer:
            for documents in _batches(spool, layout):
                table = _table(documents, layout, schema, scrubber)
                writer.write_table(table, row_group_size=len(documents))
                _sum_up(documents, layout, sums)
                _sum_clusters(documents, layout, sums)
                values = _values(documents, layout, scrubber)
                keys.add(
                    [(own.content, own.key, own.doc_id, told) for own, told in zip(documents, values, strict=True)]
                )
        columns = value_columns(layout.accepted, clustered=layout.clustered, groups=layout.groups)
        sums.rows, sums.dataset = write_scores(keys, columns, scores, hashed=layout.hashed)
    finally:
        keys.close()
    return sums


def _schema(layout: TableLayout) -> pa.Schema:
    text = pa.string()
    fields = [("doc_id", pa.int64()), ("doc_hash", text), ("row_key", text), ("input", text), ("target", text)]
    fields += [("responses", pa.list_(text)), ("errored", text)]
    fields += [(f"filtered:{name}", text) for name in layout.filters]
    fields += [(score_column(key), pa.float64()) for key in layout.derivations]
    named = zip(("tokens:input", "tokens:output"), layout.tokens, strict=True)
    fields += [(name, pa.int64()) for name, there in named if there]
    fields += [(f"doc:{name}", kind) for name, kind in layout.columns.items()]
    return pa.schema([*fields, ("media", _MEDIA)])


def _batches(spool: DocumentSpool, layout: TableLayout) -> Iterator[list[_Document]]:
    """Documents in order, some hundred at a time, fewer where their texts are long."""
    most = min(MOST_ROWS, max(FEWEST_ROWS, layout.documents // MOST_GROUPS))
    batch: list[_Document] = []
    size = 0
    for doc_id, rows in spool.documents():
        document = _document(doc_id, rows, layout)
        batch.append(document)
        size += len(document.input) + sum(map(len, document.responses))
        if len(batch) == most or size > TEXT_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _document(doc_id: int, rows: Sequence[tuple[int, Any]], layout: TableLayout) -> _Document:
    document = _Document(doc_id)
    is_raw = False
    for _, (place, filtered, numbers, errored, dimensions, cluster, answers, raw, whole) in rows:
        name = layout.filters[place]
        document.filtered[name] = filtered
        for key, number in zip(layout.places[name], numbers, strict=True):
            derivation = layout.derivations.get(key)
            if number is not None and derivation is not None:
                document.numbers[key] = number.get(derivation) if isinstance(number, dict) else number
        document.errored = errored or document.errored
        document.cluster = cluster or document.cluster
        if answers is not None and not is_raw:
            document.responses, is_raw = answers, raw
        if whole is not None:
            document.input, document.target, document.tokens, columns, content = whole
            document.columns, document.content = columns, content if layout.hashed else None
        if dimensions:
            kept = {own: dimensions[own] for own in layout.dimensions if own in dimensions}
            document.columns = {**kept, **document.columns}
    document.key = row_key(doc_id, document.input, document.target)
    return document


def _table(documents: Sequence[_Document], layout: TableLayout, schema: pa.Schema, scrubber: Scrubber) -> pa.Table:
    def scrubbed(values: Sequence[str | None]) -> pa.Array:
        return _scrub(_texts(values), scrubber)

    answers = [answer for own in documents for answer in own.responses]
    ends = pa.array(accumulate((len(own.responses) for own in documents), initial=0), pa.int32())
    arrays: dict[str, pa.Array] = {
        "doc_id": pa.array([own.doc_id for own in documents], pa.int64()),
        "doc_hash": pa.array([own.content for own in documents], pa.string()),
        "row_key": pa.array([own.key for own in documents], pa.string()),
        "input": scrubbed([own.input for own in documents]),
        "target": scrubbed([own.target for own in documents]),
        "responses": pa.ListArray.from_arrays(ends, scrubbed(answers)),
        "errored": pa.array([own.errored for own in documents], pa.string()),
        "media": pa.array([[]] * len(documents), _MEDIA),
    }
    for name in layout.filters:
        arrays[f"filtered:{name}"] = scrubbed([own.filtered.get(name) for own in documents])
    for key in layout.derivations:
        arrays[score_column(key)] = pa.array([own.numbers.get(key) for own in documents], pa.float64())
    for place, name in enumerate(("tokens:input", "tokens:output")):
        if layout.tokens[place]:
            arrays[name] = pa.array([own.tokens[place] for own in documents], pa.int64())
    for name, kind in layout.columns.items():
        values = [own.columns.get(name) for own in documents]
        arrays[f"doc:{name}"] = (
            scrubbed([_shown(value) for value in values])
            if kind == pa.string()
            else (pa.array([None if value is None else _number(kind, value) for value in values], kind))
        )
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _number(kind: pa.DataType, value: Any) -> bool | int | float:
    return float(value) if pa.types.is_floating(kind) else value


def _shown(value: Any) -> str | None:
    return None if value is None else str(value)


def _texts(values: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if value is None else valid(value) for value in values], pa.string())


def _scrub(texts: pa.Array, scrubber: Scrubber) -> pa.Array:
    """Scrub the few texts that may hold a secret; looking at each in Python would take longer than all the rest."""
    suspects = pc.fill_null(pc.match_substring_regex(texts, scrubber.hint, ignore_case=True), False)
    if not pc.any(suspects).as_py():
        return texts
    values = texts.to_pylist()
    for at in pc.indices_nonzero(suspects).to_pylist():
        values[at] = scrubber.scrub(values[at])
    return _texts(values)


def _sum_up(documents: Sequence[_Document], layout: TableLayout, sums: TableSums) -> None:
    for key in layout.derivations:
        for kept, wanted in ((sums.sound, False), (sums.errored, True)):
            own = [
                number
                for document in documents
                if (document.errored is not None) is wanted and (number := document.numbers.get(key)) is not None
            ]
            if own:
                kept[key] = kept.get(key, ScoreSums()).merged(sums_of(own))


def _sum_clusters(documents: Sequence[_Document], layout: TableLayout, sums: TableSums) -> None:
    for key in layout.accepted if layout.clustered else ():
        own = sums.clusters.setdefault(key, ClusterSums())
        for document in documents:
            number = 0.0 if document.errored and layout.wrong_if_errored else document.numbers.get(key)
            if number is not None and not (document.errored and layout.without_errored):
                own.add(document.cluster, number)


def sums_of(numbers: Sequence[float]) -> ScoreSums:
    """The sums of some numbers at once."""
    values = np.asarray(numbers, dtype=np.float64)
    mean = float(values.mean())
    return ScoreSums(
        n=len(values),
        mean=mean,
        squares=float(((values - mean) ** 2).sum()),
        least=float(values.min()),
        most=float(values.max()),
        binary=bool(((values == 0.0) | (values == 1.0)).all()),
        hundreds=bool(((values == 0.0) | (values == 100.0)).all()),
    )


def _values(documents: Sequence[_Document], layout: TableLayout, scrubber: Scrubber) -> list[tuple[Any, ...]]:
    """What stands beside each document's keys, in the order of `value_columns`."""
    if not layout.accepted:
        return [()] * len(documents)
    columns: list[list[Any]] = [[own.numbers.get(key) for own in documents] for key in layout.accepted]
    if layout.clustered:
        columns.append([cluster_id(own.cluster) for own in documents])
    for name in layout.groups:
        texts = [_group(own, name, layout) for own in documents]
        columns.append(_scrub(_texts(texts), scrubber).to_pylist())
    return list(zip(*columns, strict=True))


def _group(document: _Document, name: str, layout: TableLayout) -> str | None:
    if name in document.columns or name != PROMPT_LENGTH:
        return dimension_value(document.columns.get(name))
    return layout.prompt_lengths.get(length_bin(len(document.input)))
