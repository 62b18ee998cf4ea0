"""`mlflow-lmms reindex`: has the server build the score index anew, and shows how far it is."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mlflow_lmms.cli.output import console, format_option, print_json, wants_json
from mlflow_lmms.client import Client

_LOOK_EVERY_S = 0.5


@click.command()
@click.option("--no-wait", is_flag=True, help="Only ask for it; the server goes on by itself.")
@format_option
def reindex(no_wait: bool) -> None:
    """Build the score index anew from the MLflow runs alone.

    The server does the work beside its other work, and boards stay whole meanwhile. Ctrl-C ends only the watching:
    the command, given again, shows the same rebuild, which also goes on after a restart of the server.
    """
    client = Client()
    state = client.reindex()["reindex"]
    if not no_wait:
        state = _watched(client, state)
    if wants_json():
        print_json(state)
    elif no_wait:
        console().print(f"{state['total']} runs are being read; `mlflow-lmms reindex` shows how far it is")
    else:
        seconds = state["ended_at"] - state["started_at"]
        console().print(f"{state['done']} runs read in {seconds:.1f} s; the index is new")


def _watched(client: Client, state: dict[str, Any]) -> dict[str, Any]:
    columns = (TextColumn("runs read"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("reindex", total=max(state["total"], 1), completed=state["done"])
        while state["ended_at"] is None:
            time.sleep(_LOOK_EVERY_S)
            state = client.index_state()["reindex"]
            bar.update(row, total=max(state["total"], state["done"], 1), completed=state["done"])
    return state
