"""The two files that hold all tasks of a run, `results.json` and `slices.parquet`, made from the tasks' own results.

Owns their form. The tasks' results are the truth: these files can be made anew from them at any time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_lmms.metric_interval import slice_interval
from mlflow_lmms.task_result import SliceResult, TaskResult

_SLICES = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "dimension", "value", "metric", "filter")),
        ("n", pa.int64()),
        *((name, pa.float64()) for name in ("score", "low", "high")),
        ("method", pa.string()),
    ]
)


def write_results(file: Path, results: Sequence[TaskResult], groups: Mapping[str, Any]) -> None:
    """Write lmms-eval's own entries of all tasks, and our groups' scores."""
    document = {"results": {result.task: result.raw for result in results}, "groups": groups}
    file.write_text(json.dumps(finite(document), indent=1, allow_nan=False), encoding="utf-8")


def write_slices(file: Path, results: Sequence[TaskResult]) -> None:
    """Write the slices of all tasks with their intervals."""
    rows = [_row(result, piece) for result in results for piece in result.slices]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SLICES), file, compression="zstd")


def _row(result: TaskResult, piece: SliceResult) -> dict[str, Any]:
    metric = result.metric(piece.metric, piece.filter)
    interval = slice_interval(piece, metric) if metric is not None else None
    told = {name: getattr(piece, name) for name in ("dimension", "value", "metric", "filter", "n", "score")}
    if interval is None:
        return {"task": result.task, **told, "low": None, "high": None, "method": None}
    return {"task": result.task, **told, "low": interval.low, "high": interval.high, "method": interval.method}


def finite(value: Any) -> Any:
    """Return JSON without NaN and infinity, which are no JSON: null in their place."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
