"""A group's score out of its members' scores, or the reason why it has none."""

from __future__ import annotations

import pytest

from mlflow_lmms.reading.group_scores import (
    GroupAggregate,
    GroupDefinition,
    MemberPrimary,
    MemberScore,
    group_scores,
    read_aggregates,
)
from mlflow_lmms.reading.metric_key import MetricKey

_ACC = MetricKey("acc", "none")


def _members(**values: tuple[float | None, int]) -> dict[str, dict[MetricKey, MemberScore]]:
    return {
        task: {_ACC: MemberScore(*value), MetricKey("acc_norm", "none"): MemberScore(9.0, 1)}
        for task, value in values.items()
    }


def test_a_declared_aggregate_takes_its_exact_metric() -> None:
    members = _members(a=(0.5, 10), b=(1.0, 30))
    (weighted,) = group_scores(
        GroupDefinition("g", ("a", "b"), (GroupAggregate("acc", weight_by_size=True),)), members, {}
    )
    assert (weighted.value, weighted.n, weighted.tasks, weighted.reason) == (35 / 40, 40, 2, None)
    (plain,) = group_scores(GroupDefinition("g", ("a", "b"), (GroupAggregate("acc"),)), members, {})
    assert plain.value == 0.75


def test_groups_within_groups_count_each_task_once() -> None:
    inner = GroupDefinition("inner", ("a", "b", "outer"))
    outer = GroupDefinition("outer", ("inner", "a", "c"), (GroupAggregate("acc"),))
    members = _members(a=(0.0, 1), b=(1.0, 1), c=(1.0, 1))
    (found,) = group_scores(outer, members, {}, {"inner": inner, "outer": outer})
    assert found.value == pytest.approx(2 / 3)


def test_a_declared_aggregate_without_a_value_says_why() -> None:
    definition = GroupDefinition("g", ("a", "b"), (GroupAggregate("acc", ("none", "strict")),))
    first, second = group_scores(definition, _members(a=(0.5, 10)), {})
    assert (first.value, first.reason) == (None, "no result of b")
    (first, second) = group_scores(definition, _members(a=(0.5, 10), b=(None, 10)), {})
    assert first.reason == "1 of 2 members have no number for acc"
    assert second.reason == "no member has acc under filter strict"
    other = {"a": {_ACC: MemberScore(0.5, 10)}, "b": {MetricKey("f1", "none"): MemberScore(0.1, 10)}}
    first, _ = group_scores(definition, other, {})
    assert (first.value, first.reason) == (0.5, "over the 1 of 2 members that have acc")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (MemberPrimary(_ACC, 1.0, 10, 1.0, True), None),
        (MemberPrimary(MetricKey("f1", "none"), 1.0, 10, 1.0, True), "differ: acc,none, f1,none"),
        (MemberPrimary(MetricKey("acc", "strict"), 1.0, 10, 1.0, True), "differ"),
        (MemberPrimary(_ACC, 68.0, 10, None, True), "the scale of b is unknown"),
        (MemberPrimary(_ACC, 68.0, 10, 100.0, True), "scales differ: 0 to 1, 100"),
        (MemberPrimary(_ACC, 1.0, 10, 1.0, False), "higher is better"),
        (MemberPrimary(_ACC, None, 10, 1.0, True), "no primary score of b"),
    ],
)
def test_an_undeclared_group_has_a_score_only_where_members_agree(other: MemberPrimary, reason: str | None) -> None:
    primaries = {"a": MemberPrimary(_ACC, 0.5, 30, 1.0, True), "b": other}
    (found,) = group_scores(GroupDefinition("g", ("a", "b")), {}, primaries)
    assert found.value == (0.75 if reason is None else None)
    assert (found.reason is None) == (reason is None)
    assert reason is None or reason in str(found.reason)


def test_definitions_as_documents() -> None:
    aggregates = read_aggregates(
        [{"metric": "acc", "filter_list": "x"}, {"metric": "f1", "weight_by_size": True}, {"metric": 3}]
    )
    assert aggregates == (GroupAggregate("acc", ("x",)), GroupAggregate("f1", ("none",), True))
    definition = GroupDefinition("g", ("a", "b"), aggregates)
    assert GroupDefinition.read(definition.document()) == definition
    assert read_aggregates(None) == ()
