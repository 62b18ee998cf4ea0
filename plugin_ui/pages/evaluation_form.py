"""The form for a new evaluation: what was typed becomes a request, what is wrong stands by its field. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.lmms_eval_config import request_fields
from mlflow_lmms.model_arguments import format_model_arguments
from mlflow_lmms.request import EvaluationRequest, Seeds, problems_by_field

#: Fields in the order of the page, and what they are called there.
LABELS = {
    "model": "Registered model",
    "adapter": "Adapter",
    "model_args": "Model arguments",
    "suite": "Suite",
    "tasks": "Tasks",
    "limit": "Limit",
    "smoke": "Smoke test",
    "num_fewshot": "Examples in the prompt",
    "batch_size": "Batch size",
    "gpus": "GPUs",
    "priority": "Priority",
    "gen_kwargs": "Generation arguments",
    "secrets": "Secrets",
    "primary": "Primary metrics",
    "dimensions": "Slices",
    "errored": "Errored samples",
    "experiment": "Experiment",
    "run_name": "Run name",
    "offset": "Offset",
    "repeats": "Repeats",
    "seeds": "Seeds",
    "environment": "Environment",
    "gpu_type": "GPU type",
    "gpu_memory_gb": "GPU memory in GB",
    "launch": "Launch",
    "labels": "Labels",
    "box": "Box",
    "max_parts": "Most parts",
}
#: The fields under *More*.
MORE = ("primary", "dimensions", "errored", "experiment", "run_name", "offset", "repeats", "seeds")
#: The fields under *Where it runs*.
PLACE = ("environment", "gpu_type", "gpu_memory_gb", "launch", "labels", "box", "max_parts")
LAUNCHES = ("auto", "single", "data-parallel")
PRIORITIES = ("high", "normal", "low")
_DEFAULTS = {"batch_size": "1", "priority": "normal", "launch": "auto"}
_WHOLE = ""  # key of a problem that no single field is at fault for


@dataclass(frozen=True)
class FilledForm:
    """The texts of all fields, the request where they make one, and problems by field (empty: of the whole)."""

    values: dict[str, str]
    request: EvaluationRequest | None
    problems: dict[str, str]


def empty_form(given: Mapping[str, str]) -> FilledForm:
    """The form before anything was sent; `given` fills some fields in (links from other pages)."""
    return FilledForm({name: given.get(name, _DEFAULTS.get(name, "")) for name in LABELS}, None, {})


def form_of(request: EvaluationRequest) -> FilledForm:
    """The form as it asks for this request."""
    asked = request.model_dump(mode="json", exclude_defaults=True)
    given = {name: _text(name, asked[name]) for name in LABELS if name in asked}
    return FilledForm(empty_form(given).values, None, {})


def _text(name: str, value: Any) -> str:
    if name == "seeds":
        return ",".join(map(str, Seeds.model_validate(value).model_dump().values()))
    if isinstance(value, dict):
        return format_model_arguments(value)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def read_form(sent: Mapping[str, str], catalogue: Callable[[], Catalogue]) -> FilledForm:
    """Check what was sent, each problem beside the field that has it."""
    values = {name: sent.get(name, "").strip() for name in LABELS}
    given: dict[str, Any] = {name: text for name, text in values.items() if text and name != "seeds"}
    problems = problems_by_field(given)
    try:
        given |= request_fields({"seed": values["seeds"]})
    except InvalidRequestError as error:
        problems["seeds"] = error.message
    if "tasks" not in problems:
        names = [name.strip() for name in values["tasks"].split(",") if name.strip()]
        try:
            catalogue().expand(names)
        except InvalidRequestError as error:
            problems["tasks"] = error.message
    ordered = {name: problems[name] for name in (_WHOLE, *LABELS) if name in problems}
    return FilledForm(values, None if problems else EvaluationRequest.parse(given), ordered)
