"""What must agree before two results of a task may be compared.

Owns the hashes of data, task and generation settings. They hold on every machine: no path, no memory address.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from lmms_eval.caching.response_cache import fingerprint_callable

from worker.runner.request import RunRequest

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Said elsewhere in the fingerprint, or where the data lies rather than what it is.
_NOT_TASK = frozenset(
    ("dataset_path", "dataset_name", "dataset_kwargs", "generation_kwargs", "num_fewshot", "repeats", "metadata")
)


def fingerprint(
    task: Any,
    document_hashes: Iterable[str],
    row_keys: Iterable[str],
    request: RunRequest,
    filter_name: str | None,
    judge: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Describe what this result was made of; `filter_name` is its primary metric's."""
    config = vars(task.config)
    generation = {name: config.get(name) for name in ("generation_kwargs", "repeats", "output_type")}
    return {
        "dataset": _sha256("\n".join(sorted(document_hashes))),
        "rows": _sha256("\n".join(sorted(row_keys))),
        "task_config": _digest({name: value for name, value in config.items() if name not in _NOT_TASK}),
        "generation": _digest(generation),
        "num_fewshot": config.get("num_fewshot"),
        "limit": request.limit,
        "offset": request.offset,
        "filter": filter_name,
        "judge": judge,
        "lmms_eval": version("lmms_eval"),
        "origin": "run",
    }


def _digest(value: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(_stable(value), sort_keys=True, ensure_ascii=False))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _stable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _stable(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    if callable(value):
        return _ADDRESS.sub("", fingerprint_callable(value))
    if value is None or isinstance(value, str | bool | int | float):
        return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
    return _ADDRESS.sub("", str(value))
