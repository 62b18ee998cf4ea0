"""Boards for people: scores from the index, vectors from the runs, ranked and put into words."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_lmms.board import Board, Cell, make_board
from mlflow_lmms.run_reader import RunReader
from mlflow_lmms.score import Score
from mlflow_lmms.score_index import ScoreIndex
from mlflow_lmms.task_result import TaskWarning
from mlflow_lmms.verdict import verdicts


@dataclass(frozen=True)
class RankedBoard:
    """A board with its sentences."""

    board: Board
    verdicts: tuple[str, ...]
    warnings: Callable[[Score], tuple[TaskWarning, ...]]

    def as_json(self) -> dict[str, Any]:
        """The board as plain values for programs."""
        return {
            "columns": [asdict(column) for column in self.board.columns],
            "rows": [
                {
                    "model": row.model,
                    "rank": row.rank,
                    "win_rate": row.win_rate,
                    "coverage": row.coverage,
                    "cells": {task: self._cell(cell) for task, cell in row.cells.items()},
                    "reported": {task: [_published(s) for s in found] for task, found in row.reported.items()},
                }
                for row in self.board.rows
            ],
            "verdicts": list(self.verdicts),
            "left_out": list(self.board.left_out),
        }

    def _cell(self, cell: Cell) -> dict[str, Any]:
        place = cell.place
        return {
            **asdict(cell.score),
            "rank": cell.rank,
            "tied": cell.tied,
            "rank_interval": [place.rank, place.last] if place else None,
            "paired": place.paired if place else None,
            "note": cell.note,
            "flagged": cell.flagged,
            "warnings": [warning.model_dump(mode="json") for warning in self.warnings(cell.score)],
        }


def _published(score: Score) -> dict[str, Any]:
    return {
        "run_id": score.run_id,
        "metric": score.metric,
        "filter": score.filter,
        "value": score.value,
        "source": score.reported_source,
    }


def ranked_board(
    scores: ScoreIndex,
    reader: RunReader,
    *,
    experiment_ids: Collection[str] | None,
    suite: str | None = None,
    tasks: Collection[str] | None = None,
    partial: bool = False,
    flagged: bool = False,
) -> RankedBoard:
    """The board of what the caller may read (`experiment_ids`; None means everything)."""
    found = scores.primary_scores(experiment_ids=experiment_ids, suite=suite, tasks=tasks)
    board = make_board(found, reader.vector, partial=partial, flagged=flagged)
    return RankedBoard(board, tuple(verdicts(board, reader.vector)), reader.warnings)
