"""The scores of lmms-eval's groups in one run, from the results of its tasks. Pure.

Owns how task results and group definitions come together; the arithmetic is `mlflow_lmms.reading.group_scores`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_lmms.reading.group_scores import (
    GroupDefinition,
    GroupScore,
    MemberPrimary,
    MemberScore,
    group_scores,
)
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.task_result import TaskResult

GroupScores = dict[str, list[GroupScore]]


def run_groups(definitions: Sequence[GroupDefinition], results: Iterable[TaskResult]) -> GroupScores:
    """Compute every group's scores; one without a number says why."""
    members: dict[str, dict[MetricKey, MemberScore]] = {}
    primaries: dict[str, MemberPrimary] = {}
    for result in results:
        members[result.task] = {
            MetricKey(metric.metric, metric.filter): MemberScore(metric.value, metric.n) for metric in result.metrics
        }
        if (metric := result.primary_metric) is not None:
            key = MetricKey(metric.metric, metric.filter)
            primaries[result.task] = MemberPrimary(
                key, metric.value, metric.n, metric.scale.high, metric.higher_is_better
            )
    groups = {definition.name: definition for definition in definitions}
    return {name: group_scores(definition, members, primaries, groups) for name, definition in groups.items()}


def group_documents(scores: Mapping[str, Sequence[GroupScore]]) -> dict[str, list[dict[str, Any]]]:
    """The scores as JSON holds them."""
    return {name: [score._asdict() for score in own] for name, own in scores.items()}


def read_group_definitions(request_file: Path) -> list[GroupDefinition]:
    """The groups that a run's `request.json` defines; none in the request of an earlier release.

    Raises:
        ValueError: the file is no JSON object, or a group in it has no name.
    """
    request = json.loads(request_file.read_text(encoding="utf-8"))
    if not isinstance(request, dict):
        raise ValueError(f"expected an object in {request_file.name}, got {type(request).__name__}")
    found = request.get("groups")
    documents = found if isinstance(found, list) else []
    if not all(isinstance(document, dict) and document.get("name") for document in documents):
        raise ValueError(f"expected every group in {request_file.name} to be an object with a name")
    return [GroupDefinition.read(document) for document in documents]
