"""MLflow runs as such: have the score index look at one, and ask whether two may be compared."""

from __future__ import annotations

from flask import jsonify, request
from flask.typing import ResponseReturnValue

from mlflow_lmms.comparison import compare_with_baseline
from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from mlflow_lmms.run_comparison import compare_runs
from plugin_ui.permissions import EDIT, READ, require_run, requires
from plugin_ui.services import services

_MOST_COMPARED = 50


@requires(EDIT, run="run_id")
def index_run(run_id: str) -> ResponseReturnValue:
    """Put what the run holds now onto the boards; for runs that an importer or a client has written."""
    return jsonify({"run_id": run_id, "scores": services().scores.refresh_run(run_id)})


@requires(READ)
def comparability() -> ResponseReturnValue:
    """Whether two runs' results may be compared, and what differs: ``?first= &second= &task=``."""
    first, second = (_run_id(name) for name in ("first", "second"))
    for run_id in (first, second):
        require_run(READ, run_id)
    client = services().client
    found = compare_runs(client.get_run(first), client.get_run(second), request.args.get("task") or None)
    return jsonify(found.as_json())


@requires(READ)
def compare() -> ResponseReturnValue:
    """Two or more runs against the first of them: ``?run= &run= … &task= …``."""
    run_ids, tasks = list(dict.fromkeys(request.args.getlist("run"))), request.args.getlist("task")
    if not 2 <= len(run_ids) <= _MOST_COMPARED:
        raise InvalidRequestError(f"run: expected 2 to {_MOST_COMPARED} different runs' ids, got {len(run_ids)}")
    for run_id in run_ids:
        require_run(READ, run_id)
    core = services()
    scores = core.scores.of_runs(run_ids)
    for run_id in run_ids:
        if not any(score.run_id == run_id for score in scores):
            raise NotFoundError(f"run {run_id} has no results to compare (yet)")
    return jsonify(compare_with_baseline(run_ids, scores, core.reader.vector, tasks or None).as_json())


def _run_id(name: str) -> str:
    run_id = request.args.get(name, "")
    if not run_id:
        raise InvalidRequestError(f"{name}: expected a run's id, got none")
    return run_id
