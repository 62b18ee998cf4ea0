"""Reads a task's samples file once, line by line: scores, slices and evidence are summed up, rows go to the spool.

Owns which line belongs to which filter: lmms-eval writes a document once per filter without naming it, and the lines
of several processes one process after the other. Memory does not grow with the file but for one byte a document.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_lmms.importing.json_files import read_lines
from mlflow_lmms.importing.refused_file import RefusedFileError
from mlflow_lmms.importing.results_file import TaskEntry
from mlflow_lmms.importing.sample_row import TOKENS, SampleRow, read_sample
from mlflow_lmms.importing.sample_spool import DocumentSpool
from mlflow_lmms.reading.chance import stated_options
from mlflow_lmms.reading.errored import ErroredPolicy, is_scored
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.result_warnings import Evidence
from mlflow_lmms.reading.sample_facts import SampleFacts
from mlflow_lmms.reading.sample_scores import DERIVATIONS, DIRECT, SampleScoreReader
from mlflow_lmms.reading.slice_sums import SliceReader
from mlflow_lmms.reading.slices import scoring_columns

#: A sample's score: the plain number, or what a richer value may mean by derivation.
Numbers = float | dict[str, float] | None
_MOST_COLUMNS = 100
_EXAMPLES = 3


@dataclass
class DocumentCounts:
    """How often each document has come, in one byte a document."""

    counts: bytearray = field(default_factory=bytearray)

    def next(self, doc_id: int) -> int:
        """Count one more row of the document; return how many there were before."""
        if doc_id >= len(self.counts):
            self.counts.extend(bytes(doc_id + 1 - len(self.counts)))
        before = self.counts[doc_id]
        self.counts[doc_id] = min(before + 1, 255)
        return before

    def by_times(self) -> Counter[int]:
        """How many documents came once, twice …"""
        return Counter({times: self.counts.count(times) for times in range(1, 256) if times in self.counts})


class SamplesReader:
    """What is known of a task's samples after `read`; the rows themselves are in the spool."""

    def __init__(
        self,
        entry: TaskEntry,
        primary: MetricKey | None,
        declared: Sequence[str],
        policy: ErroredPolicy,
        judged: bool,
        spool: DocumentSpool,
        *,
        holds_documents: bool = False,
    ) -> None:
        self._entry = entry
        self._primary = primary
        self._policy = policy
        self._spool = spool
        self._generates = entry.output_type.startswith("generate")
        key = entry.config.get("cluster_key")
        self._cluster_key = key if isinstance(key, str) else ""
        self.filters = entry.filters
        self.keys = {name: [key for key in entry.metrics if key.filter == name] for name in self.filters}
        self._facts_filter = primary.filter if primary and primary.filter in self.filters else self.filters[0]
        self.scores = {key: SampleScoreReader() for key in entry.metrics}
        self._readers = {name: [(key.metric, self.scores[key]) for key in own] for name, own in self.keys.items()}
        self._with_value = {name: [0] * len(own) for name, own in self.keys.items()}
        facts_keys = self.keys[self._facts_filter]
        self._place = facts_keys.index(primary) if primary in facts_keys else None
        #: The metrics by which a document is judged, the primary one first.
        self._facts_metrics = sorted((key.metric for key in facts_keys), key=lambda name: not self._leads(name))
        self.slices = SliceReader(declared)
        self.facts = SampleFacts(entry.output_type, judged=judged)
        self.errored: Counter[str] = Counter()
        self.columns: dict[str, set[type]] = {}
        self.has_tokens = [False, False, False]
        self.usage = Counter[str]()
        self.duplicates: list[str] = []
        self.counts = DocumentCounts()
        self.rows = 0
        #: Whether every document is there whole, so that its content can be told from another's.
        self.hashed = holds_documents

    def with_value(self, key: MetricKey) -> int:
        """How many documents have a value of this metric, of whatever kind."""
        return self._with_value[key.filter][self.keys[key.filter].index(key)]

    def _leads(self, metric: str) -> bool:
        return self._primary is not None and self._primary.metric == metric

    @property
    def documents(self) -> int:
        """How many different documents there are."""
        return len(self.counts.counts) - self.counts.counts.count(0)

    def read(self, path: Path) -> Iterator[int]:
        """Read the file; yields the number of the line now and then, for a progress bar.

        Raises:
            RefusedFileError: the file is not sound.
        """
        for number, line in read_lines(path):
            try:
                self._add(line)
            except ValueError as error:
                raise RefusedFileError(path, f"line {number}: {error}") from None
            if number % 1000 == 0:
                yield number
        if not self.rows:
            raise RefusedFileError(path, "it is empty")

    def duplicate_evidence(self) -> Evidence:
        """Documents that have more rows than there are filters."""
        times = self.counts.by_times()
        surplus = sum(count for seen, count in times.items() if seen > len(self.filters))
        return Evidence(surplus, self.documents, tuple(self.duplicates)) if surplus else Evidence()

    def two_runs(self) -> bool:
        """Whether nearly all documents are there twice: then two evaluations wrote into this one file."""
        evidence = self.duplicate_evidence()
        return evidence.count >= 2 and evidence.share > 0.5

    def _add(self, line: dict[str, Any]) -> None:
        row = read_sample(line, self._entry.output_type, whole=self.hashed)
        occurrence = self.counts.next(row.doc_id)
        self.rows += 1
        if row.filter in self.keys:
            name, place = row.filter, self.filters.index(row.filter)
        else:
            place = occurrence % len(self.filters)
            name = self.filters[place]
        if occurrence >= len(self.filters) and len(self.duplicates) < _EXAMPLES:
            self.duplicates.append(f"doc_id {row.doc_id}")
        numbers = [self._number(metric, reader, line.get(metric)) for metric, reader in self._readers[name]]
        if occurrence >= len(self.filters):
            return  # counted in the scores, as lmms-eval did; the tables have each document once
        counted = self._with_value[name]
        for at, (metric, _) in enumerate(self._readers[name]):
            counted[at] += line.get(metric) is not None
        errored = None
        dimensions: dict[str, Any] = {}
        if name == self._facts_filter:
            dimensions = self._scoring(line)
            errored = self._gather(row, line, numbers, dimensions)
        self.hashed = self.hashed and row.content is not None
        whole = None
        if occurrence == 0:
            whole = (row.input, row.target, row.tokens, row.columns, row.content)
        # lmms-eval 0.7 leaves raw answers out where a filter changed nothing, and under several filters altogether.
        answers = row.responses if "resps" in line or name == self._facts_filter else None
        self._note(row)
        raw = "resps" in line
        cluster = self._cluster(dimensions, row.columns) if self._cluster_key else None
        body = (place, row.filtered, numbers, errored, dimensions, cluster, answers, raw, whole)
        self._spool.add(row.doc_id, occurrence, body)

    @staticmethod
    def _number(metric: str, reader: SampleScoreReader, value: Any) -> Numbers:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{metric!r} is not a finite number")
        found = reader.add(value)
        return found.get(DIRECT.name) if isinstance(value, bool | int | float) else found or None

    def _scoring(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """The scalars beside the scores, those of the primary metric first."""
        values = [value for name in self._facts_metrics if isinstance(value := line.get(name), dict)]
        return dict(list(scoring_columns(values).items())[:_MOST_COLUMNS]) if values else {}

    def _cluster(self, scoring: Mapping[str, Any], columns: Mapping[str, Any]) -> str | None:
        """The cluster of a document by the task's own key: of its scoring, else of the document."""
        value = scoring.get(self._cluster_key, columns.get(self._cluster_key))
        return None if value is None else str(value)

    def _gather(
        self, row: SampleRow, line: Mapping[str, Any], numbers: Sequence[Numbers], scoring: Mapping[str, Any]
    ) -> str | None:
        """Sum up what the document says; return why it is errored."""
        values = {name: value for name in self._facts_metrics if (value := line.get(name)) is not None}
        errored = self.facts.add(
            row.doc_id,
            target=row.target,
            responses=row.responses,
            values=values,
            input_text=row.input,
            options=_options(line, values),
            scored=is_scored(None if self._place is None else self._facts_metrics[0], values),
        )
        if errored:
            self.errored[errored] += 1
        number = None if self._place is None else numbers[self._place]
        found = number if isinstance(number, dict) else {} if number is None else {DIRECT.name: number}
        if errored and self._policy.policy == "drop":
            found = {}
        elif errored and self._policy.policy == "wrong":
            found = dict.fromkeys((derivation.name for derivation in DERIVATIONS), 0.0)
        features: dict[str, Any] = {"prompt_length": len(row.input)}
        if self._generates:
            features["response_length"] = sum(map(len, row.responses))
            features["empty_response"] = not any(map(str.strip, row.responses))
        self.slices.add(found, scoring=scoring, document=row.columns, features=features)
        return errored

    def _note(self, row: SampleRow) -> None:
        for name, value in row.columns.items():
            if name in self.columns or len(self.columns) < _MOST_COLUMNS:
                self.columns.setdefault(name, set()).add(type(value))
        for place, (name, count) in enumerate(zip(TOKENS, row.tokens, strict=True)):
            if count is not None:
                self.has_tokens[place] = True
                self.usage[name] += count


def _options(line: Mapping[str, Any], values: Mapping[str, Any]) -> int | None:
    """How many options the document or its scoring lists."""
    document = line.get("doc")
    if document is None and not any(isinstance(value, dict) for value in values.values()):
        return None
    holders = [holder for holder in (document, *values.values()) if isinstance(holder, dict)]
    places = [holder[name] for holder in holders for name in ("choices", "options") if name in holder]
    listed = [place.get("text") if isinstance(place, dict) else place for place in places]
    return stated_options(*listed) if listed else None
