"""Puts rows of `lmms_scores` in place of those that are there, writing only tasks that have changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Table, bindparam, delete, insert, select
from sqlalchemy.orm import Session

from mlflow_lmms.board_cells import Touched
from mlflow_lmms.sql.schema import Base, ScoreRow

_SCORES: Table = Base.metadata.tables[ScoreRow.__tablename__]
_NAMES = tuple(_SCORES.columns.keys())
_RUN, _TASK, _EXPERIMENT, _MODEL = (_NAMES.index(name) for name in ("run_id", "task", "experiment_id", "model"))
_ONE_TASK = delete(_SCORES).where(_SCORES.c.run_id == bindparam("of_run"), _SCORES.c.task == bindparam("of_task"))

_Rows = dict[tuple[str, str], set[tuple[Any, ...]]]


def replace_rows(session: Session, run_ids: Collection[str], rows: Iterable[ScoreRow], *, anew: bool) -> set[Touched]:
    """Let the table hold these rows of the runs and no others; returns the places whose rows have changed.

    Args:
        rows: not of the session.
        anew: write every row, whether it has changed or not.
    """
    old = _by_task(session.execute(select(_SCORES).where(_SCORES.c.run_id.in_(run_ids))))
    new = _by_task(tuple(getattr(row, name) for name in _NAMES) for row in rows)
    changed = sorted(key for key in old.keys() | new.keys() if anew or old.get(key) != new.get(key))
    gone = [{"of_run": run_id, "of_task": task} for run_id, task in changed if (run_id, task) in old]
    if gone:
        session.connection().execute(_ONE_TASK, gone)
    added = [dict(zip(_NAMES, values, strict=True)) for key in changed for values in new.get(key, ())]
    if added:
        session.connection().execute(insert(_SCORES), added)
    return {
        Touched(values[_EXPERIMENT], values[_MODEL], values[_TASK])
        for key in changed
        for values in old.get(key, set()) | new.get(key, set())
    }


def _by_task(rows: Iterable[Any]) -> _Rows:
    found: _Rows = defaultdict(set)
    for row in rows:
        found[row[_RUN], row[_TASK]].add(tuple(row))
    return dict(found)
