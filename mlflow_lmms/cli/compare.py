"""`mlflow-lmms compare`: runs against a baseline, with intervals, corrected tests and what more would tell."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlflow_lmms.cli.documents import DOCUMENTS, print_comparison_document
from mlflow_lmms.cli.output import console, document_format_option, print_json, wanted_format
from mlflow_lmms.client import Client

_STYLES = {"better": "green", "worse": "red", "different": "yellow", "not comparable": "yellow"}


@click.command()
@click.argument("baseline")
@click.argument("candidates", nargs=-1, required=True)
@click.option("--task", "tasks", multiple=True, help="This task alone; may be given several times.")
@document_format_option(*DOCUMENTS)
def compare(baseline: str, candidates: tuple[str, ...], tasks: tuple[str, ...]) -> None:
    """Compare the runs CANDIDATES with the run BASELINE on every task that it has.

    Differences are over the same documents, with 95 % intervals; the verdicts are corrected for the number of tests
    (Holm). Where no difference is shown it says how many documents would settle one as large as was seen.
    """
    found = Client().compare(baseline, *candidates, tasks=tasks)
    form = wanted_format()
    if form == "json":
        print_json(found)
    elif form in DOCUMENTS:
        print_comparison_document(found, form)
    else:
        print_comparison(found, console())


def print_comparison(found: dict[str, Any], out: Console) -> None:
    """Print a comparison as a table, and each candidate's verdicts in words."""
    several = len(found["models"]) > 2
    out.print(f"baseline: {found['models'][found['baseline']]}", markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("task", "metric", "baseline", *(("candidate",) if several else ()), "score", "difference"):
        table.add_column(column, overflow="fold")
    for column in ("p (Holm)", "won : lost", "of", "verdict"):
        table.add_column(column, overflow="fold")
    for task in found["tasks"]:
        name, metric, score = task["task"], _metric(task), _number(task["baseline"]["value"])
        for run_id, told in task["candidates"].items():
            who = (Text(found["models"][run_id]),) if several else ()
            table.add_row(Text(name), Text(metric), score, *who, *_cells(told))
            name = metric = score = ""
    out.print(table)
    for run_id, counts in found["counts"].items():
        told = ", ".join(f"{verdict} on {count}" for verdict, count in counts.items())
        line = f"• {found['models'][run_id]}: {told} of {sum(counts.values())} tasks"
        out.print(line, markup=False, highlight=False)
        if found["only"][run_id]:
            line = f"  the baseline has no result of {', '.join(found['only'][run_id])}"
            out.print(line, markup=False, highlight=False, style="dim")


def _metric(task: dict[str, Any]) -> str:
    return f"{task['metric']}{' ↓' if task['higher_is_better'] is False else ''}"


def _cells(told: dict[str, Any]) -> tuple[Text, ...]:
    difference = Text("–" if told["difference"] is None else f"{told['difference']:+.4g}")
    if told["low"] is not None:
        difference.append(f" [{told['low']:+.4g}, {told['high']:+.4g}]", style="dim")
    adjusted = "–" if told["adjusted"] is None else f"{told['adjusted']:.2g}"
    flips = "–" if told["wins"] is None else f"{told['wins']} : {told['losses']}"
    verdict = Text(told["verdict"], style=_STYLES.get(told["verdict"], ""))
    if told["reason"]:
        verdict.append(f": {told['reason']}", style="dim")
    elif told["verdict"] == "no difference shown" and told["needed"]:
        verdict.append(f"; {told['needed']:,} documents would settle it", style="dim")
    if told["flagged"]:
        verdict.append(f"; flagged: {', '.join(told['flagged']).replace('_', ' ')}", style="yellow")
    return Text(_number(told["value"])), difference, Text(adjusted), Text(flips), Text(_number(told["n"])), verdict


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
