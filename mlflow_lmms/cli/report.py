"""`mlflow-lmms report`: leaderboard and comparisons as one HTML file to send around."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

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
@click.option("--suite", help="Only results of this suite.")
@click.option("--experiment", help="Only this experiment's.")
@click.option("--partial", is_flag=True, help="Rank results over a part of a task's documents too.")
@click.option("--flagged", is_flag=True, help="Rank results too whose warnings speak against it.")
@click.option("--no-leaderboard", is_flag=True, help="Only the comparison of the runs.")
def report(
    runs: Sequence[str],
    file: Path,
    title: str,
    suite: str | None,
    experiment: str | None,
    partial: bool,
    flagged: bool,
    no_leaderboard: bool,
) -> None:
    """Write the leaderboard, and a comparison of RUNS with the first of them, into one HTML file.

    The file holds everything: it loads nothing and runs nothing when it is opened. It shows what you may read;
    whoever gets the file reads it without asking MLflow.
    """
    if len(runs) == 1 or (no_leaderboard and not runs):
        raise InvalidRequestError(f"a comparison takes two runs or more, the first is the baseline; got {len(runs)}")
    client = Client()
    board = (
        None
        if no_leaderboard
        else client.leaderboard(suite=suite, experiment=experiment, partial=partial, flagged=flagged)
    )
    comparisons = [client.compare(*runs)] if runs else []
    asked = {"suite": suite, "experiment": experiment, "partial": partial and "yes", "flagged": flagged and "yes"}
    heading = Heading(
        title=title,
        server=mask_password(client.server_url),
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        narrowed={name: str(value) for name, value in asked.items() if value},
        version=version("mlflow-lmms"),
    )
    _write(file, html_report(heading, board, comparisons))
    click.echo(f"wrote {file}")


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
