"""`mlflow-lmms note`: notes on runs, results and samples."""

from __future__ import annotations

import click

from mlflow_lmms.cli.output import format_option, moment, print_json, print_table, wants_json
from mlflow_lmms.client import Client


@click.group()
def note() -> None:
    """Write and read notes on runs, on results and on samples; they are never changed or taken back."""


@note.command()
@click.argument("run")
@click.argument("text")
@click.option("--task", help="On the result of this task.")
@click.option("--sample", type=click.IntRange(min=0), help="On this row of the task's samples.")
@format_option
def add(run: str, text: str, task: str | None, sample: int | None) -> None:
    """Add a note to RUN."""
    done = Client().add_note(run, text, task=task, sample=sample)
    if wants_json():
        print_json(done)
    else:
        click.echo(f"note {done['id']}")


@note.command("list")
@click.argument("runs", nargs=-1)
@click.option("--task", help="Only on this task.")
@click.option("--sample", type=click.IntRange(min=0), help="Only on this row of the task's samples.")
@click.option("--before", type=click.IntRange(min=1), help="Only older than the note with this id.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@format_option
def list_notes(runs: tuple[str, ...], task: str | None, sample: int | None, before: int | None, limit: int) -> None:
    """Show notes on RUNS, or on all that you may read, newest first."""
    found = Client().notes(*runs, task=task, sample=sample, before=before, limit=limit)
    if wants_json():
        print_json(found)
        return
    columns = ("id", "when", "who", "run", "task", "sample", "note")
    rows = [
        (n["id"], moment(n["created_at"]), n["author"], n["run_id"], n["task"], n["sample"], n["text"]) for n in found
    ]
    print_table(columns, rows)
