"""Small results, sound and unsound, as a task's rows and its entry in a results file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_lmms.reading.metric_key import MetricKey, reported_metrics
from mlflow_lmms.reading.primary_metric import choose_primary, find_metric
from mlflow_lmms.reading.result_warnings import MetricFacts, ResultWarning, TaskFacts
from mlflow_lmms.reading.sample_facts import SampleFacts, is_judged
from mlflow_lmms.reading.sample_scores import SampleScoreReader
from mlflow_lmms.reading.scale import direction, metric_scale
from mlflow_lmms.reading.warning_rules import expected_documents, task_warnings


@dataclass(frozen=True)
class Row:
    """One sample; its document id is its place unless said otherwise."""

    values: Mapping[str, Any]
    response: Any = None  # a text of its own
    target: Any = None
    input: str = "What is it?"
    doc_id: int | None = None
    options: int | None = None


@dataclass(frozen=True)
class Result:
    """A task's results entry and rows; `rows` None: there is no samples file."""

    entry: Mapping[str, Any]
    rows: Sequence[Row] | None
    output_type: str = "generate_until"
    aggregation: str | None = None
    higher_is_better: bool | None = True
    times_100: bool | None = None
    total: int | None = None
    limit: float | None = None
    wanted: str | None = None
    needs_judge: bool | None = None
    scale_matters: bool = False
    expected: Sequence[str] = field(default=())


def warnings_of(result: Result) -> list[ResultWarning]:
    """Read a result row by row, as runner and importer do, and return its warnings."""
    reported = reported_metrics(result.entry)
    readers = {key: SampleScoreReader() for key in reported}
    candidates = [key for key, own in reported.items() if own.value is not None]
    primary = choose_primary("bench", candidates, result.wanted)
    judged = is_judged((key.metric for key in reported), result.needs_judge)
    samples = SampleFacts(result.output_type, judged=judged)
    for index, row in enumerate(result.rows or ()):
        for key, reader in readers.items():
            reader.add(row.values.get(key.metric))
        samples.add(
            index if row.doc_id is None else row.doc_id,
            target=f"target {index}" if row.target is None else row.target,
            responses=row.response if isinstance(row.response, list) else [_text(row.response, index)],
            values=row.values,
            input_text=row.input,
            options=row.options,
        )
    total = result.total if result.total is not None or result.rows is None else len(result.rows)
    facts = TaskFacts(
        "bench",
        result.output_type,
        metrics=[_facts(result, key, own.value, readers[key], own.note) for key, own in reported.items()],
        primary=primary.key if primary else None,
        wanted=result.wanted,
        wanted_found=result.wanted is None or find_metric(candidates, result.wanted) is not None,
        samples_read=result.rows is not None,
        expected=expected_documents(total, result.limit),
        total=total,
        limit=result.limit,
        judge=result.needs_judge,
        scale_matters=result.scale_matters,
    )
    samples.fill(facts)
    return task_warnings(facts)


def _text(response: Any, index: int) -> Any:
    return f"response {index}" if response is None else response


def _facts(
    result: Result, key: MetricKey, value: float | None, reader: SampleScoreReader, note: str | None
) -> MetricFacts:
    reading = reader.reading(value)
    sums = reading.sums
    scale = metric_scale(
        "bench", key.metric, value, reading.factor, result.times_100, sums=sums, aggregation=result.aggregation
    )
    return MetricFacts(
        key,
        value,
        reading.factor,
        sums.n,
        sums.mean if sums.n else None,
        sums.n > 0 and sums.binary,
        sums.all_zero,
        result.aggregation,
        scale.high,
        direction(key.metric, result.higher_is_better)[0],
        note,
    )
