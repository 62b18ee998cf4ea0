"""A gate's verdict as Markdown, for a pull request or a job's summary. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_lmms.report.markdown import markdown_table, markdown_text
from mlflow_lmms.report.sheet import Cell, interval, number, score, signed

_SIGNS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive", None: "not judged"}
_GROUPS_SHOWN = 50


def gate_markdown(told: Mapping[str, Any]) -> str:
    """The report of what `Client.gate` returns."""
    suite = told["suite"]
    about = f" on suite {markdown_text(suite['name'])}, revision {suite['revision']}" if suite else ""
    by = f" by {markdown_text(told['by'])}" if told["by"] else ""
    parts = [
        f"## Gate: {_SIGNS[told['outcome']]}\n",
        f"**{markdown_text(told['candidate']['model'])}** against "
        f"**{markdown_text(told['baseline']['model'])}**{about}. Judged{by} at {told['at']}.\n",
        _tasks(told),
    ]
    if groups := _groups(told):
        parts.append(groups)
    parts.append(
        "Gains are over the same documents, with 95 % intervals, and positive where the candidate is better. A task "
        "passes when its whole interval lies above the loss that is acceptable, and fails when it lies below.\n"
    )
    return "\n".join(parts)


def _tasks(told: Mapping[str, Any]) -> str:
    columns = ("task", "metric", "baseline", "candidate", "gain", "margin", "documents", "verdict", "why")
    rows = [
        (
            Cell(task["task"]),
            Cell(task["metric"] or "–"),
            Cell(score(task["baseline"])),
            Cell(score(task["candidate"])),
            Cell(_gain(task)),
            Cell(number(task["margin"])),
            Cell(number(task["n"])),
            Cell(_SIGNS[task["outcome"]], strong=task["outcome"] != "pass"),
            Cell("" if task["outcome"] == "pass" else task["reason"]),
        )
        for task in told["tasks"]
    ]
    mean = told["mean"]
    overall = (
        Cell(f"weighted mean of {mean['counted']} of {mean['of']}", strong=True),
        Cell("share of scale"),
        Cell(""),
        Cell(""),
        Cell(_gain(mean)),
        Cell(number(mean["margin"])),
        Cell(""),
        Cell(_SIGNS[mean["outcome"]], strong=mean["outcome"] != "pass"),
        Cell("" if mean["outcome"] == "pass" else mean["reason"]),
    )
    return markdown_table(columns, [*rows, overall], [False, False, *[True] * 5])


def _groups(told: Mapping[str, Any]) -> str:
    """Groups that did not pass; how many did is told in a line."""
    groups = [(task["task"], group) for task in told["tasks"] for group in task["groups"]]
    if not groups:
        return ""
    counts = ", ".join(f"{count} {name}" for name, count in told["group_counts"].items() if count)
    open_ = [(task, group) for task, group in groups if group["outcome"] in ("fail", "inconclusive")]
    rows = [
        (
            Cell(task),
            Cell(f"{group['dimension']} = {group['value']}" if group["dimension"] else "–"),
            Cell(number(group["n"])),
            Cell(_gain(group)),
            Cell(_SIGNS[group["outcome"]], strong=True),
            Cell(group["reason"]),
        )
        for task, group in sorted(open_, key=lambda found: found[1]["outcome"] != "fail")[:_GROUPS_SHOWN]
    ]
    lenient = "; groups with too few documents to say do not count" if told["lenient_slices"] else ""
    line = f"Groups of documents: {counts}{lenient}.\n"
    if not rows:
        return line
    columns = ("task", "group", "documents", "gain", "verdict", "why")
    return f"{line}\n{markdown_table(columns, rows, [False, False, True, True])}"


def _gain(told: Mapping[str, Any]) -> str:
    return f"{signed(told['gain'])} {interval(told['low'], told['high'], sign=True)}".rstrip()
