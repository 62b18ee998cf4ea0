"""One HTML file with a leaderboard and comparisons: it loads nothing and runs nothing when it is opened. Pure.

Every text goes through the template's escaping, and a content security policy in the file forbids scripts and
requests should that ever fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mlflow_lmms.report.board_sheet import doubts_of, metric_name, rank_text, summary, summary_names
from mlflow_lmms.report.comparison_sheet import remarks, verdict_words
from mlflow_lmms.report.range_mark import Axis
from mlflow_lmms.report.sheet import interval, number, score, signed


@dataclass(frozen=True)
class Heading:
    """Of the whole report."""

    title: str
    server: str
    made_at: str
    narrowed: Mapping[str, str]
    version: str


def html_report(
    heading: Heading, board: Mapping[str, Any] | None = None, comparisons: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The report of what `Client.leaderboard` and `Client.compare` return."""
    environment = Environment(
        loader=PackageLoader("mlflow_lmms.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    shown = None if board is None else _board(board)
    return _writable(template.render(heading=heading, board=shown, comparisons=[_comparison(c) for c in comparisons]))


def _board(board: Mapping[str, Any]) -> dict[str, Any]:
    columns = [{"task": column["task"], "metric": metric_name(column)} for column in board["columns"]]
    names = summary_names(board)
    axes = {column["task"]: _axis(board, column["task"]) for column in board["columns"]}
    rows = [
        {
            "rank": number(row["rank"]),
            "model": row["model"],
            "summary": summary(row, names),
            "coverage": f"{len(row['cells'])} of {len(columns)} tasks",
            "cells": [_cell(row, column["task"], axes[column["task"]]) for column in columns],
        }
        for row in board["rows"]
    ]
    return {
        "columns": columns,
        "rows": rows,
        "summaries": names,
        "verdicts": board["verdicts"],
        "left_out": board["left_out"],
        "results": [_result(row["model"], cell) for row in board["rows"] for _, cell in sorted(row["cells"].items())],
    }


def _axis(board: Mapping[str, Any], task: str) -> Axis:
    cells = [row["cells"][task] for row in board["rows"] if task in row["cells"]]
    return Axis.of(cell[key] for cell in cells for key in ("value", "low", "high"))


def _cell(row: Mapping[str, Any], task: str, axis: Axis) -> dict[str, Any]:
    cell = row["cells"].get(task)
    reported = [
        f"{score(one['value'])} reported{' by ' + one['source'] if one['source'] else ''}"
        for one in row["reported"].get(task, ())
    ]
    if cell is None:
        return {"value": None, "reported": reported}
    return {
        "value": score(cell["value"]),
        "interval": interval(cell["low"], cell["high"]),
        "rank": rank_text(cell),
        "best": cell["rank"] == 1,
        "n": number(cell["n"]),
        "mark": axis.mark(cell["value"], cell["low"], cell["high"]),
        "doubts": doubts_of(cell),
        "reported": reported,
    }


def _result(model: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    warnings = [warning["message"] for warning in cell["warnings"]]
    return {
        "model": model,
        "task": cell["task"],
        "metric": cell["metric"] if cell["filter"] == "none" else f"{cell['metric']} ({cell['filter']})",
        "value": score(cell["value"]),
        "interval": interval(cell["low"], cell["high"]),
        "n": number(cell["n"]),
        "rank": rank_text(cell) or "not ranked",
        "paired": {True: "paired", False: "unpaired", None: "–"}[cell["paired"]],
        "run": cell["run_id"],
        "mind": "; ".join(filter(None, [cell["note"], *(warnings or cell["flagged"])])),
    }


def _comparison(found: Mapping[str, Any]) -> dict[str, Any]:
    candidates = [run_id for run_id in found["models"] if run_id != found["baseline"]]
    return {
        "baseline": found["models"][found["baseline"]],
        "run": found["baseline"],
        "remarks": remarks(found),
        "candidates": [
            {
                "model": found["models"][run_id],
                "run": run_id,
                "rows": [_difference(task, task["candidates"][run_id]) for task in found["tasks"]],
            }
            for run_id in candidates
        ],
    }


def _difference(task: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    known = told["difference"] is not None and told["low"] is not None
    # Tasks differ in their units: each has an axis of its own, symmetric around no difference.
    widest = max(abs(told["low"]), abs(told["high"])) if known else 1.0
    axis = Axis.of([-widest, widest], with_zero=True)
    return {
        "task": task["task"],
        "metric": metric_name(task),
        "baseline": score(task["baseline"]["value"]),
        "value": score(told["value"]),
        "difference": signed(told["difference"]),
        "interval": interval(told["low"], told["high"], sign=True),
        "mark": axis.mark(told["difference"], told["low"], told["high"]) if known else None,
        "adjusted": number(told["adjusted"], 2),
        "flips": "–" if told["wins"] is None else f"{told['wins']:,} : {told['losses']:,}",
        "n": number(told["n"]),
        "verdict": told["verdict"],
        "why": verdict_words(told).removeprefix(str(told["verdict"])).lstrip(":; "),
    }


def _writable(text: str) -> str:
    """Without halves of characters, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
