"""Moves of tasks between their states, and of parts between owners: the only place that writes a state.

Every move of a task is one conditional UPDATE (`states.MOVES`, and the part's fencing token): of two workers one
wins, and a late one is refused. The run's state is derived from its tasks' in the same transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.orm import Session

from mlflow_lmms.retry_budget import Budget, charged
from mlflow_lmms.sql.schema import EvaluationRow, PartRow, TaskRow
from mlflow_lmms.states import FINAL, MOVES, RESCORE_MOVES, UNFINISHED, State, predecessors, run_state

Moves = Mapping[State, frozenset[State]]
_FORGET_FAILURE = {"failure": None, "message": None, "log_tail": None}


class TaskMoves:
    """Writes the states of tasks and the owners of parts."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self._now = clock

    def session(self) -> Session:
        """A session on our tables."""
        return Session(self.engine, expire_on_commit=False)

    def claim(
        self, run_id: str, part: str, *, token: int, box: str, slot: str, devices: Collection[str]
    ) -> list[str] | None:
        """Give a part to the worker with this token: its queued tasks move to `starting`.

        Returns:
            The tasks to be run, or None when the part is not to be had: a newer token has it, or nothing is queued.
        """
        owner = {"token": token, "box": box, "slot": slot, "devices": json.dumps(list(devices))}
        with self.session() as session, session.begin():
            _lock(session, run_id)
            owned = session.execute(
                update(PartRow)
                .where(*_part(run_id, part), PartRow.token < token)
                .values(**owner, claimed_at=self._now(), seen_at=self._now())
            )
            if not changed(owned):
                return None
            queued = (TaskRow.run_id == run_id, TaskRow.part == part, TaskRow.state == State.QUEUED)
            tasks = list(session.scalars(select(TaskRow.task).where(*queued).order_by(TaskRow.position)))
            session.execute(update(TaskRow).where(*queued).values(state=State.STARTING))
            if not tasks:
                session.rollback()
                return None
            session.execute(
                update(EvaluationRow)
                .where(EvaluationRow.run_id == run_id, EvaluationRow.started_at.is_(None))
                .values(started_at=self._now())
            )
            self._derive(session, run_id)
        return tasks

    def move(
        self, run_id: str, tasks: Iterable[str], to: State, *, token: int | None = None, **changes: Any
    ) -> list[str]:
        """Move tasks to a state, each only if `MOVES` allows it from where it stands.

        Args:
            token: the part's fencing token, checked in the same UPDATE; None for the server's own moves.
            changes: further columns of the task rows to set.

        Returns:
            The tasks that moved.
        """
        with self.session() as session, session.begin():
            _lock(session, run_id)
            moved = [task for task in tasks if self._move(session, run_id, task, to, token, changes)]
            if moved:
                self._derive(session, run_id)
        return moved

    def requeue(
        self,
        run_id: str,
        tasks: Iterable[str],
        *,
        automatic: bool,
        budget: Budget | None = None,
        token: int | None = None,
        **changes: Any,
    ) -> list[str]:
        """Put tasks back to `queued` for another attempt; a user's retry starts the automatic counts anew.

        Args:
            budget: what an automatic retry is charged to; None: to nothing.
            changes: further columns of the task rows to set: why the last attempt came to nothing.
        """
        again = {"attempt": TaskRow.attempt + 1, "started_at": None, "ended_at": None, **_FORGET_FAILURE, **changes}
        moved = []
        with self.session() as session, session.begin():
            _lock(session, run_id)
            for task in tasks:
                counts = charged(self._retries(session, run_id, task), budget) if automatic else {}
                counted = {"retries": json.dumps(counts), "automatic_retries": sum(counts.values())}
                if self._move(session, run_id, task, State.QUEUED, token, {**again, **counted}):
                    moved.append(task)
            if moved:
                self._begin_to_wait(session, run_id)
                self._derive(session, run_id)
                if budget is Budget.OUT_OF_MEMORY:
                    self._note_out_of_memory(session, run_id, moved)
        return moved

    def split_part(self, run_id: str, part: str, parts: Sequence[Sequence[str]]) -> list[str]:
        """Cut a part that nobody has ever claimed into several.

        Args:
            parts: the tasks of all parts that come of it; the first of them keeps the name.

        Returns:
            The names of the new parts; none when it was claimed meanwhile, or `parts` are not exactly its tasks.
        """
        with self.session() as session, session.begin():
            _lock(session, run_id)
            row = session.get(PartRow, (run_id, part))
            own = session.execute(
                select(TaskRow.task, TaskRow.state).where(TaskRow.run_id == run_id, TaskRow.part == part)
            ).all()
            asked = sorted(task for tasks in parts for task in tasks)
            whole = asked == sorted(task for task, _ in own) and all(parts)
            if row is None or row.token or not whole or any(state != State.QUEUED for _, state in own):
                return []
            names = []
            for tasks in parts[1:]:
                names.append(name := self._add_part(session, run_id, gpus=row.gpus, rescore=row.rescore))
                _put_into(session, run_id, tasks, name)
        return names

    def rescore(self, run_id: str, tasks: Iterable[str]) -> list[str]:
        """Queue finished tasks in the part whose answers are scored again, which needs no GPU.

        Returns:
            The tasks that are queued; one that is not finished stays as it is.
        """
        again = {"attempt": TaskRow.attempt + 1, "started_at": None, "ended_at": None, **_FORGET_FAILURE}
        fresh = {**again, "retries": "{}", "automatic_retries": 0}
        with self.session() as session, session.begin():
            _lock(session, run_id)
            moved = [
                task
                for task in tasks
                if self._move(session, run_id, task, State.QUEUED, None, fresh, moves=RESCORE_MOVES)
            ]
            if moved:
                rescoring = select(PartRow.part).where(PartRow.run_id == run_id, PartRow.rescore)
                part = session.scalar(rescoring) or self._add_part(session, run_id, gpus=0, rescore=True)
                _put_into(session, run_id, moved, part)
                self._begin_to_wait(session, run_id)
                self._derive(session, run_id)
        return moved

    def end_rescore(
        self,
        run_id: str,
        tasks: Iterable[str],
        message: str,
        *,
        token: int | None = None,
        log_tail: str | None = None,
    ) -> list[str]:
        """Let tasks whose rescore came to nothing be finished again, with the result that they had.

        Returns:
            The tasks that moved; one that is not being rescored stays as it is.
        """
        told = {"message": message, "log_tail": log_tail, "failure": None}
        with self.session() as session, session.begin():
            _lock(session, run_id)
            moved = [
                task
                for task in tasks
                if self._rescoring(session, run_id, task)
                and self._move(session, run_id, task, State.FINISHED, token, told, moves=RESCORE_MOVES)
            ]
            if moved:
                self._derive(session, run_id)
        return moved

    # Inside a transaction

    def _move(
        self,
        session: Session,
        run_id: str,
        task: str,
        to: State,
        token: int | None,
        changes: Mapping[str, Any],
        moves: Moves = MOVES,
    ) -> bool:
        statement = update(TaskRow).where(*_task(run_id, task), TaskRow.state.in_(predecessors(to, moves)))
        if token is not None:
            statement = statement.where(_part_token() == token)
        return changed(session.execute(statement.values(state=to, **{**_times(to, self._now()), **changes})))

    def _derive(self, session: Session, run_id: str) -> None:
        states = [State(state) for state in session.scalars(select(TaskRow.state).where(TaskRow.run_id == run_id))]
        state = run_state(states)
        values: dict[str, Any] = {"state": state, "ended_at": self._now() if state in FINAL else None}
        session.execute(update(EvaluationRow).where(EvaluationRow.run_id == run_id).values(**values))

    def _begin_to_wait(self, session: Session, run_id: str) -> None:
        """Note when the parts with a queued task began to wait, unless they still work on another."""
        waiting = select(TaskRow.part).where(TaskRow.run_id == run_id, TaskRow.state == State.QUEUED)
        session.execute(
            update(PartRow)
            .where(PartRow.run_id == run_id, PartRow.part.in_(waiting))
            .where((PartRow.queued_at.is_(None)) | (PartRow.queued_at < PartRow.claimed_at))
            .values(queued_at=self._now())
        )

    def _note_out_of_memory(self, session: Session, run_id: str, tasks: Collection[str]) -> None:
        parts = select(TaskRow.part).where(TaskRow.run_id == run_id, TaskRow.task.in_(tasks))
        session.execute(
            update(PartRow)
            .where(PartRow.run_id == run_id, PartRow.part.in_(parts))
            .values(out_of_memory=PartRow.out_of_memory + 1)
        )

    def _add_part(self, session: Session, run_id: str, *, gpus: int, rescore: bool) -> str:
        there = session.scalars(select(PartRow.part).where(PartRow.run_id == run_id))
        name = str(1 + max((int(part) for part in there if part.isdecimal()), default=-1))
        values = {"run_id": run_id, "part": name, "gpus": gpus, "rescore": rescore, "queued_at": self._now()}
        session.execute(insert(PartRow).values(**values))
        return name

    def _retries(self, session: Session, run_id: str, task: str) -> dict[str, int]:
        return dict(json.loads(session.scalar(select(TaskRow.retries).where(*_task(run_id, task))) or "{}"))

    def _rescoring(self, session: Session, run_id: str, task: str) -> bool:
        part = select(PartRow.rescore).join(
            TaskRow, (TaskRow.run_id == PartRow.run_id) & (TaskRow.part == PartRow.part)
        )
        return bool(session.scalar(part.where(*_task(run_id, task), TaskRow.state.in_(UNFINISHED))))


