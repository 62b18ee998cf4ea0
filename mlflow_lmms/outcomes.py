"""What becomes of tasks and parts: results, failures with their budgets, parts given back or lost. Server side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mlflow_lmms.evaluation import Evaluation, PartStatus, TaskStatus
from mlflow_lmms.retry_budget import LIMITS, Budget, allows, budget_of
from mlflow_lmms.shown_moves import Owner, ShownMoves
from mlflow_lmms.states import ACTIVE, FailureClass, State
from mlflow_lmms.work_order import Use

_LONGEST_MESSAGE = 4000
_LONGEST_TAIL = 16000


class UseLog(Protocol):
    """Where attempts and what they used are noted; a repeated call does no harm there (`gpu_use.GpuUse`)."""

    def started(self, evaluation: Evaluation, part: PartStatus) -> None:
        """A worker has claimed the part."""

    def ended(self, run_id: str, part: str, token: int, outcome: str, use: Use | None) -> None:
        """The attempt under this token is over."""


class Outcomes:
    """Takes in what workers tell of tasks and parts, and what the reaper finds."""

    def __init__(
        self,
        moves: ShownMoves,
        on_result: Callable[[Evaluation, str], None],
        enqueue: Callable[..., None],
        uses: UseLog | None,
    ) -> None:
        self._moves = moves
        self._store = moves.store
        self._on_result = on_result
        self._enqueue = enqueue
        self._uses = uses

    def task_finished(
        self, owner: Owner, task: str, *, samples: int, metric: str | None, score: float | None
    ) -> None:
        """The task's result stands in the MLflow run."""
        self._moves.check(owner)
        self._on_result(self._store.get(owner.run_id), task)  # first: what fails here the worker repeats
        changes = {"samples": samples, "metric": metric, "score": score}
        self._moves.move(owner, task, State.FINISHED, **changes, failure=None, message=None, log_tail=None)

    def task_failed(
        self, owner: Owner, task: str, failure: FailureClass, message: str, log_tail: str, *, retryable: bool
    ) -> State:
        """The task failed; see `Lifecycle.task_failed`."""
        self._moves.check(owner)
        evaluation = self._store.get(owner.run_id)
        status = evaluation.task(task)
        if status.state not in ACTIVE:
            return status.state  # this call was answered before, and the answer got lost
        told: dict[str, Any] = {"message": message[:_LONGEST_MESSAGE], "log_tail": log_tail[-_LONGEST_TAIL:]}
        budget = budget_of(failure, retryable=retryable)
        if budget is not None and allows(budget, status.retries):
            return self._again(owner, status, budget, failure=failure, **told)
        return self._fail(evaluation, status, owner, failure=failure, **told)

    def _again(self, owner: Owner, task: TaskStatus, budget: Budget, **told: Any) -> State:
        moved = self._store.requeue(
            owner.run_id, [task.task], automatic=True, budget=budget, token=owner.token, **told
        )
        self._moves.show(owner.run_id, moved, owner)
        return State.QUEUED if moved else self._store.get(owner.run_id).task(task.task).state

    def _fail(
        self,
        evaluation: Evaluation,
        task: TaskStatus,
        owner: Owner,
        *,
        failure: FailureClass,
        message: str,
        log_tail: str | None,
    ) -> State:
        """Let the task fail for good; a rescore leaves the result that there was before it."""
        if not evaluation.part(task.part).rescore:
            told = {"failure": failure, "message": message, "log_tail": log_tail}
            self._moves.move(owner, task.task, State.FAILED, **told)
            return State.FAILED
        stands = f"the rescore failed ({failure}), and the result of an earlier attempt stands: {message}"
        moved = self._store.end_rescore(
            owner.run_id, [task.task], stands[:_LONGEST_MESSAGE], token=owner.token, log_tail=log_tail
        )
        self._moves.show(owner.run_id, moved, owner)
        return self._store.get(owner.run_id).task(task.task).state

    def part_finished(self, owner: Owner, *, given_back: bool, use: Use | None) -> None:
        """The worker is done with the part; see `Lifecycle.part_finished`."""
        self._moves.check(owner)
        evaluation = self._store.get(owner.run_id)
        left = [task for task in evaluation.tasks_of(owner.part) if task.state in ACTIVE]
        if evaluation.cancel_requested:
            self._moves.give_up(evaluation, left, owner)
            self._moves.give_up_waiting(self._store.get(owner.run_id))
        else:
            # Charged to nothing: what ended its attempt was told of the task whose fault it was, if of any.
            names = [task.task for task in left]
            moved = self._store.requeue(owner.run_id, names, automatic=True, token=owner.token)
            self._moves.show(owner.run_id, moved, owner)
        self._note_end(owner, "given_back" if given_back else None, use)

    def lose(self, evaluation: Evaluation, part: PartStatus) -> None:
        """The part's worker is gone; see `Lifecycle.lose`."""
        owner = Owner(evaluation.run_id, part.part, part.token)
        active = [task for task in evaluation.tasks_of(part.part) if task.state in ACTIVE]
        if evaluation.cancel_requested:
            self._moves.give_up(evaluation, active, owner)
        else:
            for task in active:
                self._lose_task(evaluation, part, task, owner)
        self._note_end(owner, "lost", None)
        self._enqueue(self._store.get(evaluation.run_id), front=True)

    def _lose_task(self, evaluation: Evaluation, part: PartStatus, task: TaskStatus, owner: Owner) -> None:
        budget, failure = Budget.WORKER_LOST, FailureClass.WORKER_LOST
        if allows(budget, task.retries):
            message = f"the worker of attempt {task.attempt}, on box {part.box}, was lost"
            self._again(owner, task, budget, failure=failure, message=message, log_tail=None)
            return
        message = f"its worker was lost {LIMITS[budget] + 1} times, the last time on box {part.box}"
        # By the tables alone: the token may be another's by now, and then there is nothing to be done.
        if evaluation.part(task.part).rescore:
            moved = self._store.end_rescore(owner.run_id, [task.task], message, token=owner.token)
        else:
            told = {"failure": failure, "message": message, "log_tail": None}
            moved = self._store.move(owner.run_id, [task.task], State.FAILED, token=owner.token, **told)
        self._moves.show(owner.run_id, moved, owner)

    def _note_end(self, owner: Owner, outcome: str | None, use: Use | None) -> None:
        evaluation = self._store.get(owner.run_id)
        if self._uses is not None:
            told = outcome or _outcome(evaluation, owner.part)
            self._uses.ended(owner.run_id, owner.part, owner.token, told, use)


def _outcome(evaluation: Evaluation, part: str) -> str:
    states = {task.state for task in evaluation.tasks_of(part)}
    if State.QUEUED in states:
        return "requeued"
    return next((str(state) for state in (State.FAILED, State.CANCELLED) if state in states), "finished")
