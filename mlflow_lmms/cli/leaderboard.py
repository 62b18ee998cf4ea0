"""`mlflow-lmms leaderboard`: the models ranked, with intervals and a verdict in words."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mlflow_lmms.cli.board_options import asked_of, board_options
from mlflow_lmms.cli.documents import BOARD_DOCUMENTS, print_board_document
from mlflow_lmms.cli.output import console, document_format_option, print_json, wanted_format
from mlflow_lmms.client import Client

_COLUMNS_SIDE_BY_SIDE = 6
_OVERALL = {"win_rate": "win rate", "normalised": "mean score", "weighted": "weighted score"}


@click.command()
@board_options
@click.option("--rows", type=click.IntRange(1), help="Only so many models.")
@document_format_option(*BOARD_DOCUMENTS)
def leaderboard(rows: int | None, **options: Any) -> None:
    """Rank the models: scores with their 95 % intervals, ties, and who beats whom.

    Scores that somebody else published stand beside ours in brackets, with their source; they are not ranked.
    """
    board = Client().leaderboard(limit=rows, **asked_of(options))
    form = wanted_format()
    if form == "json":
        print_json(board)
    elif form in BOARD_DOCUMENTS:
        print_board_document(board, form)
    else:
        print_board(board, console())


def print_board(board: dict[str, Any], out: Console) -> None:
    """Print a board as a table, and what it means in words."""
    if not board["rows"]:
        out.print("no results yet; `mlflow-lmms submit --help` says how to ask for an evaluation")
    elif len(board["columns"]) <= _COLUMNS_SIDE_BY_SIDE:
        _print_side_by_side(board, out)
    else:
        out.print(_overall(board))
        out.print(_task_by_task(board))
    for sentence in board["verdicts"]:
        out.print(f"• {sentence}", markup=False, highlight=False)
    for reason in board["left_out"]:
        out.print(f"not shown: {reason}", style="dim", markup=False, highlight=False)


def _print_side_by_side(board: dict[str, Any], out: Console) -> None:
    """One row for each model, one column for each task; doubts as numbered notes below."""
    notes: dict[str, int] = {}
    columns = ("", "model", *_summary_columns(board), *(_heading(column) for column in board["columns"]))
    table = _new_table(*columns)
    for row in board["rows"]:
        cells = []
        for column in board["columns"]:
            cell, reported = row["cells"].get(column["task"]), _reported(row, column)
            text = Text("" if reported else "–") if cell is None else _score(cell)
            for doubt in _doubts(cell):
                text.append(f" [{notes.setdefault(doubt, len(notes) + 1)}]", style="yellow not bold")
            cells.append(Text(" ").join(filter(None, (text, *reported))))
        table.add_row(_place(row), Text(row["model"]), *_summary(row), *cells)
    out.print(table)
    for doubt, number in notes.items():
        out.print(f"[{number}] {doubt}", style="yellow", markup=False, highlight=False)


def _overall(board: dict[str, Any]) -> Table:
    table = _new_table("", "model", *_summary_columns(board), "tasks")
    for row in board["rows"]:
        table.add_row(
            _place(row), Text(row["model"]), *_summary(row), f"{len(row['cells'])} of {len(board['columns'])}"
        )
    return table


def _task_by_task(board: dict[str, Any]) -> Table:
    """One row for each score: many tasks do not fit beside each other."""
    table = _new_table("task", "metric", "model", "score", "mind")
    for column in board["columns"]:
        task, metric = Text(column["task"]), _metric(column)
        for row in board["rows"]:
            cell, reported = row["cells"].get(column["task"]), _reported(row, column)
            scores = [] if cell is None else [(_score(cell), "; ".join(_doubts(cell)))]
            for score, mind in [*scores, *((text, "") for text in reported)]:
                table.add_row(task, metric, Text(row["model"]), score, Text(mind, style="yellow"))
                task, metric = Text(), ""
    return table


def _new_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _heading(column: dict[str, Any]) -> str:
    return escape(f"{column['task']}\n{_metric(column)}")


def _metric(column: dict[str, Any]) -> str:
    return f"{column['metric']}{'' if column['higher_is_better'] is not False else ' ↓'}"


def _place(row: dict[str, Any]) -> str:
    return str(row["rank"] or "–")


def _summary_columns(board: dict[str, Any]) -> list[str]:
    costs = any("cost" in row for row in board["rows"])
    return [_OVERALL[board.get("overall", "win_rate")], *(("GPU-hours", "tokens") if costs else ())]


def _summary(row: dict[str, Any]) -> list[Text]:
    """The overall score with its interval; what it has cost, a star where no model is as good for less."""
    overall = row.get("overall") or {"value": row["win_rate"], "low": None, "high": None}
    words = "–" if overall["value"] is None else f"{overall['value']:.2f}"
    if overall["low"] is not None:
        words += f" [{overall['low']:.2f}, {overall['high']:.2f}]"
    if "cost" not in row:
        return [Text(words)]
    cost = row["cost"] or {"gpu_hours": None, "tokens": None, "on_front": None, "runs": 0, "runs_known": 0}
    hours = "–" if cost["gpu_hours"] is None else f"{cost['gpu_hours']:.2f}"
    if cost["gpu_hours"] is not None and cost["runs_known"] < cost["runs"]:
        hours += f" (of {cost['runs_known']} of {cost['runs']} runs)"
    tokens = "–" if cost["tokens"] is None else f"{cost['tokens']:,}"
    return [Text(words), Text(hours + (" *" if cost["on_front"] else "")), Text(tokens)]


def _score(cell: dict[str, Any]) -> Text:
    text = Text(f"{cell['value']:.3f}", style="bold" if cell["rank"] == 1 else "")
    if cell["low"] is not None and cell["high"] is not None:
        text.append(f" [{cell['low']:.3f}, {cell['high']:.3f}]", style="not bold")
    if cell["rank"] is not None:
        best, worst = cell["rank_interval"]
        text.append(f" #{best}" if best == worst else f" #{best}–{worst}", style="cyan not bold")
    return text


def _doubts(cell: dict[str, Any] | None) -> list[str]:
    if cell is None:
        return []
    flagged = [name.replace("_", " ") for name in cell["flagged"]]
    return [doubt for doubt in (cell["note"], *flagged) if doubt]


def _reported(row: dict[str, Any], column: dict[str, Any]) -> list[Text]:
    return [
        Text(f"({score['value']:.3f} reported{' by ' + score['source'] if score['source'] else ''})", style="dim")
        for score in row["reported"].get(column["task"], ())
    ]
