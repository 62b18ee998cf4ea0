"""What users may ask of an evaluation that is there: cancel, retry, score again. Server side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from mlflow_lmms.errors import ConflictError, UnavailableError
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.shown_moves import ShownMoves
from mlflow_lmms.states import FINAL, State

logger = logging.getLogger(__name__)


class UserMoves:
    """Does what users ask for."""

    def __init__(self, moves: ShownMoves, enqueue: Callable[..., None]) -> None:
        self._moves = moves
        self._store = moves.store
        self._queue = moves.queue
        self._enqueue = enqueue

    def cancel(self, run_id: str) -> Evaluation:
        """See `Lifecycle.cancel`."""
        evaluation = self._store.get(run_id)
        if evaluation.state in FINAL:
            raise ConflictError(f"run {run_id} has already ended: it is {evaluation.state}")
        self._store.request_cancel(run_id)
        self._moves.give_up_waiting(self._store.get(run_id))
        evaluation = self._store.get(run_id)
        try:
            if evaluation.state not in FINAL:
                self._queue.ask_cancel(run_id)
            for part in evaluation.parts:
                self._queue.remove(run_id, part.part)
        except UnavailableError as error:
            logger.warning("cancel of %s reaches its worker by heartbeat only: %s", run_id, error)
        return evaluation

    def retry(self, run_id: str) -> list[str]:
        """See `Lifecycle.retry`."""
        evaluation = self._store.get(run_id)
        missing = [task.task for task in evaluation.tasks if task.state in (State.FAILED, State.CANCELLED)]
        if not missing:
            raise ConflictError(f"nothing of run {run_id} failed or was cancelled: it is {evaluation.state}")
        self._open_again(run_id)
        return self._queued(run_id, self._store.requeue(run_id, missing, automatic=False))

    def rescore(self, run_id: str, tasks: Sequence[str] | None) -> list[str]:
        """See `Lifecycle.rescore`."""
        evaluation = self._store.get(run_id)
        asked = [task.task for task in evaluation.tasks if task.state is State.FINISHED] if tasks is None else tasks
        missing = [task for task in asked if evaluation.task(task).state is not State.FINISHED]
        if missing or not asked:
            which = f"{', '.join(missing)} of run {run_id}" if missing else f"no task of run {run_id}"
            raise ConflictError(
                f"{which} {'is not' if missing else 'is'} finished: only a task that has a result can be scored again"
            )
        if evaluation.cancel_requested and evaluation.state not in FINAL:
            raise ConflictError(f"run {run_id} is being cancelled: ask again when it has ended")
        self._open_again(run_id)
        return self._queued(run_id, self._store.rescore(run_id, asked))

    def _open_again(self, run_id: str) -> None:
        self._queue.ping()
        self._queue.forget_cancel(run_id)
        self._store.request_cancel(run_id, False)

    def _queued(self, run_id: str, moved: list[str]) -> list[str]:
        self._moves.show(run_id, moved, None)
        self._enqueue(self._store.get(run_id))
        return moved
