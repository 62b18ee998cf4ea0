"""Pages of the documents that a candidate lost, won or answered otherwise than the baseline, with both answers.

The tables behind the last few comparisons are kept in memory, without texts; a page reads the rows that it shows, and
a search goes through the texts once, some at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlflow_lmms.errors import ConflictError, NotFoundError
from mlflow_lmms.flip_kinds import CHANGES, FlipKind
from mlflow_lmms.flip_table import FlipTable, StoredResult, flip_table
from mlflow_lmms.names import Artifact
from mlflow_lmms.run_reader import FetchArtifact, RunReader
from mlflow_lmms.samples import TEXT_COLUMNS, Sample, SamplesTable, contains, sample_of
from mlflow_lmms.score import Score, incomparable

_DOCUMENTS_KEPT = 4_000_000
_SEARCHES_KEPT = 16


@dataclass(frozen=True)
class Flip:
    """One document with what both models made of it."""

    kind: FlipKind
    baseline: Sample
    candidate: Sample


@dataclass(frozen=True)
class FlipsPage:
    """Some flips; how many there are under the same filter, and of each kind at all.

    Attributes:
        doubts: why the two results may not be compared, in words; None where they may be.
        documents: how many the baseline has, how many the candidate, and how many have a score in both.
    """

    flips: tuple[Flip, ...]
    total: int
    counts: dict[FlipKind, int]
    doubts: str | None
    documents: dict[str, int]


class _Key(NamedTuple):
    baseline: tuple[str, str, float]
    candidate: tuple[str, str, float]
    metric: str
    filter: str


class Flips:
    """Answers what changed between two results."""

    def __init__(self, reader: RunReader, fetch: FetchArtifact) -> None:
        self._reader = reader
        self._fetch = fetch
        self._tables: OrderedDict[_Key, FlipTable] = OrderedDict()
        self._searches: OrderedDict[tuple[_Key, frozenset[FlipKind], tuple[str, ...]], NDArray[np.int64]]
        self._searches = OrderedDict()
        self._lock = Lock()

    def page(
        self,
        baseline: Score,
        candidate: Score,
        *,
        kinds: Collection[FlipKind] = CHANGES,
        search: str = "",
        offset: int = 0,
        limit: int = 50,
    ) -> FlipsPage:
        """One page, in the order of the baseline's documents.

        Args:
            search: words that must all stand in the input, the target or a response of one of the two.

        Raises:
            ConflictError: the two are scored by different metrics.
            NotFoundError: one of them has no scores of single documents.
            UnreadableOutputError: a table cannot be read.
        """
        if (baseline.metric, baseline.filter) != (candidate.metric, candidate.filter):
            raise ConflictError(
                f"the baseline is scored by {baseline.metric} ({baseline.filter}), the candidate by "
                f"{candidate.metric} ({candidate.filter}): their documents cannot be held against each other"
            )
        key = _Key(_identity(baseline), _identity(candidate), baseline.metric, baseline.filter)
        table = self._table(key, baseline, candidate)
        places = self._places(key, table, frozenset(kinds), tuple(search.split()), baseline, candidate)
        shown = places[offset : offset + limit]
        one = _samples(self._samples(baseline), table.first[shown])
        two = _samples(self._samples(candidate), table.second[shown])
        known = tuple(FlipKind)
        return FlipsPage(
            tuple(
                Flip(known[table.kinds[at]], one[int(table.first[at])], two[int(table.second[at])]) for at in shown
            ),
            len(places),
            table.counts,
            incomparable(baseline, candidate),
            {"baseline": table.documents[0], "candidate": table.documents[1], "shared": len(table.kinds)},
        )

    def _table(self, key: _Key, baseline: Score, candidate: Score) -> FlipTable:
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        made = flip_table(
            self._stored(baseline), self._stored(candidate), higher_is_better=baseline.higher_is_better is not False
        )
        with self._lock:
            self._tables[key] = made
            while len(self._tables) > 1 and sum(len(t.kinds) for t in self._tables.values()) > _DOCUMENTS_KEPT:
                self._tables.popitem(last=False)
        return made

    def _places(
        self,
        key: _Key,
        table: FlipTable,
        kinds: frozenset[FlipKind],
        words: tuple[str, ...],
        baseline: Score,
        candidate: Score,
    ) -> NDArray[np.int64]:
        """The places in the table that are asked for."""
        places = table.of_kinds(kinds)
        if not words:
            return places
        asked = (key, kinds, words)
        with self._lock:
            if asked in self._searches:
                self._searches.move_to_end(asked)
                return self._searches[asked]
        hits = _hits(self._samples(baseline), table.first[places], words)
        hits |= _hits(self._samples(candidate), table.second[places], words)
        found: NDArray[np.int64] = places[hits]
        with self._lock:
            self._searches[asked] = found
            while len(self._searches) > _SEARCHES_KEPT:
                self._searches.popitem(last=False)
        return found

    def _stored(self, score: Score) -> StoredResult:
        # The samples are as they were recorded, whatever value somebody gave the result since.
        vector = self._reader.vector(replace(score, warnings=()))
        if vector is None:
            raise NotFoundError(
                f"run {score.run_id} has no scores of single documents of {score.task}: nothing can be paired"
            )
        scores = self._fetch(score.run_id, Artifact.scores(score.task))
        return StoredResult(vector, self._samples(score), scores, score.filter)

    def _samples(self, score: Score) -> Path:
        return self._fetch(score.run_id, Artifact.samples(score.task))


def _identity(score: Score) -> tuple[str, str, float]:
    return score.run_id, score.task, score.recorded_at


def _samples(file: Path, rows: NDArray[np.int32]) -> dict[int, Sample]:
    """Samples by their row; only the row groups that hold one are read."""
    wanted = sorted({int(row) for row in rows})
    with SamplesTable(file) as table:
        return {at: sample_of(at, row) for at, row in zip(wanted, table.rows(wanted, table.names), strict=True)}


def _hits(file: Path, rows: NDArray[np.int32], words: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the rows contain all words; each row group is read once, and only where one of the rows is in it."""
    with SamplesTable(file) as table:
        found = np.zeros(table.count, dtype=bool)
        for start, group in _groups_with(table, rows):
            inside = np.ones(group.num_rows, dtype=bool)
            for word in words:
                inside &= np.asarray(contains(group, word), dtype=bool)
            found[start : start + group.num_rows] = inside
    return found[rows]


def _groups_with(table: SamplesTable, rows: NDArray[np.int32]) -> Iterator[tuple[int, Any]]:
    wanted = np.zeros(table.count, dtype=bool)
    wanted[rows] = True
    for number, (start, end) in enumerate(table.bounds()):
        if wanted[start:end].any():
            yield start, table.group(number, TEXT_COLUMNS)
