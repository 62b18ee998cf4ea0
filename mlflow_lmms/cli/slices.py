"""`mlflow-lmms slices`: scores of groups of documents, their gaps, and how a second run changes them."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlflow_lmms.cli.documents import DOCUMENTS, print_document
from mlflow_lmms.cli.output import console, document_format_option, print_json, wanted_format
from mlflow_lmms.client import Client
from mlflow_lmms.report.finding_sheets import slice_sheets
from mlflow_lmms.report.records import slice_records


@click.command()
@click.argument("run")
@click.option("--task", "tasks", multiple=True, help="This task alone; may be given several times.")
@click.option("--dimension", "dimensions", multiple=True, help="This dimension alone; may be given several times.")
@click.option("--against", metavar="RUN", help="Show what each group gains over this run, and how gaps change.")
@document_format_option(*DOCUMENTS)
def slices(run: str, tasks: tuple[str, ...], dimensions: tuple[str, ...], against: str | None) -> None:
    """Show the scores of groups of documents of RUN, with 95 % intervals.

    A group's gap to the rest is marked with * where it is beyond chance, corrected for all groups of the task that
    are shown (Holm); groups of fewer than ten documents are shown but not judged. Without --dimension these are the
    declared dimensions, or all that cut the documents.
    """
    found = Client().slices(run, tasks=tasks, dimensions=dimensions, against=against)
    form = wanted_format()
    if form == "json":
        return print_json(found)
    if form in DOCUMENTS:
        return print_document(slice_records(found), slice_sheets(found), form)
    out = console()
    if not found["tasks"]:
        out.print("no result of this run has slices", markup=False)
    for told in found["tasks"]:
        (_print_change if against else _print_report)(told, out)


def _print_report(told: dict[str, Any], out: Console) -> None:
    out.print(
        f"{told['task']}: {_metric(told)} {told['value']:.4g} of {told['model']}", markup=False, highlight=False
    )
    for dimension in told["dimensions"]:
        table = _table(dimension["name"], "n", "score", "gap to the rest", "p (Holm)", "gap to the best")
        for group in dimension["groups"]:
            table.add_row(*_cells(group), _gap(group["to_best"]))
        out.print(table)
        out.print(_summary(dimension), markup=False, highlight=False, style="dim")


def _summary(dimension: dict[str, Any]) -> str:
    parts = [f"worst: {dimension['worst']}, best: {dimension['best']}"] if dimension["worst"] else []
    if dimension["gap"] is not None:
        parts.append(f"gap {dimension['gap']:.4g}")
    if dimension["ratio"] is not None:
        parts.append(f"lowest to highest {dimension['ratio']:.2f}")
    if dimension["outcome"]:
        parts.append("depends on the model's own answers")
    return "; ".join(parts) + "\n"


def _print_change(told: dict[str, Any], out: Console) -> None:
    names = f"{told['candidate']['model']} against {told['baseline']['model']}"
    out.print(f"{told['task']}: {_metric(told)}, {names}", markup=False, highlight=False)
    if told["reason"]:
        out.print(told["reason"] if told["paired"] or not told["dimensions"] else f"unpaired: {told['reason']}")
    for dimension in told["dimensions"]:
        table = _table(dimension["name"], "n", "gain", "change of its gap to the rest", "p (Holm)")
        for group in dimension["groups"]:
            table.add_row(*_cells(group, signed=True))
        out.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def _metric(told: dict[str, Any]) -> str:
    return f"{told['metric']}{' ↓' if told['higher_is_better'] is False else ''}"


def _cells(group: dict[str, Any], *, signed: bool = False) -> tuple[Text, ...]:
    sign = "+" if signed else ""
    score = Text(f"{group['score']:{sign}.4g}")
    if group["low"] is not None:
        score.append(f" [{group['low']:{sign}.4g}, {group['high']:{sign}.4g}]", style="dim")
    rest = group["to_rest"]
    gap = _gap(rest) if group["judged"] else Text("too few to judge", style="dim")
    adjusted = "–" if rest is None or rest["adjusted"] is None else f"{rest['adjusted']:.2g}"
    return Text(group["name"]), Text(f"{group['n']:,}"), score, gap, Text(adjusted)


def _gap(gap: dict[str, Any] | None) -> Text:
    if gap is None:
        return Text("–")
    shown = gap["adjusted"] is not None and gap["adjusted"] < 0.05
    text = Text(f"{gap['value']:+.4g}{'*' if shown else ''}", style="bold" if shown else "")
    return text.append(f" [{gap['low']:+.4g}, {gap['high']:+.4g}]", style="dim")
