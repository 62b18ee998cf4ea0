"""lmms-eval's samples of one task as one row per document.

Owns the reading of lmms-eval 0.7.3's result structure: it lists a document once per filter, without the filter's
name, in the order of the task's filters.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_lmms.reading.metric_key import MetricKey, reported_metrics
from worker.runner.failures import TaskFailure

TOKEN_KINDS = ("input", "output", "reasoning")


@dataclass
class SampleRows:
    """Columns over the documents, all in the order of `doc_ids` (ascending)."""

    doc_ids: list[int]
    inputs: list[str]
    targets: list[str]
    raw_targets: list[Any]
    responses: list[list[str]]
    structured: list[list[bool]] = field(default_factory=list)
    filtered: dict[str, list[str]] = field(default_factory=dict)
    values: dict[MetricKey, list[Any]] = field(default_factory=dict)
    tokens: dict[str, list[int | None]] = field(default_factory=dict)

    @property
    def empty_responses(self) -> int:
        """How many documents got nothing but blank answers."""
        return sum(not any(answer.strip() for answer in answers) for answers in self.responses)

    @property
    def usage(self) -> dict[str, int] | None:
        """The tokens of all answers that were counted, and over how many documents; None where nothing was."""
        counted = {
            f"{kind}_tokens": [count for count in counts if count is not None] for kind, counts in self.tokens.items()
        }
        sums = {name: sum(counts) for name, counts in counted.items() if counts}
        return {**sums, "samples": max(map(len, counted.values()))} if sums else None


def read_rows(
    task: Any, results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], expected: range, ranks: int = 1
) -> SampleRows:
    """Gather the rows that so many ranks have left; raise when a document is missing or surplus."""
    filters = list(task.instances[0].filtered_resps)
    by_filter = _split_by_filter(samples, filters, expected, ranks)
    requests = defaultdict(list)
    for instance in sorted(task.instances, key=lambda instance: instance.idx):
        requests[instance.doc_id].append(instance)
    first = by_filter[filters[0]]
    return SampleRows(
        doc_ids=list(expected),
        inputs=[as_text(requests[i][0].args[0]) for i in expected],
        targets=[as_text(first[i]["target"]) for i in expected],
        raw_targets=[first[i]["target"] for i in expected],
        responses=[[as_text(answer) for request in requests[i] for answer in request.resps] for i in expected],
        structured=[
            [not isinstance(answer, str) for request in requests[i] for answer in request.resps] for i in expected
        ],
        filtered={name: [_filtered_text(rows[i]) for i in expected] for name, rows in by_filter.items()},
        values={
            MetricKey(metric, name): [by_filter[name][i].get(metric) for i in expected]
            for metric, name in metric_keys(results, filters)
        },
        tokens={kind: [_tokens(requests[i], kind) for i in expected] for kind in TOKEN_KINDS},
    )


def metric_keys(results: Mapping[str, Any], filters: Sequence[str]) -> list[MetricKey]:
    """List the metrics of lmms-eval's results entry, without its standard errors."""
    return [key for key in reported_metrics(results) if key.filter in filters]


def as_text(value: Any) -> str:
    """Return text as it is, None as nothing, anything else as JSON where that works."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _split_by_filter(
    samples: Sequence[Mapping[str, Any]], filters: Sequence[str], expected: range, ranks: int
) -> dict[str, dict[int, Mapping[str, Any]]]:
    wanted = len(expected) * len(filters)
    if len(samples) != wanted:
        raise TaskFailure(
            "scoring",
            f"expected {wanted} scored samples ({len(expected)} documents, filters {', '.join(filters)}), lmms-eval "
            f"returned {len(samples)}; see the log for the documents that it left out",
        )
    by_filter: dict[str, dict[int, Mapping[str, Any]]] = {name: {} for name in filters}
    rows = iter(samples)
    for share in (expected[rank::ranks] for rank in range(ranks)):  # rank by rank, each filter by filter
        for name in filters:
            by_filter[name] |= {int(row["doc_id"]): row for row in itertools.islice(rows, len(share))}
    for name, found in by_filter.items():
        if found.keys() != set(expected):
            raise TaskFailure(
                "scoring",
                f"expected documents {expected.start} to {expected.stop - 1} once each under filter {name!r}, "
                f"lmms-eval returned {len(found)} different ones",
            )
    return by_filter


def _tokens(requests: Sequence[Any], kind: str) -> int | None:
    """The tokens of all answers to a document's requests, where the adapter counted each of them."""
    answers = (count for request in requests for count in request.token_counts)
    counts: list[Any] = [getattr(count, f"{kind}_tokens", None) for count in answers]
    return sum(counts) if counts and None not in counts else None


def _filtered_text(row: Mapping[str, Any]) -> str:
    answers = row["filtered_resps"]
    return as_text(answers[0] if len(answers) == 1 else answers)
