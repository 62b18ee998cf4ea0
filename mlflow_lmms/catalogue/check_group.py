"""Checks one group file: its keys, its members, how its score is made."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mlflow_lmms.catalogue.check_task import TASK_KEYS
from mlflow_lmms.catalogue.index import Catalogue
from mlflow_lmms.catalogue.merged_document import MergedDocument
from mlflow_lmms.catalogue.yaml_lines import KeyPath
from mlflow_lmms.catalogue.yaml_walk import FUNCTION
from mlflow_lmms.errors import InvalidRequestError

_GROUP_KEYS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata"})
_AGGREGATE_KEYS = frozenset({"metric", "aggregation", "weight_by_size", "filter_list"})

#: A task written inside a group's list: the keys that lead to it, and what it says.
Inline = tuple[KeyPath, Mapping[str, Any]]


def check_group(merged: MergedDocument, catalogue: Catalogue, on_inline: Callable[[Inline], None]) -> None:
    """Report what is wrong with a group; tasks written inside it go to `on_inline`."""
    config = merged.config
    if not isinstance(config.get("group"), str):
        merged.report(["task"], "`group: NAME` with a list of tasks", "none", "name the group, or name one task")
        return
    for key in config.keys() - _GROUP_KEYS - TASK_KEYS:
        near = difflib.get_close_matches(str(key), _GROUP_KEYS | TASK_KEYS, n=1)
        remedy = f"did you mean {near[0]}?" if near else "remove it"
        merged.report([key], "a key of groups, or one of tasks that it changes in all members", repr(key), remedy)
    _check_aggregates(merged, config.get("aggregate_metric_list"), ("aggregate_metric_list",))
    for inline in _check_members(merged, config["task"], ("task",), catalogue):
        on_inline(inline)
    if not merged.problems:
        try:
            list(catalogue.members(config["group"]))
        except InvalidRequestError as error:
            merged.report(["task"], "members that can be expanded", error.message, "take the circle apart")


def _check_members(
    merged: MergedDocument, items: Sequence[Any], above: KeyPath, catalogue: Catalogue
) -> Iterator[Inline]:
    if not items:
        merged.report(above, "members", "an empty list", "name tasks")
    for at, item in enumerate(items):
        keys = (*above, at)
        task = item.get("task") if isinstance(item, dict) else item
        if isinstance(task, list) and isinstance(item, dict):
            _check_aggregates(merged, item.get("aggregate_metric_list"), (*keys, "aggregate_metric_list"))
            yield from _check_members(merged, task, (*keys, "task"), catalogue)
        elif not isinstance(task, str):
            merged.report(keys, "a name, or a task of its own", repr(item)[:80], "name a task, group or tag")
        elif catalogue.kind(task) is not None:
            _check_changes(merged, item, keys)
        elif isinstance(item, dict) and item.keys() & {"dataset_path", "include", "class"}:
            yield keys, item
        elif catalogue.complete:
            near = catalogue.near(task)
            remedy = f"did you mean {', '.join(near)}?" if near else "correct the name, or add its file"
            merged.report(keys, "a task, group or tag that exists", repr(task), remedy)


def _check_changes(merged: MergedDocument, item: Any, keys: KeyPath) -> None:
    for key in item.keys() - TASK_KEYS if isinstance(item, dict) else ():
        near = difflib.get_close_matches(str(key), TASK_KEYS, n=1)
        remedy = f"did you mean {near[0]}?" if near else "remove it"
        merged.report((*keys, str(key)), "a key that lmms-eval knows: it refuses others", repr(key), remedy)


def _check_aggregates(merged: MergedDocument, entries: Any, above: KeyPath) -> None:
    for at, entry in enumerate(entries if isinstance(entries, list) else [] if entries is None else [entries]):
        keys = (*above, at) if isinstance(entries, list) else above
        if not isinstance(entry, dict) or not isinstance(entry.get("metric"), str):
            merged.report(keys, "`metric: NAME`", repr(entry)[:80], "name the members' metric")
            continue
        for key in entry.keys() - _AGGREGATE_KEYS:
            expected = f"one of {', '.join(sorted(_AGGREGATE_KEYS))}"
            merged.report((*keys, str(key)), expected, repr(key), "remove it")
        aggregation = entry.get("aggregation", "mean")
        if aggregation != "mean" and not str(aggregation).startswith(FUNCTION):
            merged.report((*keys, "aggregation"), "mean or a !function", repr(aggregation), "use mean")
