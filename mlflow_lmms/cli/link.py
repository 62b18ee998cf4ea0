"""`mlflow-lmms link`: says which registered model an imported run is of."""

from __future__ import annotations

import click

from mlflow_lmms.cli.output import console, format_option, print_json, wants_json
from mlflow_lmms.cli.registry_client import registry_client
from mlflow_lmms.settings import Settings


@click.command()
@click.argument("run")
@click.argument("model")
@format_option
def link(run: str, model: str) -> None:
    """Link the imported RUN to the registered MODEL (models:/NAME/VERSION or models:/NAME@ALIAS)."""
    from mlflow_lmms.importing.index_run import index_run
    from mlflow_lmms.importing.link_run import link_run

    server_url = Settings.load().server_url
    linked = link_run(registry_client(server_url), run, model)
    index_run(server_url, run)
    if wants_json():
        print_json({"run_id": run, "model": linked.name, "version": linked.version})
        return
    console().print(f"linked {run} to {linked.label}", highlight=False)
