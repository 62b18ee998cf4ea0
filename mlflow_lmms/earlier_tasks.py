"""How long tasks took in earlier runs, and how many samples they had: what later runs are estimated from."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Engine, and_, select
from sqlalchemy.orm import Session

from mlflow_lmms.planner.duration_estimate import TaskRun
from mlflow_lmms.sql.schema import EvaluationRow, PartRow, TaskRow
from mlflow_lmms.states import State

#: So many of the newest tell enough.
_MOST = 100


class EarlierTasks:
    """Finished tasks of all runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of(self, model: str, tasks: Collection[str]) -> list[TaskRun]:
        """The newest ones of the model, and those of these tasks by whatever model."""
        return list({*self._found(EvaluationRow.model == model), *self._found(TaskRow.task.in_(tasks))})

    def _found(self, condition: ColumnElement[bool]) -> list[TaskRun]:
        query = (
            select(
                EvaluationRow.model, TaskRow.task, TaskRow.samples, TaskRow.started_at, TaskRow.ended_at, PartRow.gpus
            )
            .join(EvaluationRow, EvaluationRow.run_id == TaskRow.run_id)
            .join(PartRow, and_(PartRow.run_id == TaskRow.run_id, PartRow.part == TaskRow.part))
            .where(condition, TaskRow.state == State.FINISHED, TaskRow.samples > 0, TaskRow.started_at.is_not(None))
            .order_by(TaskRow.ended_at.desc())
            .limit(_MOST)
        )
        with Session(self._engine) as session:
            return [
                TaskRun(model, task, samples or 0, max(0.0, (ended_at or 0.0) - (started_at or 0.0)), gpus)
                for model, task, samples, started_at, ended_at, gpus in session.execute(query)
            ]
