"""Boards for people: results from the kept cells, ranked, put into words; made again only where they changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any

from mlflow_lmms.board import Board, assemble
from mlflow_lmms.board_column import RankedColumn, rank_column
from mlflow_lmms.board_costs import BoardCosts, Cost
from mlflow_lmms.board_json import row_json
from mlflow_lmms.board_narrowing import Narrower, Narrowing
from mlflow_lmms.board_overall import Overall, mean_scores, unscaled, win_rates
from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.board_results import BoardResults, TaskResults
from mlflow_lmms.board_rows import BoardRows, Place
from mlflow_lmms.column_tests import KeptTests
from mlflow_lmms.model_facts import name_and_version
from mlflow_lmms.recently_used import RecentlyUsed
from mlflow_lmms.score import Score, Vectors
from mlflow_lmms.task_result import TaskWarning
from mlflow_lmms.verdict import verdicts

_BOARDS_KEPT = 32
_COLUMNS_KEPT = 1_000

Warnings = Callable[[Score], tuple[TaskWarning, ...]]


@dataclass(frozen=True)
class RankedBoard:
    """A board with what stands beside it.

    Attributes:
        overall: what the rows are ordered by, one of those of `BoardQuery`.
        costs: of each model, where they were asked for.
    """

    board: Board
    vectors: Vectors
    warnings: Warnings
    overall: str = "win_rate"
    costs: Mapping[str, Cost] | None = None

    @cached_property
    def verdicts(self) -> tuple[str, ...]:
        """Who beats whom, in sentences, of the first rows."""
        return tuple(verdicts(self.board, self.vectors))

    def as_json(self, *, offset: int = 0, limit: int | None = None) -> dict[str, Any]:
        """The board as plain values for programs; of the rows only `limit` from number `offset` on."""
        rows = self.board.rows[offset : None if limit is None else offset + limit]
        return {
            "columns": [asdict(column) for column in self.board.columns],
            "rows": [row_json(row, self.warnings, self.costs) for row in rows],
            "total": len(self.board.rows),
            "overall": self.overall,
            "verdicts": list(self.verdicts),
            "left_out": list(self.board.left_out),
        }


class Boards:
    """Makes boards. One per server process: what it keeps is told apart by the columns' revisions in the database."""

    def __init__(
        self, rows: BoardRows, narrower: Narrower, vectors: Vectors, warnings: Warnings, costs: BoardCosts
    ) -> None:
        self._rows = rows
        self._narrower = narrower
        self._vectors = vectors
        self._warnings = warnings
        self._costs = costs
        self._results = BoardResults(rows)
        self._tests = KeptTests(vectors)
        self._columns: RecentlyUsed[Hashable, RankedColumn] = RecentlyUsed(_COLUMNS_KEPT)
        self._boards: RecentlyUsed[Hashable, RankedBoard] = RecentlyUsed(_BOARDS_KEPT)
        self._making = Lock()

    def ranked(self, query: BoardQuery, *, experiment_ids: Collection[str] | None) -> RankedBoard:
        """The board of what the caller may read (`experiment_ids`; None means everything).

        Raises:
            InvalidRequestError, NotFoundError: the query names a group or a suite that there is not.
        """
        narrowing = self._narrower.narrow(query)
        revisions = self._rows.revisions(_experiments(query, experiment_ids), narrowing.tasks)
        key = (query, narrowing, frozenset(revisions.items()))
        found = self._boards.get(key)
        if found is None:
            with self._making:  # whoever asks for the same meanwhile gets the same
                found = self._boards.get(key) or self._boards.put(key, self._make(query, narrowing, revisions))
        return replace(found, costs=self._costs.of(found.board)) if query.costs else found

    def _make(self, query: BoardQuery, narrowing: Narrowing, revisions: Mapping[Place, str]) -> RankedBoard:
        results = self._results.results(query, narrowing, revisions)
        columns = self._ranked(results, query, None)
        if query.versions in ("latest", "best"):
            columns = self._ranked(results, query, _one_version_each(columns, query, narrowing))
        board = assemble(
            columns,
            _overall(columns, query, narrowing),
            [score for result in results for score in result.reported],
            pinned=[task for task in query.pinned if narrowing.tasks is None or task in narrowing.tasks],
            left_out=_left_out(results, columns, query),
        )
        return RankedBoard(board, self._vectors, self._warnings, query.overall)

    def _ranked(
        self, results: Sequence[TaskResults], query: BoardQuery, models: frozenset[str] | None
    ) -> list[RankedColumn]:
        """Columns of these models' results (None: all), as they were where nothing has changed."""
        columns = []
        for result in results:
            scores = [score for score in result.scores if models is None or score.model in models]
            if scores:
                key = (result.key, query.flagged, models)
                found = self._columns.get(key)
                if found is None:
                    found = self._columns.put(key, rank_column(scores, self._tests, flagged=query.flagged))
                columns.append(found)
        return columns


def _experiments(query: BoardQuery, readable: Collection[str] | None) -> Collection[str] | None:
    if not query.experiments:
        return readable
    return [wanted for wanted in query.experiments if readable is None or wanted in readable]


def _overall(columns: Sequence[RankedColumn], query: BoardQuery, narrowing: Narrowing) -> dict[str, Overall]:
    if query.overall == "win_rate":
        return win_rates(columns)
    return mean_scores(columns, None if narrowing.weights is None else dict(narrowing.weights))


def _one_version_each(columns: Sequence[RankedColumn], query: BoardQuery, narrowing: Narrowing) -> frozenset[str]:
    """Of each model the label of one version: the highest, or the one with the best overall score."""
    overall = _overall(columns, query, narrowing) if query.versions == "best" else {}

    def preference(label: str) -> tuple[float, int]:
        value = overall[label].value if label in overall else None
        return -1.0 if value is None else value, name_and_version(label)[1] or 0

    chosen: dict[str, str] = {}
    for label in sorted({model for column in columns for model in column.cells}):
        name, _ = name_and_version(label)
        chosen[name] = max(chosen.get(name, label), label, key=preference)
    return frozenset(chosen.values())


def _left_out(results: Sequence[TaskResults], columns: Sequence[RankedColumn], query: BoardQuery) -> list[str]:
    """What has no place on the board, in words."""
    found = []
    if partial := sum(result.partial for result in results):
        found.append(f"{partial} result{'s' if partial > 1 else ''} over a part of a task's documents")
    if unsized := {model for result in results for model in result.unsized}:
        found.append(f"{len(unsized)} model{'s' if len(unsized) > 1 else ''} whose size is not known")
    if query.overall != "win_rate" and (tasks := unscaled(columns)):
        found.append(f"from the overall score, tasks without a known scale: {', '.join(tasks)}")
    return found
