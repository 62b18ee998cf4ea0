"""The life of an evaluation after submission, as workers, users and the reaper drive it. Server side.

One door to `claims`, `outcomes` and `user_moves`. Every state is written through the store; the MLflow run, the queue
and the live events follow it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from mlflow_lmms.claims import LARGEST_TOKEN, Claim, PartClaims
from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation import Evaluation, PartStatus
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.outcomes import Outcomes, UseLog
from mlflow_lmms.planner.fleet import Job, Priority
from mlflow_lmms.run_mirror import RunMirror
from mlflow_lmms.settings import Settings
from mlflow_lmms.shown_moves import Owner, ShownMoves
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.user_moves import UserMoves
from mlflow_lmms.work_order import Use, WorkOrder

__all__ = ["LARGEST_TOKEN", "Claim", "Lifecycle", "Owner", "bare_job"]

logger = logging.getLogger(__name__)


def bare_job(evaluation: Evaluation, part: PartStatus) -> Job:
    """The queue's job of a part, of which no more is known than what the request says."""
    return Job(
        run=evaluation.run_id,
        part=part.part,
        user=evaluation.created_by or "",
        gpus=part.gpus,
        queued_at=evaluation.created_at if part.queued_at is None else part.queued_at,
        priority=Priority[evaluation.priority.upper()],
        environment=evaluation.resolved.environment,
    )


class Lifecycle:
    """Moves evaluations through their states on behalf of workers, users and the reaper."""

    def __init__(
        self,
        store: EvaluationStore,
        queue: EvaluationQueue,
        events: EventLog,
        mirror: RunMirror,
        settings: Settings,
        on_result: Callable[[Evaluation, str], None],
        *,
        job_of: Callable[[Evaluation, PartStatus], Job] = bare_job,
        uses: UseLog | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            on_result: told of each result that stands in its run.
            job_of: what a part needs, for the queue and the planner.
            uses: where attempts are noted.
        """
        self.store = store
        self.queue = queue
        self._job_of = job_of
        self._uses = uses
        self._moves = ShownMoves(store, queue, events, mirror)
        self._outcomes = Outcomes(self._moves, on_result, self.enqueue, uses)
        self._claims = PartClaims(self._moves, settings, self.lose)
        self._user = UserMoves(self._moves, self.enqueue)

    # For workers

    def claim(self, claim: Claim) -> WorkOrder:
        """Hand a part to the worker that holds its lease.

        Raises:
            InvalidRequestError: the worker speaks a protocol that this server does not know.
            StaleTokenError: a newer token has the part (`details["minimum_token"]`: the smallest that would do).
            ConflictError: nothing of the part is left to do.
        """
        evaluation, order = self._claims.claim(claim)
        if self._uses is not None:
            self._uses.started(evaluation, evaluation.part(claim.part))
        return order

    def started(self, owner: Owner, task: str) -> None:
        """The runner has begun with a task."""
        self._moves.move(owner, task, State.RUNNING)

    def recording(self, owner: Owner, task: str) -> None:
        """The task's result is there and is being written into the MLflow run."""
        self._moves.move(owner, task, State.RECORDING)

    def task_finished(
        self, owner: Owner, task: str, *, samples: int, metric: str | None, score: float | None
    ) -> None:
        """The task's result stands in the MLflow run."""
        self._outcomes.task_finished(owner, task, samples=samples, metric=metric, score=score)

    def task_failed(
        self, owner: Owner, task: str, failure: FailureClass, message: str, log_tail: str, *, retryable: bool
    ) -> State:
        """The task failed; it goes back to the queue when another attempt may help and its budget allows it.

        Returns:
            The state that the task has now.
        """
        return self._outcomes.task_failed(owner, task, failure, message, log_tail, retryable=retryable)

    def part_finished(self, owner: Owner, *, given_back: bool = False, use: Use | None = None) -> None:
        """The worker is done with the part; what it left unfinished is cancelled or goes back to the queue.

        Args:
            given_back: it stopped before the end, because its box is to be left (drained, preempted).
            use: what it used of its GPUs.
        """
        self._outcomes.part_finished(owner, given_back=given_back, use=use)
        self._tell_needs(self.store.get(owner.run_id), owner.part)

    def heartbeat(self, owner: Owner) -> dict[str, bool]:
        """The worker is alive; the answer tells whether it is to stop."""
        self._moves.check(owner)
        return {"cancel": self.store.get(owner.run_id).cancel_requested}

    # For users

    def cancel(self, run_id: str) -> Evaluation:
        """Stop a run: waiting tasks at once, running ones as soon as their worker has killed the process.

        Raises:
            ConflictError: the run has already ended.
        """
        return self._user.cancel(run_id)

    def retry(self, run_id: str) -> list[str]:
        """Run the failed and cancelled tasks again, in the same MLflow run.

        Returns:
            The tasks that are queued again.

        Raises:
            ConflictError: no task has failed or was cancelled.
            UnavailableError: the queue server does not answer.
        """
        return self._user.retry(run_id)

    def rescore(self, run_id: str, tasks: Sequence[str] | None = None) -> list[str]:
        """Score the stored answers of finished tasks again (None: of all of them), without a model or GPU.

        A new score replaces the old one; when there is none, the old one stands.

        Returns:
            The tasks that are queued.

        Raises:
            ConflictError: one of them is not finished, or the run is being cancelled.
            UnavailableError: the queue server does not answer.
        """
        return self._user.rescore(run_id, tasks)

    # For the reaper and the scheduler

    def enqueue(self, evaluation: Evaluation, *, front: bool = False) -> None:
        """Put every part with a queued task into the queue, where it is not there yet."""
        for part in evaluation.parts:
            if _waits(evaluation, part.part):
                self.queue.enqueue(self._job_of(evaluation, part), front=front)

    def lose(self, evaluation: Evaluation, part: PartStatus) -> None:
        """The part's worker is gone: its tasks are queued again, or fail when that happened too often."""
        self._outcomes.lose(evaluation, part)

    def refuse(self, run_id: str, part: str, reason: str) -> list[str]:
        """Fail the waiting tasks of a part that can never run; one that was to be scored again keeps its result.

        Returns:
            The tasks that no longer wait.
        """
        evaluation = self.store.get(run_id)
        waiting = [task.task for task in evaluation.tasks_of(part) if task.state == State.QUEUED]
        if evaluation.part(part).rescore:
            moved = self.store.end_rescore(run_id, waiting, reason)
        else:
            told: dict[str, Any] = {"failure": FailureClass.BAD_REQUEST, "message": reason}
            moved = self.store.move(run_id, waiting, State.FAILED, **told)
        self._moves.show(run_id, moved, None)
        self.queue.remove(run_id, part)
        return moved

    def mirror(self, evaluation: Evaluation) -> None:
        """Show the state in the MLflow run; when MLflow does not take it now, the reaper tries again."""
        self._moves.mirror(evaluation)

    def _tell_needs(self, evaluation: Evaluation, part: str) -> None:
        """The job goes back to its queue when its lease ends; what it needs may be more than before."""
        if not _waits(evaluation, part):
            return
        try:
            self.queue.update_needs([self._job_of(evaluation, evaluation.part(part))])
        except UnavailableError as error:
            logger.warning("the queue learns later what %s needs: %s", evaluation.run_id, error)


def _waits(evaluation: Evaluation, part: str) -> bool:
    return any(task.state == State.QUEUED for task in evaluation.tasks_of(part))
