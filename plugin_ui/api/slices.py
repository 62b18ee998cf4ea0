"""Slices of a run's results, and how those of two runs differ."""

from __future__ import annotations

from flask import jsonify, request
from flask.typing import ResponseReturnValue

from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from mlflow_lmms.score import Score
from mlflow_lmms.slice_report import slice_change, slice_report
from plugin_ui.permissions import READ, require_run, requires
from plugin_ui.services import services


@requires(READ)
def read_slices() -> ResponseReturnValue:
    """Groups of one run's documents, or how they changed: ``?run= &task= … &dimension= … &against=``."""
    run_id, against = request.args.get("run", ""), request.args.get("against", "")
    if not run_id:
        raise InvalidRequestError("run: expected a run's id, got none")
    for one in filter(None, (run_id, against)):
        require_run(READ, one)
    wanted, dimensions = request.args.getlist("task"), request.args.getlist("dimension")
    reader, scores = services().reader, _by_task(run_id, wanted)
    if not against:
        return jsonify(
            {"run_id": run_id, "tasks": [slice_report(reader, own, dimensions).as_json() for own in scores.values()]}
        )
    baselines = _by_task(against, ())
    changes = [
        slice_change(reader, baselines[task], own, dimensions).as_json()
        for task, own in scores.items()
        if task in baselines
    ]
    return jsonify({"run_id": run_id, "against": against, "tasks": changes})


def _by_task(run_id: str, wanted: list[str] | tuple[()]) -> dict[str, Score]:
    """The primary scores of a run, of all tasks or of these."""
    found = {score.task: score for score in services().scores.of_runs([run_id])}
    if missing := [task for task in wanted if task not in found]:
        has = ", ".join(sorted(found)[:20]) or "no results"
        raise NotFoundError(f"run {run_id} has no result of {', '.join(missing)}; it has {has}")
    return {task: found[task] for task in (wanted or sorted(found))}
