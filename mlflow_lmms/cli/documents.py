"""Leaderboards and comparisons as documents on standard output: CSV, Markdown, LaTeX, a model card's YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from mlflow_lmms.client import Client
from mlflow_lmms.report.board_sheet import board_sheet
from mlflow_lmms.report.comparison_sheet import comparison_sheet
from mlflow_lmms.report.csv_text import board_csv, comparison_csv
from mlflow_lmms.report.latex import latex_sheet
from mlflow_lmms.report.markdown import markdown_sheet
from mlflow_lmms.report.model_index import left_out, model_index

COMPARISON_DOCUMENTS = ("csv", "markdown", "latex")
BOARD_DOCUMENTS = (*COMPARISON_DOCUMENTS, "model-index")


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
        _print({"markdown": markdown_sheet, "latex": latex_sheet}[form](board_sheet(board)))


def print_comparison_document(found: Mapping[str, Any], form: str) -> None:
    """Print a comparison in one of `COMPARISON_DOCUMENTS`."""
    if form == "csv":
        _print(comparison_csv(found))
    else:
        _print({"markdown": markdown_sheet, "latex": latex_sheet}[form](comparison_sheet(found)))


def _print(text: str) -> None:
    click.echo(text.encode("utf-8", "replace"), nl=False)
