"""The form for a new evaluation: what was typed becomes a request, what is wrong stands by its field. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.request import EvaluationRequest, problems_by_field

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
    "environment": "Environment",
}
#: The fields under *More*.
MORE = ("primary", "dimensions", "errored", "experiment", "run_name", "offset", "repeats", "environment")
PRIORITIES = ("high", "normal", "low")
_DEFAULTS = {"batch_size": "1", "priority": "normal"}
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


def read_form(sent: Mapping[str, str], catalogue: Callable[[], Catalogue]) -> FilledForm:
    """Check what was sent, each problem beside the field that has it."""
    values = {name: sent.get(name, "").strip() for name in LABELS}
    given = {name: text for name, text in values.items() if text}
    problems = problems_by_field(given)
    if "tasks" not in problems:
        names = [name.strip() for name in values["tasks"].split(",") if name.strip()]
        try:
            catalogue().expand(names)
        except InvalidRequestError as error:
            problems["tasks"] = error.message
    ordered = {name: problems[name] for name in (_WHOLE, *LABELS) if name in problems}
    return FilledForm(values, None if problems else EvaluationRequest.parse(given), ordered)
