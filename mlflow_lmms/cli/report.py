"""`mlflow-lmms report`: leaderboard and comparisons as one HTML file to send around."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from mlflow_lmms.cli.board_options import asked_of, board_options
from mlflow_lmms.client import Client
from mlflow_lmms.errors import ConfigurationError, InvalidRequestError
from mlflow_lmms.report.html_report import Heading, html_report
from mlflow_lmms.settings import mask_password


@click.command()
@click.argument("runs", nargs=-1)
@click.option(
    "-o", "--output", "file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The HTML file."
)
@click.option("--title", default="Evaluation report", show_default=True)
@board_options
@click.option("--no-leaderboard", is_flag=True, help="Only the comparison of the runs.")
def report(runs: Sequence[str], file: Path, title: str, no_leaderboard: bool, **options: Any) -> None:
    """Write the leaderboard, and a comparison of RUNS with the first of them, into one HTML file.

    The file holds everything: it loads nothing and runs nothing when it is opened. It shows what you may read;
    whoever gets the file reads it without asking MLflow.
    """
    if len(runs) == 1 or (no_leaderboard and not runs):
        raise InvalidRequestError(f"a comparison takes two runs or more, the first is the baseline; got {len(runs)}")
    client = Client()
    shown = {name: _shown(value) for name, value in options.items() if value not in (None, (), False)}
    board = None if no_leaderboard else client.leaderboard(**asked_of(options))
    comparisons = [client.compare(*runs)] if runs else []
    heading = Heading(
        title=title,
        server=mask_password(client.server_url),
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        narrowed={} if no_leaderboard else shown,
        version=version("mlflow-lmms"),
    )
    _write(file, html_report(heading, board, comparisons))
    click.echo(f"wrote {file}")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else "yes" if value is True else str(value)


def _write(file: Path, text: str) -> None:
    """Whole or not at all: whoever has the old file open keeps it."""
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as out:
            out.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(out.name).chmod(0o666 & ~umask)
        Path(out.name).replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from None
