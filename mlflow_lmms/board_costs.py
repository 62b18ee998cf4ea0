"""What the results on a board have cost, and which models nobody beats for less.

GPU-hours are those of all attempts, also failed ones, on the runs that a model's cells come from; a run counts once,
whole, whichever of its tasks are shown. Tokens are those of the answers behind the cells themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Engine, func, select

from mlflow_lmms.analysis.pareto import pareto_front
from mlflow_lmms.board import Board, Row
from mlflow_lmms.database import reading
from mlflow_lmms.errors import LmmsError
from mlflow_lmms.recently_used import RecentlyUsed
from mlflow_lmms.score import Score
from mlflow_lmms.sql.schema import PartAttemptRow
from mlflow_lmms.task_result import TaskResult

_AT_ONCE = 500
_USES_KEPT = 50_000
_HOUR_S = 3600.0
#: Those of reasoning are among the written ones.
_TOKENS = ("input_tokens", "output_tokens")


@dataclass(frozen=True)
class Cost:
    """Of one model. Numbers are sums of what is known, None where nothing is.

    Attributes:
        runs, runs_known: how many runs the cells come from, and of how many of them the GPU-hours are known.
        tokens: of all answers, read and written.
        cells_counted: how many cells' tokens were counted.
        on_front: whether no model has at least its overall score for less; None: its score or its cost is not
            known, or not of all its runs.
    """

    gpu_hours: float | None
    runs: int
    runs_known: int
    tokens: int | None
    cells_counted: int
    on_front: bool | None = None


class BoardCosts:
    """Adds up costs.

    Args:
        result: a task's result in a run.
    """

    def __init__(self, engine: Engine, result: Callable[[str, str], TaskResult]) -> None:
        self._engine = reading(engine)
        self._result = result
        self._tokens: RecentlyUsed[tuple[str, str, float], int] = RecentlyUsed(_USES_KEPT)

    def of(self, board: Board) -> dict[str, Cost]:
        """By model, of all rows with cells of our own."""
        rows = [row for row in board.rows if row.cells]
        hours = self._gpu_hours({cell.score.run_id for row in rows for cell in row.cells.values()})
        costs = {row.model: self._cost(row, hours) for row in rows}
        return _with_front(rows, costs)

    def _cost(self, row: Row, hours: Mapping[str, float]) -> Cost:
        runs = {cell.score.run_id for cell in row.cells.values()}
        known = [hours[run_id] for run_id in runs if run_id in hours]
        counted = [tokens for cell in row.cells.values() if (tokens := self._tokens_of(cell.score))]
        return Cost(
            gpu_hours=sum(known) if known else None,
            runs=len(runs),
            runs_known=len(known),
            tokens=sum(counted) if counted else None,
            cells_counted=len(counted),
        )

    def _gpu_hours(self, run_ids: Collection[str]) -> dict[str, float]:
        row, found, ordered = PartAttemptRow, dict[str, float](), sorted(run_ids)
        with self._engine.connect() as connection:
            for start in range(0, len(ordered), _AT_ONCE):
                query = (
                    select(row.run_id, func.sum(row.gpu_seconds))
                    .where(row.run_id.in_(ordered[start : start + _AT_ONCE]), row.gpu_seconds.is_not(None))
                    .group_by(row.run_id)
                )
                found |= {run_id: float(seconds or 0) / _HOUR_S for run_id, seconds in connection.execute(query)}
        return found

    def _tokens_of(self, score: Score) -> int:
        """0: nobody counted them."""
        key = (score.run_id, score.task, score.recorded_at)
        found = self._tokens.get(key)
        if found is None:
            try:
                usage = self._result(score.run_id, score.task).usage
            except LmmsError:  # a run that others wrote may have no such file
                usage = None
            found = sum((usage or {}).get(name, 0) for name in _TOKENS)
            self._tokens.put(key, found)
        return found


def _with_front(rows: Iterable[Row], costs: Mapping[str, Cost]) -> dict[str, Cost]:
    """Mark the front of overall score against GPU-hours, among the models of which both are known in full."""
    full = {
        row.model: (row.overall.value, cost.gpu_hours)
        for row in rows
        if (cost := costs[row.model]).gpu_hours is not None
        and cost.runs_known == cost.runs
        and row.overall.value is not None
    }
    scores = np.array([score for score, _ in full.values()], dtype=np.float64)
    spent = np.array([hours for _, hours in full.values()], dtype=np.float64)
    front = dict(zip(full, pareto_front(scores, spent).tolist(), strict=True))
    return {model: replace(cost, on_front=front.get(model)) for model, cost in costs.items()}
