"""`mlflow-lmms catalog show`: one task, group or tag with all that is known of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from mlflow_lmms.cli.catalog_read import load_catalogue
from mlflow_lmms.cli.output import console, format_option, print_json, print_table, shown, wants_json
from mlflow_lmms.errors import NotFoundError

_SURE = 0.85
_LIKELY = 0.6


@click.command()
@click.argument("name", metavar="TASK")
@format_option
def show(name: str) -> None:
    """Show a task, group or tag: every field with its evidence, metrics, groups, known trouble."""
    from mlflow_lmms.catalogue.as_json import whole_group, whole_task

    catalogue = load_catalogue()
    kind = catalogue.kind(name)
    if kind is None:
        near = catalogue.near(name)
        hint = f"did you mean {', '.join(near)}?" if near else "`mlflow-lmms catalog --search` looks for words"
        raise NotFoundError(f"no task, group or tag is called {name!r}: {hint}")
    described = whole_task(catalogue, catalogue.tasks[name]) if kind == "task" else whole_group(catalogue, name)
    if wants_json():
        print_json(described)
    elif kind == "task":
        _print_task(described)
    else:
        _print_group(described)


def _print_task(task: dict[str, Any]) -> None:
    out = console()
    out.print(f"[bold]{shown(task['name'])}[/bold]  {shown(task['path'])}", highlight=False, soft_wrap=True)
    print_table(["field", "value", "how sure", "evidence"], list(_fields(task)))
    out.print()
    metrics = [
        (
            m["name"],
            m["aggregation"],
            _direction(m["higher_is_better"]),
            "yes" if m["number"] else "no",
            m["stated_by"],
        )
        for m in task["metrics"]
    ]
    print_table(["metric", "aggregation", "better", "a number", "stated by"], metrics)
    out.print(f"\nmember of: {shown(task['member_of']) if task['member_of'] else 'no group or tag'}", highlight=False)
    for trouble in task["trouble"]:
        out.print(f"[yellow]! {shown(trouble)}[/yellow]", highlight=False)


def _fields(task: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    for name, value in task.items():
        if isinstance(value, dict) and "evidence" in value:
            yield name.replace("_", " "), _value(value["value"]), _sureness(value), value["evidence"]
    dataset = " ".join(part for part in (task["dataset"], task["dataset_name"]) if part)
    stated = {"data set": dataset, "split": task["split"], "output type": task["output_type"]}
    stated |= {"few-shot": task["num_fewshot"], "repeats": task["repeats"], "filters": task["filters"] or None}
    for name, value in stated.items():
        if value not in (None, "", 1):
            yield name, value, "stated", "its task file"


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else value or "none"


def _sureness(derived: dict[str, Any]) -> str:
    confidence = derived["confidence"]
    if derived["value"] is None:
        return "–"
    return "sure" if confidence >= _SURE else "likely" if confidence >= _LIKELY else "a guess"


def _direction(higher: bool | None) -> str:
    return "not stated" if higher is None else "higher" if higher else "lower"


def _print_group(group: dict[str, Any]) -> None:
    out = console()
    where = f"  {shown(group['path'])}" if group["path"] else ""
    out.print(f"[bold]{shown(group['name'])}[/bold] ({group['kind']}){where}", highlight=False, soft_wrap=True)
    if group["problem"]:
        out.print(f"[red]✗ {shown(group['problem'])}[/red]", highlight=False)
    rows = [(part["name"], len(part["members"]), _rule(part["aggregates"])) for part in group["groups"]]
    if rows:
        print_table(["group", "members", "score"], rows)
    out.print(f"\n{len(group['tasks']):,} tasks: {shown(group['tasks'])}", highlight=False)


def _rule(aggregates: list[dict[str, Any]]) -> str:
    if not aggregates:
        return "mean of the members' primary metrics, where they agree"
    weights = {True: "weighted by documents", False: "plain mean"}
    return ", ".join(f"{a['metric']} ({'/'.join(a['filters'])}), {weights[a['weight_by_size']]}" for a in aggregates)
