"""Writes a finished task's files as the runner does (runner protocol 1), for tests of those who read them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Scores = Sequence[float | None]
FINGERPRINT = {
    "dataset": "d" * 64,
    "task_config": "c" * 64,
    "generation": "g" * 64,
    "num_fewshot": 0,
    "limit": None,
    "offset": 0,
    "lmms_eval": "0.7.3",
}


def doc_hash(number: int) -> str:
    """Stands for the content hash of document `number`."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def runner_name(task: str) -> str:
    """The task in a file name, as the runner escapes it."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else f".x{ord(c):04X}." for c in task)


def write_task(
    folder: Path,
    task: str,
    scores: Mapping[str, Scores],
    *,
    filter_name: str = "none",
    metrics: Sequence[Mapping[str, Any]] = (),
    columns: Mapping[str, Sequence[Any]] | None = None,
    slices: Sequence[Mapping[str, Any]] = (),
    higher_is_better: bool | None = True,
    hashes: Sequence[str] | None = None,
    row_keys: Sequence[str] | None = None,
    **changes: Any,
) -> Path:
    """Write tables and result of one task and return the result's path.

    Args:
        scores: metric → one score per document; the first metric is the primary one.
        metrics: further metrics, which have no scores per document.
        columns: further columns of the samples table.
        slices: slices of the primary metric: ``dimension``, ``value``, ``n``, ``score``.
        row_keys: the weaker keys; without them the tables look as earlier runners wrote them.
        changes: fields of the result to be written otherwise.
    """
    count = len(next(iter(scores.values()), ()))
    keys = list(hashes or [doc_hash(number) for number in range(count)])
    name = runner_name(task)
    for sub in ("tasks", "samples"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    columned = {f"score:{metric}:{filter_name}": pa.array(values, pa.float64()) for metric, values in scores.items()}
    ids = pa.array(range(count), pa.int64())
    rows = {} if row_keys is None else {"row_key": pa.array(row_keys, pa.string())}
    samples = {
        "doc_id": ids,
        "doc_hash": pa.array(keys, pa.string()),
        **rows,
        "input": pa.array([f"What is in picture {number}?" for number in range(count)], pa.string()),
        "target": pa.array([str(number) for number in range(count)], pa.string()),
        "responses": pa.array([[f"It is {number}."] for number in range(count)], pa.list_(pa.string())),
        f"filtered:{filter_name}": pa.array([str(number) for number in range(count)], pa.string()),
        **columned,
        **(columns or {}),
    }
    if "media" not in samples:
        media = pa.list_(pa.struct([("mime", pa.string()), ("data", pa.binary())]))
        samples["media"] = pa.array([[] for _ in range(count)], media)
    pq.write_table(pa.table(samples), folder / "samples" / f"{name}.parquet")
    order = np.argsort(np.asarray(keys, dtype=np.str_), kind="stable")
    scored = pa.table({"doc_hash": samples["doc_hash"], **rows, "doc_id": ids, **columned})
    pq.write_table(scored.take(pa.array(order, pa.int64())), folder / "samples" / f"{name}.scores.parquet")
    primary = next(iter(scores), None)
    result = {
        "protocol": 1,
        "task": task,
        "attempt": 1,
        "output_type": "generate_until",
        "samples": count,
        "documents": count,
        "metrics": [
            *(_metric(metric, filter_name, values, higher_is_better) for metric, values in scores.items()),
            *metrics,
        ],
        "primary": {"metric": primary, "filter": filter_name, "reason": "the only one"} if primary else None,
        "dimensions": sorted({str(piece["dimension"]) for piece in slices}),
        "fingerprint": FINGERPRINT,
        "slices": [{"metric": primary, "filter": filter_name, **piece} for piece in slices],
        "empty_responses": 0,
        "seconds": 1.5,
        "raw": {"alias": task},
        "samples_file": f"samples/{name}.parquet",
        "scores_file": f"samples/{name}.scores.parquet",
        **changes,
    }
    path = folder / "tasks" / f"{name}.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    return path


def _metric(metric: str, filter_name: str, values: Scores, higher_is_better: bool | None) -> dict[str, Any]:
    present = [value for value in values if value is not None and math.isfinite(value)]
    mean = float(np.mean(present)) if present else None
    deviation = float(np.std(present, ddof=1)) if len(present) > 1 else None
    return {
        "metric": metric,
        "filter": filter_name,
        "value": mean,
        "native": mean,
        "stderr": None if deviation is None else deviation / math.sqrt(len(present)),
        "factor": 1.0,
        "level": "sample",
        "scale": {"high": 1.0, "reason": "the mean of the samples' scores, which lie between 0 and 1"},
        "direction_reason": "the task says so",
        "mean": mean,
        "sd": deviation,
        "higher_is_better": higher_is_better,
        "aggregation": "mean",
        "per_sample": True,
        "binary": set(present) <= {0.0, 1.0},
        "n": len(present),
    }
