"""Moves as everybody sees them: after the tables, the MLflow run and the live events follow. Server side.

Which move is due is decided by the callers; whether it may happen, by the tables.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.errors import ConflictError, StaleTokenError, UnavailableError
from mlflow_lmms.evaluation import Evaluation, TaskStatus
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.run_mirror import RunMirror
from mlflow_lmms.states import FINAL, State

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """Who speaks: the part and the fencing token under which it is held."""

    run_id: str
    part: str
    token: int


class ShownMoves:
    """Moves tasks, and shows moves that have happened."""

    def __init__(self, store: EvaluationStore, queue: EvaluationQueue, events: EventLog, mirror: RunMirror) -> None:
        self.store = store
        self.queue = queue
        self._events = events
        self._mirror = mirror

    def check(self, owner: Owner) -> None:
        """Return when the token is the part's current one.

        Raises:
            StaleTokenError: somebody else has the part.
        """
        if not self.store.owns(owner.run_id, owner.part, owner.token):
            current = self.store.get(owner.run_id).part(owner.part).token
            raise StaleTokenError(
                f"token {owner.token} of part {owner.part} is no longer valid; the part has {current}"
            )

    def move(self, owner: Owner, task: str, to: State, **changes: Any) -> None:
        """Move one task for its owner; one that is there already is confirmed.

        Raises:
            StaleTokenError: somebody else has the part. ConflictError: the task cannot become that.
        """
        self.check(owner)
        moved = self.store.move(owner.run_id, [task], to, token=owner.token, **changes)
        if not moved and (current := self.store.get(owner.run_id).task(task).state) != to:
            raise ConflictError(f"task {task} of run {owner.run_id} is {current} and cannot become {to}")
        self.show(owner.run_id, moved, owner)

    def give_up(self, evaluation: Evaluation, tasks: Iterable[TaskStatus], owner: Owner | None) -> None:
        """Cancel tasks; one whose answers were to be scored again is finished as it was before."""
        run_id, token, moved = evaluation.run_id, owner.token if owner else None, []
        for task in tasks:
            if evaluation.part(task.part).rescore:
                told = "the rescore was cancelled; the result of an earlier attempt stands"
                moved += self.store.end_rescore(run_id, [task.task], told, token=token)
            else:
                moved += self.store.move(run_id, [task.task], State.CANCELLED, token=token)
        self.show(run_id, moved, owner)

    def give_up_waiting(self, evaluation: Evaluation) -> None:
        """Cancel what waits."""
        self.give_up(evaluation, [task for task in evaluation.tasks if task.state == State.QUEUED], None)

    def show(self, run_id: str, tasks: Iterable[str], owner: Owner | None) -> Evaluation:
        """Show moves that have happened: in the MLflow run and in the live events."""
        evaluation = self.store.get(run_id)
        names = set(tasks)
        moved = [task for task in evaluation.tasks if task.task in names]
        if moved:
            self.mirror(evaluation)
        for task in moved:
            self._announce(evaluation, task, owner)
        if moved and evaluation.cancel_requested and evaluation.state in FINAL:
            with suppress(UnavailableError):
                self.queue.forget_cancel(run_id)
        return evaluation

    def mirror(self, evaluation: Evaluation) -> None:
        """Show the state in the MLflow run; when MLflow does not take it now, the reaper tries again.

        What has moved meanwhile is shown too, lest this older picture be painted over a newer one for good.
        """
        while self._mirror.show(evaluation):
            now = self.store.get(evaluation.run_id)
            if (now.state, now.tasks) == (evaluation.state, evaluation.tasks):
                return self.store.mirrored(evaluation.run_id, evaluation.state)
            evaluation = now
        return self.store.mirrored(evaluation.run_id, None)

    def _announce(self, evaluation: Evaluation, task: TaskStatus, owner: Owner | None) -> None:
        data = {
            "run_state": evaluation.state,
            "task": task.task,
            "state": task.state,
            "attempt": task.attempt,
            "score": task.score,
            "metric": task.metric,
        }
        feed = {"experiment_id": evaluation.experiment_id, "model": evaluation.model, "suite": evaluation.suite}
        part, token = (owner.part, owner.token) if owner else (None, None)
        try:
            self._events.append(evaluation.run_id, "state", data, part=part, token=token, feed=feed)
        except UnavailableError as error:
            logger.warning("no live event for %s: %s", evaluation.run_id, error)
