"""An evaluation as plain values for programs, and the lmms-eval command that does the same. Pure."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.model_arguments import format_model_arguments
from mlflow_lmms.planner.fleet import Wait


def evaluation_json(
    evaluation: Evaluation, *, position: int | None = None, wait: Wait | None = None
) -> dict[str, Any]:
    """The evaluation as JSON values.

    Args:
        position: its place in the queue, 1 is next; None when it does not wait.
        wait: why it waits, where the last plan says so.
    """
    return {
        "run_id": evaluation.run_id,
        "experiment_id": evaluation.experiment_id,
        "name": evaluation.name,
        "model": evaluation.model,
        "suite": evaluation.suite,
        "suite_revision": evaluation.request.suite_revision,
        "source": evaluation.source,
        "state": evaluation.state,
        "priority": evaluation.priority,
        "created_by": evaluation.created_by,
        "created_at": evaluation.created_at,
        "started_at": evaluation.started_at,
        "ended_at": evaluation.ended_at,
        "cancel_requested": evaluation.cancel_requested,
        "position": position,
        "wait": None if wait is None else {"cause": str(wait.cause), "reason": wait.reason},
        "worker": ", ".join(f"{part.box}/{part.slot}" for part in evaluation.parts if part.box) or None,
        "request": evaluation.request.model_dump(mode="json"),
        "resolved": evaluation.resolved.model_dump(mode="json"),
        "command": command_line(evaluation) if evaluation.queued_here else None,
        "tasks": [asdict(task) for task in evaluation.tasks],
    }


def _asked(evaluation: Evaluation) -> tuple[str, ...]:
    """The tasks in lmms-eval's own words: it knows its groups, and none of the stored suites."""
    request = evaluation.request
    if request.suite_revision is not None:
        return tuple(task.task for task in evaluation.tasks)
    return request.tasks or (str(request.suite),)


def command_line(evaluation: Evaluation) -> str:
    """The bare lmms-eval command that runs the same evaluation, for a shell."""
    request, model = evaluation.request, evaluation.resolved
    arguments = dict(model.model_args)
    if model.artifact_argument is not None:
        arguments[model.artifact_argument] = "MODEL_FOLDER"
    words = ["python", "-m", "lmms_eval", "--model", model.adapter]
    optional = {
        "--model_args": format_model_arguments(arguments),
        "--tasks": ",".join(_asked(evaluation)),
        "--batch_size": request.batch_size,
        "--limit": request.effective_limit,
        "--offset": request.offset or None,
        "--num_fewshot": request.num_fewshot,
        "--gen_kwargs": format_model_arguments(request.gen_kwargs),
        "--repeats": request.repeats,
        "--seed": ",".join(str(seed) for seed in request.seeds.model_dump().values()),
    }
    for option, value in optional.items():
        if value not in (None, ""):
            words += [option, str(value)]
    command = shlex.join([*words, "--output_path", "results", "--log_samples"])
    if model.artifact_uri is None:
        return command
    download = shlex.join(["mlflow", "artifacts", "download", "-u", f"models:/{model.name}/{model.version}"])
    return f"{download} -d MODEL_FOLDER && {command}"
