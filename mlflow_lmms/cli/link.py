"""`mlflow-lmms link`: says which registered model an imported run is of."""

from __future__ import annotations

import click

from mlflow_lmms.cli.output import console, format_option, print_json, wants_json
from mlflow_lmms.cli.tracking import tracking_client


@click.command()
@click.argument("run")
@click.argument("model")
@format_option
def link(run: str, model: str) -> None:
    """Link the imported RUN to the registered MODEL (models:/NAME/VERSION or models:/NAME@ALIAS)."""
    from mlflow_lmms.importing.index_run import index_run
    from mlflow_lmms.importing.link_run import link_run

    client, address = tracking_client()
    linked = link_run(client, run, model)
    index_run(address, run)
    if wants_json():
        print_json({"run_id": run, "model": linked.name, "version": linked.version})
        return
    console().print(f"linked {run} to {linked.label}", highlight=False)
