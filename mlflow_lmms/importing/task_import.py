"""Turns one task of a results file, and its samples file, into the files that the runner writes for a task.

Owns the order of the steps and the task's document; one task's samples are read once and never held.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlflow_lmms.catalogue.dimensions import declared_dimensions
from mlflow_lmms.importing.fingerprints import file_fingerprint
from mlflow_lmms.importing.json_files import plain
from mlflow_lmms.importing.results_file import LM_EVAL, ResultsFile, TaskEntry
from mlflow_lmms.importing.sample_spool import DocumentSpool
from mlflow_lmms.importing.sample_tables import TableLayout, TableSums, write_tables
from mlflow_lmms.importing.samples_reader import SamplesReader
from mlflow_lmms.importing.scrubbed import scrub_tree
from mlflow_lmms.importing.task_findings import slices_of, warnings_of
from mlflow_lmms.importing.task_metrics import ImportedMetric, MetricEvidence, import_metric
from mlflow_lmms.names import escape
from mlflow_lmms.reading.errored import ErroredPolicy
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.primary_metric import Primary, choose_primary
from mlflow_lmms.reading.result_warnings import ResultWarning
from mlflow_lmms.reading.sample_facts import is_judged
from mlflow_lmms.reading.slice_sums import PROMPT_LENGTH, DimensionSlices
from mlflow_lmms.scrubbing import Scrubber
from mlflow_lmms.task_result import RESULT_PROTOCOL

#: Told how many lines of the samples file have been read.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class TaskOptions:
    """What the user asked for that concerns one task."""

    primary: str | None = None
    dimensions: tuple[str, ...] = ()
    policy: ErroredPolicy = field(default_factory=ErroredPolicy)


@dataclass(frozen=True)
class ImportedTask:
    """A task that has been read; its tables are written, its document is not yet."""

    name: str
    documents: int
    samples: int
    metrics: Mapping[MetricKey, ImportedMetric]
    primary: Primary | None
    warnings: tuple[ResultWarning, ...]
    failed: str | None
    document: Mapping[str, Any]
    samples_table: Path

    @property
    def best(self) -> ImportedMetric | None:
        """The primary metric."""
        return self.metrics[self.primary.key] if self.primary else None


class TaskImport:
    """Imports the tasks of one results file into a folder."""

    def __init__(self, results: ResultsFile, folder: Path, scrubber: Scrubber) -> None:
        self._results = results
        self._folder = folder
        self._scrubber = scrubber
        for name in ("tasks", "samples"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def read(
        self, entry: TaskEntry, samples: Path | None, options: TaskOptions, scratch: Path, progress: Progress
    ) -> ImportedTask:
        """Read the task and write its tables.

        Raises:
            RefusedFileError: the samples file is not sound.
        """
        candidates = [key for key, metric in entry.metrics.items() if metric.value is not None]
        primary = choose_primary(entry.name, candidates, options.primary)
        spool = DocumentSpool(scratch)
        try:
            reader = SamplesReader(
                entry,
                primary.key if primary else None,
                options.dimensions or tuple(declared_dimensions(dict(entry.config))),
                options.policy,
                is_judged([key.metric for key in entry.metrics], None),
                spool,
                holds_documents=self._results.origin == LM_EVAL,
            )
            if samples is not None:
                for lines in reader.read(samples):
                    progress(lines)
            layout, slices = self._plan(entry, reader, primary, options.policy)
            sums = self._write_tables(entry, spool, layout, scratch)
        finally:
            spool.close()
        metrics = self._metrics(entry, reader, sums, options.policy)
        warnings = warnings_of(
            self._results, entry, reader, metrics, primary, options.primary, read=samples is not None
        )
        document = {
            **self._facts(entry, reader, sums, primary, hashed=layout.hashed),
            **self._findings(reader, metrics, primary, options.policy),
            **slices_of(slices, metrics.get(primary.key) if primary else None),
        }
        return ImportedTask(
            name=entry.name,
            documents=reader.documents,
            samples=reader.rows,
            metrics=metrics,
            primary=primary,
            warnings=tuple(warnings),
            failed=next((own.outcome.failed for own in metrics.values() if own.outcome.failed), None),
            document=document,
            samples_table=self._folder / document["samples_file"],
        )

    def write(self, task: ImportedTask) -> Path:
        """Write the task's document, which makes its files whole; return its path."""
        file = self._folder / "tasks" / f"{escape(task.name)}.json"
        document = {**task.document, "warnings": [warning.document() for warning in task.warnings]}
        content = scrub_tree(self._scrubber, plain(document))
        file.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1), encoding="utf-8")
        # MLflow shows when a score was made, not when it was imported.
        os.utime(file, (self._results.ended_at, self._results.ended_at))
        return file

    def _plan(
        self, entry: TaskEntry, reader: SamplesReader, primary: Primary | None, policy: ErroredPolicy
    ) -> tuple[TableLayout, list[DimensionSlices]]:
        readings = {key: reader.scores[key].reading(own.value) for key, own in entry.metrics.items()}
        derivations = {
            key: reading.derivation.name if reading.derivation else "direct"
            for key, reading in readings.items()
            if reading.derivation or reading.sums.n
        }
        reading = readings.get(primary.key) if primary else None
        slices = reader.slices.slices(reading.derivation.name if reading and reading.derivation else None)
        dimensions = tuple(
            own.dimension.name
            for own in slices
            if own.dimension.source in ("scoring", "declared") and own.dimension.name not in reader.columns
        )
        columns = {name: _column_type(kinds) for name, kinds in reader.columns.items()}
        layout = TableLayout(
            filters=reader.filters,
            places=reader.keys,
            derivations=derivations,
            accepted=tuple(key for key, own in readings.items() if own.factor is not None),
            columns=columns | dict.fromkeys(dimensions, pa.string()),
            dimensions=dimensions,
            tokens=(reader.has_tokens[0], reader.has_tokens[1]),
            hashed=reader.hashed,
            documents=reader.documents,
            clustered=isinstance(entry.config.get("cluster_key"), str),
            groups=tuple(own.dimension.name for own in slices if not own.dimension.outcome),
            prompt_lengths=reader.slices.length_names(PROMPT_LENGTH),
            wrong_if_errored=policy.policy == "wrong",
            without_errored=policy.policy == "drop",
        )
        return layout, slices

    def _write_tables(self, entry: TaskEntry, spool: DocumentSpool, layout: TableLayout, scratch: Path) -> TableSums:
        name = escape(entry.name)
        samples = self._folder / "samples" / f"{name}.parquet"
        scores = self._folder / "samples" / f"{name}.scores.parquet"
        return write_tables(spool, layout, self._scrubber, samples, scores, scratch)

    def _metrics(
        self, entry: TaskEntry, reader: SamplesReader, sums: TableSums, policy: ErroredPolicy
    ) -> dict[MetricKey, ImportedMetric]:
        errored = sum(reader.errored.values())
        return {
            key: import_metric(
                entry,
                reported,
                MetricEvidence(
                    reading=reader.scores[key].reading(reported.value),
                    sound=sums.sound.get(key),
                    errored=sums.errored.get(key),
                    errored_rows=errored,
                    rows=reader.with_value(key),
                    documents=reader.documents,
                    clusters=sums.clusters[key].stderr() if key in sums.clusters else None,
                ),
                policy,
            )
            for key, reported in entry.metrics.items()
        }

    def _facts(
        self, entry: TaskEntry, reader: SamplesReader, sums: TableSums, primary: Primary | None, *, hashed: bool
    ) -> dict[str, Any]:
        name = escape(entry.name)
        tokens = {**reader.usage, "samples": reader.documents} if any(reader.has_tokens) else None
        return {
            "protocol": RESULT_PROTOCOL,
            "task": entry.name,
            "attempt": 1,
            "output_type": entry.output_type,
            "samples": reader.documents,
            "documents": entry.size or entry.documents or reader.documents,
            "pairing": "content" if hashed else "row",
            "fingerprint": file_fingerprint(
                self._results, entry, sums if reader.rows else None, primary.key.filter if primary else None
            ),
            "judge": None,
            "usage": tokens,
            "empty_responses": reader.errored["blank answer"],
            "seconds": round((self._results.seconds or 0.0) / len(self._results.tasks), 3),
            "raw": entry.raw,
            "stability": None,
            "samples_file": f"samples/{name}.parquet",
            "scores_file": f"samples/{name}.scores.parquet",
        }

    def _findings(
        self,
        reader: SamplesReader,
        metrics: Mapping[MetricKey, ImportedMetric],
        primary: Primary | None,
        policy: ErroredPolicy,
    ) -> dict[str, Any]:
        return {
            "metrics": [metric.document() for metric in metrics.values()],
            "primary": None if primary is None else {**primary.key._asdict(), "reason": primary.reason},
            "errored": {
                "count": sum(reader.errored.values()),
                "reasons": dict(reader.errored.most_common()),
                "policy": policy.policy,
                "fail_above": policy.fail_above,
            },
        }


def _column_type(kinds: set[type]) -> pa.DataType:
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()
