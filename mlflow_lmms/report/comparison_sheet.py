"""A comparison of runs as one table of text: a row for each task and candidate. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_lmms.report.board_sheet import metric_name
from mlflow_lmms.report.sheet import Cell, Sheet, interval, number, score, signed

_EXPLANATION = (
    "Differences are candidate minus baseline over the same documents, with 95 % intervals; p-values are corrected "
    "after Holm over everything that is shown."
)


def comparison_sheet(found: Mapping[str, Any]) -> Sheet:
    """The table of what `Client.compare` returns."""
    several = len(found["models"]) > 2
    names = ("task", "metric", "baseline", *(("candidate",) if several else ()), "score", "difference", "p (Holm)")
    columns = (*names, "won : lost", "documents", "verdict")
    rows = [
        (Cell(task["task"]), Cell(metric_name(task)), Cell(score(task["baseline"]["value"])))
        + ((Cell(found["models"][run_id]),) if several else ())
        + _numbers(told)
        for task in found["tasks"]
        for run_id, told in task["candidates"].items()
    ]
    numbers = (False, False, True, *((False,) if several else ()), True, True, True, True, True, False)
    title = f"Comparison with {found['models'][found['baseline']]}"
    return Sheet(title, columns, tuple(rows), (*remarks(found), _EXPLANATION), numbers)


def remarks(found: Mapping[str, Any]) -> tuple[str, ...]:
    """How each candidate did, and what the baseline lacks."""
    told = []
    for run_id, counts in found["counts"].items():
        words = ", ".join(f"{verdict} on {count}" for verdict, count in counts.items())
        told.append(f"{found['models'][run_id]}: {words} of {sum(counts.values())} tasks")
        if found["only"][run_id]:
            told.append(f"the baseline has no result of {', '.join(found['only'][run_id])}")
    return tuple(told)


def verdict_words(told: Mapping[str, Any]) -> str:
    """The verdict with its reason or with what would settle it, and what speaks against one of the results."""
    words = str(told["verdict"])
    if told["reason"]:
        words = f"{words}: {told['reason']}"
    elif words == "no difference shown" and told["needed"]:
        words = f"{words}; {told['needed']:,} documents would settle it"
    if told["flagged"]:
        words = f"{words}; flagged: {', '.join(told['flagged']).replace('_', ' ')}"
    return words


def _numbers(told: Mapping[str, Any]) -> tuple[Cell, ...]:
    difference = f"{signed(told['difference'])} {interval(told['low'], told['high'], sign=True)}".rstrip()
    flips = "–" if told["wins"] is None else f"{told['wins']:,} : {told['losses']:,}"
    adjusted = number(told["adjusted"], 2)
    shown = (score(told["value"]), difference, adjusted, flips, number(told["n"]))
    return (*(Cell(text) for text in shown), Cell(verdict_words(told), strong=told["verdict"] in ("better", "worse")))
