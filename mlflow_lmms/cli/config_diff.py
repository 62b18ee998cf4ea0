"""`mlflow-lmms config-diff`: which settings of runs differ."""

from __future__ import annotations

import click

from mlflow_lmms.cli.output import console, format_option, print_json, print_table, wants_json
from mlflow_lmms.client import Client


@click.command("config-diff")
@click.argument("runs", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Show what is equal, too.")
@format_option
def config_diff(runs: tuple[str, ...], everything: bool) -> None:
    """Show in which settings RUNS differ: params, versions, and what each result was made of."""
    found = Client().config_diff(*runs, everything=everything)
    if wants_json():
        print_json(found)
        return
    rows = [
        (s["section"], s["name"], *(s["values"][run_id] for run_id in found["models"])) for s in found["settings"]
    ]
    print_table(("section", "setting", *found["models"].values()), rows)
    console().print(f"{found['equal']} settings are equal", style="dim", highlight=False)
