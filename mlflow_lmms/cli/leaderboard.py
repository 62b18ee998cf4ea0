"""`mlflow-lmms leaderboard`: the models ranked, with intervals and a verdict in words."""

from __future__ import annotations

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
@format_option
def leaderboard(suite: str | None, experiment: str | None, partial: bool) -> None:
    """Rank the models: scores with their 95 % intervals, ties, and who beats whom."""
    board = Client().leaderboard(suite=suite, experiment=experiment, partial=partial)
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
    for row in board["rows"]:
        rate = "–" if row["win_rate"] is None else f"{row['win_rate']:.2f}"
        cells = [_cell(row["cells"].get(column["task"])) for column in board["columns"]]
        table.add_row(str(row["rank"] or "–"), Text(row["model"]), rate, *cells)
    return table


def _cell(cell: dict[str, Any] | None) -> Text:
    if cell is None:
        return Text("–")
    text = Text(f"{cell['value']:.3f}", style="bold" if cell["rank"] == 1 else "")
    if cell["low"] is not None and cell["high"] is not None:
        text.append(f" [{cell['low']:.3f}, {cell['high']:.3f}]", style="not bold")
    if cell["rank"] is not None:
        text.append(f" {'=' if cell['tied'] else '#'}{cell['rank']}", style="cyan not bold")
    if cell["note"]:
        text.append(f" ({cell['note']})", style="yellow not bold")
    return text