def changed(result: Any) -> bool:
    """Whether a statement changed a row."""
    return int(result.rowcount) > 0


def _task(run_id: str, task: str) -> tuple[Any, ...]:
    return TaskRow.run_id == run_id, TaskRow.task == task


def _part(run_id: str, part: str) -> tuple[Any, ...]:
    return PartRow.run_id == run_id, PartRow.part == part


def _put_into(session: Session, run_id: str, tasks: Collection[str], part: str) -> None:
    session.execute(update(TaskRow).where(TaskRow.run_id == run_id, TaskRow.task.in_(tasks)).values(part=part))


def _lock(session: Session, run_id: str) -> None:
    """Let one transaction at a time move a run's tasks: no two wait for each other's rows in a circle, and two parts
    that end at once cannot both derive the run's state from a half-way picture."""
    session.execute(select(EvaluationRow.run_id).where(EvaluationRow.run_id == run_id).with_for_update())


def _part_token() -> Any:
    return (
        select(PartRow.token).where(PartRow.run_id == TaskRow.run_id, PartRow.part == TaskRow.part).scalar_subquery()
    )


def _times(to: State, now: float) -> dict[str, float]:
    if to == State.RUNNING:
        return {"started_at": now}
    return {"ended_at": now} if to in FINAL else {}
