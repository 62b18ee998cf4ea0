"""The life of an evaluation after submission: claims, progress, results, cancel, retry. Server side.

Every state is written here, through the store; the MLflow run, the queue and the live events follow it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mlflow_lmms.errors import ConflictError, InvalidRequestError, StaleTokenError, UnavailableError
from mlflow_lmms.evaluation import Evaluation, PartStatus, TaskStatus
from mlflow_lmms.evaluation_queue import EvaluationQueue, job_id
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.model_arguments import format_model_arguments
from mlflow_lmms.request import Errored
from mlflow_lmms.run_mirror import RunMirror
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import ACTIVE, FINAL, FailureClass, State
from mlflow_lmms.work_order import PROTOCOL, WorkOrder

#: Automatic retries of one task before it fails for good.
LOST_RETRIES = 5
CRASH_RETRIES = 2

#: Lua in Redis counts exactly up to here.
LARGEST_TOKEN = 2**53
#: Leases that end unclaimed leave gaps; a larger leap is made up, and would use up the tokens of the whole fleet.
TOKEN_LEAP = 1_000_000

logger = logging.getLogger(__name__)


class Claim(BaseModel):
    """A worker's word that it holds the lease of a part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: int
    run_id: str
    part: str
    token: int = Field(ge=1, le=LARGEST_TOKEN)
    box: str = Field(max_length=250)
    slot: str = Field(max_length=250)
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Owner:
    """Who speaks: the part and the fencing token under which it is held."""

    run_id: str
    part: str
    token: int


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
    ) -> None:
        self.store = store
        self.queue = queue
        self._events = events
        self._mirror = mirror
        self._settings = settings
        self._on_result = on_result

    def claim(self, claim: Claim) -> WorkOrder:
        """Hand a part to the worker that holds its lease.

        Raises:
            InvalidRequestError: the worker speaks a protocol that this server does not know.
            StaleTokenError: a newer token has the part (`details["minimum_token"]`: the smallest that would do).
            ConflictError: nothing of the part is left to do.
        """
        if claim.protocol not in (PROTOCOL, PROTOCOL - 1):
            raise InvalidRequestError(
                f"this server speaks worker protocol {PROTOCOL} and {PROTOCOL - 1}, the worker {claim.protocol}: "
                "install the server's version of mlflow-lmms on the box"
            )
        evaluation = self.store.get(claim.run_id)
        part = evaluation.part(claim.part)
        if evaluation.cancel_requested:
            self._cancel_queued(evaluation)
            raise ConflictError(f"run {claim.run_id} is cancelled")
        if (claim.token, claim.box, claim.slot) == (part.token, part.box, part.slot):
            again = [task.task for task in evaluation.tasks_of(claim.part) if task.state == State.STARTING]
            if again:  # the answer to this very claim was lost on its way
                return self._order(evaluation, claim, again)
        if claim.token <= part.token:
            raise StaleTokenError(
                f"token {claim.token} of part {claim.part} is not newer than {part.token}",
                minimum_token=self.store.largest_token() + 1,
            )
        if claim.token > self.store.largest_token() + TOKEN_LEAP:
            raise InvalidRequestError(f"token {claim.token} of part {claim.part} was never given out")
        if evaluation.active_tasks(claim.part) and self._holds_lease(claim):
            self.lose(evaluation, part)  # a part has one lease: the former owner is gone
        tasks = self.store.claim(
            claim.run_id, claim.part, token=claim.token, box=claim.box, slot=claim.slot, devices=claim.gpus
        )
        if tasks is None:
            raise ConflictError(f"part {claim.part} of run {claim.run_id} has nothing left to run")
        evaluation = self._after_move(claim.run_id, tasks, Owner(claim.run_id, claim.part, claim.token))
        return self._order(evaluation, claim, tasks)

    def _holds_lease(self, claim: Claim) -> bool:
        lease = self.queue.leases().get(job_id(claim.run_id, claim.part))
        return lease is not None and lease.token == claim.token

    def _order(self, evaluation: Evaluation, claim: Claim, tasks: list[str]) -> WorkOrder:
        request = evaluation.request
        return WorkOrder(
            run_id=evaluation.run_id,
            experiment_id=evaluation.experiment_id,
            part=claim.part,
            token=claim.token,
            attempt=max(task.attempt for task in evaluation.tasks if task.task in tasks),
            tasks=tuple(tasks),
            all_tasks=tuple(task.task for task in evaluation.tasks),
            model=evaluation.resolved,
            task_folders=tuple(str(folder.absolute()) for folder in self._settings.task_folders),
            limit=request.effective_limit,
            offset=request.offset,
            batch_size=request.batch_size,
            num_fewshot=request.num_fewshot,
            seeds=request.seeds,
            gen_kwargs=format_model_arguments(request.gen_kwargs) or None,
            repeats=request.repeats,
            secrets=request.secrets,
            environment=evaluation.resolved.environment,
            chunk_size=self._settings.chunk_size,
            thumbnail_bytes=self._settings.thumbnail_mb * 1_000_000,
            deadline_s=self._settings.deadline_s,
            trust_remote_code=self._settings.trust_remote_code,
            primary=request.primary,
            dimensions=request.dimensions,
            errored=request.errored or Errored(),
            groups=evaluation.groups,
        )

    def started(self, owner: Owner, task: str) -> None:
        """The runner has begun with a task."""
        self._move(owner, task, State.RUNNING)

    def recording(self, owner: Owner, task: str) -> None:
        """The task's result is there and is being written into the MLflow run."""
        self._move(owner, task, State.RECORDING)

    def task_finished(
        self, owner: Owner, task: str, *, samples: int, metric: str | None, score: float | None
    ) -> None:
        """The task's result stands in the MLflow run."""
        self._check(owner)
        self._on_result(self.store.get(owner.run_id), task)  # first: what fails here the worker repeats
        changes = {"samples": samples, "metric": metric, "score": score}
        self._move(owner, task, State.FINISHED, **changes, failure=None, message=None, log_tail=None)

    def task_failed(
        self, owner: Owner, task: str, failure: FailureClass, message: str, log_tail: str, *, retryable: bool
    ) -> State:
        """The task failed; it goes back to the queue when another attempt may help and its budget allows it.

        Returns:
            The state that the task has now.
        """
        self._check(owner)
        status = self.store.get(owner.run_id).task(task)
        if status.state in (State.QUEUED, State.FAILED):
            return status.state  # this call was answered before, and the answer got lost
        told: dict[str, Any] = {"failure": failure, "message": message[:4000], "log_tail": log_tail[-16000:]}
        if retryable and status.automatic_retries < CRASH_RETRIES:
            moved = self.store.requeue(owner.run_id, [task], automatic=True, token=owner.token, **told)
            if moved:
                self._after_move(owner.run_id, moved, owner)
                return State.QUEUED
        self._move(owner, task, State.FAILED, **told)
        return State.FAILED

    def part_finished(self, owner: Owner) -> None:
        """The worker is done with the part; what it left unfinished is cancelled or goes back to the queue."""
        self._check(owner)
        evaluation = self.store.get(owner.run_id)
        left = evaluation.active_tasks(owner.part)
        if evaluation.cancel_requested:
            moved = self.store.move(owner.run_id, left, State.CANCELLED, token=owner.token)
            self._cancel_queued(evaluation)
        else:
            moved = self.store.requeue(owner.run_id, left, automatic=True, token=owner.token)
        self._after_move(owner.run_id, moved, owner)

    def heartbeat(self, owner: Owner) -> dict[str, bool]:
        """The worker is alive; the answer tells whether it is to stop."""
        self._check(owner)
        return {"cancel": self.store.get(owner.run_id).cancel_requested}

    def cancel(self, run_id: str) -> Evaluation:
        """Stop a run: waiting tasks at once, running ones as soon as their worker has killed the process.

        Raises:
            ConflictError: the run has already ended.
        """
        evaluation = self.store.get(run_id)
        if evaluation.state in FINAL:
            raise ConflictError(f"run {run_id} has already ended: it is {evaluation.state}")
        self.store.request_cancel(run_id)
        self._cancel_queued(evaluation)
        evaluation = self.store.get(run_id)
        try:
            if evaluation.state not in FINAL:
                self.queue.ask_cancel(run_id)
            for part in evaluation.parts:
                self.queue.remove(run_id, part.part)
        except UnavailableError as error:
            logger.warning("cancel of %s reaches its worker by heartbeat only: %s", run_id, error)
        return evaluation

    def retry(self, run_id: str) -> list[str]:
        """Run the failed and cancelled tasks again, in the same MLflow run.

        Returns:
            The tasks that are queued again.

        Raises:
            ConflictError: no task has failed or was cancelled.
            UnavailableError: the queue server does not answer.
        """
        evaluation = self.store.get(run_id)
        missing = [task.task for task in evaluation.tasks if task.state in (State.FAILED, State.CANCELLED)]
        if not missing:
            raise ConflictError(f"nothing of run {run_id} failed or was cancelled: it is {evaluation.state}")
        self.queue.ping()
        self.queue.forget_cancel(run_id)
        self.store.request_cancel(run_id, False)
        moved = self.store.requeue(run_id, missing, automatic=False)
        self._after_move(run_id, moved, None)
        self.enqueue(self.store.get(run_id))
        return moved

    def enqueue(self, evaluation: Evaluation, *, front: bool = False) -> None:
        """Put every part with a queued task into the queue, where it is not there yet."""
        for part in evaluation.parts:
            if any(task.state == State.QUEUED for task in evaluation.tasks_of(part.part)):
                self.queue.enqueue(evaluation.run_id, part.part, evaluation.priority, part.gpus, front=front)

    def lose(self, evaluation: Evaluation, part: PartStatus) -> None:
        """The part's worker is gone: its tasks are queued again, or fail when that happened too often."""
        run_id, token = evaluation.run_id, part.token
        for task in evaluation.tasks_of(part.part):
            if task.state not in ACTIVE:
                continue
            lost: dict[str, Any] = {"failure": FailureClass.WORKER_LOST, "log_tail": None}
            if evaluation.cancel_requested:
                moved = self.store.move(run_id, [task.task], State.CANCELLED, token=token)
            elif task.automatic_retries < LOST_RETRIES:
                lost["message"] = f"the worker of attempt {task.attempt}, on box {part.box}, was lost"
                moved = self.store.requeue(run_id, [task.task], automatic=True, token=token, **lost)
            else:
                lost["message"] = f"its worker was lost {LOST_RETRIES + 1} times, the last time on box {part.box}"
                moved = self.store.move(run_id, [task.task], State.FAILED, token=token, **lost)
            self._after_move(run_id, moved, Owner(run_id, part.part, token))
        self.enqueue(self.store.get(run_id), front=True)

    def _cancel_queued(self, evaluation: Evaluation) -> None:
        queued = [task.task for task in evaluation.tasks if task.state == State.QUEUED]
        self._after_move(evaluation.run_id, self.store.move(evaluation.run_id, queued, State.CANCELLED), None)

    def _check(self, owner: Owner) -> None:
        if not self.store.owns(owner.run_id, owner.part, owner.token):
            current = self.store.get(owner.run_id).part(owner.part).token
            raise StaleTokenError(
                f"token {owner.token} of part {owner.part} is no longer valid; the part has {current}"
            )

    def _move(self, owner: Owner, task: str, to: State, **changes: Any) -> None:
        self._check(owner)
        moved = self.store.move(owner.run_id, [task], to, token=owner.token, **changes)
        if not moved and (current := self.store.get(owner.run_id).task(task).state) != to:
            raise ConflictError(f"task {task} of run {owner.run_id} is {current} and cannot become {to}")
        self._after_move(owner.run_id, moved, owner)

    def _after_move(self, run_id: str, tasks: Iterable[str], owner: Owner | None) -> Evaluation:
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
