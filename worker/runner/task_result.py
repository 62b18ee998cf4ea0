"""The result of one task and the files it is kept in.

Owns the TaskResult document of protocol version 1 and the order in which its files appear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from worker.runner.document_records import DocumentRecord, PictureBudget, read_documents
from worker.runner.events import PROTOCOL
from worker.runner.fingerprint import fingerprint
from worker.runner.judge import judge_of
from worker.runner.output_files import escape, plain, write_json
from worker.runner.progress import Progress
from worker.runner.request import RunRequest
from worker.runner.sample_evidence import warnings_of
from worker.runner.samples import samples_table, scores_table, write_table
from worker.runner.slicing import (
    Slicing,
    cluster_ids,
    corpus_slices,
    declared_dimensions,
    sample_slices,
    slicing,
)
from worker.runner.task_metrics import Metric, Outcome, clustered
from worker.runner.task_reading import TaskReading, look_into_corpus_metrics, read_stability, read_task

# Pictures are a courtesy: a task whose pictures are costly to make gets some, not a second run's worth of work.
_PICTURE_S, _PICTURE_SHARE = 5.0, 0.05
_RAW_CHARACTERS = 1_000_000  # of an aggregate that is a list or an object; a few tasks return their whole table

Log = Callable[[str, str], None]


class ResultWriter:
    """Writes the files of finished tasks into the output folder, the result itself last."""

    def __init__(self, request: RunRequest, progress: Progress, log: Log) -> None:
        self._request = request
        self._progress = progress
        self._log = log

    def write(self, outcome: Outcome, cli_args: Any) -> tuple[str, Metric | None]:
        """Write samples, scores and result; return the result's path in the output folder and the primary metric."""
        reading = read_task(outcome, self._request)
        records = self._read_documents(outcome, reading.best)
        asked = (*self._request.dimensions.get(outcome.name, ()), *declared_dimensions(outcome.task))
        cut = slicing(outcome, records, reading.best, tuple(dict.fromkeys(asked)))
        clusters = cluster_ids(outcome, records, reading.best)
        if clusters is not None:
            reading = reading.with_metrics({key: clustered(own, clusters) for key, own in reading.metrics.items()})
        reading, slices = self._slices(outcome, cli_args, reading, cut, clusters)
        files, table = self._write_tables(outcome, reading, records, cut, clusters)
        document = {
            **self._facts(outcome, reading, table),
            **self._findings(outcome, reading),
            "stability": read_stability(outcome, cli_args, reading.best),
            "dimensions": list(cut.columns),
            "dimension_sources": {
                name: {"source": own.source, "outcome": own.outcome} for name, own in cut.dimensions.items()
            },
            "slices": slices,
            **files,
        }
        for name in cut.unmet:
            self._log("WARNING", f"{outcome.name}: no column {name!r} that cuts its documents, which was asked for")
        self._log_notes(outcome.name, document)
        result = f"tasks/{escape(outcome.name)}.json"
        write_json(self._request.output_folder / result, document)
        return result, reading.best

    def _read_documents(self, outcome: Outcome, best: Metric | None) -> dict[int, DocumentRecord]:
        order = _most_telling_first(outcome.rows.doc_ids, best)
        self._progress.expect(len(order))
        budget = PictureBudget(self._request.thumbnail_bytes, max(_PICTURE_S, _PICTURE_SHARE * outcome.seconds))
        return read_documents(outcome.task, order, budget, self._progress.advance)

    def _slices(
        self, outcome: Outcome, cli_args: Any, reading: TaskReading, cut: Slicing, clusters: Sequence[Any] | None
    ) -> tuple[TaskReading, list[dict[str, Any]]]:
        reading, corpus = look_into_corpus_metrics(
            outcome, cli_args, reading, cut.columns, clusters, self._request.errored
        )
        if reading.best is None:
            return reading, []
        if corpus is not None:
            return reading, corpus_slices(reading.best, corpus.slices)
        return reading, sample_slices(cut.columns, reading.best)

    def _write_tables(
        self,
        outcome: Outcome,
        reading: TaskReading,
        records: Mapping[int, DocumentRecord],
        cut: Slicing,
        clusters: Sequence[Any] | None,
    ) -> tuple[dict[str, str], pa.Table]:
        name, folder = escape(outcome.name), self._request.output_folder
        files = {"samples_file": f"samples/{name}.parquet", "scores_file": f"samples/{name}.scores.parquet"}
        scores = {key: kept for key, metric in reading.metrics.items() if (kept := metric.kept_scores) is not None}
        table = samples_table(outcome.rows, scores, reading.evidence.errored, records)
        accepted = [key for key in scores if reading.metrics[key].factor is not None]
        write_table(folder / files["samples_file"], table)
        write_table(folder / files["scores_file"], scores_table(table, accepted, cut.of_documents, clusters))
        return files, table

    def _facts(self, outcome: Outcome, reading: TaskReading, table: pa.Table) -> dict[str, Any]:
        judge = judge_of(outcome.task)
        filter_name = None if reading.primary is None else reading.primary.key.filter
        hashes, keys = table["doc_hash"].to_pylist(), table["row_key"].to_pylist()
        return {
            "protocol": PROTOCOL,
            "task": outcome.name,
            "attempt": self._request.attempt,
            "output_type": outcome.task.config.output_type,
            "samples": len(outcome.rows.doc_ids),
            "documents": len(outcome.task.eval_docs),
            "pairing": "content",
            "fingerprint": fingerprint(outcome.task, hashes, keys, self._request, filter_name, judge),
            "judge": judge,
            "usage": outcome.rows.usage,
            "empty_responses": outcome.rows.empty_responses,
            "seconds": round(outcome.seconds, 3),
            "raw": _raw(outcome.results),
        }

    def _findings(self, outcome: Outcome, reading: TaskReading) -> dict[str, Any]:
        evidence, policy, primary = reading.evidence, self._request.errored, reading.primary
        found = warnings_of(outcome, reading.metrics, reading.best, reading.wanted_found, evidence, self._request)
        return {
            "metrics": [metric.document() for metric in reading.metrics.values()],
            "primary": None if primary is None else {**primary.key._asdict(), "reason": primary.reason},
            "errored": {
                "count": sum(evidence.reasons.values()),
                "reasons": evidence.reasons,
                "policy": policy.policy,
                "fail_above": policy.fail_above,
            },
            "warnings": [warning.document() for warning in found],
        }

    def _log_notes(self, task: str, document: Mapping[str, Any]) -> None:
        for metric in document["metrics"]:
            if metric["note"]:
                self._log("INFO", f"{task}: {metric['metric']}: {metric['note']}")
        for warning in document["warnings"]:
            self._log("WARNING", f"{task}: {warning['message']}")
        if document["stability"] and document["stability"]["note"]:
            self._log("INFO", f"{task}: stability of repeated answers: {document['stability']['note']}")


def counted_scores(metric: Metric) -> list[float]:
    """The scores that make up a metric's value, in its units."""
    return [score * (metric.factor or 1.0) for score in metric.counted if score is not None]


def _most_telling_first(doc_ids: Sequence[int], best: Metric | None) -> list[int]:
    """Order documents for the thumbnail budget: wrong answers first."""
    if best is None:
        return list(doc_ids)
    sign = -1.0 if best.higher_is_better is False else 1.0
    ranks = {
        doc_id: math.inf if score is None else sign * score
        for doc_id, score in zip(doc_ids, best.scores, strict=True)
    }
    return sorted(doc_ids, key=lambda doc_id: ranks[doc_id])


def _raw(results: Mapping[str, Any]) -> dict[str, Any]:
    """lmms-eval's entry as it is, but for values that would be a table of their own."""
    entry: dict[str, Any] = plain(dict(results))
    return {name: value for name, value in entry.items() if len(str(value)) <= _RAW_CHARACTERS}
