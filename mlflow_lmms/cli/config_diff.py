"""`mlflow-lmms config-diff`: which settings of runs differ."""

from __future__ import annotations

import click

from mlflow_lmms.cli.documents import DOCUMENTS, print_document
from mlflow_lmms.cli.output import console, document_format_option, print_json, print_table, wanted_format
from mlflow_lmms.client import Client
from mlflow_lmms.report.finding_sheets import settings_sheet
from mlflow_lmms.report.records import setting_records


@click.command("config-diff")
@click.argument("runs", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Show what is equal, too.")
@document_format_option(*DOCUMENTS)
def config_diff(runs: tuple[str, ...], everything: bool) -> None:
    """Show in which settings RUNS differ: params, versions, and what each result was made of."""
    found = Client().config_diff(*runs, everything=everything)
    form = wanted_format()
    if form == "json":
        return print_json(found)
    if form in DOCUMENTS:
        return print_document(setting_records(found), [settings_sheet(found)], form)
    rows = [
        (s["section"], s["name"], *(s["values"][run_id] for run_id in found["models"])) for s in found["settings"]
    ]
    print_table(("section", "setting", *found["models"].values()), rows)
    console().print(f"{found['equal']} settings are equal", style="dim", highlight=False)
