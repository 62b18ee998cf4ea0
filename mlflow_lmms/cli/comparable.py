"""`mlflow-lmms comparable`: whether two runs' results may be compared, and in plain words what differs."""

from __future__ import annotations

import click

from mlflow_lmms.cli.output import format_option, print_json, print_table, wants_json
from mlflow_lmms.client import Client
from mlflow_lmms.comparability import Verdict

_NOT_COMPARABLE, _UNKNOWN = 1, 2
_EXIT = {Verdict.COMPARABLE: 0, Verdict.NOT_COMPARABLE: _NOT_COMPARABLE, Verdict.UNKNOWN: _UNKNOWN}


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--task", help="This task alone.  [default: every task that both have]")
@format_option
@click.pass_context
def comparable(context: click.Context, first: str, second: str, task: str | None) -> None:
    """Say whether the results of the runs FIRST and SECOND may be compared, and what differs.

    Exit code 0: they may; 1: they may not; 2: it cannot be told, or they share no task.
    """
    found = Client().comparability(first, second, task=task)
    if wants_json():
        print_json(found)
    else:
        for name, told in found["tasks"].items():
            click.echo(f"{name}: {told['verdict']}")
            for reason in told["reasons"]:
                click.echo(f"  - {reason}")
        if not found["tasks"]:
            click.echo("the two runs have no task in common")
        rows = [(found["first"], found["only_first"]), (found["second"], found["only_second"])]
        if any(only for _, only in rows):
            print_table(("only in", "tasks"), [row for row in rows if row[1]])
    context.exit(_EXIT[Verdict(found["verdict"])])
