"""What is said of an imported task beside its numbers: its warnings, and its slices. Pure.

Owns which facts a file can tell; thresholds and words are `mlflow_lmms.reading`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow_lmms.importing.results_file import ResultsFile, TaskEntry
from mlflow_lmms.importing.samples_reader import SamplesReader
from mlflow_lmms.importing.task_metrics import ImportedMetric
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.primary_metric import Primary, find_metric
from mlflow_lmms.reading.result_warnings import ResultWarning, TaskFacts, WarningName
from mlflow_lmms.reading.sample_facts import is_judged
from mlflow_lmms.reading.slice_sums import DimensionSlices
from mlflow_lmms.reading.warning_rules import expected_documents, task_warnings


def warnings_of(
    results: ResultsFile,
    entry: TaskEntry,
    reader: SamplesReader,
    metrics: Mapping[MetricKey, ImportedMetric],
    primary: Primary | None,
    wanted: str | None,
    *,
    read: bool,
) -> list[ResultWarning]:
    """The warnings that the task calls for; `wanted` is the user's primary metric, `read`: there are samples."""
    candidates = [key for key, metric in entry.metrics.items() if metric.value is not None]
    facts = TaskFacts(
        task=entry.name,
        output_type=entry.output_type,
        metrics=[metric.facts() for metric in metrics.values()],
        primary=primary.key if primary else None,
        wanted=wanted,
        wanted_found=wanted is None or find_metric(candidates, wanted) is not None,
    )
    reader.facts.fill(facts)
    facts.samples_read = read
    facts.duplicates = reader.duplicate_evidence()
    facts.total, facts.limit, facts.offset = entry.size, results.limit, results.offset
    facts.documents = reader.documents if read else entry.documents or 0
    facts.expected = _expected(entry, results.limit, results.offset)
    facts.judge = is_judged([key.metric for key in entry.metrics], None)
    facts.scale_matters = results.in_plain_group(entry.name)
    warnings = task_warnings(facts)
    return [_two_runs(own) if reader.two_runs() else own for own in warnings]


def _two_runs(warning: ResultWarning) -> ResultWarning:
    if warning.name is not WarningName.DUPLICATE_IDS:
        return warning
    message = (
        "Nearly every document is there more often than the task has filters: two evaluations wrote into this one "
        "file in the same second, and whose a row is cannot be told."
    )
    return replace(warning, message=message)


def _expected(entry: TaskEntry, limit: float | None, offset: int) -> int | None:
    """How many documents the file should hold; lmms-eval's own count knows nothing of an offset."""
    if entry.documents is None or entry.size is None or not offset:
        return entry.documents
    whole = int(limit) if limit is not None and limit >= 1 else None
    return expected_documents(entry.size, whole, offset)


def slices_of(slices: Sequence[DimensionSlices], best: ImportedMetric | None) -> dict[str, Any]:
    """The dimensions and their groups' scores, in the units of the primary metric's value."""
    factor = best.reading.factor if best else None
    scored = [
        {
            "dimension": own.dimension.name,
            **best.key._asdict(),
            "value": piece.value,
            "n": piece.scores.n,
            "score": piece.scores.mean * factor,
            "sd": piece.scores.sd,
        }
        for own in slices
        for piece in own.slices
        if best is not None and factor is not None and piece.scores.n
    ]
    return {
        "dimensions": [own.dimension.name for own in slices],
        "dimension_sources": {
            own.dimension.name: {"source": own.dimension.source, "outcome": own.dimension.outcome} for own in slices
        },
        "slices": scored,
    }
