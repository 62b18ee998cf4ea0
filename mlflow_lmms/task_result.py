"""What the runner writes for one finished task: read from its JSON file and checked.

Files of earlier runs stay readable: what they do not tell has its default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mlflow_lmms.errors import UnreadableOutputError
from mlflow_lmms.reading.result_warnings import WarningName

_LIMIT = 64 * 1024 * 1024


class Scale(BaseModel):
    """The upper end of a metric (1: a fraction, 100: a percentage; None: unknown), and how that is known."""

    model_config = ConfigDict(frozen=True)

    high: float | None = None
    reason: str = "unknown"


class MetricResult(BaseModel):
    """One metric of one filter.

    `native` is lmms-eval's own aggregate and `stderr` its own too; `value` is what the run's policy for errored
    samples makes of it. `factor` × mean of the samples' scores is the native value (None: it is not); `mean`, `sd`
    and `clustered_stderr` are in the samples' units. `low` and `high` only where the runner bootstrapped them.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    filter: str
    value: float | None
    native: float | None = None
    stderr: float | None = None
    factor: float | None = None
    level: Literal["sample", "corpus", "none"] = "sample"
    scale: Scale = Scale()
    higher_is_better: bool | None = None
    direction_reason: str = ""
    aggregation: str = ""
    per_sample: bool = False
    binary: bool = False
    n: int = 0
    missing: int = 0
    errored: int = 0
    mean: float | None = None
    sd: float | None = None
    clusters: int | None = None
    clustered_stderr: float | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    note: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fill in what earlier runners left out: their per-sample scores had the factor 1."""
        if not isinstance(data, dict) or "factor" in data:
            return data
        per_sample = bool(data.get("per_sample"))
        told = {"factor": 1.0 if per_sample else None, "level": "sample" if per_sample else "corpus"}
        return {**told, "native": data.get("value"), "mean": data.get("value") if per_sample else None, **data}


class PrimaryMetric(BaseModel):
    """The metric that stands for the task, and why this one."""

    model_config = ConfigDict(frozen=True)

    metric: str
    filter: str
    reason: str


class SliceResult(BaseModel):
    """One metric over the documents with one value of a dimension, in the units of the metric's value.

    `sd` is in the samples' units; `low` and `high` only where the runner bootstrapped them.
    """

    model_config = ConfigDict(frozen=True)

    dimension: str
    value: str
    metric: str
    filter: str
    n: int
    score: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None


class TaskWarning(BaseModel):
    """One warning: its class (`mlflow_lmms.reading.result_warnings`), a sentence, how many of how many, examples."""

    model_config = ConfigDict(frozen=True)

    name: str
    message: str
    count: int | None = None
    of: int | None = None
    examples: tuple[str, ...] = ()


class ErroredSamples(BaseModel):
    """How many samples tell nothing of the model, why, and what the run's policy for them is."""

    model_config = ConfigDict(frozen=True)

    count: int = 0
    reasons: dict[str, int] = {}
    policy: str = "as_scored"
    fail_above: float | None = None


class StabilityResult(BaseModel):
    """How steady k repeated answers are (`mlflow_lmms.reading.stability`); `note` says what is missing, and why."""

    model_config = ConfigDict(frozen=True)

    k: int
    metric: str
    filter: str
    EA: float | None = None
    CA: float | None = None
    IV: float | None = None
    CR: float | None = None
    note: str | None = None


class DimensionSource(BaseModel):
    """Where a dimension's values come from; `outcome`: they depend on the model's answers."""

    model_config = ConfigDict(frozen=True)

    source: str
    outcome: bool = False


#: Version of the form in which a runner writes a result.
RESULT_PROTOCOL = 1


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
    dimension_sources: dict[str, DimensionSource] = {}
    fingerprint: dict[str, Any]
    slices: tuple[SliceResult, ...] = ()
    warnings: tuple[TaskWarning, ...] = ()
    errored: ErroredSamples = ErroredSamples()
    stability: StabilityResult | None = None
    usage: dict[str, int] | None = None
    judge: dict[str, Any] | None = None
    pairing: Literal["content", "row"] = "content"
    empty_responses: int = 0
    seconds: float = 0.0
    raw: dict[str, Any] = {}
    samples_file: str
    scores_file: str

    @property
    def primary_metric(self) -> MetricResult | None:
        """The result of the primary metric."""
        return None if self.primary is None else self.metric(self.primary.metric, self.primary.filter)

    def metric(self, name: str, filter_name: str) -> MetricResult | None:
        """The result of one metric under one filter."""
        for metric in self.metrics:
            if (metric.metric, metric.filter) == (name, filter_name):
                return metric
        return None

    @property
    def partial(self) -> bool:
        """Whether the run was limited to a part of the task's documents; rows that got lost are another matter."""
        if any(warning.name == WarningName.PARTIAL_RUN for warning in self.warnings):
            return True
        limited = self.fingerprint.get("limit") is not None or bool(self.fingerprint.get("offset"))
        return limited and "origin" not in self.fingerprint  # of an earlier release, which had no warnings


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
