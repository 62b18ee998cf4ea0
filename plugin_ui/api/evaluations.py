"""``/evaluations``: submit, list, look at, cancel, retry, rescore."""

from __future__ import annotations

from dataclasses import dataclass, field

from flask import jsonify, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.evaluation_json import evaluation_json
from mlflow_lmms.planner.fleet import Wait
from mlflow_lmms.request import EvaluationRequest, TaskName
from mlflow_lmms.states import State
from plugin_ui.api.parsing import json_object, parse_body, seconds, whole_number
from plugin_ui.narrowing import narrowed, parse_state
from plugin_ui.permissions import EDIT, READ, readable_experiments, requires
from plugin_ui.queue_places import queue_places, queue_waits
from plugin_ui.services import services
from plugin_ui.submit_request import submit_for_caller


@requires(EDIT)
def submit() -> ResponseReturnValue:
    """Queue the evaluation in the body; 201 with its run id."""
    submitted = submit_for_caller(EvaluationRequest.parse(json_object()))
    url = url_for("lmms.evaluation", run_id=submitted.run_id, _external=True)
    answer = {"run_id": submitted.run_id, "experiment_id": submitted.experiment_id, "url": url}
    return jsonify(answer | {"warnings": list(submitted.warnings)}), 201


@requires(READ)
def search() -> ResponseReturnValue:
    """Evaluations, newest first: ``?state= &experiment= &model= &limit= &before=``."""
    core = services()
    state = request.args.get("state", "")
    found = core.evaluations(
        experiment_ids=narrowed(readable_experiments(), request.args.get("experiment", "")),
        states={parse_state(state)} if state else None,
        model=request.args.get("model") or None,
        before=seconds("before"),
        limit=whole_number("limit", 100, 1, 1000),
    )
    queue = _queue()
    return jsonify({"evaluations": [_as_json(evaluation, queue) for evaluation in found]})


@requires(READ, run="run_id")
def read(run_id: str) -> ResponseReturnValue:
    """One evaluation with its tasks."""
    return jsonify(_as_json(services().evaluation(run_id), _queue()))


@requires(EDIT, run="run_id")
def cancel(run_id: str) -> ResponseReturnValue:
    """Stop it; the answer is the evaluation as it stands, which a worker may still be leaving."""
    return jsonify(_as_json(services().lifecycle.cancel(run_id), _Queue()))


@requires(EDIT, run="run_id")
def retry(run_id: str) -> ResponseReturnValue:
    """Queue what failed or was cancelled again."""
    tasks = services().lifecycle.retry(run_id)
    return jsonify({"run_id": run_id, "tasks": tasks})


class Rescore(BaseModel):
    """Which tasks to score again; none named: every finished one."""

    model_config = ConfigDict(extra="forbid")

    tasks: tuple[TaskName, ...] = ()


@requires(EDIT, run="run_id")
def rescore(run_id: str) -> ResponseReturnValue:
    """Score finished tasks again from their stored answers."""
    asked = parse_body(Rescore)
    tasks = services().lifecycle.rescore(run_id, asked.tasks or None)
    return jsonify({"run_id": run_id, "tasks": tasks})


@dataclass(frozen=True)
class _Queue:
    """Places and reasons of the runs that wait."""

    places: dict[str, int] = field(default_factory=dict)
    waits: dict[str, Wait] = field(default_factory=dict)


def _queue() -> _Queue:
    core = services()
    try:
        waiting = core.queue.queued()
        return _Queue(queue_places(waiting), queue_waits(waiting, core.fleet.waits()))
    except UnavailableError:
        return _Queue()  # the tables still tell everything else


def _as_json(evaluation: Evaluation, queue: _Queue) -> dict[str, object]:
    if evaluation.state is not State.QUEUED:
        return evaluation_json(evaluation)
    run_id = evaluation.run_id
    return evaluation_json(evaluation, position=queue.places.get(run_id), wait=queue.waits.get(run_id))
