"""What the groups of a request need to get scores: their members under the names that they run under, their rules.

Group files say more than fits: an aggregate by a function of the benchmark's own is left out here, since the mean is
all that lmms-eval itself defines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_lmms.catalogue.yaml_walk import FUNCTION, listed
from mlflow_lmms.reading.group_scores import GroupAggregate, GroupDefinition

if TYPE_CHECKING:
    from mlflow_lmms.catalogue.index import Catalogue


def define_groups(catalogue: Catalogue, name: str) -> Iterator[GroupDefinition]:
    """The group `name` and those within it; one written inside another's list is called `outer/inner`.

    Raises:
        InvalidRequestError: the group cannot be expanded.
    """
    below: dict[tuple[str, ...], dict[str, None]] = {(): {}}
    for member in catalogue.members(name):
        for depth, group in enumerate(member.way):
            outer, inner = member.way[:depth], member.way[: depth + 1]
            below.setdefault(outer, {}).setdefault(_called(catalogue, name, outer, group))
            below.setdefault(inner, {})
        below[member.way].setdefault(member.name)
    for way, members in below.items():
        config = _config(catalogue, name, way)
        called = name if not way else _called(catalogue, name, way[:-1], way[-1])
        yield GroupDefinition(called, tuple(members), tuple(_aggregates(config.get("aggregate_metric_list"))))


def _called(catalogue: Catalogue, top: str, outer: tuple[str, ...], group: str) -> str:
    return group if group in catalogue.group_files else "/".join((top, *outer[-1:], group))


def _config(catalogue: Catalogue, top: str, way: tuple[str, ...]) -> Mapping[str, Any]:
    config: Mapping[str, Any] = catalogue.group_files[top].config
    for group in way:
        if group in catalogue.group_files:
            config = catalogue.group_files[group].config
            continue
        inner = (item for item in config.get("task") or () if isinstance(item, dict) and item.get("group") == group)
        config = next(inner, {})
    return config


def _aggregates(entries: Any) -> Iterator[GroupAggregate]:
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or not isinstance(entry.get("metric"), str):
            continue
        if str(entry.get("aggregation", "mean")).startswith(FUNCTION):
            continue
        filters = listed(entry.get("filter_list")) or ("none",)
        yield GroupAggregate(entry["metric"], filters, bool(entry.get("weight_by_size", False)))
