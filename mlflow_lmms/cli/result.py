"""`mlflow-lmms result`: corrects results, with author and reason; boards follow, and nothing is lost."""

from __future__ import annotations

from typing import Any

import click

from mlflow_lmms.cli.output import format_option, moment, print_json, print_table, wants_json
from mlflow_lmms.client import Client

_REASON = click.option("--reason", required=True, help="Why; everybody who sees the result reads it.")


@click.group()
def result() -> None:
    """Invalidate a result, give it another value, or let it stand as it was recorded again."""


@result.command()
@click.argument("run")
@click.argument("task")
@_REASON
@format_option
def invalidate(run: str, task: str, reason: str) -> None:
    """Declare the result of TASK in RUN wrong: boards show it and rank it no more."""
    _print(Client().invalidate(run, task, reason=reason))


@result.command("set")
@click.argument("run")
@click.argument("task")
@click.argument("value", type=float)
@click.option("--low", type=float, help="Lower end of its 95 % interval.")
@click.option("--high", type=float, help="Upper end of its 95 % interval.")
@_REASON
@format_option
def set_score(run: str, task: str, value: float, low: float | None, high: float | None, reason: str) -> None:
    """Give the result of TASK in RUN another VALUE, in its primary metric's own units.

    With an interval it is ranked, unpaired; without one it is shown and not ranked.
    """
    _print(Client().set_score(run, task, value, low=low, high=high, reason=reason))


@result.command()
@click.argument("run")
@click.argument("task")
@_REASON
@format_option
def restore(run: str, task: str, reason: str) -> None:
    """Let the result of TASK in RUN stand as it was recorded again."""
    _print(Client().restore(run, task, reason=reason))


@result.command()
@click.argument("runs", nargs=-1)
@click.option("--task", help="Only of this task.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@format_option
def history(runs: tuple[str, ...], task: str | None, limit: int) -> None:
    """Show who corrected what in RUNS, or in all that you may read, newest first."""
    found = Client().corrections(*runs, task=task, limit=limit)
    if wants_json():
        print_json(found)
        return
    columns = ("id", "when", "who", "run", "task", "action", "value", "reason")
    rows = [
        (c["id"], moment(c["created_at"]), c["author"], c["run_id"], c["task"], c["action"], c["value"], c["reason"])
        for c in found
    ]
    print_table(columns, rows)


def _print(done: dict[str, Any]) -> None:
    if wants_json():
        print_json(done)
    else:
        click.echo(f"{done['action']}: {done['task']} in run {done['run_id']}")
