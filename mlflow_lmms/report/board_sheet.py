"""A leaderboard as one table of text: models by tasks, or tasks by models where there are many tasks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_lmms.report.sheet import Cell, Sheet, interval, number, score

_SIDE_BY_SIDE = 6
_OVERALL = {"win_rate": "win rate", "normalised": "mean score", "weighted": "weighted score"}
_EXPLANATION = (
    "Scores stand with their 95 % intervals. Ranks as #1–3 are those that a model may have: paired tests over the "
    "same documents, corrected after Holm, cannot tell more."
)


def board_sheet(board: Mapping[str, Any]) -> Sheet:
    """The table of what `Client.leaderboard` returns; doubts are numbered and told below it."""
    doubts: dict[str, int] = {}
    turned = len(board["columns"]) > max(_SIDE_BY_SIDE, len(board["rows"]))
    sheet = _tasks_down(board, doubts) if turned else _models_down(board, doubts)
    remarks = [f"[{at}] {doubt}" for doubt, at in doubts.items()]
    remarks += [f"not shown: {reason}" for reason in board["left_out"]]
    return Sheet(sheet.title, sheet.columns, sheet.rows, (*remarks, _EXPLANATION), sheet.numbers)


def summary_names(board: Mapping[str, Any]) -> list[str]:
    """What stands beside a model's name: the overall score, and costs where they were asked for."""
    costs = any("cost" in row for row in board["rows"])
    return [_OVERALL.get(board.get("overall", "win_rate"), "overall"), *(("GPU-hours", "tokens") if costs else ())]


def summary(row: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    """Each of them with its interval or a remark, empty where there is none."""
    told = row.get("overall") or {"value": row["win_rate"], "low": None, "high": None, "note": None}
    shown = [(score(told["value"]), interval(told["low"], told["high"]) or told["note"] or "")]
    return [*shown, *_costs(row.get("cost"))] if len(names) > 1 else shown


def _costs(cost: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if cost is None:
        return [("–", ""), ("–", "")]
    remarks = ["none as good for less"] if cost["on_front"] else []
    if cost["gpu_hours"] is not None and cost["runs_known"] < cost["runs"]:
        remarks.append(f"of {cost['runs_known']} of {cost['runs']} runs")
    return [(number(cost["gpu_hours"], 3), ", ".join(remarks)), (number(cost["tokens"]), "")]


def metric_name(column: Mapping[str, Any]) -> str:
    """A column's metric, marked where lower is better."""
    return f"{column['metric']}{' ↓' if column['higher_is_better'] is False else ''}"


def rank_text(cell: Mapping[str, Any]) -> str:
    """The ranks that a cell may have; empty where it is not ranked."""
    if cell["rank"] is None:
        return ""
    best, worst = cell["rank_interval"]
    return f"#{best}" if best == worst else f"#{best}–{worst}"


def doubts_of(cell: Mapping[str, Any]) -> list[str]:
    """Why a cell is not ranked, or had better not be."""
    return [doubt for doubt in (cell["note"], *(name.replace("_", " ") for name in cell["flagged"])) if doubt]


def _models_down(board: Mapping[str, Any], doubts: dict[str, int]) -> Sheet:
    columns = board["columns"]
    summaries = summary_names(board)
    names = ("rank", "model", *summaries, *(f"{one['task']} {metric_name(one)}" for one in columns))
    rows = tuple(
        (
            Cell(number(row["rank"])),
            Cell(row["model"], strong=row["rank"] == 1),
            *(Cell(" ".join(filter(None, told))) for told in summary(row, summaries)),
            *(_cell(row, column, doubts) for column in columns),
        )
        for row in board["rows"]
    )
    return Sheet("Leaderboard", names, rows, numbers=(True, False, *[True] * (len(columns) + len(summaries))))


def _tasks_down(board: Mapping[str, Any], doubts: dict[str, int]) -> Sheet:
    models: Sequence[Mapping[str, Any]] = board["rows"]
    head = tuple(f"{row['rank'] or '–'}. {row['model']}" for row in models)
    summaries = summary_names(board)
    told = [summary(row, summaries) for row in models]
    first = [
        (Cell(name, strong=True), Cell(""), *(Cell(" ".join(filter(None, one[at]))) for one in told))
        for at, name in enumerate(summaries)
    ]
    rows = [
        (Cell(column["task"]), Cell(metric_name(column)), *(_cell(row, column, doubts) for row in models))
        for column in board["columns"]
    ]
    return Sheet(
        "Leaderboard", ("task", "metric", *head), (*first, *rows), numbers=(False, False, *[True] * len(models))
    )


def _cell(row: Mapping[str, Any], column: Mapping[str, Any], doubts: dict[str, int]) -> Cell:
    cell, published = row["cells"].get(column["task"]), row["reported"].get(column["task"], ())
    parts = [] if cell is None else [score(cell["value"]), interval(cell["low"], cell["high"]), rank_text(cell)]
    if cell is not None:
        parts += [f"[{doubts.setdefault(doubt, len(doubts) + 1)}]" for doubt in doubts_of(cell)]
    for one in published:
        parts.append(f"({score(one['value'])} reported{' by ' + one['source'] if one['source'] else ''})")
    return Cell(" ".join(filter(None, parts)) or "–", strong=cell is not None and cell["rank"] == 1)
