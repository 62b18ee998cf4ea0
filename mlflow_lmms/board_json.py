"""Rows of a board as plain values for programs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mlflow_lmms.board import Row
from mlflow_lmms.board_column import Cell
from mlflow_lmms.board_costs import Cost
from mlflow_lmms.score import Score
from mlflow_lmms.task_result import TaskWarning

Warnings = Callable[[Score], tuple[TaskWarning, ...]]


def row_json(row: Row, warnings: Warnings, costs: Mapping[str, Cost] | None) -> dict[str, Any]:
    """One model."""
    found = {
        "model": row.model,
        "rank": row.rank,
        "win_rate": row.win_rate,
        "overall": asdict(row.overall),
        "coverage": row.coverage,
        "cells": {task: _cell(cell, warnings) for task, cell in row.cells.items()},
        "reported": {task: [_published(score) for score in scores] for task, scores in row.reported.items()},
    }
    if costs is not None:
        cost = costs.get(row.model)
        found["cost"] = None if cost is None else asdict(cost)
    return found


def _cell(cell: Cell, warnings: Warnings) -> dict[str, Any]:
    place, score = cell.place, cell.score
    return {
        **vars(score),  # `asdict` would copy the fingerprint, which takes longer than all the rest
        "rank": cell.rank,
        "tied": cell.tied,
        "rank_interval": [place.rank, place.last] if place else None,
        "paired": place.paired if place else None,
        "paired_with": place.paired_with if place else None,
        "note": cell.note,
        "flagged": cell.flagged,
        "warnings": [warning.model_dump(mode="json") for warning in warnings(score)],
    }


def _published(score: Score) -> dict[str, Any]:
    return {
        "run_id": score.run_id,
        "metric": score.metric,
        "filter": score.filter,
        "value": score.value,
        "source": score.reported_source,
    }
