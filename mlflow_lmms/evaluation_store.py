"""The evaluation tables: stores and finds evaluations, and notes what is asked of them. Moves: `task_moves`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mlflow_lmms.errors import NotFoundError, UnavailableError
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.evaluation_rows import evaluation_of, rows_of
from mlflow_lmms.sql.migration import migrate
from mlflow_lmms.sql.schema import EvaluationRow, LeaderRow, PartRow, TaskRow
from mlflow_lmms.states import UNFINISHED, State
from mlflow_lmms.task_moves import TaskMoves, changed


class EvaluationStore(TaskMoves):
    """Reads and writes the evaluation tables. Used by the server process alone."""

    def migrate(self) -> None:
        """Create or upgrade our tables."""
        migrate(self.engine)

    def ping(self) -> None:
        """Return when the database answers.

        Raises:
            UnavailableError: it does not.
        """
        try:
            with self.engine.connect() as connection:
                connection.execute(select(1))
        except SQLAlchemyError as error:
            raise UnavailableError(f"the database of the evaluations does not answer: {error}") from None

    def add(self, evaluation: Evaluation) -> None:
        """Store a new evaluation with its parts and tasks."""
        row, *children = rows_of(evaluation)
        with self.session() as session, session.begin():
            session.add(row)
            session.flush()
            session.add_all(children)

    def get(self, run_id: str) -> Evaluation:
        """The evaluation of this run.

        Raises:
            NotFoundError: the run is not one of ours.
        """
        found = self._load([run_id])
        if not found:
            raise NotFoundError(f"no evaluation has the run id {run_id!r}; `mlflow-lmms status` lists them")
        return found[0]

    def search(
        self,
        *,
        experiment_ids: Collection[str] | None = None,
        states: Collection[State] | None = None,
        model: str | None = None,
        before: float | None = None,
        limit: int = 100,
    ) -> list[Evaluation]:
        """Evaluations, newest first. `experiment_ids` None means all; an empty collection means none."""
        query = (
            select(EvaluationRow.run_id).order_by(EvaluationRow.created_at.desc(), EvaluationRow.run_id).limit(limit)
        )
        if experiment_ids is not None:
            query = query.where(EvaluationRow.experiment_id.in_(experiment_ids))
        if states is not None:
            query = query.where(EvaluationRow.state.in_(states))
        if model is not None:
            query = query.where(EvaluationRow.model == model)
        if before is not None:
            query = query.where(EvaluationRow.created_at < before)
        with self.session() as session:
            run_ids = list(session.scalars(query))
        return self._load(run_ids)

    def unfinished(self) -> list[Evaluation]:
        """Every evaluation with a task that has not ended, oldest first."""
        query = select(TaskRow.run_id).where(TaskRow.state.in_(UNFINISHED)).distinct()
        with self.session() as session:
            run_ids = list(session.scalars(query))
        return sorted(self._load(run_ids), key=lambda evaluation: evaluation.created_at)

    def _load(self, run_ids: Sequence[str]) -> list[Evaluation]:
        if not run_ids:
            return []
        with self.session() as session:
            rows = {
                r.run_id: r for r in session.scalars(select(EvaluationRow).where(EvaluationRow.run_id.in_(run_ids)))
            }
            parts = session.scalars(select(PartRow).where(PartRow.run_id.in_(run_ids)).order_by(PartRow.part)).all()
            tasks = session.scalars(
                select(TaskRow).where(TaskRow.run_id.in_(run_ids)).order_by(TaskRow.position)
            ).all()
        return [evaluation_of(rows[run_id], parts, tasks) for run_id in run_ids if run_id in rows]

    def owns(self, run_id: str, part: str, token: int) -> bool:
        """Whether the token is the part's current one; notes that its owner was seen."""
        with self.session() as session, session.begin():
            seen = session.execute(
                update(PartRow)
                .where(PartRow.run_id == run_id, PartRow.part == part, PartRow.token == token)
                .values(seen_at=self._now())
            )
        return changed(seen)

    def request_cancel(self, run_id: str, requested: bool = True) -> None:
        """Note that a user wants the run to stop (or, for a retry, no longer does)."""
        with self.session() as session, session.begin():
            session.execute(
                update(EvaluationRow).where(EvaluationRow.run_id == run_id).values(cancel_requested=requested)
            )

    def to_mirror(self) -> list[Evaluation]:
        """Evaluations whose MLflow run does not show their state yet."""
        differs = EvaluationRow.mirrored.is_(None) | (EvaluationRow.mirrored != EvaluationRow.state)
        with self.session() as session:
            run_ids = list(session.scalars(select(EvaluationRow.run_id).where(differs).limit(100)))
        return self._load(run_ids)

    def mirrored(self, run_id: str, state: State | None) -> None:
        """Note that the MLflow run shows this state now; None: that it is still to be shown."""
        with self.session() as session, session.begin():
            session.execute(update(EvaluationRow).where(EvaluationRow.run_id == run_id).values(mirrored=state))

    def largest_token(self) -> int:
        """The largest fencing token that any part has had."""
        with self.session() as session:
            return int(session.scalar(select(func.max(PartRow.token))) or 0)

    def forget(self, run_id: str) -> None:
        """Remove an evaluation that never came to be."""
        with self.session() as session, session.begin():
            for table in (TaskRow, PartRow, EvaluationRow):
                session.execute(delete(table).where(table.run_id == run_id))

    def lead(self, duty: str, holder: str, seconds: float) -> bool:
        """Take or keep the leadership of a duty for so many seconds; of several processes one gets it."""
        now = self._now()
        try:
            with self.session() as session, session.begin():
                kept = session.execute(
                    update(LeaderRow)
                    .where(LeaderRow.duty == duty, (LeaderRow.holder == holder) | (LeaderRow.until < now))
                    .values(holder=holder, until=now + seconds)
                )
                if changed(kept):
                    return True
                if session.get(LeaderRow, duty) is not None:
                    return False
                session.execute(insert(LeaderRow).values(duty=duty, holder=holder, until=now + seconds))
                return True
        except IntegrityError:
            return False
