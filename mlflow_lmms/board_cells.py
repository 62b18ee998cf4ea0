"""The table that boards are read from: what each model's results on a task are, kept as the score index changes."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from mlflow_lmms.board_choice import Kept, kept
from mlflow_lmms.names import cut
from mlflow_lmms.score_rows import FIELDS, score_columns, score_of
from mlflow_lmms.sql.schema import ScoreRow
from mlflow_lmms.sql.schema_boards import BoardCellRow, BoardColumnRow, RunTagRow

_MODELS_AT_ONCE, _PLACES_AT_ONCE = 500, 2_000
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
        if not touched:
            return
        session.flush()  # the scores that the caller has only added
        # Also a lock: of two runs that end at once, the later one reads what the earlier one has written.
        _revise(session, sorted({(place.experiment_id, place.task) for place in touched}))
        by_experiment: dict[str, list[Touched]] = defaultdict(list)
        for place in touched:
            by_experiment[place.experiment_id].append(place)
        for experiment_id, places in by_experiment.items():
            models, tasks = ({getattr(place, name) for place in places} for name in ("model", "task"))
            for some_models in _some(models, _MODELS_AT_ONCE):
                for some_tasks in _some(tasks, max(1, _PLACES_AT_ONCE // len(some_models))):
                    _choose(session, experiment_id, some_tasks, some_models)

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


def _some(names: Collection[str], at_once: int) -> Iterator[list[str]]:
    ordered = sorted(names)
    return (ordered[start : start + at_once] for start in range(0, len(ordered), at_once))


def _revise(session: Session, columns: Iterable[tuple[str, str]]) -> None:
    dialect = session.get_bind().dialect.name
    add = postgresql.insert(BoardColumnRow) if dialect == "postgresql" else sqlite.insert(BoardColumnRow)
    session.execute(
        add.on_conflict_do_update(index_elements=["experiment_id", "task"], set_={"revision": add.excluded.revision}),
        [{"experiment_id": where, "task": task, "revision": uuid.uuid4().hex} for where, task in columns],
    )


def _choose(session: Session, experiment_id: str, tasks: Collection[str], models: Collection[str]) -> None:
    """Choose for all of these models on all of these tasks: choosing anew what did not change changes nothing."""
    cells = BoardCellRow
    here = (cells.experiment_id == experiment_id, cells.task.in_(tasks), cells.model.in_(models))
    session.execute(delete(cells).where(*here))
    found = session.execute(
        select(*score_columns(ScoreRow)).where(
            ScoreRow.experiment_id == experiment_id,
            ScoreRow.task.in_(tasks),
            ScoreRow.model.in_(models),
            ScoreRow.dimension == "",
            ScoreRow.primary,
        )
    )
    rows = list(_rows(found))
    if rows:
        session.execute(insert(cells), rows)


def _rows(found: Iterable[Any]) -> Iterable[dict[str, Any]]:
    by_place: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    for row in found:
        by_place[row.task, row.model][row.run_id] = row
    for rows in by_place.values():
        for choice in kept([score_of(row) for row in rows.values()]):
            yield _row(choice, rows[choice.score.run_id])


def _row(choice: Kept, row: Any) -> dict[str, Any]:
    copied = dict(zip(FIELDS, row, strict=False))
    return {**copied, "latest": choice.latest, "best": choice.best}
