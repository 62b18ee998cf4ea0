"""`mlflow-lmms server`: prepares database and secrets, then becomes `mlflow server --app-name lmms`."""

from __future__ import annotations

import os
import shlex

import click

from mlflow_lmms.server_command import ADMIN_PASSWORD, SESSION_KEY, migrate, secrets_folder, server_command
from mlflow_lmms.settings import Settings


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--dry-run", is_flag=True, help="Print the command and what it adds to the environment; start nothing.")
@click.argument("mlflow_options", nargs=-1, type=click.UNPROCESSED)
def server(dry_run: bool, mlflow_options: tuple[str, ...]) -> None:
    """Start the MLflow server with our tabs in it.

    Any option of `mlflow server` may follow, such as --host, --port, --workers or --backend-store-uri. Our tables are
    migrated first; with MLFLOW_LMMS_AUTH=basic the session key and the first administrator are made and kept in the
    data folder.
    """
    settings = Settings.load()
    prepared = server_command(settings, os.environ, mlflow_options, dry=dry_run)
    if dry_run:
        for name, value in prepared.environ.items():
            click.echo(f"{name}={'***' if name in (SESSION_KEY, ADMIN_PASSWORD) else shlex.quote(value)}")
        click.echo(shlex.join(prepared.command))
        return
    migrate(settings, prepared.backend_store_uri)
    if ADMIN_PASSWORD in prepared.environ and ADMIN_PASSWORD not in os.environ:
        where = secrets_folder(settings.data_folder) / "admin_password"
        click.echo(f"sign in as admin; the password made on the first start is in {where}", err=True)
    os.execvpe(prepared.command[0], prepared.command, {**os.environ, **prepared.environ})  # noqa: S606
