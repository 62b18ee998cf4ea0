"""What an evaluation's run starts with: its tags, its params, and the name of its suite. Pure."""

from __future__ import annotations

import json

from mlflow_lmms.model_arguments import format_model_arguments
from mlflow_lmms.names import Tag
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.states import State
from mlflow_lmms.work_order import ResolvedModel


def run_tags(request: EvaluationRequest, model: ResolvedModel, tasks: list[str], suite: str) -> dict[str, str]:
    """The tags that a new run starts with."""
    tags = {
        Tag.STATE: str(State.QUEUED),
        Tag.MODEL: model.name,
        Tag.ADAPTER: model.adapter,
        Tag.SUITE: suite,
        Tag.TASKS: ",".join(tasks)[:5000],
        Tag.SOURCE: "queue",
        Tag.PRIORITY: request.priority,
        Tag.ATTEMPT: "1",
        Tag.WARNINGS: "{}",  # there from the start: MLflow fails one of two workers that add the same tag at once
    }
    if model.version is not None:
        tags[Tag.MODEL_VERSION] = model.version
    else:
        tags[Tag.UNREGISTERED] = "true"
    if model.logged_model_id is not None:
        tags[Tag.LOGGED_MODEL] = model.logged_model_id
    if request.suite_revision is not None:
        tags[Tag.SUITE_REVISION] = str(request.suite_revision)
    if request.smoke is not None:
        tags[Tag.SMOKE] = str(request.smoke)
    return tags


def run_params(request: EvaluationRequest, model: ResolvedModel, tasks: list[str]) -> dict[str, str]:
    """The resolved request as params: what may not differ between attempts or parts."""
    params = {
        "model": model.label,
        "adapter": model.adapter,
        "model_args": format_model_arguments(model.model_args),
        "tasks": ",".join(tasks),
        "limit": request.effective_limit,
        "offset": request.offset,
        "batch_size": request.batch_size,
        "num_fewshot": request.num_fewshot,
        "gen_kwargs": format_model_arguments(request.gen_kwargs),
        "repeats": request.repeats,
        "suite": f"{request.suite}@{request.suite_revision}" if request.suite_revision is not None else None,
        "primary": json.dumps(request.primary, ensure_ascii=False) if request.primary else None,
        "dimensions": json.dumps(request.dimensions, ensure_ascii=False) if request.dimensions else None,
        "errored": request.errored.model_dump_json() if request.errored is not None else None,
        "gpus": model.gpus,
        **{f"seed.{name}": value for name, value in request.seeds.model_dump().items()},
    }
    return {key: str(value)[:6000] for key, value in params.items() if value not in (None, "")}


def suite_name(tasks: tuple[str, ...]) -> str:
    """A name for tasks that were asked for without one: the only one, or the first and how many more."""
    return tasks[0] if len(tasks) == 1 else f"{tasks[0][:240]} +{len(tasks) - 1}"
