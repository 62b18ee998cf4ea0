"""The overall score of each model over a board's columns, with an interval, in one of three ways. Pure.

A missing result never counts as the worst. Win rates leave it out; a mean of scores would not be the same thing
without it, so a model that lacks a column has none, and a word why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_lmms.analysis.ranks import win_rate_interval
from mlflow_lmms.board_column import Cell, RankedColumn


@dataclass(frozen=True)
class Overall:
    """`value` is between 0 and 1, None where `note` says why; `low` and `high` are its 95 % interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str | None = None


NO_OVERALL = Overall(None)


def win_rates(columns: Sequence[RankedColumn]) -> dict[str, Overall]:
    """Mean over columns of the share of other models that a model beats; those it ties with count half."""
    shares: dict[str, list[float]] = defaultdict(list)
    for column in columns:
        for model, share in column.shares.items():
            shares[model].append(share)
    found = {}
    for model, beaten in shares.items():
        interval = win_rate_interval(np.array(beaten))
        low, high = (interval.low, interval.high) if interval else (None, None)
        found[model] = Overall(sum(beaten) / len(beaten), low, high)
    return found


def mean_scores(columns: Sequence[RankedColumn], weights: Mapping[str, float] | None = None) -> dict[str, Overall]:
    """Mean of the scores on a scale from 0 to 1 (1 is best), with weights by task or without.

    Columns whose scale or direction is not known take no part. The interval is that of a mean of independent scores
    whose own intervals are known.

    Args:
        weights: tasks that are not among them do not count; a task of them that the board lacks, everybody lacks.
    """
    usable = {column.column.task: column for column in columns if _scaled(column)}
    wanted = dict.fromkeys(usable, 1.0) if weights is None else dict(weights)
    models = {model for column in columns for model in column.cells}
    return {model: _mean(model, wanted, usable) for model in models}


def unscaled(columns: Sequence[RankedColumn]) -> list[str]:
    """The tasks that `mean_scores` cannot take."""
    return [column.column.task for column in columns if not _scaled(column)]


def _scaled(column: RankedColumn) -> bool:
    return bool(column.column.scale_high) and column.column.higher_is_better is not None


def _mean(model: str, wanted: Mapping[str, float], columns: Mapping[str, RankedColumn]) -> Overall:
    cells = {task: columns[task].cells.get(model) for task in wanted if task in columns}
    ranked = {task: cell for task, cell in cells.items() if cell is not None and cell.place is not None}
    lacking = [task for task in wanted if task not in ranked]
    if lacking or not wanted:
        some = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        return Overall(None, note=f"no ranked score of {some}" if lacking else "no task has a known scale")
    total = sum(wanted.values())
    value, variance = 0.0, 0.0
    for task, cell in ranked.items():
        share, half = _share(cell, columns[task])
        value += wanted[task] / total * share
        variance += (wanted[task] / total * half) ** 2
    if not np.isfinite(variance):
        return Overall(value)
    return Overall(value, value - variance**0.5, value + variance**0.5)


def _share(cell: Cell, column: RankedColumn) -> tuple[float, float]:
    """A score from 0 to 1, larger is better, and half the width of its interval (NaN: it has none)."""
    score, high = cell.score, column.column.scale_high or 1.0
    share = score.value / high
    half = float("nan") if score.low is None or score.high is None else (score.high - score.low) / 2 / high
    return (share if column.column.higher_is_better else 1 - share), half
