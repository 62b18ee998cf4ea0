"""What the runner writes for one finished task: read from its JSON file and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mlflow_lmms.errors import UnreadableOutputError

_LIMIT = 64 * 1024 * 1024


class MetricResult(BaseModel):
    """One metric of one filter; `value` is lmms-eval's own aggregate, `stderr` its own too."""

    model_config = ConfigDict(frozen=True)

    metric: str
    filter: str
    value: float | None
    stderr: float | None = None
    higher_is_better: bool | None = None
    aggregation: str = ""
    per_sample: bool = False
    binary: bool = False
    n: int = 0


class PrimaryMetric(BaseModel):
    """The metric that stands for the task, and why this one."""

    model_config = ConfigDict(frozen=True)

    metric: str
    filter: str
    reason: str


class SliceResult(BaseModel):
    """The mean of one metric over the documents with one value of a dimension."""

    model_config = ConfigDict(frozen=True)

    dimension: str
    value: str
    metric: str
    filter: str
    n: int
    score: float


class TaskResult(BaseModel):
    """One finished task."""

    model_config = ConfigDict(frozen=True)

    protocol: int
    task: str
    attempt: int
    output_type: str
    samples: int
    documents: int
    metrics: tuple[MetricResult, ...]
    primary: PrimaryMetric | None
    dimensions: tuple[str, ...] = ()
    fingerprint: dict[str, Any]
    slices: tuple[SliceResult, ...] = ()
    empty_responses: int = 0
    seconds: float = 0.0
    raw: dict[str, Any] = {}
    samples_file: str
    scores_file: str

    @property
    def primary_metric(self) -> MetricResult | None:
        """The result of the primary metric."""
        for metric in self.metrics:
            if self.primary and (metric.metric, metric.filter) == (self.primary.metric, self.primary.filter):
                return metric
        return None


def read_task_result(path: Path) -> TaskResult:
    """Read one task's result.

    Raises:
        UnreadableOutputError: the file is missing, too large, or not what the runner writes.
    """
    try:
        if path.stat().st_size > _LIMIT:
            raise UnreadableOutputError(f"{path} is larger than {_LIMIT >> 20} MiB, which no task result is")
        return TaskResult.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise UnreadableOutputError(f"{path} is no task result of the runner: {error}") from None
