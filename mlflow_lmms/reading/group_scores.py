"""A group's score, out of its members' scores.

Pure. Owns the recomputation: lmms-eval's own pools every metric whose name contains the one that was asked for. A
group that declares no aggregate gets a score only where its members' scores mean the same; else the reason why not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlflow_lmms.reading.metric_key import MetricKey

_NAMED = 3  # names listed in a reason


class GroupAggregate(NamedTuple):
    """One entry of a group's `aggregate_metric_list`."""

    metric: str
    filters: tuple[str, ...] = ("none",)
    weight_by_size: bool = False


@dataclass(frozen=True)
class GroupDefinition:
    """A group: its members (tasks, or groups) and what it says of its aggregates."""

    name: str
    members: tuple[str, ...]
    aggregates: tuple[GroupAggregate, ...] = ()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> GroupDefinition:
        """Read what `document` returns."""
        members = tuple(map(str, document.get("members") or ()))
        return cls(str(document["name"]), members, read_aggregates(document.get("aggregates")))

    def document(self) -> dict[str, Any]:
        """Return the definition as JSON holds it."""
        aggregates = [{**own._asdict(), "filters": list(own.filters)} for own in self.aggregates]
        return {"name": self.name, "members": list(self.members), "aggregates": aggregates}


class MemberScore(NamedTuple):
    """A member task's value of one metric over `n` documents."""

    value: float | None
    n: int


class MemberPrimary(NamedTuple):
    """A member task's primary metric, with what must agree for a mean to make sense."""

    key: MetricKey
    value: float | None
    n: int
    scale: float | None
    higher_is_better: bool | None


class GroupScore(NamedTuple):
    """A group's value of one metric, or in `reason` why it has none."""

    metric: str
    filter: str
    value: float | None
    n: int
    tasks: int
    rule: str
    reason: str | None


def read_aggregates(entries: Any) -> tuple[GroupAggregate, ...]:
    """Read an `aggregate_metric_list` as YAML or a results file holds it, or as `GroupDefinition.document` does."""
    found = []
    for entry in entries if isinstance(entries, list) else [entries] if isinstance(entries, Mapping) else []:
        if isinstance(entry, Mapping) and isinstance(entry.get("metric"), str):
            filters = entry.get("filters", entry.get("filter_list", "none"))
            names = [filters] if isinstance(filters, str) else filters if isinstance(filters, list) else ["none"]
            weighted = entry.get("weight_by_size", False)
            found.append(GroupAggregate(entry["metric"], tuple(map(str, names)), bool(weighted)))
    return tuple(found)


def group_scores(
    definition: GroupDefinition,
    members: Mapping[str, Mapping[MetricKey, MemberScore]],
    primaries: Mapping[str, MemberPrimary],
    groups: Mapping[str, GroupDefinition] | None = None,
) -> list[GroupScore]:
    """Compute a group's scores from its tasks' (`groups`: definitions of the groups among its members)."""
    tasks = list(dict.fromkeys(_tasks(definition, groups or {}, frozenset())))
    if not definition.aggregates:
        return [_mean_of_primaries(tasks, primaries)]
    return [
        _declared(aggregate, MetricKey(aggregate.metric, filter_name), tasks, members)
        for aggregate in definition.aggregates
        for filter_name in aggregate.filters
    ]


def _tasks(group: GroupDefinition, groups: Mapping[str, GroupDefinition], inside: frozenset[str]) -> Iterator[str]:
    for member in group.members:
        if member in inside or member == group.name:
            continue
        if member in groups:
            yield from _tasks(groups[member], groups, inside | {group.name})
        else:
            yield member


def _declared(
    aggregate: GroupAggregate,
    key: MetricKey,
    tasks: Sequence[str],
    members: Mapping[str, Mapping[MetricKey, MemberScore]],
) -> GroupScore:
    rule = "declared: mean weighted by documents" if aggregate.weight_by_size else "declared: unweighted mean"
    found = [(members[task][key].value, members[task][key].n) for task in tasks if key in members.get(task, {})]
    numbers = [(value, n) for value, n in found if value is not None]
    n = sum(size for _, size in numbers)

    def without_value(reason: str) -> GroupScore:
        return GroupScore(*key, None, n, len(numbers), rule, reason)

    if absent := [task for task in tasks if task not in members]:
        return without_value(f"no result of {_listed(absent)}")
    if not found:
        return without_value(f"no member has {key.metric} under filter {key.filter}")
    if len(numbers) < len(found):
        return without_value(f"{len(found) - len(numbers)} of {len(found)} members have no number for {key.metric}")
    weights = [size if aggregate.weight_by_size else 1 for _, size in numbers]
    if not sum(weights):
        return without_value("no member tells how many documents it has")
    total = sum(value * weight for (value, _), weight in zip(numbers, weights, strict=True))
    skipped = len(tasks) - len(found)
    reason = f"over the {len(found)} of {len(tasks)} members that have {key.metric}" if skipped else None
    return GroupScore(*key, total / sum(weights), n, len(numbers), rule, reason)


def _mean_of_primaries(tasks: Sequence[str], primaries: Mapping[str, MemberPrimary]) -> GroupScore:
    rule = "not declared: unweighted mean of the members' primary metrics"
    known = [primaries[task] for task in tasks if task in primaries]
    key = known[0].key if known else MetricKey("", "none")
    reason = _why_no_mean(tasks, primaries)
    values = [primary.value for primary in known if primary.value is not None]
    value = sum(values) / len(values) if reason is None else None
    return GroupScore(*key, value, sum(primary.n for primary in known), len(known), rule, reason)


def _why_no_mean(tasks: Sequence[str], primaries: Mapping[str, MemberPrimary]) -> str | None:
    if not tasks:
        return "it has no members"
    if absent := [task for task in tasks if task not in primaries or primaries[task].value is None]:
        return f"no primary score of {_listed(absent)}"
    own = [primaries[task] for task in tasks]
    if len(names := {primary.key.text for primary in own}) > 1:
        return f"its members' primary metrics differ: {_listed(sorted(names))}"
    if unknown := [task for task in tasks if primaries[task].scale is None]:
        return f"the scale of {_listed(unknown)} is unknown"
    if len(scales := {f"{primary.scale:g}" for primary in own}) > 1:
        return f"its members' scales differ: 0 to {_listed(sorted(scales))}"
    if len({primary.higher_is_better for primary in own}) > 1:
        return "for some members higher is better, for others it is not"
    return None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
