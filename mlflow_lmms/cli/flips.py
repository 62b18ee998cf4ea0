"""`mlflow-lmms flips`: the documents that a candidate won, lost, or answered otherwise."""

from __future__ import annotations

from typing import Any

import click

from mlflow_lmms.cli.documents import DOCUMENTS, print_document
from mlflow_lmms.cli.output import console, document_format_option, print_json, print_table, wanted_format
from mlflow_lmms.client import Client
from mlflow_lmms.flip_kinds import FlipKind
from mlflow_lmms.report.finding_sheets import flips_sheet
from mlflow_lmms.report.records import answer, flip_records

_TEXT_SHOWN = 60


@click.command()
@click.argument("baseline")
@click.argument("candidate")
@click.argument("task")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([kind.value for kind in FlipKind]),
    help="[default: all but same; several]",
)
@click.option("--search", default="", help="Words that stand in the input, the target or a response.")
@click.option("--offset", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 500))
@document_format_option(*DOCUMENTS)
def flips(
    baseline: str, candidate: str, task: str, kinds: tuple[str, ...], search: str, offset: int, limit: int
) -> None:
    """Show the documents of TASK on which the run CANDIDATE and the run BASELINE differ, with both answers."""
    found = Client().flips(baseline, candidate, task, kinds=kinds, search=search, offset=offset, limit=limit)
    form = wanted_format()
    if form == "json":
        return print_json(found)
    if form in DOCUMENTS:
        return print_document(flip_records(found), [flips_sheet(found)], form)
    out = console()
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in found["counts"].items())
    out.print(f"{found['documents']['shared']:,} documents: {counts}", markup=False, highlight=False)
    if found["doubts"]:
        out.print(f"beware: {found['doubts']}", markup=False, highlight=False, style="yellow")
    columns = ("sample", "kind", "target", "baseline", "candidate", "input")
    print_table(columns, [_row(flip, found["filter"]) for flip in found["flips"]])
    shown = len(found["flips"])
    out.print(f"{offset + 1 if shown else 0}–{offset + shown} of {found['total']:,}", style="dim", highlight=False)


def _row(flip: dict[str, Any], filter_name: str) -> tuple[Any, ...]:
    one, two = flip["baseline"], flip["candidate"]
    texts = (one["target"], answer(one, filter_name), answer(two, filter_name), one["input"])
    return one["index"], flip["kind"].replace("_", " "), *map(_short, texts)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_SHOWN else f"{line[:_TEXT_SHOWN]}…"
