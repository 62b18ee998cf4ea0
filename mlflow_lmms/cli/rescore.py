"""`mlflow-lmms rescore`: scores finished tasks again from their stored answers."""

from __future__ import annotations

import click

from mlflow_lmms.cli.output import console, format_option, print_json, wants_json
from mlflow_lmms.client import Client


@click.command()
@click.argument("run_id")
@click.argument("tasks", nargs=-1, metavar="[TASK…]")
@format_option
def rescore(run_id: str, tasks: tuple[str, ...]) -> None:
    """Score finished tasks of RUN_ID again from their stored answers, without new inference; default: all of them.

    The new score replaces the old one in the same MLflow run; both attempts' samples are kept. It takes a CPU slot
    and no GPU. For another judge, change the evaluation environment or the secrets of the worker's box first.
    """
    answer = Client().rescore(run_id, tasks)
    if wants_json():
        print_json(answer)
        return
    console().print(f"to be scored again: {', '.join(answer['tasks'])}", highlight=False, markup=False)
