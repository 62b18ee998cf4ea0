"""What a result read from files was made of, in the parts that live results have. Pure.

Owns which of those parts a file can tell: the task's code stays unknown, and prompts are covered by the rows' hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from mlflow_lmms.importing.results_file import LMMS_EVAL, ResultsFile, TaskEntry
from mlflow_lmms.importing.sample_tables import TableSums

_GENERATION = ("generation_kwargs", "repeats", "output_type")


def file_fingerprint(
    results: ResultsFile, entry: TaskEntry, sums: TableSums | None, filter_name: str | None
) -> dict[str, Any]:
    """Describe a task's result; `sums` None: there were no samples."""
    return {
        "dataset": sums.dataset if sums else None,
        "rows": sums.rows if sums else None,
        "task_config": None,
        "generation": _digest({name: entry.config.get(name) for name in _GENERATION}) if entry.config else None,
        "num_fewshot": entry.config.get("num_fewshot", entry.num_fewshot),
        "limit": results.limit,
        "offset": results.offset,
        "filter": filter_name,
        "lmms_eval": results.version if results.origin == LMMS_EVAL else None,
        "origin": results.origin,
    }


def _digest(value: Mapping[str, Any]) -> str:
    """As the runner does it over the live task's settings."""
    text = json.dumps(_stable(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()


def _stable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _stable(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_stable(item) for item in value]
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
