"""`mlflow-lmms catalog`: the benchmarks that can be asked for, and what is known of each."""

from __future__ import annotations

from typing import Any

import click

from mlflow_lmms.catalogue.category_table import CATEGORIES
from mlflow_lmms.catalogue.filters import OBSTACLES, CatalogueFilter, obstacles
from mlflow_lmms.catalogue.modality import MODALITIES
from mlflow_lmms.cli.catalog_check import check
from mlflow_lmms.cli.catalog_new import new
from mlflow_lmms.cli.catalog_read import load_catalogue
from mlflow_lmms.cli.catalog_show import show
from mlflow_lmms.cli.output import console, format_option, print_json, print_table, wants_json

_SHOWN = 50
_CATEGORIES = "Categories: " + "; ".join(f"{name} ({meaning})" for name, meaning in CATEGORIES.items())


@click.group(invoke_without_command=True, epilog=_CATEGORIES)
@click.option("--modality", "modalities", multiple=True, type=click.Choice([*MODALITIES, "unknown"]))
@click.option("--category", "categories", multiple=True, type=click.Choice([*CATEGORIES, "unknown"]), metavar="NAME")
@click.option("--language", "languages", multiple=True, metavar="NAME", help="As stated by the task: Chinese.")
@click.option("--search", "text", default="", metavar="WORDS", help="Words in name, data set, tags, metrics.")
@click.option("--without", multiple=True, type=click.Choice(OBSTACLES), help="Leave out what needs or has it.")
@click.option("--own", is_flag=True, help="Only the tasks of your own folders.")
@click.option("--kind", type=click.Choice(["task", "group", "tag"]), default="task", show_default=True)
@click.option("--limit", type=click.IntRange(0), help=f"Rows; 0 for all.  [default: {_SHOWN}, all as JSON]")
@format_option
@click.pass_context
def catalog(context: click.Context, /, kind: str, limit: int | None, **wanted: Any) -> None:
    """List the benchmarks that can be asked for: lmms-eval's and those of your own task folders.

    What no task file states is derived from its code; `catalog show TASK` says from what.
    """
    if context.invoked_subcommand is not None:
        return
    from mlflow_lmms.catalogue.as_json import task_row, whole_group

    catalogue = load_catalogue()
    if not catalogue.complete:
        click.echo("lmms-eval is not installed here: only tasks of your own folders are known", err=True)
    if kind != "task":
        names = catalogue.groups if kind == "group" else catalogue.tags
        words = wanted["text"].lower().split()
        found = [whole_group(catalogue, name) for name in names if all(word in name.lower() for word in words)]
        _print_groups(found, limit)
        return
    tasks = CatalogueFilter(**wanted).tasks(catalogue)
    if wants_json():
        listed = tasks if not limit else tasks[:limit]
        print_json({"total": len(tasks), "of": len(catalogue.tasks), "tasks": [task_row(task) for task in listed]})
        return
    shown = tasks if limit == 0 else tasks[: limit or _SHOWN]
    columns = ["task", "modality", "category", "data set", "metrics", "mind"]
    rows = [
        (
            task.name,
            task.modality.value,
            task.category.value,
            task.dataset,
            _few([metric.name for metric in task.metrics]),
            ", ".join(obstacle for obstacle in obstacles(task) if obstacle != "download"),
        )
        for task in shown
    ]
    print_table(columns, rows)
    _print_rest(len(shown), len(tasks), f"of {len(catalogue.tasks):,} tasks")


def _print_groups(found: list[dict[str, Any]], limit: int | None) -> None:
    if wants_json():
        print_json({"total": len(found), "groups": found if not limit else found[:limit]})
        return
    shown = found if limit == 0 else found[: limit or _SHOWN]
    rows = [(group["name"], len(group["tasks"]), _few(group["members"]), group["problem"]) for group in shown]
    print_table(["name", "tasks", "members", "problem"], rows)
    _print_rest(len(shown), len(found), "")


def _print_rest(shown: int, found: int, of: str) -> None:
    more = f"; {found - shown:,} more with --limit 0" if found > shown else ""
    console().print(f"\n{found:,} found {of}".rstrip() + more, highlight=False)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" +{len(names) - 3}" if len(names) > 3 else "")


for command in (show, check, new):
    catalog.add_command(command)
