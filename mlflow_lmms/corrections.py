"""The ledger of corrected results: who declared a task's result wrong or gave it another value, when and why.

Entries are added and never changed; the newest of a result counts, and taking one back is an entry, too. The run
itself stays as it was recorded: the score index applies what stands here whenever it reads the run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from mlflow_lmms.errors import ConflictError
from mlflow_lmms.score import INVALIDATED, RESCORED, RESCORED_WITHOUT_INTERVAL, Score
from mlflow_lmms.sql.schema import ScoreRow
from mlflow_lmms.sql.schema_saved import CorrectionRow
from mlflow_lmms.task_result import TaskWarning


class Action(StrEnum):
    """What an entry does to a result."""

    INVALIDATE = "invalidate"
    RESCORE = "rescore"
    RESTORE = "restore"


@dataclass(frozen=True)
class Correction:
    """One entry. `value`, `low` and `high` are a re-scored result's, in the primary metric's own units."""

    id: int
    experiment_id: str
    run_id: str
    task: str
    action: Action
    value: float | None
    low: float | None
    high: float | None
    reason: str
    author: str | None
    created_at: float

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return asdict(self)

    def sentence(self) -> str:
        """What boards say of the result."""
        what = "Invalidated" if self.action is Action.INVALIDATE else f"Re-scored by hand as {self.value:g}"
        return f"{what} by {self.author or 'somebody'}: {self.reason}"


class Corrections:
    """Reads and adds entries. Used by the server process alone; who may do so is for the caller to ask."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = clock

    def add(
        self,
        experiment_id: str,
        run_id: str,
        task: str,
        action: Action,
        *,
        reason: str,
        by: str | None,
        value: float | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> Correction:
        """Add an entry.

        Raises:
            ConflictError: there is nothing to restore.
        """
        with Session(self._engine) as session, session.begin():
            if action is Action.RESTORE and not _standing(session, [run_id], task):
                raise ConflictError(f"the result of {task} in run {run_id} stands as it was recorded already")
            row = CorrectionRow(
                experiment_id=experiment_id,
                run_id=run_id,
                task=task,
                action=str(action),
                value=value,
                low=low,
                high=high,
                reason=reason,
                author=by,
                created_at=self._now(),
            )
            session.add(row)
            session.flush()
            return _correction(row)

    def search(
        self,
        experiment_ids: Collection[str] | None,
        *,
        run_ids: Collection[str] = (),
        task: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Correction]:
        """Entries, newest first. `experiment_ids` None means all; `before` is the id of the last one seen."""
        query = select(CorrectionRow).order_by(CorrectionRow.correction_id.desc()).limit(limit)
        if experiment_ids is not None:
            query = query.where(CorrectionRow.experiment_id.in_(experiment_ids))
        if run_ids:
            query = query.where(CorrectionRow.run_id.in_(run_ids))
        if task is not None:
            query = query.where(CorrectionRow.task == task)
        if before is not None:
            query = query.where(CorrectionRow.correction_id < before)
        with Session(self._engine) as session:
            return [_correction(row) for row in session.scalars(query)]

    def warnings(self, score: Score) -> tuple[TaskWarning, ...]:
        """What stands against a result that was corrected, in words; nothing for others."""
        names = [n for n in score.warnings if n in (INVALIDATED, RESCORED, RESCORED_WITHOUT_INTERVAL)]
        if not names:
            return ()
        with Session(self._engine) as session:
            found = _standing(session, [score.run_id], score.task).get((score.run_id, score.task))
        if found is None:
            return ()
        return tuple(TaskWarning(name=name, message=found.sentence()) for name in names)


def apply_corrections(session: Session, rows: Collection[ScoreRow]) -> None:
    """Give rows that were just read from runs what the ledger says of their results.

    An invalidated result keeps its number, under a warning that no board ranks. A re-scored one gets the value that
    somebody gave it in its primary metric alone; of slices and other metrics nothing was said.
    """
    standing = _standing(session, {row.run_id for row in rows})
    for row in rows if standing else ():
        found = standing.get((row.run_id, row.task))
        if found is None:
            continue
        if found.action is Action.INVALIDATE:
            _warn(row, INVALIDATED)
        elif row.primary and row.dimension == "" and found.value is not None:
            row.value, row.low, row.high = found.value, found.low, found.high
            _warn(row, RESCORED_WITHOUT_INTERVAL if found.low is None else RESCORED)


def _warn(row: ScoreRow, name: str) -> None:
    row.warnings = json.dumps([*(other for other in json.loads(row.warnings) if other != name), name])


def _standing(
    session: Session, run_ids: Collection[str], task: str | None = None
) -> dict[tuple[str, str], Correction]:
    """The entries that count now, by run and task; results that were restored have none."""
    newest = (
        select(func.max(CorrectionRow.correction_id))
        .where(CorrectionRow.run_id.in_(run_ids))
        .group_by(CorrectionRow.run_id, CorrectionRow.task)
    )
    if task is not None:
        newest = newest.where(CorrectionRow.task == task)
    query = select(CorrectionRow).where(
        CorrectionRow.correction_id.in_(newest), CorrectionRow.action != str(Action.RESTORE)
    )
    return {(row.run_id, row.task): _correction(row) for row in session.scalars(query)}


def _correction(row: CorrectionRow) -> Correction:
    return Correction(
        id=row.correction_id,
        experiment_id=row.experiment_id,
        run_id=row.run_id,
        task=row.task,
        action=Action(row.action),
        value=row.value,
        low=row.low,
        high=row.high,
        reason=row.reason,
        author=row.author,
        created_at=row.created_at,
    )
