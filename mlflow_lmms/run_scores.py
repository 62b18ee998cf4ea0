"""The rows of the score index that one MLflow run makes, and a digest that changes when they may. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mlflow.entities import Run

from mlflow_lmms.names import MetricName, Tag, cut
from mlflow_lmms.recorded_run import (
    CLIENT,
    is_partial,
    metric_values,
    model_label,
    recorded_tasks,
    suite_of,
    tag_object,
)
from mlflow_lmms.run_tables import OURS
from mlflow_lmms.sql.schema import ScoreRow

#: Part of every digest: with another number the next sweep reads all runs anew. Raise it with the rows.
_EDITION = 1
_LONGEST = 500
_SOURCE_LONGEST = 16
#: The largest number of samples that the column holds; metrics may say anything.
_MOST = 2**31 - 1
#: The params that rows depend on.
_PARAMS = ("limit", "offset")
_OF_MLFLOW = "mlflow."


def is_ours(run: Run) -> bool:
    """Whether the run carries any tag of ours."""
    return any(key.startswith(OURS) for key in run.data.tags)


def is_deleted(run: Run) -> bool:
    """Whether the run was deleted (and could be restored)."""
    return bool(run.info.lifecycle_stage == "deleted")


def digest_of(run: Run) -> str:
    """The same text as long as the run makes the same rows."""
    info, data = run.info, run.data
    told = [
        _EDITION,
        [info.lifecycle_stage, str(info.experiment_id), info.run_name, info.start_time],
        sorted(item for item in data.tags.items() if not item[0].startswith(_OF_MLFLOW)),
        [data.params.get(name) for name in _PARAMS],
        sorted(data.metrics.items()),
    ]
    return blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


def score_rows(run: Run, attempts: Mapping[str, int]) -> list[ScoreRow]:
    """The run's scores; none of a deleted run.

    Args:
        attempts: of tasks whose run came from our queue.
    """
    if is_deleted(run):
        return []
    values = {name: value for name, value in metric_values(run).items() if math.isfinite(value)}
    of_run = {
        "run_id": run.info.run_id,
        "experiment_id": str(run.info.experiment_id),
        "model": indexed_model(run),
        "suite": cut(suite_of(run)),
        "source": indexed_source(run),
        "reported_source": run.data.tags.get(Tag.REPORTED_SOURCE, "")[:_LONGEST] or None,
    }
    told = {task: _Told.of(run, task, attempts.get(task, 1)) for task in recorded_tasks(run.data.tags)}
    return [
        _row(name, value, values, told[name.task], of_run)
        for name, value in values.items()
        if name.statistic is None and name.task in told
    ]


def indexed_model(run: Run) -> str:
    """The model as the index's tables hold it."""
    return model_label(run)[:_LONGEST]


def indexed_source(run: Run) -> str:
    """Who wrote the run, as the index's tables hold it."""
    return str(run.data.tags.get(Tag.SOURCE) or CLIENT)[:_SOURCE_LONGEST]


def suite_revision(run: Run) -> int | None:
    """The revision of the suite that the run was asked for with."""
    told = run.data.tags.get(Tag.SUITE_REVISION, "")
    return int(told) if told.isascii() and told.isdecimal() and len(told) < 10 else None


@dataclass(frozen=True)
class _Told:
    """What the run's tags tell of one task; read once, because parsing costs more than the rows."""

    primary: dict[str, Any]
    of_task: dict[str, Any]
    of_primary: dict[str, Any]
    of_others: dict[str, Any]

    @staticmethod
    def of(run: Run, task: str, attempt: int) -> _Told:
        primary = tag_object(run.data.tags, Tag.primary(task))
        of_task = {
            "partial": is_partial(run, task),
            "attempt": attempt,
            "fingerprint": json.dumps(tag_object(run.data.tags, Tag.fingerprint(task))),
            "recorded_at": _number(primary.get("recorded_at")) or (run.info.start_time or 0) / 1000,
        }
        return _Told(primary, of_task, _of_metric(primary), _of_metric({}))


def _of_metric(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "higher_is_better": _truth(told.get("higher_is_better")),
        "warnings": json.dumps(_warning_names(told.get("warnings"))),
        "factor": _number(told.get("factor")),
        "scale_high": _scale_high(told.get("scale")),
    }


def _row(
    name: MetricName, value: float, values: Mapping[MetricName, float], told: _Told, of_run: Mapping[str, Any]
) -> ScoreRow:
    count = values.get(name.of("n"))
    is_primary = (told.primary.get("metric"), told.primary.get("filter")) == (name.metric, name.filter)
    return ScoreRow(
        task=name.task,
        metric=name.metric,
        filter=name.filter,
        dimension=cut(name.dimension or ""),
        slice=cut(name.value or ""),
        value=value,
        low=values.get(name.of("ci_low")),
        high=values.get(name.of("ci_high")),
        n=int(count) if count is not None and 0 <= count <= _MOST else None,
        primary=is_primary,
        **of_run,
        **told.of_task,
        **(told.of_primary if is_primary else told.of_others),
    )


def _warning_names(told: Any) -> list[str]:
    items = told if isinstance(told, list) else []
    names = [item.get("name") if isinstance(item, dict) else item for item in items]
    return [name for name in names if isinstance(name, str)]


def _scale_high(told: Any) -> float | None:
    return _number(told.get("high") if isinstance(told, dict) else told)


def _number(told: Any) -> float | None:
    if isinstance(told, bool) or not isinstance(told, int | float) or not math.isfinite(told):
        return None
    return float(told)


def _truth(told: Any) -> bool | None:
    return told if isinstance(told, bool) else None
