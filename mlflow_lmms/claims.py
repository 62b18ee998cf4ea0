"""Handing a part to the worker that holds its lease: who may have it, and what it is told to do. Server side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

from pydantic import BaseModel, ConfigDict, Field

from mlflow_lmms.errors import ConflictError, InvalidRequestError, StaleTokenError
from mlflow_lmms.evaluation import Evaluation, PartStatus
from mlflow_lmms.evaluation_queue import job_id
from mlflow_lmms.model_arguments import format_model_arguments
from mlflow_lmms.protocol import refusal
from mlflow_lmms.request import Errored
from mlflow_lmms.settings import Settings
from mlflow_lmms.shown_moves import Owner, ShownMoves
from mlflow_lmms.states import State
from mlflow_lmms.work_order import WorkOrder

#: Lua in Redis counts exactly up to here.
LARGEST_TOKEN = 2**53
#: Leases that end unclaimed leave gaps; a larger leap is made up, and would use up the tokens of the whole fleet.
TOKEN_LEAP = 1_000_000
#: From this protocol on a worker can score answers again.
_RESCORES = 2


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


class PartClaims:
    """Answers claims; `lose` is told of an owner whose lease another worker has by now."""

    def __init__(self, moves: ShownMoves, settings: Settings, lose: Callable[[Evaluation, PartStatus], None]) -> None:
        self._moves = moves
        self._store = moves.store
        self._settings = settings
        self._lose = lose

    def claim(self, claim: Claim) -> tuple[Evaluation, WorkOrder]:
        """Hand the part over, and say what is to be done; see `Lifecycle.claim`."""
        evaluation = self._store.get(claim.run_id)
        part = evaluation.part(claim.part)
        _check_protocol(claim, part)
        if evaluation.cancel_requested:
            self._moves.give_up_waiting(evaluation)
            raise ConflictError(f"run {claim.run_id} is cancelled")
        if (claim.token, claim.box, claim.slot) == (part.token, part.box, part.slot):
            again = [task.task for task in evaluation.tasks_of(claim.part) if task.state == State.STARTING]
            if again:  # the answer to this very claim was lost on its way
                return evaluation, self._order(evaluation, claim, again)
        self._check_token(claim, part)
        if evaluation.active_tasks(claim.part) and self._holds_lease(claim):
            self._lose(evaluation, part)  # a part has one lease: the former owner is gone
        tasks = self._store.claim(
            claim.run_id, claim.part, token=claim.token, box=claim.box, slot=claim.slot, devices=claim.gpus
        )
        if tasks is None:
            raise ConflictError(f"part {claim.part} of run {claim.run_id} has nothing left to run")
        evaluation = self._moves.show(claim.run_id, tasks, Owner(claim.run_id, claim.part, claim.token))
        return evaluation, self._order(evaluation, claim, tasks)

    def _check_token(self, claim: Claim, part: PartStatus) -> None:
        if claim.token <= part.token:
            raise StaleTokenError(
                f"token {claim.token} of part {claim.part} is not newer than {part.token}",
                minimum_token=self._store.largest_token() + 1,
            )
        if claim.token > self._store.largest_token() + TOKEN_LEAP:
            raise InvalidRequestError(f"token {claim.token} of part {claim.part} was never given out")

    def _holds_lease(self, claim: Claim) -> bool:
        lease = self._moves.queue.leases().get(job_id(claim.run_id, claim.part))
        return lease is not None and lease.token == claim.token

    def _order(self, evaluation: Evaluation, claim: Claim, tasks: Sequence[str]) -> WorkOrder:
        request, settings = evaluation.request, self._settings
        return WorkOrder(
            protocol=claim.protocol,
            run_id=evaluation.run_id,
            experiment_id=evaluation.experiment_id,
            part=claim.part,
            token=claim.token,
            attempt=max(task.attempt for task in evaluation.tasks if task.task in tasks),
            tasks=tuple(tasks),
            all_tasks=tuple(task.task for task in evaluation.tasks),
            model=evaluation.resolved,
            task_folders=tuple(str(folder.absolute()) for folder in settings.task_folders),
            limit=request.effective_limit,
            offset=request.offset,
            batch_size=request.batch_size,
            num_fewshot=request.num_fewshot,
            seeds=request.seeds,
            gen_kwargs=format_model_arguments(request.gen_kwargs) or None,
            repeats=request.repeats,
            secrets=request.secrets,
            environment=evaluation.resolved.environment,
            chunk_size=settings.chunk_size,
            thumbnail_bytes=settings.thumbnail_mb * 1_000_000,
            deadline_s=settings.deadline_s,
            trust_remote_code=settings.trust_remote_code,
            primary=request.primary,
            dimensions=request.dimensions,
            errored=request.errored or Errored(),
            groups=evaluation.groups,
            launch=request.launch,
            rescore=evaluation.part(claim.part).rescore,
            no_progress_s=settings.no_progress_s,
            phase_deadlines_s=settings.phase_deadlines_s,
            checkpoint=settings.checkpoint_mb > 0,
        )


def _check_protocol(claim: Claim, part: PartStatus) -> None:
    if refused := refusal(claim.protocol, version("mlflow-lmms")):
        raise InvalidRequestError(refused)
    if part.rescore and claim.protocol < _RESCORES:
        raise InvalidRequestError(
            f"part {part.part} of run {claim.run_id} is scored again, which a worker of protocol {claim.protocol} "
            "cannot do: install the server's version of mlflow-lmms on the box"
        )
