"""Reads what boards are made of: the kept cells of columns, their revisions, and where it must be the history.

Writing is `mlflow_lmms.board_cells`. No query here grows with the runs that are stored, but for `history`, which
reads the results of the cells that it is narrowed to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Select, select

from mlflow_lmms.board_choice import Kept
from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.database import reading
from mlflow_lmms.names import cut
from mlflow_lmms.score import Score
from mlflow_lmms.score_rows import FIELDS, score_columns, score_of
from mlflow_lmms.sql.schema import ScoreRow
from mlflow_lmms.sql.schema_boards import BoardCellRow, BoardColumnRow, RunTagRow

_AT_ONCE = 500


@dataclass(frozen=True, order=True)
class Place:
    """One task of one experiment."""

    experiment_id: str
    task: str


class BoardRows:
    """Reads `lmms_board_cells` and what stands beside it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = reading(engine)

    def revisions(
        self, experiment_ids: Collection[str] | None, tasks: Collection[str] | None = None
    ) -> dict[Place, str]:
        """What is another text whenever a column has changed; None means all experiments, or all tasks."""
        row = BoardColumnRow
        query = select(row.experiment_id, row.task, row.revision)
        if experiment_ids is not None:
            query = query.where(row.experiment_id.in_(experiment_ids))
        if tasks is not None and len(tasks) <= _AT_ONCE:
            query = query.where(row.task.in_(tasks))
        with self._engine.connect() as connection:
            found = connection.execute(query).all()
        return {
            Place(experiment_id, task): revision
            for experiment_id, task, revision in found
            if tasks is None or task in tasks
        }

    def cells(self, places: Collection[Place], *, best: bool = False) -> dict[Place, list[Kept]]:
        """The latest results that are kept of these columns; with `best` those that may be the best, too."""
        row = BoardCellRow
        found: dict[Place, list[Kept]] = {place: [] for place in places}
        with self._engine.connect() as connection:
            for experiment_id, tasks in _by_experiment(places).items():
                for start in range(0, len(tasks), _AT_ONCE):
                    some = tasks[start : start + _AT_ONCE]
                    query = select(*score_columns(row), row.latest, row.best).where(
                        row.experiment_id == experiment_id, row.task.in_(some)
                    )
                    if not best:
                        query = query.where(row.latest)
                    for told in connection.execute(query):
                        score = score_of(told)
                        found[Place(experiment_id, score.task)].append(Kept(score, *told[len(FIELDS) :]))
        return found

    def history(self, query: BoardQuery, places: Collection[Place]) -> dict[str, list[Score]]:
        """By task, all results of these columns from runs with the query's tags that were recorded in its time."""
        found: dict[str, list[Score]] = defaultdict(list)
        with self._engine.connect() as connection:
            for experiment_id, tasks in _by_experiment(places).items():
                for start in range(0, len(tasks), _AT_ONCE):
                    some = tasks[start : start + _AT_ONCE]
                    for told in connection.execute(_narrowed(query, experiment_id, some)):
                        score = score_of(told)
                        found[score.task].append(score)
        return found


def _by_experiment(places: Collection[Place]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for place in sorted(places):
        found[place.experiment_id].append(place.task)
    return found


def _narrowed(query: BoardQuery, experiment_id: str, tasks: Collection[str]) -> Select[Any]:
    row = ScoreRow
    found = select(*score_columns(row)).where(
        row.experiment_id == experiment_id, row.task.in_(tasks), row.dimension == "", row.primary
    )
    if query.since is not None:
        found = found.where(row.recorded_at >= query.since)
    if query.until is not None:
        found = found.where(row.recorded_at <= query.until)
    for tag in query.tags:
        key, _, value = tag.partition("=")
        having = select(RunTagRow.run_id).where(RunTagRow.key == cut(key), RunTagRow.value == cut(value))
        found = found.where(row.run_id.in_(having))
    return found
