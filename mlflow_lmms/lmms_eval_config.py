"""Reads the YAML that lmms-eval's own ``--config`` takes as requests of ours. Pure but for the one file read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.request import EvaluationRequest

_SIZE_LIMIT = 1_000_000
_MOST_VALUES = 100_000
_SAME_NAME = ("model_args", "gen_kwargs", "tasks", "limit", "offset", "num_fewshot", "repeats")
#: Settings of lmms-eval that the queue takes care of itself, or that only change what is printed.
_OURS = frozenset(
    """output_path log_samples log_samples_suffix use_cache cache_requests verbosity process_with_media device
    show_config check_integrity write_out wandb_args timezone
    include_path config hf_hub_log_args process_docs_parallel wandb_log_samples swanlab_args
    swanlab_log_samples tui""".split()  # noqa: SIM905 (a list to read)
)
_SEEDS = ("python", "numpy", "torch", "fewshot")


def read_lmms_eval_config(path: Path, overrides: Mapping[str, Any] | None = None) -> list[EvaluationRequest]:
    """Read a configuration file: one request for each of its entries (a mapping, or a list of them).

    Args:
        overrides: request fields that win over the file's.

    Raises:
        InvalidRequestError: the file cannot be read, or an entry asks for what the queue cannot give.
    """
    try:
        large = path.stat().st_size > _SIZE_LIMIT
        content = None if large else yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidRequestError(f"{path} cannot be read as YAML: {error}") from None
    if large:
        raise InvalidRequestError(f"{path} is larger than 1 MB, which no evaluation config is")
    _refuse_unfolding(content, path)
    entries = content if isinstance(content, list) else [content]
    return [_request(entry, f"{path}, entry {n}", overrides or {}) for n, entry in enumerate(entries, start=1)]


def _refuse_unfolding(content: Any, path: Path) -> None:
    """A few lines of aliases can stand for more values than any memory holds: they are counted first."""
    left, count = [content], 1
    while left:
        value = left.pop()
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += len(inside)
        if count > _MOST_VALUES:
            raise InvalidRequestError(
                f"{path} unfolds to more than {_MOST_VALUES} values, which no evaluation config does"
            )
        left.extend(inside)


def _request(entry: Any, where: str, overrides: Mapping[str, Any]) -> EvaluationRequest:
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        raise InvalidRequestError(f"{where}: expected a mapping of lmms-eval's arguments, got {type(entry).__name__}")
    try:
        fields = request_fields({key.replace("-", "_"): value for key, value in entry.items()})
        return EvaluationRequest.parse({**fields, **overrides})
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{where}: {error}") from None


def request_fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Our request's fields for lmms-eval's arguments, by their long names with underscores.

    Raises:
        InvalidRequestError: an argument that the queue cannot honour, by name.
    """
    fields: dict[str, Any] = {}
    for name, value in arguments.items():
        if value is None or value is False or value == "" or name in _OURS:
            continue
        if name in _SAME_NAME:
            fields[name] = _limit(value) if name == "limit" else value
        elif name == "model":
            fields["model" if str(value).startswith("models:/") else "adapter"] = value
        elif name == "batch_size":
            fields[name] = _batch_size(value)
        elif name == "seed":
            fields["seeds"] = _seeds(value)
        elif name in EvaluationRequest.model_fields:
            fields[name] = value
        elif name == "env":
            raise InvalidRequestError(
                "env is not taken, because a request is stored: set the variables on the worker's box, and name "
                "those that are secret with secrets"
            )
        else:
            raise InvalidRequestError(
                f"lmms-eval's argument {name}={value!r} is not supported in the queue: leave it out"
            )
    return fields


def _limit(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidRequestError(f"limit is a number of documents, got {value!r}") from None
    if number == -1:
        return None
    if not number.is_integer():
        raise InvalidRequestError(
            f"limit={value!r} is a share of the documents, which lmms-eval applies wrongly to several tasks (it "
            "uses the first task's count for all): give a number of documents"
        )
    return int(number)


def _batch_size(value: Any) -> Any:
    if str(value).startswith("auto"):
        raise InvalidRequestError(
            f"batch_size={value!r}: the queue takes a number, because `auto` differs between boxes"
        )
    return value


def _seeds(value: Any) -> dict[str, int]:
    """As lmms-eval does: one seed for all, or one each, of which the last may be left out; but none may be unset."""
    given = value if isinstance(value, list) else str(value).split(",")
    try:
        seeds = [int(seed) for seed in given]
    except (TypeError, ValueError):
        seeds = []
    if len(seeds) == 1:
        seeds *= len(_SEEDS)
    if len(seeds) not in (3, 4):
        raise InvalidRequestError(f"seed is one number, or one each for {', '.join(_SEEDS)}; got {value!r}")
    return dict(zip(_SEEDS, seeds, strict=False))
