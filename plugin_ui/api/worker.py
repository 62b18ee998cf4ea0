"""``/worker``: what GPU boxes tell the server. Each call carries the fencing token of its part.

A repeated call does no harm: a state that is already reached is confirmed, an older token is refused.
"""

from __future__ import annotations

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from mlflow_lmms.lifecycle import LARGEST_TOKEN, Claim, Owner
from mlflow_lmms.states import FailureClass
from mlflow_lmms.work_order import Use
from plugin_ui.api.parsing import parse_body
from plugin_ui.permissions import EDIT, require_run, requires
from plugin_ui.services import services


class PartCall(BaseModel):
    """Who speaks."""

    model_config = ConfigDict(extra="ignore")

    run_id: str = Field(min_length=1, max_length=64)
    part: str = Field(min_length=1, max_length=16)
    token: int = Field(ge=1, le=LARGEST_TOKEN)

    def owner(self) -> Owner:
        """Who speaks, once it is known that the caller may write to the run."""
        require_run(EDIT, self.run_id)
        return Owner(self.run_id, self.part, self.token)


class PartFinished(PartCall):
    """The worker is done with the part."""

    given_back: bool = False
    use: Use | None = None


class TaskCall(PartCall):
    """Something happened to one task."""

    task: str = Field(min_length=1, max_length=250)


class TaskFinished(TaskCall):
    """Its result stands in the MLflow run."""

    samples: int = Field(ge=0, le=10**9)
    metric: str | None = None
    score: float | None = None


class TaskFailed(TaskCall):
    """It failed."""

    failure: FailureClass
    message: str
    log_tail: str = ""
    retryable: bool = False


@requires(EDIT)
def claim() -> ResponseReturnValue:
    """Hand the part's work to the worker that holds its lease."""
    call = parse_body(Claim)
    require_run(EDIT, call.run_id)
    return jsonify(services().lifecycle.claim(call).model_dump(mode="json"))


@requires(EDIT)
def started() -> ResponseReturnValue:
    """The runner has begun with a task."""
    call = parse_body(TaskCall)
    services().lifecycle.started(call.owner(), call.task)
    return jsonify({})


@requires(EDIT)
def recording() -> ResponseReturnValue:
    """The task's result is there and goes into the run now."""
    call = parse_body(TaskCall)
    services().lifecycle.recording(call.owner(), call.task)
    return jsonify({})


@requires(EDIT)
def task_finished() -> ResponseReturnValue:
    """The task's result stands in the MLflow run."""
    call = parse_body(TaskFinished)
    services().lifecycle.task_finished(
        call.owner(), call.task, samples=call.samples, metric=call.metric, score=call.score
    )
    return jsonify({})


@requires(EDIT)
def task_failed() -> ResponseReturnValue:
    """The task failed; the answer is the state that it has now."""
    call = parse_body(TaskFailed)
    state = services().lifecycle.task_failed(
        call.owner(), call.task, call.failure, call.message, call.log_tail, retryable=call.retryable
    )
    return jsonify({"state": state})


@requires(EDIT)
def part_finished() -> ResponseReturnValue:
    """The worker is done with the part."""
    call = parse_body(PartFinished)
    services().lifecycle.part_finished(call.owner(), given_back=call.given_back, use=call.use)
    return jsonify({})


@requires(EDIT)
def heartbeat() -> ResponseReturnValue:
    """The worker is alive; the answer tells whether it is to stop."""
    return jsonify(services().lifecycle.heartbeat(parse_body(PartCall).owner()))
