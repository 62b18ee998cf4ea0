"""What commands find as documents on standard output: CSV, Markdown, LaTeX, a model card's YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from mlflow_lmms.client import Client
from mlflow_lmms.report.board_sheet import board_sheet
from mlflow_lmms.report.comparison_sheet import comparison_sheet
from mlflow_lmms.report.csv_text import board_csv, comparison_csv, records_csv
from mlflow_lmms.report.latex import latex_sheet
from mlflow_lmms.report.markdown import markdown_sheet
from mlflow_lmms.report.model_index import left_out, model_index
from mlflow_lmms.report.records import Records
from mlflow_lmms.report.sheet import Sheet

DOCUMENTS = ("csv", "markdown", "latex")
BOARD_DOCUMENTS = (*DOCUMENTS, "model-index")
_SHEETS = {"markdown": markdown_sheet, "latex": latex_sheet}


def print_board_document(board: Mapping[str, Any], form: str) -> None:
    """Print a leaderboard in one of `BOARD_DOCUMENTS`."""
    if form == "model-index":
        for reason in left_out(board):
            click.echo(f"not on the card: {reason}", err=True)
        known = {task["name"]: task for task in Client().tasks() if task["kind"] == "task"}
        _print(model_index(board, known))
    elif form == "csv":
        _print(board_csv(board))
    else:
        _print(_SHEETS[form](board_sheet(board)))


def print_comparison_document(found: Mapping[str, Any], form: str) -> None:
    """Print a comparison in one of `DOCUMENTS`."""
    if form == "csv":
        _print(comparison_csv(found))
    else:
        _print(_SHEETS[form](comparison_sheet(found)))


def print_document(records: Records, sheets: Sequence[Sheet], form: str) -> None:
    """Print anything else in one of `DOCUMENTS`: its records as CSV, its tables as Markdown or LaTeX."""
    _print(records_csv(records) if form == "csv" else "\n".join(map(_SHEETS[form], sheets)))


def _print(text: str) -> None:
    click.echo(text.encode("utf-8", "replace"), nl=False)
