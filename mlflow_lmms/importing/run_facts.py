"""What an imported run is called and tagged with: the same names as a live run's. Pure.

Owns how a results file's settings become the model, the suite, the params and the tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.importing.results_file import ResultsFile
from mlflow_lmms.importing.scrubbed import is_secret, valid
from mlflow_lmms.model_arguments import parse_model_arguments
from mlflow_lmms.names import Tag
from mlflow_lmms.run_description import suite_name
from mlflow_lmms.scrubbing import MASK, Scrubber
from mlflow_lmms.states import State

_PARAM_LIMIT, _TAG_LIMIT, _NAME_LIMIT = 6000, 5000, 250
# Live runs go by the first three; lmms-eval itself also by the rest, when it names its folders.
_NAMING = ("pretrained", "model", "model_version", "model_name", "model_id", "path", "engine")
_SEEDS = {"python": "random_seed", "numpy": "numpy_seed", "torch": "torch_seed", "fewshot": "fewshot_seed"}


@dataclass(frozen=True)
class ImportedModel:
    """The model of a results file; `version` and `logged_model_id` are those of the registry, where it is linked."""

    label: str
    name: str
    adapter: str
    arguments: str
    version: str | None = None
    logged_model_id: str | None = None


@dataclass(frozen=True)
class ImportedRun:
    """Everything of a run but its results."""

    name: str
    suite: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    started_at: float
    ended_at: float


def model_of(results: ResultsFile, scrubber: Scrubber) -> ImportedModel:
    """The model as the file names it, without a version in the registry."""
    told = results.config.get("model_args")
    adapter = _text(results.config.get("model") or results.content.get("model_source") or "unknown", scrubber, 100)
    arguments, text = _arguments(told, scrubber)
    names = [arguments.get(name) for name in _NAMING]
    if not any(names):
        names.append(_text(results.content.get("model_name") or "", scrubber, _PARAM_LIMIT))
    name = next((own for own in names if own), adapter)
    if len(name) > 200:
        name = f"…{name[-199:]}"
    return ImportedModel(name, name, adapter, text)


def _arguments(told: Any, scrubber: Scrubber) -> tuple[dict[str, str], str]:
    """The model's arguments without their secrets, and how lmms-eval writes them."""
    try:
        if isinstance(told, dict):
            named = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}
        else:
            named = parse_model_arguments(told) if isinstance(told, str) else {}
    except InvalidRequestError:  # not as lmms-eval writes them: kept as a text that nothing is read from
        return {}, _text(told, scrubber, _PARAM_LIMIT)
    masked = {
        _text(name, scrubber, _PARAM_LIMIT): MASK if is_secret(name, value) else _text(value, scrubber, _PARAM_LIMIT)
        for name, value in named.items()
    }
    return masked, ",".join(f"{name}={value}" for name, value in masked.items())


def _text(value: Any, scrubber: Scrubber, limit: int) -> str:
    return valid(scrubber.scrub(str(value)))[:limit]


def describe_run(
    results: ResultsFile,
    model: ImportedModel,
    scrubber: Scrubber,
    *,
    source: str,
    suite: str | None = None,
    tasks: Iterable[str] | None = None,
) -> ImportedRun:
    """The run's name, params and tags; `tasks` are those that are recorded, where not all are."""
    names = list(results.tasks if tasks is None else tasks)
    suite = suite or suite_name(_asked_for(results))
    ended_at = results.ended_at
    started_at = ended_at - (results.seconds or 0.0)
    return ImportedRun(
        name=f"{model.label} · {suite}"[:_NAME_LIMIT],
        suite=suite,
        params=_params(results, model, names, scrubber),
        tags={
            **model_tags(model),
            Tag.STATE: str(State.RECORDING),
            Tag.ADAPTER: model.adapter,
            Tag.SUITE: suite,
            Tag.TASKS: ",".join(names)[:_TAG_LIMIT],
            Tag.SOURCE: source,
            Tag.ATTEMPT: "1",
            Tag.STARTED_AT: f"{started_at:.3f}",
            Tag.ENDED_AT: f"{ended_at:.3f}",
        },
        started_at=started_at,
        ended_at=ended_at,
    )


def model_tags(model: ImportedModel) -> dict[str, str]:
    """The tags that say which model it was."""
    tags = {Tag.MODEL: model.name}
    if model.version is None:
        return tags | {Tag.UNREGISTERED: "true"}
    tags[Tag.MODEL_VERSION] = model.version
    return tags | ({Tag.LOGGED_MODEL: model.logged_model_id} if model.logged_model_id else {})


def _asked_for(results: ResultsFile) -> tuple[str, ...]:
    """What was asked for, as far as it can be told: groups and tasks that are no member of another group."""
    inside = {member for name in results.groups for member in results.members.get(name, ())}
    tops = [name for name in (*results.groups, *results.tasks) if name not in inside]
    return tuple(tops) or tuple(results.tasks)


def _params(results: ResultsFile, model: ImportedModel, tasks: list[str], scrubber: Scrubber) -> dict[str, str]:
    config = results.config
    shots = {entry.config.get("num_fewshot", entry.num_fewshot) for entry in results.tasks.values()}
    repeats = {entry.config.get("repeats") for entry in results.tasks.values()} - {1, None}
    values = {
        "model": model.label,
        "adapter": model.adapter,
        "model_args": model.arguments,
        "tasks": ",".join(tasks),
        "limit": results.limit,
        "offset": results.offset,
        "batch_size": config.get("batch_size"),
        "num_fewshot": next(iter(shots)) if len(shots) == 1 else None,
        "gen_kwargs": _arguments(config.get("gen_kwargs"), scrubber)[1],
        "repeats": next(iter(repeats)) if len(repeats) == 1 else None,
        **{f"seed.{name}": config.get(field) for name, field in _SEEDS.items()},
    }
    return {key: _text(value, scrubber, _PARAM_LIMIT) for key, value in values.items() if value not in (None, "")}
