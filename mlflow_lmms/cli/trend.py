"""`mlflow-lmms trend` and `mlflow-lmms changes`: a model over its versions, and what changed in a period."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from mlflow_lmms.cli.documents import DOCUMENTS, print_document
from mlflow_lmms.cli.output import console, document_format_option, moment, print_json, wanted_format
from mlflow_lmms.client import Client
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.report.finding_sheets import changes_sheet, trend_sheets
from mlflow_lmms.report.records import change_records, trend_records

_STYLES = {"better": "green", "worse": "red", "not comparable": "yellow"}
_AGO = re.compile(r"(\d{1,5})(h|d|w)")
_SECONDS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@click.command()
@click.argument("model")
@click.option("--task", "tasks", multiple=True, help="This task alone; may be given several times.")
@click.option("--over", type=click.Choice(["version", "time"]), default="version", show_default=True)
@click.option("--suite", help="Only results of this suite.")
@click.option("--experiment", help="Only this experiment's.")
@document_format_option(*DOCUMENTS)
def trend(model: str, tasks: tuple[str, ...], over: str, suite: str | None, experiment: str | None) -> None:
    """Show the scores of MODEL (a registered model's name) over its versions, or all of them over time.

    Each is tested against the one before over the same documents, corrected for all tests shown (Holm). Where
    documents, prompts, settings, judge or lmms-eval version differ, it says so instead.
    """
    found = Client().trend(model, tasks=tasks, over=over, suite=suite, experiment=experiment)
    form = wanted_format()
    if form == "json":
        return print_json(found)
    if form in DOCUMENTS:
        return print_document(trend_records(found), trend_sheets(found), form)
    out = console()
    for told in found["tasks"]:
        metric = f"{told['metric']}{' ↓' if told['higher_is_better'] is False else ''}"
        out.print(f"{told['task']}: {metric}", markup=False, highlight=False)
        table = _table("model", "when", "suite", "score", "change", "p (Holm)", "verdict")
        for point in told["points"]:
            table.add_row(*_point(point))
        out.print(table)
        if told["regressions"]:
            out.print(f"regressions: {len(told['regressions'])}", style="red")


@click.command()
@click.option("--since", default="7d", show_default=True, help="A date (2026-11-01), or so long ago: 24h, 7d, 4w.")
@click.option("--until", help="The end of the period, as --since.  [default: now]")
@click.option("--suite", help="Only results of this suite.")
@click.option("--experiment", help="Only this experiment's.")
@document_format_option(*DOCUMENTS)
def changes(since: str, until: str | None, suite: str | None, experiment: str | None) -> None:
    """Show what changed in a period: each model's newest result on a task against its last one from before."""
    end = None if until is None else _moment(until)
    found = Client().changes(since=_moment(since), until=end, suite=suite, experiment=experiment)
    form = wanted_format()
    if form == "json":
        return print_json(found)
    if form in DOCUMENTS:
        return print_document(change_records(found), [changes_sheet(found)], form)
    out = console()
    out.print(f"{moment(found['since'])} to {moment(found['until'])}", highlight=False)
    table = _table("model", "task", "metric", "before", "after", "change", "p (Holm)", "verdict")
    for told in found["changes"]:
        before = "–" if told["before"] is None else f"{told['before']['value']:.4g} ({told['before']['model']})"
        after = f"{told['after']['value']:.4g} ({told['after']['model']})"
        row = (told["model"], told["task"], told["metric"], before, after)
        table.add_row(*map(Text, row), *_change(told["difference"], "new"))
    out.print(table)
    if found["truncated"]:
        out.print("there are more: ask for a shorter period", style="yellow")


def _moment(text: str) -> float:
    """Unix seconds of a date, or of so long ago."""
    ago = _AGO.fullmatch(text)
    if ago:
        return time.time() - int(ago[1]) * _SECONDS[ago[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            f"expected a date as 2026-11-01, or how long ago as 24h, 7d or 4w, got {text[:80]!r}"
        ) from None


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def _point(point: dict[str, Any]) -> tuple[Text, ...]:
    score = Text(f"{point['value']:.4g}")
    if point["low"] is not None:
        score.append(f" [{point['low']:.4g}, {point['high']:.4g}]", style="dim")
    suite = Text(point["suite"])
    if point["suite_revision"] is not None:
        suite.append(f" r{point['suite_revision']}", style="yellow" if point["new_revision"] else "dim")
    flagged = ", ".join(name.replace("_", " ") for name in point["flagged"])
    return (
        Text(point["model"]),
        Text(moment(point["recorded_at"])),
        suite,
        score,
        *_change(point["change"], flagged),
    )


def _change(told: dict[str, Any] | None, otherwise: str) -> tuple[Text, Text, Text]:
    if told is None:
        return Text("–"), Text("–"), Text(otherwise, style="yellow")
    difference = Text("–" if told["difference"] is None else f"{told['difference']:+.4g}")
    if told["low"] is not None:
        difference.append(f" [{told['low']:+.4g}, {told['high']:+.4g}]", style="dim")
    adjusted = "–" if told["adjusted"] is None else f"{told['adjusted']:.2g}"
    verdict = Text(told["verdict"], style=_STYLES.get(told["verdict"], ""))
    if told["reason"]:
        verdict.append(f": {told['reason']}", style="dim")
    return difference, Text(adjusted), verdict
