"""The table that boards are read from: what each model's results on a task are, kept as the score index changes."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from mlflow_lmms.board_choice import Kept, kept
from mlflow_lmms.names import cut
from mlflow_lmms.score_rows import FIELDS, score_columns, score_of
from mlflow_lmms.sql.schema import ScoreRow
from mlflow_lmms.sql.schema_boards import BoardCellRow, BoardColumnRow, RunTagRow

_AT_ONCE = 500
#: Tags of MLflow and of ours: what they say stands elsewhere.
_NOT_OF_USERS = ("mlflow.", "lmms.")


class Touched(NamedTuple):
    """A place on boards whose scores changed."""

    experiment_id: str
    model: str
    task: str


class BoardCells:
    """Keeps `lmms_board_cells`."""

    def follow(self, session: Session, touched: Collection[Touched]) -> None:
        """Choose anew, in the caller's transaction, what these places show."""
        columns: dict[tuple[str, str], set[str]] = defaultdict(set)
        for place in touched:
            columns[place.experiment_id, place.task].add(place.model)
        session.flush()  # the scores that the caller has only added
        for (experiment_id, task), models in sorted(columns.items()):
            # Also a lock: of two runs that end at once, the later one reads what the earlier one has written.
            _revise(session, experiment_id, task)
            ordered = sorted(models)
            for start in range(0, len(ordered), _AT_ONCE):
                _choose(session, experiment_id, task, ordered[start : start + _AT_ONCE])

    def describe(self, session: Session, run_id: str, tags: Mapping[str, str]) -> None:
        """Keep, in the caller's transaction, the tags that users gave a run; none of a deleted run."""
        session.execute(delete(RunTagRow).where(RunTagRow.run_id == run_id))
        rows = {
            cut(key): {"run_id": run_id, "key": cut(key), "value": cut(value)}
            for key, value in tags.items()
            if not key.startswith(_NOT_OF_USERS)
        }
        if rows:
            session.execute(insert(RunTagRow), list(rows.values()))


def _revise(session: Session, experiment_id: str, task: str) -> None:
    dialect = session.get_bind().dialect.name
    add = postgresql.insert(BoardColumnRow) if dialect == "postgresql" else sqlite.insert(BoardColumnRow)
    revision = uuid.uuid4().hex
    session.execute(
        add.values(experiment_id=experiment_id, task=task, revision=revision).on_conflict_do_update(
            index_elements=["experiment_id", "task"], set_={"revision": revision}
        )
    )


def _choose(session: Session, experiment_id: str, task: str, models: Collection[str]) -> None:
    cells = BoardCellRow
    here = (cells.experiment_id == experiment_id, cells.task == task, cells.model.in_(models))
    session.execute(delete(cells).where(*here))
    found = session.execute(
        select(*score_columns(ScoreRow)).where(
            ScoreRow.experiment_id == experiment_id,
            ScoreRow.task == task,
            ScoreRow.model.in_(models),
            ScoreRow.dimension == "",
            ScoreRow.primary,
        )
    )
    rows = list(_rows(found))
    if rows:
        session.execute(insert(cells), rows)


def _rows(found: Iterable[Any]) -> Iterable[dict[str, Any]]:
    by_model: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in found:
        by_model[row.model][row.run_id] = row
    for rows in by_model.values():
        for choice in kept([score_of(row) for row in rows.values()]):
            yield _row(choice, rows[choice.score.run_id])


def _row(choice: Kept, row: Any) -> dict[str, Any]:
    copied = dict(zip(FIELDS, row, strict=False))
    return {**copied, "latest": choice.latest, "best": choice.best}
