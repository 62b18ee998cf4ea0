"""Slices, trends, changes, flips and settings as tables of text, one for each task where a task has its own. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mlflow_lmms.report.board_sheet import metric_name
from mlflow_lmms.report.comparison_sheet import verdict_words
from mlflow_lmms.report.records import answer
from mlflow_lmms.report.sheet import Cell, Sheet, interval, number, score, signed

_HOLM = "Intervals are 95 %; p-values are corrected after Holm over everything that is shown."
_TEXT_SHOWN = 120


def slice_sheets(found: Mapping[str, Any]) -> tuple[Sheet, ...]:
    """What `Client.slices` returns: a table for each task and dimension."""
    return tuple(
        _slices(told, dimension, change="baseline" in told)
        for told in found["tasks"]
        for dimension in told["dimensions"]
    )


def _slices(told: Mapping[str, Any], dimension: Mapping[str, Any], *, change: bool) -> Sheet:
    shown = signed if change else score
    rows = [
        (
            Cell(group["name"]),
            Cell(number(group["n"])),
            Cell(f"{shown(group['score'])} {interval(group['low'], group['high'], sign=change)}".rstrip()),
            _gap(group["to_rest"]) if group["judged"] else Cell("too few to judge"),
            Cell(number((group["to_rest"] or {}).get("adjusted"), 2)),
        )
        for group in dimension["groups"]
    ]
    columns = ("n", "gain", "change of the gap to the rest") if change else ("n", "score", "gap to the rest")
    whose = f"{told['candidate']['model']} against {told['baseline']['model']}" if change else told["model"]
    title = f"{told['task']}, {metric_name(told)}, by {dimension['name']}: {whose}"
    remarks = (told["reason"], _HOLM) if change and told["reason"] else (_HOLM,)
    return Sheet(
        title, (dimension["name"], *columns, "p (Holm)"), tuple(rows), remarks, (False, True, True, True, True)
    )


def _gap(gap: Mapping[str, Any] | None) -> Cell:
    if gap is None:
        return Cell("–")
    text = f"{signed(gap['value'])} {interval(gap['low'], gap['high'], sign=True)}".rstrip()
    return Cell(text, strong=gap["adjusted"] is not None and gap["adjusted"] < 0.05)


def trend_sheets(found: Mapping[str, Any]) -> tuple[Sheet, ...]:
    """What `Client.trend` returns: a table for each task."""
    columns = ("model", "when (UTC)", "suite", "score", "change", "p (Holm)", "verdict")
    right = (False, False, False, True, True, True, False)
    return tuple(
        Sheet(
            f"{found['model']} on {told['task']}, {metric_name(told)}",
            columns,
            tuple(_point(point) for point in told["points"]),
            (f"Each result is tested against the one before it, over the same documents. {_HOLM}",),
            right,
        )
        for told in found["tasks"]
    )


def _point(point: Mapping[str, Any]) -> tuple[Cell, ...]:
    revision = "" if point["suite_revision"] is None else f" r{point['suite_revision']}"
    flagged = ", ".join(name.replace("_", " ") for name in point["flagged"])
    return (
        Cell(point["model"]),
        Cell(_moment(point["recorded_at"])),
        Cell(f"{point['suite']}{revision}"),
        Cell(f"{score(point['value'])} {interval(point['low'], point['high'])}".rstrip()),
        *_tested(point["change"], flagged),
    )


def changes_sheet(found: Mapping[str, Any]) -> Sheet:
    """What `Client.changes` returns, as one table."""
    columns = ("model", "task", "metric", "before", "after", "change", "p (Holm)", "verdict")
    rows = [
        (
            *(Cell(text) for text in (told["model"], told["task"], metric_name(told))),
            *(Cell(_side(told[when])) for when in ("before", "after")),
            *_tested(told["difference"], "new"),
        )
        for told in found["changes"]
    ]
    title = f"Changes from {_moment(found['since'])} to {_moment(found['until'])} UTC"
    remarks = (_HOLM, *(("There are more: ask for a shorter period.",) if found["truncated"] else ()))
    return Sheet(title, columns, tuple(rows), remarks, (False, False, False, True, True, True, True, False))


def _side(result: Mapping[str, Any] | None) -> str:
    return "–" if result is None else f"{score(result['value'])} ({result['model']})"


def _tested(told: Mapping[str, Any] | None, otherwise: str) -> tuple[Cell, Cell, Cell]:
    if told is None:
        return Cell("–"), Cell("–"), Cell(otherwise)
    difference = f"{signed(told['difference'])} {interval(told['low'], told['high'], sign=True)}".rstrip()
    verdict = Cell(verdict_words(told), strong=told["verdict"] in ("better", "worse"))
    return Cell(difference), Cell(number(told["adjusted"], 2)), verdict


def flips_sheet(page: Mapping[str, Any]) -> Sheet:
    """What `Client.flips` returns, long texts cut."""
    columns = ("sample", "kind", "target", "baseline", "candidate", "input")
    rows = []
    for flip in page["flips"]:
        one, two = flip["baseline"], flip["candidate"]
        answers = (answer(one, page["filter"]), answer(two, page["filter"]))
        texts = (flip["kind"].replace("_", " "), one["target"], *answers, one["input"])
        rows.append((Cell(str(one["index"])), *(Cell(_short(text)) for text in texts)))
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in page["counts"].items())
    remarks = (f"{page['documents']['shared']:,} documents: {counts}", *filter(None, [page["doubts"]]))
    return Sheet(f"Flips on {page['task']}", columns, tuple(rows), remarks, (True,))


def settings_sheet(found: Mapping[str, Any]) -> Sheet:
    """What `Client.config_diff` returns."""
    rows = tuple(
        (
            Cell(s["section"]),
            Cell(s["name"]),
            *(Cell(_short(s["values"][run_id] or "–")) for run_id in found["models"]),
        )
        for s in found["settings"]
    )
    remarks = (f"{found['equal']} settings are equal",)
    return Sheet("Settings", ("section", "setting", *found["models"].values()), rows, remarks)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_SHOWN else f"{line[:_TEXT_SHOWN]}…"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
