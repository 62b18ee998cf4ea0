"""`mlflow-lmms up`: everything on one machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

import click

from mlflow_lmms.cli.registry_client import registry_client
from mlflow_lmms.local_stack import LocalStack, pages
from mlflow_lmms.server_command import ADMIN_NAME, ADMIN_PASSWORD, secrets_folder
from mlflow_lmms.settings import Settings

Command = TypeVar("Command", bound=Callable[..., object])
PORT = 5000


def stack_options(command: Command) -> Command:
    """The options that `up` and `demo` share."""
    port = click.option(
        "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: a free one."
    )
    folder = click.option(
        "--data-folder",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where everything is kept; MLFLOW_LMMS_DATA_FOLDER counts too.  [default: mlflow-lmms-data]",
    )
    return port(folder(command))


@click.command()
@stack_options
@click.option("--dev", is_flag=True, help="For developers: reload changed code, and seed an empty history.")
def up(port: int, data_folder: Path | None, dev: bool) -> None:
    """Run the MLflow server with our tabs, a queue and a worker on this machine, for this machine alone.

    All data is kept in one folder; the next start on it finds everything again. Ctrl-C stops everything.
    """
    from mlflow_lmms.demo import check_installed, with_digits

    settings = Settings.load(data_folder=data_folder)
    if not settings.environments:
        check_installed()
    stop_on_signals()
    say("starting server, queue and worker …")
    with LocalStack(with_digits(settings), port, say, reload=dev) as stack:
        greet(stack)
        if dev:
            _seed(stack)
        serve()
    click.echo("stopped")


def _seed(stack: LocalStack) -> None:
    """Give an empty history the demonstration's evaluations; the worker runs them meanwhile."""
    from mlflow_lmms.client import Client
    from mlflow_lmms.demo import register_models, submit_all, train_models

    os.environ.update(stack.client_environment)
    client = Client(stack.url)
    if not client.evaluations(limit=1):
        trained = train_models(stack.folder / "digits-models")
        submit_all(client, register_models(registry_client(stack.url), trained))


def stop_on_signals() -> None:
    """Let SIGTERM and SIGHUP stop the stack as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def serve() -> None:
    """Return on Ctrl-C, which is the ordinary end of a server."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("\nstopping …", err=True)


def say(line: str) -> None:
    """Show what the supervisor has to tell."""
    click.echo(line, err=True)


def greet(stack: LocalStack) -> None:
    """Say what runs, where its data is and which pages to look at."""
    program = stack.embedded.program if stack.embedded is not None else None
    queue = program or ("adopted a running one" if stack.embedded is not None else "as set by MLFLOW_LMMS_REDIS_URL")
    rows = {"data": stack.folder, "queue": queue, "logs": stack.folder / "logs", **pages(stack.url)}
    if stack.settings.auth == "basic":
        rows["sign in"] = f"as {os.environ.get(ADMIN_NAME, 'admin')}, password in {_password_place(stack)}"
    for name, value in rows.items():
        click.echo(f"{name.lower():<12} {value}")
    here = f"MLFLOW_TRACKING_URI={stack.url} MLFLOW_LMMS_DATA_FOLDER={stack.folder}"
    click.echo(f"in another terminal: export {here}; mlflow-lmms submit …; Ctrl-C stops everything")


def _password_place(stack: LocalStack) -> str:
    if ADMIN_PASSWORD in os.environ:
        return ADMIN_PASSWORD
    return str(secrets_folder(stack.folder) / "admin_password")
