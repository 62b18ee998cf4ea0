"""The groups of a results file as definitions, from which their scores are computed anew. Pure.

A results file does not say how a group was aggregated: its own numbers tell whether members were weighted by size.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_lmms.importing.results_file import ResultsFile
from mlflow_lmms.importing.task_metrics import ImportedMetric
from mlflow_lmms.reading.group_scores import GroupAggregate, GroupDefinition, MemberScore, group_scores
from mlflow_lmms.reading.metric_key import MetricKey, reported_metrics
from mlflow_lmms.reading.sample_scores import reproduces

Metrics = Mapping[str, Mapping[MetricKey, ImportedMetric]]


def group_definitions(results: ResultsFile, metrics: Metrics) -> list[GroupDefinition]:
    """The groups with members, each with the aggregates that its own row reports."""
    plain = {
        name: GroupDefinition(name, members) for name in results.groups if (members := results.members.get(name))
    }
    scores = {
        task: {key: MemberScore(own.reported.value, own.outcome.n) for key, own in of_task.items()}
        for task, of_task in metrics.items()
    }
    return [_with_aggregates(group, results, scores, plain) for group in plain.values()]


def _with_aggregates(
    group: GroupDefinition,
    results: ResultsFile,
    scores: Mapping[str, Mapping[MetricKey, MemberScore]],
    groups: Mapping[str, GroupDefinition],
) -> GroupDefinition:
    aggregates = []
    for key, reported in reported_metrics(results.groups[group.name]).items():
        if reported.value is None:
            continue
        weighted = GroupAggregate(key.metric, (key.filter,), weight_by_size=True)
        unweighted = weighted._replace(weight_by_size=False)
        asked = GroupDefinition(group.name, group.members, (unweighted,))
        (found,) = group_scores(asked, scores, {}, groups)
        as_unweighted = found.value is not None and reproduces(found.value, reported.value)
        aggregates.append(unweighted if as_unweighted else weighted)
    return GroupDefinition(group.name, group.members, tuple(aggregates))
