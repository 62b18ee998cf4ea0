"""`mlflow-lmms leaderboard`: the models ranked, with intervals and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlflow_lmms.cli.output import console, format_option, print_json, wants_json
from mlflow_lmms.client import Client


@click.command()
@click.option("--suite", help="Only results of this suite.")
@click.option("--experiment", help="Only this experiment's.")
@click.option("--partial", is_flag=True, help="Rank results over a part of a task's documents too.")
@click.option("--flagged", is_flag=True, help="Rank results too whose warnings speak against it.")
@format_option
def leaderboard(suite: str | None, experiment: str | None, partial: bool, flagged: bool) -> None:
    """Rank the models: scores with their 95 % intervals, ties, and who beats whom.

    Scores that somebody else published stand beside ours in brackets, with their source; they are not ranked.
    """
    board = Client().leaderboard(suite=suite, experiment=experiment, partial=partial, flagged=flagged)
    if wants_json():
        print_json(board)
    else:
        print_board(board, console())


def print_board(board: dict[str, Any], out: Console) -> None:
    """Print a board as a table, and what it means in words."""
    if not board["rows"]:
        out.print("no results yet; `mlflow-lmms submit --help` says how to ask for an evaluation")
    else:
        out.print(_table(board))
    for sentence in board["verdicts"]:
        out.print(f"• {sentence}", markup=False, highlight=False)
    for reason in board["left_out"]:
        out.print(f"not shown: {reason}", style="dim", markup=False, highlight=False)


def _table(board: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "model", "win rate"):
        table.add_column(column)
    for column in board["columns"]:
        lower = "" if column["higher_is_better"] is not False else " ↓"
        table.add_column(f"{column['task']}\n{column['metric']}{lower}")
    tasks = [column["task"] for column in board["columns"]]
    for row in board["rows"]:
        rate = "–" if row["win_rate"] is None else f"{row['win_rate']:.2f}"
        cells = [_cell(row["cells"].get(task), row["reported"].get(task, ())) for task in tasks]
        table.add_row(str(row["rank"] or "–"), Text(row["model"]), rate, *cells)
    return table


def _cell(cell: dict[str, Any] | None, reported: Sequence[dict[str, Any]]) -> Text:
    text = _own(cell) if cell is not None else Text("" if reported else "–")
    for score in reported:
        text.append(f"{' ' if text else ''}({score['value']:.3f} reported", style="dim not bold")
        text.append(f" by {score['source']})" if score["source"] else ")", style="dim not bold")
    return text


def _own(cell: dict[str, Any]) -> Text:
    text = Text(f"{cell['value']:.3f}", style="bold" if cell["rank"] == 1 else "")
    if cell["low"] is not None and cell["high"] is not None:
        text.append(f" [{cell['low']:.3f}, {cell['high']:.3f}]", style="not bold")
    if cell["rank"] is not None:
        text.append(f" {'=' if cell['tied'] else '#'}{cell['rank']}", style="cyan not bold")
    for doubt in (cell["note"], *(name.replace("_", " ") for name in cell["flagged"])):
        if doubt:
            text.append(f" ({doubt})", style="yellow not bold")
    return text
